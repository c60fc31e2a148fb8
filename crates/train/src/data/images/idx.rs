//! The files of MNIST and of what came after it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::{ImageSet, Loaded, plain_or_gzipped};
use crate::{Error, Result};

/// The sets of a folder with files named as those of MNIST; nothing if it is another.
pub(super) fn read_sets(path: &Path) -> Option<Result<(Loaded, Option<Loaded>)>> {
    let pair = |split: &str| {
        let labels = format!("{split}-labels-idx1-ubyte");
        let images = plain_or_gzipped(path, &format!("{split}-images-idx3-ubyte"))?;
        Some(read_pair(&images, plain_or_gzipped(path, &labels), path.join(labels)))
    };
    let train = pair("train")?;
    Some(train.and_then(|train| Ok((train, pair("t10k").transpose()?))))
}

/// Reads images and labels in the format of MNIST.
fn read_pair(images: &Path, labels: Option<PathBuf>, labels_name: PathBuf) -> Result<Loaded> {
    let Some(labels) = labels else {
        return Err(Error::read(labels_name)(std::io::ErrorKind::NotFound.into()));
    };
    let ([count, height, width], pixels) = idx::<3>(images)?;
    let ([named], bytes) = idx::<1>(&labels)?;
    if named != count {
        return Err(Error::data(&labels, format!("it has {named} labels for {count} images")));
    }
    let mut known = [false; 256];
    for label in &bytes {
        known[usize::from(*label)] = true;
    }
    let [first, last] = [known.iter().position(|k| *k), known.iter().rposition(|k| *k)].map(Option::unwrap_or_default);
    if let Some(gap) = (first..last).find(|label| !known[*label]) {
        return Err(Error::data(&labels, format!("its labels go up to {last}, but none is {gap}")));
    }
    Ok(Loaded { shape: [1, height, width], classes: last + 1, set: ImageSet { pixels, labels: bytes } })
}

/// The sizes in the header of an IDX file of bytes with N axes, and its bytes.
fn idx<const N: usize>(path: &Path) -> Result<([usize; N], Vec<u8>)> {
    let mut content = fs::read(path).map_err(Error::read(path))?;
    if path.extension().is_some_and(|e| e == "gz") {
        let mut plain = Vec::new();
        GzDecoder::new(content.as_slice())
            .read_to_end(&mut plain)
            .map_err(|e| Error::data(path, format!("its compression is damaged: {e}")))?;
        content = plain;
    }
    let header = 4 + 4 * N;
    if content.len() < header {
        return Err(Error::data(path, format!("it ends within the header, after {} of {header} bytes", content.len())));
    }
    let number = |at: usize| u32::from_be_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
    let (magic, want) = (number(0), 0x0800 + N as u32);
    if magic != want {
        return Err(Error::data(path, format!("it is no IDX file of bytes with {N} axes: it begins with {magic:#010x}, not {want:#010x}")));
    }
    let mut sizes = [0; N];
    for (axis, size) in sizes.iter_mut().enumerate() {
        *size = number(4 + 4 * axis) as usize;
    }
    let bytes = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    if bytes != Some(content.len() - header) || bytes == Some(0) {
        return Err(Error::data(path, format!("its header says {sizes:?}, but {} bytes follow", content.len() - header)));
    }
    Ok((sizes, content.split_off(header)))
}
