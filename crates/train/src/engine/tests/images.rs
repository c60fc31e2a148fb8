//! Runs of networks for images.

use regard::ImageMixerConfig;
use regard_models::{
    ImageConfig, MapMixerConfig,
    image::{MapPositions, StemKind},
};

use super::*;
use crate::{
    ClassifyConfig, Task,
    data::idx_set,
    tasks::{Alteration, Augment, AugmentConfig, Order, RandAugment, Samples, Targets, View},
};

/// 60 images of 8 × 8 pixels, half of them bright.
fn shades() -> tempfile::TempDir {
    idx_set(60, [8, 8], |n| (if n % 2 == 0 { 20 + n } else { 160 + n }, n % 2))
}

fn everything() -> AugmentConfig {
    AugmentConfig {
        crop: 1,
        flip: 0.5,
        flip_vertical: 0.5,
        rand_augment: Some(RandAugment { operations: vec![Alteration::Rotate, Alteration::ShearX], ..RandAugment::default() }),
        erase: 0.3,
        mixup: 0.4,
        cutmix: 1.0,
        smoothing: 0.1,
    }
}

/// A run of a network with these mixers.
fn images(data: &Path, mixers: &[&str], augment: Option<AugmentConfig>) -> RunConfig {
    let named = |kind: &&str| match MapMixerConfig::named(kind, 2).unwrap() {
        MapMixerConfig::Spatial(ImageMixerConfig::Neighborhood(config)) => {
            ImageMixerConfig::Neighborhood(regard::neighborhood_attention::NeighborhoodAttentionConfig { window: 3, ..config }).into()
        }
        other => other,
    };
    let model = ImageConfig { d_ff: 16, ..ImageConfig::open(8, mixers.len(), mixers.iter().map(named).collect()) };
    let task = ClassifyConfig { view: View::Image, augment: augment.map(Augment::Custom), ..ClassifyConfig::default() };
    RunConfig { task: TaskConfig::Classify(task), data: Some(DataConfig::new(data.to_str().unwrap())), model: model.into(), ..recall() }
}

#[test]
fn a_run_with_altered_images_and_norms_over_batches_is_resumed_without_a_trace() {
    let _turn = alone();
    let data = shades();
    let mut config = images(data.path(), &["conv", "strip", "neighborhood"], Some(everything()));
    if let ModelConfig::Image(model) = &mut config.model {
        (model.stem, model.positions, model.patch) = (StemKind::Conv, MapPositions::Conv, 2);
    }
    config.train.grad_accumulation = 2;
    let [whole, parts] = ["whole", "parts"].map(|name| data.path().join(name));
    let expected = train(&config, &whole);
    // Between two evaluations, and on one.
    stop_after(Trainer::create(&config, &parts, &Device::flex()).unwrap(), 2);
    stop_after(Trainer::resume(&parts, &Device::flex()).unwrap(), 4);
    let outcome = Trainer::resume(&parts, &Device::flex()).unwrap().run(Hooks::default()).unwrap();
    assert_eq!(numbers(&parts), numbers(&whole));
    assert_eq!(outcome.evaluation, expected.evaluation);
    let evaluated = Run::open(&parts).unwrap().evaluate(&Device::flex(), Split::Valid, 48).unwrap();
    assert_eq!(Some(evaluated.evaluation), outcome.evaluation, "what the norms remember is in the checkpoint");
}

#[test]
fn every_mixer_tells_shades_apart() {
    let _turn = alone();
    let data = shades();
    for mixer in MapMixerConfig::KINDS {
        let mut config = images(data.path(), &[mixer], None);
        config.train.steps = Some(30);
        let place = data.path().join(mixer);
        train(&config, &place);
        let test = Run::open(&place).unwrap().evaluate(&Device::flex(), Split::Test, usize::MAX / 2).unwrap().evaluation;
        assert_eq!(test.tokens, 60);
        assert!(test.accuracy.unwrap() > 0.9, "{mixer}: {test:?}");
        let written = RunConfig::load(&place.join("config.toml")).unwrap();
        let ModelConfig::Image(model) = written.model else { panic!("another model") };
        assert_eq!((model.image, model.channels, model.classes, model.patch), ([8, 8], 1, 2, 1));
    }
}

#[test]
fn altered_images_follow_from_seed_and_number_and_share_their_classes() {
    let data = shades();
    let task = |augment| Task::load(&images(data.path(), &["channel"], augment)).unwrap();
    let order = Order { seed: 7, batch: 4, accumulation: 1, context: 64, rank: 0, world: 1 };
    let examples = |task: &Task, order: &Order, step, pass| match task.batch(order, step, pass) {
        Samples::Examples(examples) => examples,
        Samples::Tokens(_) => panic!("images are examples"),
    };
    let altered = task(Some(everything()));
    let whole = examples(&altered, &order, 3, 0);
    assert_eq!(whole, examples(&altered, &order, 3, 0));
    assert_ne!(whole, examples(&altered, &Order { seed: 8, ..order }, 3, 0));
    // Two ranks take what one would have taken, whatever is drawn for each.
    let parts = [0, 1].map(|rank| examples(&altered, &Order { batch: 2, rank, world: 2, ..order }, 3, 0));
    let joined = parts.iter().flat_map(|part| part.numbers::<4>(&Device::flex()).unwrap().into_data().try_to_vec::<f32>().unwrap());
    assert_eq!(joined.collect::<Vec<_>>(), whole.numbers::<4>(&Device::flex()).unwrap().into_data().try_to_vec::<f32>().unwrap());
    let Targets::Shares { values, classes: 2 } = &whole.targets else { panic!("{:?}", whole.targets) };
    assert!(values.chunks(2).all(|row| (row[0] + row[1] - 1.0).abs() < 1e-6 && row.iter().all(|share| *share >= 0.049)));
    // An epoch later the same image is another one.
    let still = task(None);
    let [first, later] = [0, 54].map(|step| examples(&altered, &Order { batch: 1, ..order }, step, 0));
    assert_ne!(first, later);
    assert!(matches!(examples(&still, &order, 3, 0).targets, Targets::Classes(_)));
    let evaluation = altered.evaluation(Split::Valid, 640, 4, 64).unwrap();
    assert_eq!(evaluation, still.evaluation(Split::Valid, 640, 4, 64).unwrap(), "only training images are altered");
}

#[test]
fn what_does_not_fit_the_images_is_named_with_its_line() {
    let data = shades();
    let refused = |change: &dyn Fn(&mut ImageConfig)| {
        let mut config = images(data.path(), &["window"], None);
        if let ModelConfig::Image(model) = &mut config.model {
            change(model);
        }
        let file = data.path().join("run.toml");
        fs::write(&file, config.to_toml().unwrap()).unwrap();
        let error = Trainer::create(&config, &data.path().join("run"), &Device::flex()).err().unwrap();
        error.in_file(&file, &config).to_string()
    };
    let named = |kinds: &[(&str, usize)]| kinds.iter().map(|(kind, heads)| MapMixerConfig::named(kind, *heads).unwrap()).collect();
    let map = refused(&|model| (model.mixers, model.depths, model.patch) = (named(&[("halo", 2), ("neighborhood", 2)]), vec![2], 2));
    assert!(map.contains("run.toml:") && map.contains("neighborhood: `") && map.contains('4'), "{map}");
    let heads = refused(&|model| (model.mixers, model.depths) = (named(&[("channel", 2), ("window", 3)]), vec![2]));
    assert!(heads.contains("run.toml:") && heads.ends_with("window: `heads` must be a divisor of d_model = 8, got 3"), "{heads}");
    let size = refused(&|model| model.image = [8, 9]);
    assert!(size.ends_with("`model.image` must be [8, 8], as in the task, or left out, got [8, 9]"), "{size}");
    let classes = refused(&|model| model.classes = 3);
    assert!(classes.ends_with("`model.classes` must be 2, as in the task, or left out, got 3"), "{classes}");
    let mut config = images(data.path(), &["window"], None);
    config.task = TaskConfig::Classify(ClassifyConfig::default());
    let error = Trainer::create(&config, &data.path().join("run"), &Device::flex()).err().unwrap().to_string();
    assert_eq!(error, "`model.kind` must be `encoder` for this task, got image");
    config.model = ImageConfig::open(8, 1, vec![MapMixerConfig::named("window", 2).unwrap()]).into();
    config.train.precision = Precision::Bf16;
    assert_eq!(config.validate().unwrap_err().to_string(), "`train.precision` must be f32 for this model, got bf16");
}
