use burn::tensor::{Tensor, activation::relu};
use regard_testkit::{assert_close, cpu, relative_error};

use super::{ResNetBlockKind, ResNetConfig, ResNetNames, Shortcut};
use crate::vision::{
    freeze_statistics,
    testing::{images, is_empty, round_trip},
    trained_weights,
};

/// Weights, side of the images, and multiply-adds in units of 10⁹.
const KNOWN: [(&str, usize, usize, f64); 10] = [
    ("resnet18", 11_689_512, 224, 1.814),
    ("resnet34", 21_797_672, 224, 3.664),
    ("resnet50", 25_557_032, 224, 4.089),
    ("resnet101", 44_549_160, 224, 7.801),
    ("resnet152", 60_192_808, 224, 11.514),
    ("resnet20", 269_722, 32, 0.04055),
    ("resnet32", 464_154, 32, 0.06886),
    ("resnet44", 658_586, 32, 0.09717),
    ("resnet56", 853_018, 32, 0.12549),
    ("resnet110", 1_727_962, 32, 0.25289),
];

#[test]
fn named_networks_have_the_known_numbers_of_weights_and_operations_and_none_is_made() {
    assert!(ResNetConfig::NAMES.iter().eq(KNOWN.iter().map(|(name, ..)| name)));
    for (name, weights, side, operations) in KNOWN {
        let model = ResNetConfig::named(name).expect(name).init(&cpu()).unwrap();
        assert_eq!(trained_weights(&model), weights, "{name}");
        assert!(is_empty(&model), "{name}");
        let counted = model.multiply_adds([side; 2]) / 1e9;
        assert!((counted - operations).abs() <= 0.0005 * operations, "{name}: {counted}");
    }
    assert_eq!(ResNetConfig::named("resnet19"), None);
}

fn tiny(block: ResNetBlockKind) -> ResNetConfig {
    ResNetConfig { width: 4, ..ResNetConfig::imagenet(block, [1, 2], 5) }
}

#[test]
fn weights_come_back_under_torchvisions_names() {
    for block in [ResNetBlockKind::Basic, ResNetBlockKind::Bottleneck] {
        let model = tiny(block).init(&cpu()).unwrap();
        let (back, names) = round_trip(&model, tiny(block).init(&cpu()).unwrap(), &ResNetNames);
        let some = [
            "conv1.weight",
            "bn1.running_var",
            "layer1.0.conv2.weight",
            "layer2.1.bn1.bias",
            "layer2.0.downsample.1.running_mean",
            "fc.bias",
        ];
        assert!(some.iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
        assert_eq!(names.contains(&"layer1.0.downsample.0.weight".to_owned()), block == ResNetBlockKind::Bottleneck);
        let x = images([2, 3, 33, 40]);
        assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 0.0);
    }
}

#[test]
fn stages_halve_the_map_and_the_last_gives_the_logits() {
    for (block, expansion) in [(ResNetBlockKind::Basic, 1), (ResNetBlockKind::Bottleneck, 4)] {
        let model = tiny(block).init(&cpu()).unwrap();
        let maps = model.features(images([2, 3, 33, 40])).unwrap();
        assert_eq!(maps.iter().map(Tensor::dims).collect::<Vec<_>>(), [[2, 9, 10, 4 * expansion], [2, 5, 5, 8 * expansion]]);
    }
}

/// A block whose branch is 0 hands on what its shortcut makes of the map.
#[test]
fn a_shortcut_without_weights_keeps_every_other_token_and_its_channels_in_the_middle() {
    let config = ResNetConfig { width: 4, depths: vec![1, 1], ..ResNetConfig::cifar(1, 5) };
    let mut block = config.init(&cpu()).unwrap().stages[1][0].clone();
    assert!(block.downsample.is_none());
    let last = block.convs.last_mut().unwrap();
    last.bn.gamma = last.bn.gamma.clone().map(|gamma| gamma.zeros_like());
    let x = images([1, 5, 6, 4]);
    let y = block.forward(x.clone());
    assert_eq!(y.dims(), [1, 3, 3, 8]);
    let token = |x: &Tensor<4>, row: usize, column: usize| x.clone().narrow(1, row, 1).narrow(2, column, 1);
    for (row, column) in [(0, 0), (1, 2), (2, 1)] {
        let [got, want] = [token(&y, row, column), relu(token(&x, 2 * row, 2 * column))];
        assert_close("the middle", &got.clone().narrow(3, 2, 4), &want, 0.0);
        assert_eq!(got.narrow(3, 0, 2).abs().sum().into_scalar::<f32>(), 0.0);
    }
}

#[test]
fn norms_learn_from_the_batch_in_training_unless_they_are_frozen() {
    let config = ResNetConfig { shortcut: Shortcut::Projection, ..ResNetConfig::cifar(1, 5) };
    let device = cpu().autodiff();
    let model = config.init(&device).unwrap();
    let x = Tensor::from_data(images([4, 3, 8, 8]).into_data(), &device);
    let before = model.stem.bn.running_mean.value_sync();
    let trained = model.forward(x.clone()).unwrap();
    assert!(relative_error(&model.stem.bn.running_mean.value_sync(), &before) > 0.0);
    let frozen = freeze_statistics(model.clone());
    let before = frozen.stem.bn.running_mean.value_sync();
    let still = frozen.forward(x).unwrap();
    assert!(relative_error(&still, &trained) > 1e-3);
    assert!(relative_error(&frozen.stem.bn.running_mean.value_sync(), &before) == 0.0);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let message = |change: &dyn Fn(&mut ResNetConfig)| {
        let mut config = tiny(ResNetBlockKind::Basic);
        change(&mut config);
        config.init(&cpu()).unwrap_err().to_string()
    };
    assert_eq!(message(&|c| c.width = 0), "resnet: `width` must be at least 1, got 0");
    assert_eq!(message(&|c| c.depths = vec![1, 0]), "resnet: `depths` must be at least 1, got 0");
    assert_eq!(message(&|c| c.depths = vec![1; 70]), "resnet: `depths` must be at most 8 stages, got 70");
    let model = tiny(ResNetBlockKind::Basic).init(&cpu()).unwrap();
    let error = model.forward(images([1, 3, 0, 8])).unwrap_err().to_string();
    assert_eq!(error, "resnet: `images` must be of shape [B, 3, Y, X] with pixels, got [1, 3, 0, 8]");
}
