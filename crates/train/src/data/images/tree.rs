//! Trees of JPEG and PNG files, one folder per class.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::{ImageSet, Loaded, decode::decode};
use crate::{Error, Result};

/// A file as it was found.
struct Encoded {
    /// Where it lies, for messages.
    name: PathBuf,
    class: String,
    content: Vec<u8>,
}

/// The sets of a folder with `train` and `test`, or all images of a folder or archive without.
pub(super) fn read_sets(path: &Path, size: Option<usize>) -> Result<(Loaded, Option<Loaded>)> {
    let tree = |split: &str| {
        let names = ["tar.gz", "tgz", "tar"].map(|end| path.join(format!("{split}.{end}")));
        names.into_iter().find(|p| p.is_file()).or_else(|| Some(path.join(split)).filter(|p| p.is_dir()))
    };
    let (train, test) = match tree("train") {
        Some(train) => (read_tree(&train)?, tree("test").map(|test| read_tree(&test)).transpose()?),
        None if is_archive(path) || path.is_dir() && has_classes(path)? => (read_tree(path)?, None),
        None => {
            let message = "it holds neither train-images-idx3-ubyte[.gz] nor data_batch_1.bin nor train.tar.gz, and no images in folders named \
                           for classes, CLASS/*.jpg or train/CLASS/*.jpg";
            return Err(Error::data(path, message));
        }
    };
    let classes: BTreeSet<&String> = train.iter().map(|file| &file.class).collect();
    if classes.len() > 256 {
        return Err(Error::data(path, format!("it has {} classes, more than 256", classes.len())));
    }
    let classes: BTreeMap<&String, u8> = classes.into_iter().zip(0..=u8::MAX).collect();
    let test = test.as_ref().map(|files| decode_all(files, &classes, size)).transpose()?;
    Ok((decode_all(&train, &classes, size)?, test))
}

fn is_archive(path: &Path) -> bool {
    path.is_file()
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| [".tar.gz", ".tgz", ".tar"].iter().any(|end| name.ends_with(end)))
}

/// Whether a folder in it holds images.
fn has_classes(path: &Path) -> Result<bool> {
    for class in sorted(path)?.into_iter().filter(|class| class.is_dir()) {
        if sorted(&class)?.iter().any(|file| is_image(file)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files of a tree `[SPLIT/]CLASS/NAME.jpg`, in a folder or an archive, in the order of their names.
fn read_tree(path: &Path) -> Result<Vec<Encoded>> {
    let (files, empty) = if path.is_dir() { read_folder(path)? } else { read_archive(path)? };
    if files.is_empty() {
        return Err(Error::data(path, "it holds no JPEG or PNG files in folders named for classes"));
    }
    match empty {
        Some(folder) => Err(Error::data(&folder, "the folder of a class holds no JPEG or PNG files")),
        None => Ok(files),
    }
}

/// Files, and a folder without any.
fn read_folder(path: &Path) -> Result<(Vec<Encoded>, Option<PathBuf>)> {
    let (mut files, mut empty) = (Vec::new(), None);
    for class in sorted(path)?.into_iter().filter(|class| class.is_dir()) {
        let before = files.len();
        for file in sorted(&class)?.into_iter().filter(|file| is_image(file)) {
            let content = fs::read(&file).map_err(Error::read(&file))?;
            files.push(Encoded { class: parent(&file), name: file, content });
        }
        if files.len() == before {
            empty.get_or_insert(class);
        }
    }
    Ok((files, empty))
}

fn read_archive(path: &Path) -> Result<(Vec<Encoded>, Option<PathBuf>)> {
    let file = BufReader::new(File::open(path).map_err(Error::read(path))?);
    let plain = path.extension().is_some_and(|e| e == "tar");
    let reader: Box<dyn Read> = if plain { Box::new(file) } else { Box::new(GzDecoder::new(file)) };
    let damaged = |e: std::io::Error| Error::data(path, format!("the archive is damaged: {e}"));
    let (mut files, mut folders) = (Vec::new(), BTreeSet::new());
    for entry in tar::Archive::new(reader).entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let inner = entry.path().map_err(damaged)?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() && is_image(&inner) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(damaged)?;
            files.push(Encoded { name: path.join(&inner), class: parent(&inner), content });
        } else if kind.is_dir() && !is_hidden(&inner) {
            folders.insert(path.join(&inner).components().collect::<PathBuf>());
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let empty = folders.into_iter().find(|folder| !files.iter().any(|file| file.name.starts_with(folder)));
    Ok((files, empty))
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::read(folder))?;
    let mut paths = entries.map(|e| e.map(|e| e.path()).map_err(Error::read(folder))).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| !is_hidden(path));
    paths.sort();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_image(path: &Path) -> bool {
    !is_hidden(path) && path.extension().is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// The name of the folder that a file lies in.
fn parent(path: &Path) -> String {
    path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn decode_all(files: &[Encoded], classes: &BTreeMap<&String, u8>, size: Option<usize>) -> Result<Loaded> {
    let mut loaded: Option<Loaded> = None;
    for file in files {
        let Some(label) = classes.get(&file.class) else {
            return Err(Error::data(&file.name, format!("no training image has the class `{}`", file.class)));
        };
        let (shape, pixels) = decode(&file.name, &file.content, size)?;
        let loaded = loaded.get_or_insert_with(|| Loaded { shape, classes: classes.len(), set: ImageSet::default() });
        if loaded.shape != shape {
            let [[_, y, x], [_, rows, columns]] = [shape, loaded.shape];
            let message = format!("it has {y} × {x} pixels, the images before it {rows} × {columns}; `task.size` brings all to one size");
            return Err(Error::data(&file.name, message));
        }
        loaded.set.pixels.extend(pixels);
        loaded.set.labels.push(*label);
    }
    Ok(loaded.expect("a tree has at least one file"))
}
