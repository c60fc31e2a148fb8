use std::fs;

use super::*;

fn idx_file(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut content = (0x0800 + sizes.len() as u32).to_be_bytes().to_vec();
    for size in sizes {
        content.extend(size.to_be_bytes());
    }
    content.extend(bytes);
    content
}

/// A data set of `count` images of as many rows and columns in IDX files, filled with the byte and labelled with the class that `of` gives
/// each.
pub(crate) fn idx_set(count: u8, [rows, columns]: [u32; 2], of: impl Fn(u8) -> (u8, u8)) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..count).flat_map(|n| vec![of(n).0; (rows * columns) as usize]).collect();
    let labels: Vec<u8> = (0..count).map(|n| of(n).1).collect();
    for name in ["train", "t10k"] {
        fs::write(place.path().join(format!("{name}-images-idx3-ubyte")), idx_file(&[u32::from(count), rows, columns], &pixels)).unwrap();
        fs::write(place.path().join(format!("{name}-labels-idx1-ubyte")), idx_file(&[u32::from(count)], &labels)).unwrap();
    }
    place
}

/// 30 images of 2 × 3 pixels in three classes.
fn thirty() -> tempfile::TempDir {
    idx_set(30, [2, 3], |n| (n, n % 3))
}

fn message(place: &tempfile::TempDir) -> String {
    load_images(place.path().to_str().unwrap(), 0.2, None).unwrap_err().to_string()
}

#[test]
fn idx_images_keep_their_labels_in_every_split() {
    let place = thirty();
    let images = load_images(place.path().to_str().unwrap(), 0.2, None).unwrap();
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
    let place = thirty();
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
    assert!(
        message(&place).contains("it holds neither train-images-idx3-ubyte[.gz] nor data_batch_1.bin nor train.tar.gz, and no images"),
        "{}",
        message(&place)
    );
    fs::create_dir_all(place.path().join("train/cat")).unwrap();
    assert!(message(&place).ends_with("it holds no JPEG or PNG files in folders named for classes"));
    fs::write(place.path().join("train/cat/1.jpg"), b"not an image").unwrap();
    assert!(message(&place).contains("1.jpg: it is no sound JPEG image: "), "{}", message(&place));
    fs::write(place.path().join("train.tar.gz"), b"not an archive").unwrap();
    assert!(message(&place).contains("train.tar.gz: the archive is damaged: "), "{}", message(&place));
}

#[test]
fn labels_that_leave_a_gap_or_that_training_does_not_know_are_refused() {
    let place = thirty();
    let labels = |split: &str| place.path().join(format!("{split}-labels-idx1-ubyte"));
    let mut strange = vec![0; 30];
    (strange[3], strange[4]) = (1, 77);
    fs::write(labels("train"), idx_file(&[30], &strange)).unwrap();
    assert!(message(&place).ends_with("train-labels-idx1-ubyte: its labels go up to 77, but none is 2"), "{}", message(&place));
    fs::write(labels("train"), idx_file(&[30], &[0, 1].repeat(15))).unwrap();
    assert!(message(&place).ends_with("a test image has the class 2, those to train on have 0 to 1"), "{}", message(&place));
    let error = load_images(place.path().to_str().unwrap(), 0.2, Some(8)).unwrap_err().to_string();
    assert_eq!(error, "`task.size` must be left out: these images have one size by their format, got 8");
}

#[test]
fn the_binary_files_of_cifar_are_read() {
    let place = tempfile::tempdir().unwrap();
    let record = |labels: &[u8], value: u8| [labels.to_vec(), vec![value; 3072]].concat();
    let write = |name: &str, records: &[Vec<u8>]| fs::write(place.path().join(name), records.concat()).unwrap();
    let ten: Vec<_> = (0..10).map(|n| record(&[n], n)).collect();
    write("data_batch_1.bin", &ten);
    write("data_batch_3.bin", &ten);
    write("test_batch.bin", &ten[..4]);
    let images = load_images(place.path().to_str().unwrap(), 0.2, None).unwrap();
    assert_eq!(([images.channels, images.height, images.width], images.classes), ([3, 32, 32], 10));
    assert_eq!([&images.train, &images.valid].map(|set| set.labels.len()), [16, 4]);
    let test = images.test.unwrap();
    assert_eq!((test.labels.as_slice(), test.image(3)), (&[0, 1, 2, 3][..], vec![3; 3072].as_slice()));
    write("test_batch.bin", &[record(&[1], 1), record(&[10], 1)]);
    assert!(message(&place).ends_with("test_batch.bin: image 1 has the class 10, but there are 10"), "{}", message(&place));
    write("data_batch_3.bin", &[vec![0; 3072]]);
    assert!(message(&place).ends_with("data_batch_3.bin: its 3072 bytes are no whole number of records of 3073"), "{}", message(&place));
    // The fine class of CIFAR-100 is the second label.
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("train.bin"), (0..10).flat_map(|n| record(&[1, 90 + n], n)).collect::<Vec<_>>()).unwrap();
    let images = load_images(place.path().to_str().unwrap(), 0.2, None).unwrap();
    assert_eq!((images.classes, images.train.labels.len()), (100, 8));
    assert!(images.train.labels.iter().all(|label| *label >= 90));
}

/// A PNG file of rows of `values` numbers a pixel in bytes, or pairs of bytes where `depth` is 16.
fn png(width: u32, height: u32, depth: u8, colour: u8, rows: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let chunk = |kind: &[u8], content: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(content);
        [&(content.len() as u32).to_be_bytes(), kind, content, &crc.sum().to_be_bytes()].concat()
    };
    let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    let length = rows.len() / height as usize;
    rows.chunks(length).for_each(|row| deflated.write_all(&[&[0], row].concat()).unwrap());
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    let [header, data, end] =
        [(b"IHDR", header), (b"IDAT", deflated.finish().unwrap()), (b"IEND", vec![])].map(|(kind, content)| chunk(kind, &content));
    [b"\x89PNG\r\n\x1a\n", header.as_slice(), &data, &end].concat()
}

/// Two classes of `count` coloured PNG images of 2 × 2 pixels each.
fn tree(count: usize) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for (class, value) in [("cat", 10), ("dog", 200)] {
        fs::create_dir_all(place.path().join(class)).unwrap();
        for n in 0..count {
            let pixels = [value, value + 1, value + 2].repeat(4);
            fs::write(place.path().join(format!("{class}/{n}.png")), png(2, 2, 8, 2, &pixels)).unwrap();
        }
    }
    place
}

#[test]
fn trees_of_png_images_are_read_with_their_classes_in_order_and_gray_ones_get_colours() {
    let place = tree(5);
    fs::write(place.path().join("cat/gray.png"), png(2, 2, 8, 0, &[10; 4])).unwrap();
    fs::write(place.path().join("dog/clear.png"), png(2, 2, 8, 6, &[200, 201, 202, 0].repeat(4))).unwrap();
    fs::write(place.path().join("dog/.hidden.png"), b"no image").unwrap();
    let images = load_images(place.path().to_str().unwrap(), 0.25, None).unwrap();
    assert_eq!(([images.channels, images.height, images.width], images.classes, images.test), ([3, 2, 2], 2, None));
    for set in [&images.train, &images.valid] {
        for (n, label) in set.labels.iter().enumerate() {
            let [red, .., blue] = set.image(n) else { panic!("a pixel at least") };
            assert!(*red == if *label == 0 { 10 } else { 200 } && (*blue == red + 2 || *blue == *red && *label == 0));
        }
    }
    let larger = load_images(place.path().to_str().unwrap(), 0.25, Some(6)).unwrap();
    assert_eq!([larger.channels, larger.height, larger.width], [3, 6, 6]);
    assert!(larger.train.image(0)[..36].iter().all(|v| *v == 10 || *v == 200), "an even image stays even");
}

/// An even JPEG image of 8 × 8 pixels in one channel: one block, whose only coefficient is 0.
fn gray_jpeg() -> Vec<u8> {
    let segment = |marker: u8, content: &[u8]| [&[0xff, marker], &(content.len() as u16 + 2).to_be_bytes()[..], content].concat();
    // One code, `0`, for the symbol 0: the category of the first coefficient, or the end of a block.
    let code = |class: u8| [&[class, 1], &[0; 15][..], &[0]].concat();
    [
        vec![0xff, 0xd8],
        segment(0xdb, &[&[0], &[1; 64][..]].concat()),
        segment(0xc0, &[8, 0, 8, 0, 8, 1, 1, 0x11, 0]),
        segment(0xc4, &code(0x00)),
        segment(0xc4, &code(0x10)),
        segment(0xda, &[1, 1, 0, 0, 63, 0]),
        vec![0b0011_1111, 0xff, 0xd9],
    ]
    .concat()
}

#[test]
fn gray_jpeg_images_get_colours_and_cut_off_ones_are_named() {
    let place = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        fs::create_dir(place.path().join(class)).unwrap();
        for n in 0..3 {
            fs::write(place.path().join(format!("{class}/{n}.JPG")), gray_jpeg()).unwrap();
        }
    }
    let images = load_images(place.path().to_str().unwrap(), 0.4, None).unwrap();
    assert_eq!(([images.channels, images.height, images.width], images.classes), ([3, 8, 8], 2));
    assert!(images.train.pixels.iter().all(|v| *v == 128));
    fs::write(place.path().join("dog/1.JPG"), &gray_jpeg()[..100]).unwrap();
    assert!(message(&place).contains("dog/1.JPG: it is no sound JPEG image: "), "{}", message(&place));
}

#[test]
fn images_that_are_damaged_or_of_16_bits_or_of_another_size_are_named_and_so_is_an_empty_class() {
    let place = tree(4);
    let odd = place.path().join("dog/2.png");
    let sound = fs::read(&odd).unwrap();
    fs::write(&odd, &sound[..sound.len() / 2]).unwrap();
    assert!(message(&place).contains("dog/2.png: it is no sound PNG image: "), "{}", message(&place));
    fs::write(&odd, png(2, 2, 16, 2, &[1; 24])).unwrap();
    assert!(message(&place).ends_with("dog/2.png: its values have 16 bits, not 8"), "{}", message(&place));
    fs::write(&odd, png(2, 1, 8, 2, &[1; 6])).unwrap();
    let want = "dog/2.png: it has 1 × 2 pixels, the images before it 2 × 2; `task.size` brings all to one size";
    assert!(message(&place).ends_with(want), "{}", message(&place));
    fs::write(&odd, &sound).unwrap();
    fs::create_dir(place.path().join("eel")).unwrap();
    assert!(message(&place).ends_with("eel: the folder of a class holds no JPEG or PNG files"), "{}", message(&place));
    let archive = place.path().join("all.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    for name in ["cat", "dog", "eel"] {
        builder.append_dir_all(format!("all/{name}"), place.path().join(name)).unwrap();
    }
    builder.into_inner().unwrap();
    let error = load_images(archive.to_str().unwrap(), 0.2, None).unwrap_err().to_string();
    assert!(error.ends_with("all/eel: the folder of a class holds no JPEG or PNG files"), "{error}");
    fs::write(place.path().join("eel/1.jpg"), b"\xff\xd8\xff\xe0").unwrap();
    assert!(message(&place).contains("eel/1.jpg: it is no sound JPEG image: "), "{}", message(&place));
}

#[test]
#[allow(clippy::print_stderr)]
fn the_real_sets_are_read_where_they_are() {
    for (name, size, shape, counts) in [
        ("mnist", None, [1, 28, 28], [18_000, 2_000, 10_000]),
        ("fashion-mnist", None, [1, 28, 28], [7_380, 820, 3_000]),
        ("cifar10-jpeg", None, [3, 32, 32], [18_000, 2_000, 1_000]),
        ("eurosat-rgb", None, [3, 64, 64], [900, 100, 300]),
        ("clothing-small", Some(64), [3, 64, 64], [180, 20, 80]),
    ] {
        if crate::data::locate(name).is_none() {
            eprintln!("skipped: {name} is not under $REGARD_DATA");
            continue;
        }
        let images = load_images(name, 0.1, size).unwrap();
        assert_eq!(([images.channels, images.height, images.width], images.classes), (shape, 10));
        let test = images.test.as_ref().unwrap();
        assert_eq!([&images.train, &images.valid, test].map(|set| set.labels.len()), counts);
        for set in [&images.train, &images.valid, test] {
            let mut of = [0; 10];
            set.labels.iter().for_each(|label| of[usize::from(*label)] += 1);
            let (few, many) = (of.iter().min().unwrap(), of.iter().max().unwrap());
            // Of 20 images drawn at random a class may have none.
            assert!(set.labels.len() < 200 || *few > 0 && many <= &(2 * few), "{name}: {of:?}");
        }
    }
}
