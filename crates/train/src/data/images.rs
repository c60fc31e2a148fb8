//! Labelled images: IDX files as of MNIST, and folders or tar archives of JPEG files, one folder per class.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::lookup::{self, Source};
use crate::{Error, Result, tasks::shuffled};

/// Images of one size with their classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Channels C: 1 or 3.
    pub channels: usize,
    /// Rows Y.
    pub height: usize,
    /// Columns X.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
    /// Images to train on.
    pub train: ImageSet,
    /// Images to choose by: a share of those to train on, picked at random, always the same.
    pub valid: ImageSet,
    /// Images to report on, if the data set has some.
    pub test: Option<ImageSet>,
}

/// The images of a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageSet {
    /// Bytes of the images, `[C, Y, X]` each.
    pub pixels: Vec<u8>,
    /// Their classes.
    pub labels: Vec<u8>,
}

impl ImageSet {
    /// The image of that number.
    pub fn image(&self, number: usize) -> &[u8] {
        let size = self.pixels.len() / self.labels.len().max(1);
        &self.pixels[number * size..(number + 1) * size]
    }
}

/// Images as they were read.
struct Loaded {
    shape: [usize; 3],
    set: ImageSet,
}

/// Reads the images of a data set that is known by name, or of a folder.
///
/// # Errors
/// If the source is unknown, missing, unreadable or holds something else than images, a file is damaged, or sizes, labels or counts do not
/// agree.
pub fn load_images(source: &str, valid_fraction: f64) -> Result<Images> {
    super::check_fraction(valid_fraction)?;
    let path = match lookup::find(source)? {
        Source::Named { path, .. } | Source::Path(path) => path,
        Source::Embedded => return Err(Error::value("data.source", "a data set of images", source)),
    };
    let (train, test) = read(&path)?;
    let [channels, height, width] = train.shape;
    if let Some(test) = test.as_ref().filter(|test| test.shape != train.shape) {
        let message = format!("the test images have the shape {:?}, the training images {:?}", test.shape, train.shape);
        return Err(Error::data(&path, message));
    }
    let of = |loaded: &Loaded| loaded.set.labels.iter().max().map_or(0, |most| usize::from(*most) + 1);
    let classes = of(&train).max(test.as_ref().map_or(0, of));
    let (train, valid) = split(train.set, valid_fraction);
    if train.labels.is_empty() || valid.labels.is_empty() {
        return Err(Error::data(&path, format!("{} images are too few to train and to validate", train.labels.len() + valid.labels.len())));
    }
    Ok(Images { channels, height, width, classes, train, valid, test: test.map(|test| test.set) })
}

/// Training images and those to validate on.
fn split(all: ImageSet, fraction: f64) -> (ImageSet, ImageSet) {
    const SEED: u64 = 0x7370_6c69_7420_6974;
    let count = all.labels.len();
    let kept = ((1.0 - fraction) * count as f64) as usize;
    let (mut train, mut valid) = (ImageSet::default(), ImageSet::default());
    for number in 0..count {
        let from = shuffled(SEED, number as u64, count as u64) as usize;
        let to = if number < kept { &mut train } else { &mut valid };
        to.pixels.extend(all.image(from));
        to.labels.push(all.labels[from]);
    }
    (train, valid)
}

fn read(path: &Path) -> Result<(Loaded, Option<Loaded>)> {
    let there = |name: &str| ["", ".gz"].map(|end| path.join(format!("{name}{end}"))).into_iter().find(|p| p.is_file());
    let pair = |images: &str, labels: &str| there(images).map(|images| read_idx(&images, there(labels), path.join(labels)));
    if let Some(train) = pair("train-images-idx3-ubyte", "train-labels-idx1-ubyte") {
        return Ok((train?, pair("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte").transpose()?));
    }
    let tree = |split: &str| {
        let names = ["tar.gz", "tgz", "tar"].map(|end| path.join(format!("{split}.{end}")));
        names.into_iter().find(|p| p.is_file()).or_else(|| Some(path.join(split)).filter(|p| p.is_dir()))
    };
    let Some(train) = tree("train") else {
        let message = "it holds neither train-images-idx3-ubyte[.gz] nor train.tar.gz nor a folder train/CLASS/*.jpg";
        return Err(Error::data(path, message));
    };
    let train = read_tree(&train)?;
    let test = tree("test").map(|test| read_tree(&test)).transpose()?;
    let mut classes: Vec<&String> = train.iter().map(|file| &file.class).collect::<BTreeSet<_>>().into_iter().collect();
    classes.truncate(256);
    let test = test.as_ref().map(|files| decode_all(files, &classes)).transpose()?;
    Ok((decode_all(&train, &classes)?, test))
}

// ---- IDX ----

/// Reads images and labels in the format of MNIST.
fn read_idx(images: &Path, labels: Option<PathBuf>, labels_name: PathBuf) -> Result<Loaded> {
    let Some(labels) = labels else {
        return Err(Error::read(labels_name)(std::io::ErrorKind::NotFound.into()));
    };
    let ([count, height, width], pixels) = idx::<3>(images)?;
    let ([named], bytes) = idx::<1>(&labels)?;
    if named != count {
        return Err(Error::data(&labels, format!("it has {named} labels for {count} images")));
    }
    Ok(Loaded { shape: [1, height, width], set: ImageSet { pixels, labels: bytes } })
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

// ---- JPEG ----

struct Encoded {
    /// Where it lies, for messages.
    name: PathBuf,
    class: String,
    content: Vec<u8>,
}

/// The files of a tree `[SPLIT/]CLASS/NAME.jpg`, in a folder or an archive, in the order of their names.
fn read_tree(path: &Path) -> Result<Vec<Encoded>> {
    let mut files = Vec::new();
    if path.is_dir() {
        for class in sorted(path)? {
            for file in if class.is_dir() { sorted(&class)? } else { Vec::new() } {
                if is_jpeg(&file) {
                    let content = fs::read(&file).map_err(Error::read(&file))?;
                    files.push(Encoded { class: parent(&file), name: file, content });
                }
            }
        }
    } else {
        let file = BufReader::new(File::open(path).map_err(Error::read(path))?);
        let plain = path.extension().is_some_and(|e| e == "tar");
        let reader: Box<dyn Read> = if plain { Box::new(file) } else { Box::new(GzDecoder::new(file)) };
        let damaged = |e: std::io::Error| Error::data(path, format!("the archive is damaged: {e}"));
        for entry in tar::Archive::new(reader).entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let inner = entry.path().map_err(damaged)?.into_owned();
            if entry.header().entry_type().is_file() && is_jpeg(&inner) {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(damaged)?;
                files.push(Encoded { name: path.join(&inner), class: parent(&inner), content });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if files.is_empty() { Err(Error::data(path, "it holds no JPEG files in folders named for classes")) } else { Ok(files) }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::read(folder))?;
    let mut paths = entries.map(|e| e.map(|e| e.path()).map_err(Error::read(folder))).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn is_jpeg(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpg") || e.eq_ignore_ascii_case("jpeg"))
}

/// The name of the folder that a file lies in.
fn parent(path: &Path) -> String {
    path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn decode_all(files: &[Encoded], classes: &[&String]) -> Result<Loaded> {
    let mut loaded: Option<Loaded> = None;
    for file in files {
        let label = classes.iter().position(|class| **class == file.class);
        let label = label.and_then(|n| u8::try_from(n).ok());
        let label = label.ok_or_else(|| Error::data(&file.name, format!("no training image has the class `{}`", file.class)))?;
        let (shape, pixels) = decode(file)?;
        let loaded = loaded.get_or_insert_with(|| Loaded { shape, set: ImageSet::default() });
        if loaded.shape != shape {
            return Err(Error::data(&file.name, format!("its shape is {shape:?}, that of the images before it {:?}", loaded.shape)));
        }
        loaded.set.pixels.extend(pixels);
        loaded.set.labels.push(label);
    }
    Ok(loaded.expect("a tree has at least one file"))
}

/// An image as `[3, Y, X]` bytes.
fn decode(file: &Encoded) -> Result<([usize; 3], Vec<u8>)> {
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB).set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&file.content), options);
    let damaged = |e: &dyn std::fmt::Display| Error::data(&file.name, format!("it is no sound JPEG image: {e}"));
    let rows = decoder.decode().map_err(|e| damaged(&e))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged(&"it has no size"))?;
    if rows.len() != 3 * width * height {
        return Err(damaged(&format!("{} bytes for {width} × {height} pixels", rows.len())));
    }
    let pixels = (0..3).flat_map(|channel| rows[channel..].iter().step_by(3).copied()).collect();
    Ok(([3, height, width], pixels))
}

#[cfg(test)]
mod tests;
