//! Images that are drawn, as many as one likes: tasks that tell what a layer over maps can reach.

use rand::{Rng, RngExt, seq::index::sample};

/// A kind of drawn images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// 16 × 16 pixels in 4 × 4 regions, each with a pattern and one of eight brightnesses; one region, marked in blue, shows the pattern of
    /// another, and the class is the brightness there. A region finds its key by content, wherever it is (BiFormer's retrieval).
    RoutedRetrieval,
    /// 32 × 32 pixels of gray noise with two dots, at least 16 pixels apart: whether they have the same colour. What sees only a neighbourhood
    /// is at chance (DaViT's and S2AFormer's test of reach).
    TwoDots,
}

/// Rows and columns of a region, and regions per side.
const REGION: usize = 4;
/// Side of the images of two dots, of a dot, and the least distance of the dots' middles.
const SIDE: usize = 32;
const DOT: usize = 3;
const APART: f64 = 16.0;
/// Brightest value of the noise.
const NOISE: u8 = 110;
/// The colours of dots.
const COLOURS: [[u8; 3]; 4] = [[255, 40, 40], [40, 255, 40], [60, 90, 255], [255, 230, 40]];

impl Scene {
    /// All of them, each with its name.
    pub const ALL: [(&'static str, Self); 2] = [("routed-retrieval", Self::RoutedRetrieval), ("two-dots", Self::TwoDots)];

    /// The scene of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, scene)| scene)
    }

    /// Channels, rows and columns.
    pub fn shape(self) -> [usize; 3] {
        match self {
            Self::RoutedRetrieval => [3, REGION * REGION, REGION * REGION],
            Self::TwoDots => [3, SIDE, SIDE],
        }
    }

    /// Number of classes.
    pub fn classes(self) -> usize {
        match self {
            Self::RoutedRetrieval => 8,
            Self::TwoDots => 2,
        }
    }

    /// An image, `[C, Y, X]`, and its class.
    pub fn draw(self, rng: &mut impl Rng) -> (Vec<u8>, u8) {
        match self {
            Self::RoutedRetrieval => retrieval(rng),
            Self::TwoDots => two_dots(rng),
        }
    }
}

/// Red: patterns; green: values; blue: the region that asks.
fn retrieval(rng: &mut impl Rng) -> (Vec<u8>, u8) {
    const REGIONS: usize = REGION * REGION;
    const WIDTH: usize = REGION * REGION;
    let mut patterns: Vec<u16> = sample(rng, 1 << REGIONS, REGIONS).into_iter().map(|pattern| pattern as u16).collect();
    let mut values: Vec<u8> = (0..REGIONS).map(|_| rng.random_range(0..8)).collect();
    let pair = sample(rng, REGIONS, 2);
    let (asking, asked) = (pair.index(0), pair.index(1));
    let class = values[asked];
    patterns[asking] = patterns[asked];
    // What the asking region itself shows must not tell.
    values[asking] = 0;
    let mut pixels = vec![0; 3 * WIDTH * WIDTH];
    for y in 0..WIDTH {
        for x in 0..WIDTH {
            let region = y / REGION * REGION + x / REGION;
            let bit = y % REGION * REGION + x % REGION;
            let at = y * WIDTH + x;
            pixels[at] = if patterns[region] >> bit & 1 == 1 { 255 } else { 0 };
            pixels[WIDTH * WIDTH + at] = 32 * values[region] + 16;
            pixels[2 * WIDTH * WIDTH + at] = if region == asking { 255 } else { 0 };
        }
    }
    (pixels, class)
}

fn two_dots(rng: &mut impl Rng) -> (Vec<u8>, u8) {
    let noise: Vec<u8> = (0..SIDE * SIDE).map(|_| rng.random_range(0..=NOISE)).collect();
    let mut pixels = noise.repeat(3);
    let mut place = || [rng.random_range(0..=SIDE - DOT), rng.random_range(0..=SIDE - DOT)];
    let (mut first, mut second) = (place(), place());
    let distance = |a: [usize; 2], b: [usize; 2]| (a[0].abs_diff(b[0]) as f64).hypot(a[1].abs_diff(b[1]) as f64);
    // From the middle of the image, nothing is far enough: both are drawn again.
    while distance(first, second) < APART {
        (first, second) = (place(), place());
    }
    let same = rng.random_bool(0.5);
    let colour = rng.random_range(0..COLOURS.len());
    let other = if same { colour } else { (colour + rng.random_range(1..COLOURS.len())) % COLOURS.len() };
    for (place, colour) in [(first, colour), (second, other)] {
        for (channel, value) in COLOURS[colour].into_iter().enumerate() {
            for i in 0..DOT * DOT {
                pixels[(channel * SIDE + place[0] + i / DOT) * SIDE + place[1] + i % DOT] = value;
            }
        }
    }
    (pixels, u8::from(same))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn draws(scene: Scene) -> Vec<(Vec<u8>, u8)> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        (0..400).map(|_| scene.draw(&mut rng)).collect()
    }

    #[test]
    fn every_class_of_a_scene_is_about_as_frequent_and_images_have_its_shape() {
        for (name, scene) in Scene::ALL {
            let mut counts = vec![0; scene.classes()];
            for (pixels, class) in draws(scene) {
                assert_eq!(pixels.len(), scene.shape().iter().product::<usize>());
                counts[usize::from(class)] += 1;
            }
            let mean = 400 / scene.classes();
            assert!(counts.iter().all(|count| (mean / 2..2 * mean).contains(count)), "{name}: {counts:?}");
        }
    }

    #[test]
    fn the_marked_region_shows_the_pattern_of_one_other_whose_value_is_the_class() {
        for (pixels, class) in draws(Scene::RoutedRetrieval) {
            let region = |channel: usize, r: usize| -> Vec<u8> {
                (0..16).map(|bit| pixels[channel * 256 + (r / 4 * 4 + bit / 4) * 16 + r % 4 * 4 + bit % 4]).collect()
            };
            let asking: Vec<_> = (0..16).filter(|r| region(2, *r)[0] == 255).collect();
            assert_eq!(asking.len(), 1);
            let same: Vec<_> = (0..16).filter(|r| *r != asking[0] && region(0, *r) == region(0, asking[0])).collect();
            assert_eq!(same.len(), 1);
            assert_eq!(region(1, same[0])[0] / 32, class);
            assert_eq!(region(1, asking[0])[0] / 32, 0, "the asking region tells nothing");
        }
    }

    #[test]
    fn the_two_dots_are_far_apart_and_of_one_colour_if_the_class_says_so() {
        for (pixels, class) in draws(Scene::TwoDots) {
            let colour = |at: usize| [pixels[at], pixels[1024 + at], pixels[2048 + at]];
            let coloured: Vec<usize> = (0..1024).filter(|at| COLOURS.contains(&colour(*at))).collect();
            assert_eq!(coloured.len(), 2 * DOT * DOT);
            let first = coloured[0];
            let far = |at: &&usize| (**at / 32).abs_diff(first / 32).max((**at % 32).abs_diff(first % 32)) > DOT;
            let second = *coloured.iter().find(far).expect("another dot");
            assert_eq!(colour(first) == colour(second), class == 1);
            let near = (first / 32).abs_diff(second / 32).pow(2) + (first % 32).abs_diff(second % 32).pow(2);
            assert!(near as f64 >= (APART - 2.0 * DOT as f64).powi(2), "{near}");
        }
    }
}
