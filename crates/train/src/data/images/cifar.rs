//! The binary files of CIFAR-10 and CIFAR-100.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{ImageSet, Loaded};
use crate::{Error, Result};

const SHAPE: [usize; 3] = [3, 32, 32];

/// A record is labels, the last of which counts, and an image.
struct Format {
    labels: usize,
    classes: usize,
}

const CIFAR10: Format = Format { labels: 1, classes: 10 };
const CIFAR100: Format = Format { labels: 2, classes: 100 };

/// The sets of a folder with such files; nothing if it is another.
pub(super) fn read_sets(path: &Path) -> Option<Result<(Loaded, Option<Loaded>)>> {
    let there = |name: &str| Some(path.join(name)).filter(|p| p.is_file());
    let batches: Vec<_> = (1..=5).filter_map(|n| there(&format!("data_batch_{n}.bin"))).collect();
    let (format, train, test) = if batches.is_empty() {
        (CIFAR100, vec![there("train.bin")?], there("test.bin"))
    } else {
        (CIFAR10, batches, there("test_batch.bin"))
    };
    let all = || Ok((format.read(&train)?, test.map(|test| format.read(&[test])).transpose()?));
    Some(all())
}

impl Format {
    fn read(&self, files: &[PathBuf]) -> Result<Loaded> {
        let length = self.labels + SHAPE.iter().product::<usize>();
        let mut set = ImageSet::default();
        for file in files {
            let content = fs::read(file).map_err(Error::read(file))?;
            if content.is_empty() || !content.len().is_multiple_of(length) {
                return Err(Error::data(file, format!("its {} bytes are no whole number of records of {length}", content.len())));
            }
            for (number, record) in content.chunks(length).enumerate() {
                let (labels, pixels) = record.split_at(self.labels);
                let label = labels[self.labels - 1];
                if usize::from(label) >= self.classes {
                    return Err(Error::data(file, format!("image {number} has the class {label}, but there are {}", self.classes)));
                }
                set.labels.push(label);
                set.pixels.extend(pixels);
            }
        }
        Ok(Loaded { shape: SHAPE, classes: self.classes, set })
    }
}
