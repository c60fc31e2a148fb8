//! Data sets that can be fetched: where their files lie, and what they must be.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A data set that is known by name.
#[derive(Clone, Copy, Debug)]
pub struct DataSet {
    /// Its name, one of [`NAMES`](super::NAMES).
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Under which terms it may be used.
    pub licence: &'static str,
    /// Its files, if they can be fetched; the folder `name` holds them.
    pub files: &'static [RemoteFile],
}

/// A file of a [`DataSet`].
#[derive(Clone, Copy, Debug)]
pub struct RemoteFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// Where it lies: at a fixed revision, so that it stays what it is.
    pub url: &'static str,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: &'static str,
}

/// All data sets that are known by name, in the order of [`NAMES`](super::NAMES).
pub const DATA_SETS: &[DataSet] = &[
    DataSet {
        name: "cifar10-jpeg",
        about: "CIFAR-10 as JPEG: train.tar.gz, test.tar.gz of CLASS/NUMBER.jpg",
        licence: "none stated",
        files: &[],
    },
    DataSet {
        name: "clothing-small",
        about: "photographs of clothes: train.tar.gz, test.tar.gz of CLASS/NAME.jpg",
        licence: "CC0",
        files: &[],
    },
    DataSet { name: "embedded", about: "the pages of this project", licence: "MIT or Apache-2.0", files: &[] },
    DataSet {
        name: "etth1",
        about: "temperature and load of an electricity transformer, hourly",
        licence: "CC BY-ND 4.0",
        files: &[RemoteFile {
            name: "ETTh1.csv",
            url: "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/1d16c8f4f943005d613b5bc962e9eeb06058cf07/ETT-small/ETTh1.csv",
            bytes: 2_589_657,
            sha256: "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        }],
    },
    DataSet { name: "eurosat-rgb", about: "land use from above: train.tar.gz, test.tar.gz of CLASS/NAME.jpg", licence: "MIT", files: &[] },
    DataSet { name: "fashion-mnist", about: "images of clothes: IDX files as published", licence: "MIT", files: &[] },
    DataSet { name: "gutenberg", about: "long books: a folder of NUMBER.txt, as in PG-19", licence: "public domain", files: &[] },
    DataSet { name: "mnist", about: "images of digits: IDX files as published", licence: "CC BY-SA 3.0", files: &[] },
    DataSet {
        name: "routed-retrieval",
        about: "drawn images: one region asks for the value of another with the same pattern",
        licence: "MIT or Apache-2.0",
        files: &[],
    },
    DataSet {
        name: "tinyshakespeare",
        about: "plays of Shakespeare",
        licence: "public domain",
        files: &[RemoteFile {
            name: "input.txt",
            url: "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
            bytes: 1_115_394,
            sha256: "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        }],
    },
    DataSet {
        name: "two-dots",
        about: "drawn images: whether two dots far apart have the same colour",
        licence: "MIT or Apache-2.0",
        files: &[],
    },
    DataSet {
        name: "wikitext-2",
        about: "Wikipedia articles, word level (train and valid)",
        licence: "CC BY-SA 3.0",
        files: &[
            RemoteFile {
                name: "train.txt",
                url: "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2/train.txt",
                bytes: 10_797_148,
                sha256: "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
            },
            RemoteFile {
                name: "valid.txt",
                url: "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2/valid.txt",
                bytes: 1_121_681,
                sha256: "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            },
        ],
    },
];

impl DataSet {
    /// The data set of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        DATA_SETS.iter().find(|set| set.name == name)
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// How often a transfer is looked at.
const EVERY: Duration = Duration::from_millis(100);
/// Exit codes of curl: the server cannot continue a transfer, and the range begins behind the end.
const NO_RESUME: [i32; 2] = [33, 36];

/// Fetches the files of a data set into the folder `place/NAME`, which is there as a whole or not at all; its path is returned. What
/// an earlier, interrupted call has fetched is kept and continued. `progress` is told the bytes that are there.
///
/// The transfer is done by the program `curl`, which every common system has and which knows proxies and certificates.
///
/// # Errors
/// If the set has nothing to fetch, a file cannot be fetched or is not what it must be, the disk cannot be written, or `stop` was set.
pub fn download(set: &DataSet, place: &Path, stop: &AtomicBool, progress: &mut dyn FnMut(u64)) -> Result<PathBuf> {
    let (folder, partial) = (place.join(set.name), place.join(format!("{}.partial", set.name)));
    if set.files.is_empty() {
        return Err(Error::value("NAME", "a data set that can be fetched", set.name));
    }
    if folder.exists() {
        set.files.iter().try_for_each(|file| verify(&folder.join(file.name), file))?;
        return Ok(folder);
    }
    fs::create_dir_all(&partial).map_err(Error::write(&partial))?;
    let mut before = 0;
    for file in set.files {
        let path = partial.join(file.name);
        if verify(&path, file).is_err() {
            fetch(file, &path, stop, &mut |bytes| progress(before + bytes))?;
        }
        before += file.bytes;
        progress(before);
    }
    fs::rename(&partial, &folder).map_err(Error::write(&folder))?;
    Ok(folder)
}

/// Fetches one file beside its place and moves it there once it is right.
fn fetch(file: &RemoteFile, path: &Path, stop: &AtomicBool, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let part = path.with_extension("part");
    if !transfer(file, &part, stop, progress)? {
        // What is there cannot be continued.
        fs::remove_file(&part).map_err(Error::write(&part))?;
        transfer(file, &part, stop, progress)?;
    }
    if let Err(error) = verify(&part, file) {
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    fs::rename(&part, path).map_err(Error::write(path))
}

/// Fetches what `part` lacks; `false` if it cannot be continued.
fn transfer(file: &RemoteFile, part: &Path, stop: &AtomicBool, progress: &mut dyn FnMut(u64)) -> Result<bool> {
    let failed = |message: String| Error::Download { url: file.url, message };
    let length = || fs::metadata(part).map_or(0, |m| m.len());
    if length() > file.bytes {
        return Ok(false);
    }
    let mut child = Command::new("curl")
        .args(["--fail", "--location", "--silent", "--show-error", "--connect-timeout", "20", "--continue-at", "-", "--output"])
        .arg(part)
        .arg(file.url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("the program `curl` cannot be run: {e}")))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| failed(e.to_string()))? {
            break status;
        }
        if stop.load(Ordering::Relaxed) {
            let _ = child.kill().and_then(|()| child.wait().map(|_| ()));
            return Err(failed("stopped; what is here will be continued".into()));
        }
        progress(length());
        std::thread::sleep(EVERY);
    };
    match status.code() {
        Some(0) => Ok(true),
        Some(code) if NO_RESUME.contains(&code) && part.exists() => Ok(false),
        _ => Err(failed(complaint(&mut child))),
    }
}

/// What curl has to say.
fn complaint(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut text);
    }
    let line = text.lines().next_back().unwrap_or("curl failed without a word");
    line.trim_start_matches("curl: ").to_owned()
}

/// Fails unless the file is what it must be.
fn verify(path: &Path, file: &RemoteFile) -> Result<()> {
    let mut reader = fs::File::open(path).map_err(Error::read(path))?;
    let mut hash = Sha256::new();
    io::copy(&mut reader, &mut hash).map_err(Error::read(path))?;
    let got = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if got == file.sha256 { Ok(()) } else { Err(Error::Checksum { path: path.into(), want: file.sha256, got }) }
}

#[cfg(test)]
mod tests;
