use super::*;

fn idx_file(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut content = (0x0800 + sizes.len() as u32).to_be_bytes().to_vec();
    for size in sizes {
        content.extend(size.to_be_bytes());
    }
    content.extend(bytes);
    content
}

/// A data set of `count` images of 2 × 3 pixels in IDX files.
fn idx_set(count: u8) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..count).flat_map(|n| [n; 6]).collect();
    let labels: Vec<u8> = (0..count).map(|n| n % 3).collect();
    for name in ["train", "t10k"] {
        fs::write(place.path().join(format!("{name}-images-idx3-ubyte")), idx_file(&[u32::from(count), 2, 3], &pixels)).unwrap();
        fs::write(place.path().join(format!("{name}-labels-idx1-ubyte")), idx_file(&[u32::from(count)], &labels)).unwrap();
    }
    place
}

fn message(place: &tempfile::TempDir) -> String {
    load_images(place.path().to_str().unwrap(), 0.2).unwrap_err().to_string()
}

#[test]
fn idx_images_keep_their_labels_in_every_split() {
    let place = idx_set(30);
    let images = load_images(place.path().to_str().unwrap(), 0.2).unwrap();
    assert_eq!((images.channels, images.height, images.width, images.classes), (1, 2, 3, 3));
    let (train, valid, test) = (&images.train, &images.valid, images.test.as_ref().unwrap());
    assert_eq!([train, valid, test].map(|set| set.labels.len()), [24, 6, 30]);
    let mut seen = Vec::new();
    for set in [train, valid] {
        for (n, label) in set.labels.iter().enumerate() {
            let image = set.image(n);
            assert!(image.iter().all(|p| *p == image[0]) && image.len() == 6);
            assert_eq!(image[0] % 3, *label);
            seen.push(image[0]);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..30).collect::<Vec<u8>>(), "each is in one of the two");
}

#[test]
fn damaged_idx_files_are_named_with_what_is_wrong() {
    let place = idx_set(30);
    let images = place.path().join("train-images-idx3-ubyte");
    let labels = place.path().join("train-labels-idx1-ubyte");
    let sound = fs::read(&images).unwrap();
    fs::write(&images, &sound[..sound.len() - 1]).unwrap();
    assert!(message(&place).ends_with("train-images-idx3-ubyte: its header says [30, 2, 3], but 179 bytes follow"), "{}", message(&place));
    fs::write(&images, &sound[..7]).unwrap();
    assert!(message(&place).ends_with("it ends within the header, after 7 of 16 bytes"));
    fs::write(&images, [&[1], &sound[1..]].concat()).unwrap();
    assert!(message(&place).ends_with("it begins with 0x01000803, not 0x00000803"), "{}", message(&place));
    fs::write(&images, idx_file(&[u32::MAX, u32::MAX, u32::MAX], &[])).unwrap();
    assert!(message(&place).contains("but 0 bytes follow"));
    fs::write(&images, &sound).unwrap();
    fs::write(&labels, idx_file(&[29], &[0; 29])).unwrap();
    assert!(message(&place).ends_with("train-labels-idx1-ubyte: it has 29 labels for 30 images"), "{}", message(&place));
    fs::remove_file(&labels).unwrap();
    assert!(message(&place).starts_with("cannot read ") && message(&place).contains("train-labels-idx1-ubyte"));
    fs::remove_file(&images).unwrap();
    fs::write(place.path().join("train-images-idx3-ubyte.gz"), b"no gzip at all").unwrap();
    fs::write(&labels, idx_file(&[29], &[0; 29])).unwrap();
    assert!(message(&place).contains("its compression is damaged"), "{}", message(&place));
}

#[test]
fn a_folder_without_images_and_a_file_that_is_none_are_refused() {
    let place = tempfile::tempdir().unwrap();
    assert!(message(&place).contains("it holds neither train-images-idx3-ubyte[.gz] nor train.tar.gz"), "{}", message(&place));
    fs::create_dir_all(place.path().join("train/cat")).unwrap();
    assert!(message(&place).ends_with("it holds no JPEG files in folders named for classes"));
    fs::write(place.path().join("train/cat/1.jpg"), b"not an image").unwrap();
    assert!(message(&place).contains("1.jpg: it is no sound JPEG image: "), "{}", message(&place));
    fs::write(place.path().join("train.tar.gz"), b"not an archive").unwrap();
    assert!(message(&place).contains("train.tar.gz: the archive is damaged: "), "{}", message(&place));
}

#[test]
#[allow(clippy::print_stderr)]
fn the_real_sets_are_read_where_they_are() {
    for (name, shape, counts) in [
        ("mnist", [1, 28, 28], [18_000, 2_000, 10_000]),
        ("fashion-mnist", [1, 28, 28], [7_380, 820, 3_000]),
        ("cifar10-jpeg", [3, 32, 32], [18_000, 2_000, 1_000]),
    ] {
        if crate::data::locate(name).is_none() {
            eprintln!("skipped: {name} is not under $REGARD_DATA");
            continue;
        }
        let images = load_images(name, 0.1).unwrap();
        assert_eq!(([images.channels, images.height, images.width], images.classes), (shape, 10));
        let test = images.test.as_ref().unwrap();
        assert_eq!([&images.train, &images.valid, test].map(|set| set.labels.len()), counts);
        for set in [&images.train, &images.valid, test] {
            let mut of = [0; 10];
            set.labels.iter().for_each(|label| of[usize::from(*label)] += 1);
            let (few, many) = (of.iter().min().unwrap(), of.iter().max().unwrap());
            assert!(*few > 0 && many <= &(2 * few), "{name}: {of:?}");
        }
    }
}
