use std::collections::BTreeSet;

use super::{mix::Mixed, *};
use crate::tasks::generator;

/// An image whose bytes all differ from their neighbours'.
fn picture(channels: usize, rows: usize, columns: usize) -> Picture {
    let pixels = (0..channels * rows * columns).map(|n| (n * 37 % 251) as u8).collect();
    Picture { pixels, shape: [channels, rows, columns] }
}

fn gray(pixels: &[u8], columns: usize) -> Picture {
    Picture { pixels: pixels.to_vec(), shape: [1, pixels.len() / columns, columns] }
}

#[test]
fn mirrors_and_shifts_move_pixels_and_bring_in_black() {
    let small = gray(&[1, 2, 3, 4, 5, 6], 3);
    assert_eq!(geometry::mirrored(&small, false).pixels, [3, 2, 1, 6, 5, 4]);
    assert_eq!(geometry::mirrored(&small, true).pixels, [4, 5, 6, 1, 2, 3]);
    assert_eq!(geometry::shifted(&small, [0, 1]).pixels, [2, 3, 0, 5, 6, 0]);
    assert_eq!(geometry::shifted(&small, [-1, -2]).pixels, [0, 0, 0, 0, 0, 1]);
    let colours = picture(3, 4, 5);
    for vertical in [false, true] {
        let once = geometry::mirrored(&colours, vertical);
        assert!(once != colours && geometry::mirrored(&once, vertical) == colours);
    }
}

#[test]
fn turning_and_shearing_go_about_the_middle() {
    let image = picture(3, 5, 5);
    let identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
    assert_eq!(geometry::warped(&image, identity), image);
    // A quarter: row i of the result is column i of the image, from the bottom or from the top.
    let quarter = geometry::warped(&gray(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 3), [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]);
    assert_eq!(quarter.pixels, [3, 6, 9, 2, 5, 8, 1, 4, 7]);
    let rotated = Alteration::Rotate.apply(&image, 1.0, 1.0);
    assert_eq!(rotated.pixels[12], image.pixels[12], "the middle stays");
    let moved = Alteration::TranslateX.apply(&image, 1.0, 1.0);
    assert_eq!(moved, geometry::shifted(&image, [0, 2]));
    let half = geometry::warped(&gray(&[0, 100, 0], 3), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]);
    assert_eq!(half.pixels, [50, 50, 0]);
}

#[test]
fn alterations_of_values_are_those_of_the_paper() {
    let ramp = gray(&[50, 100, 150, 200], 2);
    let altered = |operation: Alteration, magnitude, sign| operation.apply(&ramp, magnitude, sign).pixels;
    assert_eq!(altered(Alteration::AutoContrast, 0.5, 1.0), [0, 85, 170, 255]);
    assert_eq!(altered(Alteration::Solarize, 0.5, 1.0), [50, 100, 105, 55]);
    assert_eq!(altered(Alteration::Posterize, 1.0, 1.0), [48, 96, 144, 192]);
    assert_eq!(altered(Alteration::Brightness, 1.0, -1.0), [5, 10, 15, 20]);
    assert_eq!(altered(Alteration::Contrast, 0.5, -1.0), [84, 111, 139, 166]);
    assert_eq!(altered(Alteration::Color, 1.0, -1.0), ramp.pixels, "gray has no colour to lose");
    let red = Picture { pixels: vec![200, 0, 0], shape: [3, 1, 1] };
    let pale = Alteration::Color.apply(&red, 1.0, -1.0).pixels;
    assert!(pale[0] < 90 && pale[1] > 50 && pale[1] == pale[2], "{pale:?}");
    let dot = gray(&[0, 0, 0, 0, 130, 0, 0, 0, 0], 3);
    assert_eq!(Alteration::Sharpness.apply(&dot, 1.0, -1.0).pixels[4], 58, "130 + 0.9 (50 − 130)");
    // Many dark values become about as many of each brightness.
    let dark = gray(&(0..1024).map(|n| (n % 4) as u8).collect::<Vec<_>>(), 32);
    let spread: BTreeSet<u8> = Alteration::Equalize.apply(&dark, 0.0, 1.0).pixels.into_iter().collect();
    let spread: Vec<_> = spread.into_iter().collect();
    assert!(spread.len() == 4 && spread[3] >= 250 && spread[1] > 50, "{spread:?}");
    for operation in Alteration::ALL {
        let image = picture(3, 20, 21);
        let altered = operation.apply(&image, 0.7, -1.0);
        assert_eq!(altered.pixels.len(), image.pixels.len(), "{operation:?}");
        assert_eq!(altered == image, operation == Alteration::Identity, "{operation:?}");
    }
}

#[test]
fn what_is_drawn_follows_from_seed_and_number_and_nothing_is_drawn_for_what_is_off() {
    let all = AugmentConfig {
        crop: 2,
        flip: 0.5,
        flip_vertical: 0.5,
        rand_augment: Some(RandAugment::default()),
        erase: 0.5,
        mixup: 0.8,
        cutmix: 1.0,
        smoothing: 0.1,
    };
    let image = |k: u64| {
        let mut image = picture(1, 8, 8);
        image.pixels.rotate_left(k as usize);
        (image, k as u8)
    };
    let of = |config: &AugmentConfig, seed, n| mixed(config, 3, 10, image, &mut generator(seed, n));
    let draws: Vec<_> = (0..20).map(|n| of(&all, 5, n)).collect();
    assert_eq!(draws, (0..20).map(|n| of(&all, 5, n)).collect::<Vec<_>>());
    assert!((0..20).filter(|n| of(&all, 6, *n) == draws[*n as usize]).count() < 3);
    assert!((1..20).filter(|n| draws[*n] == draws[0]).count() < 3, "the same image is another one each time");
    for Mixed { picture, classes: [(first, a), (_, b)] } in &draws {
        assert_eq!((picture.pixels.len(), *first), (64, 3));
        assert!((a + b - 1.0).abs() < 1e-6 && *a >= 0.0 && *b >= 0.0);
    }
    let still = of(&AugmentConfig::default(), 5, 0);
    assert_eq!((still.picture, still.classes[0]), (image(3).0, (3, 1.0)));
}

#[test]
fn mixtures_hold_as_much_of_each_image_as_their_classes_say() {
    // A white and a black image: the brightness of the mixture is the share of the white one.
    let image = |k: u64| (gray(&[if k == 0 { 255 } else { 0 }; 256], 16), k as u8);
    for config in [AugmentConfig { mixup: 1.0, ..Default::default() }, AugmentConfig { cutmix: 1.0, ..Default::default() }] {
        let mut shares = Vec::new();
        for n in 0..200 {
            let Mixed { picture, classes } = mixed(&config, 0, 2, image, &mut generator(1, n));
            let white: f32 = classes.iter().filter(|(class, _)| *class == 0).map(|(_, share)| share).sum();
            let brightness = picture.pixels.iter().map(|v| f32::from(*v)).sum::<f32>() / (256.0 * 255.0);
            assert!((white - brightness).abs() < 3e-3, "{white} {brightness}");
            shares.push(white);
        }
        assert!(shares.iter().any(|s| *s < 0.5) && shares.iter().filter(|s| (0.2..0.8).contains(*s)).count() > 30);
    }
}

#[test]
fn erasing_leaves_two_thirds_at_least_and_a_cut_stays_within_its_border() {
    let image = gray(&[7; 400], 20);
    for n in 0..200 {
        let mut rng = generator(2, n);
        let erased = mix::erased(image.clone(), &mut rng).pixels.iter().filter(|v| **v != 7).count();
        assert!((1..=160).contains(&erased), "{erased} of 400");
    }
    let config = AugmentConfig { crop: 3, ..Default::default() };
    let black = |picture: Picture| picture.pixels.into_iter().filter(|v| *v == 0).count();
    let moved: BTreeSet<usize> = (0..400).map(|n| black(config.altered(image.clone(), &mut generator(3, n)))).collect();
    assert!(moved.contains(&0) && moved.contains(&(400 - 17 * 17)), "from nothing to three rows and columns of black: {moved:?}");
    assert!(moved.iter().all(|black| *black <= 400 - 17 * 17));
}

#[test]
fn configurations_are_read_and_checked() {
    let read = |text: &str| {
        crate::from_toml::<std::collections::BTreeMap<String, Augment>>(text).map(|mut table| table.remove("augment").unwrap())
    };
    assert_eq!(read("augment = \"usual\"").unwrap(), Augment::Usual);
    let custom = read("augment = { crop = 4, flip = 0.5, rand_augment = { count = 1, operations = [\"rotate\", \"shear_x\"] } }").unwrap();
    let Augment::Custom(config) = &custom else { panic!("a table") };
    assert_eq!(config.rand_augment.as_ref().unwrap().operations, [Alteration::Rotate, Alteration::ShearX]);
    assert!(read("augment = \"strong\"").unwrap_err().to_string().contains("must be a table or \"usual\", got \"strong\""));
    assert!(read("augment = { flop = 0.5 }").unwrap_err().to_string().contains("unknown field `flop`"));
    let message = |config: AugmentConfig| config.check([28, 28]).unwrap_err().to_string();
    let base = AugmentConfig::default();
    assert_eq!(message(AugmentConfig { flip: 1.5, ..base.clone() }), "`task.augment.flip` must be from 0 to 1, got 1.5");
    assert_eq!(message(AugmentConfig { mixup: f64::NAN, ..base.clone() }), "`task.augment.mixup` must be at least 0, got NaN");
    let crop = message(AugmentConfig { crop: 28, ..base.clone() });
    assert_eq!(crop, "`task.augment.crop` must be less than the sides of the images, 28 × 28 pixels, got 28");
    assert_eq!(message(AugmentConfig { smoothing: 1.0, ..base.clone() }), "`task.augment.smoothing` must be from 0 to less than 1, got 1");
    let none = RandAugment { operations: vec![], ..RandAugment::default() };
    assert!(message(AugmentConfig { rand_augment: Some(none), ..base }).contains("operations` must be a list of at least one"));
    for data in ["mnist", "fashion-mnist", "cifar10-jpeg", "eurosat-rgb", "clothing-small", "another"] {
        for side in [1, 2, 8, 28, 64] {
            AugmentConfig::usual(data, side).check([side, side]).unwrap();
        }
    }
    assert_eq!(AugmentConfig::usual("mnist", 28).flip, 0.0);
}
