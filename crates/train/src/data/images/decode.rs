//! From the bytes of a JPEG or PNG file to those of an image.

use std::path::Path;

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bit_depth::BitDepth, bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};
use zune_png::PngDecoder;

use crate::{Error, Result};

/// Rows of coloured pixels, three bytes each.
struct Rows {
    bytes: Vec<u8>,
    width: usize,
    height: usize,
}

/// An image as `[3, Y, X]` bytes; brought to `size` × `size` pixels, if that is given.
pub(super) fn decode(name: &Path, content: &[u8], size: Option<usize>) -> Result<([usize; 3], Vec<u8>)> {
    let rows = if content.starts_with(b"\x89PNG") { png(name, content) } else { jpeg(name, content) }?;
    let Rows { bytes, width, height } = match size {
        Some(size) if [rows.width, rows.height] != [size; 2] => resized(name, &rows, size)?,
        _ => rows,
    };
    let pixels = (0..3).flat_map(|channel| bytes[channel..].iter().step_by(3).copied()).collect();
    Ok(([3, height, width], pixels))
}

fn damaged(name: &Path, kind: &str, what: &dyn std::fmt::Display) -> Error {
    Error::data(name, format!("it is no sound {kind} image: {what}"))
}

fn jpeg(name: &Path, content: &[u8]) -> Result<Rows> {
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB).set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(content), options);
    let bytes = decoder.decode().map_err(|e| damaged(name, "JPEG", &e))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged(name, "JPEG", &"it has no size"))?;
    if bytes.len() != 3 * width * height {
        return Err(damaged(name, "JPEG", &format!("{} bytes for {width} × {height} pixels", bytes.len())));
    }
    Ok(Rows { bytes, width, height })
}

fn png(name: &Path, content: &[u8]) -> Result<Rows> {
    let options = DecoderOptions::default().set_strict_mode(true);
    let mut decoder = PngDecoder::new_with_options(ZCursor::new(content), options);
    decoder.decode_headers().map_err(|e| damaged(name, "PNG", &e))?;
    if decoder.depth() == Some(BitDepth::Sixteen) {
        return Err(Error::data(name, "its values have 16 bits, not 8"));
    }
    let bytes = decoder.decode_raw().map_err(|e| damaged(name, "PNG", &e))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged(name, "PNG", &"it has no size"))?;
    let values = decoder.colorspace().map_or(0, |colours| colours.num_components());
    if values == 0 || bytes.len() != values * width * height {
        return Err(damaged(name, "PNG", &format!("{} bytes for {width} × {height} pixels", bytes.len())));
    }
    let colours = |pixel: &[u8]| if values < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] };
    Ok(Rows { bytes: bytes.chunks(values).flat_map(colours).collect(), width, height })
}

/// The shorter side scaled to `size`, the middle cut out.
fn resized(name: &Path, rows: &Rows, size: usize) -> Result<Rows> {
    let unfit = |e: &dyn std::fmt::Display| Error::data(name, format!("it cannot be brought to {size} × {size} pixels: {e}"));
    let [width, height, side] = [rows.width, rows.height, size].map(|length| u32::try_from(length).unwrap_or(u32::MAX));
    let from = ImageRef::new(width, height, &rows.bytes, PixelType::U8x3).map_err(|e| unfit(&e))?;
    let mut to = Image::new(side, side, PixelType::U8x3);
    // The bilinear filter is as wide as what becomes one pixel: all of them count.
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).fit_into_destination(Some((0.5, 0.5)));
    Resizer::new().resize(&from, &mut to, &options).map_err(|e| unfit(&e))?;
    Ok(Rows { bytes: to.into_vec(), width: size, height: size })
}
