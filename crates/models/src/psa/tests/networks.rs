use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use regard::polarized_attention::{Flavour, Layout, PolarizedAttentionConfig};
use regard_testkit::{Case, assert_close, cpu, run};

use crate::{
    psa::{HrNetConfig, PoseConfig, PsaHeatmapConfig, PsaNames, SegmentationConfig, TrunkConfig, Window, heatmap_loss, heatmap_targets},
    resnet::{ResNetBlockKind, ResNetConfig},
    vision::{
        Resize, freeze_statistics,
        testing::{images, is_empty, load, round_trip},
        trained_weights,
    },
};

#[test]
fn goldens_of_the_model() {
    run("polarized-self-attention", &["model."], &[("model.psa_heatmap", golden)]);
}

fn golden(case: &Case) {
    assert_eq!((case.text("bn"), case.text("loss")), ("eval", "half_mean_squared_error"));
    assert!((case.number("ln_eps") - 1e-5).abs() < 1e-12);
    let (flavour, layout) = match case.text("flavour") {
        "official-parallel" => (Flavour::Official, Layout::Parallel),
        "official-sequential" => {
            assert_eq!(case.size("reduction_ratio"), 4);
            (Flavour::Official, Layout::Sequential)
        }
        "paper" => (Flavour::Paper, if case.text("layout") == "parallel" { Layout::Parallel } else { Layout::Sequential }),
        other => panic!("flavour {other}"),
    };
    let psa = Some(PolarizedAttentionConfig { flavour, layout, allow_odd: flavour == Flavour::Official });
    let window = |name: &str| {
        let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|key| case.size(&format!("{name}_{key}")));
        Window { kernel, stride, padding }
    };
    let config = PsaHeatmapConfig {
        psa,
        stem: window("stem"),
        deconv: window("deconv"),
        norm_epsilon: case.number("bn_eps"),
        ..PsaHeatmapConfig::new(case.size("width"), case.size("keypoints"))
    };
    let model = load(case, freeze_statistics(config.init(case.device()).unwrap()), &PsaNames::heatmap(psa));

    let target = case.float::<4>("in.target");
    let [_, _, y, x] = target.dims();
    let drawn = heatmap_targets(case.float("in.centres"), [y, x], case.number("sigma")).unwrap();
    assert_close("the target of the centres", &drawn, &target, 1e-6);
    let heatmaps = model.forward(case.float("in.x")).unwrap();
    case.output("heatmap", heatmaps.clone());
    case.output("loss", heatmap_loss(heatmaps, target, None).unwrap());
}

#[test]
fn pose_networks_have_the_published_number_of_weights_and_operations() {
    // Millions of weights, and 2³⁰ multiply-adds at 256 × 192, to a decimal, of which some were rounded and some cut. The published count of
    // a transposed convolution multiplies its filters by its outputs, of which each meets a quarter of them.
    let table = [
        ("pose_resnet50", 34.0, 8.9),
        ("pose_resnet101", 53.0, 12.4),
        ("pose_resnet152", 68.6, 15.7),
        ("pose_hrnet_w32", 28.5, 7.1),
        ("pose_hrnet_w48", 63.6, 14.6),
    ];
    for (name, millions, giga) in table {
        let model = PoseConfig::named(name).expect(name).init(&cpu()).unwrap();
        let weights = trained_weights(&model) as f64 / 1e6;
        assert!((weights - millions).abs() < 0.05, "{name}: {weights} million weights");
        let deconvs: usize = model
            .deconv_layers
            .iter()
            .zip([8 * 6, 16 * 12, 32 * 24])
            .map(|(layer, n)| layer.conv.weight.lazy_shape().num_elements() * n)
            .sum();
        let counted = (model.multiply_adds([256, 192]) + 3.0 * deconvs as f64) / f64::from(1 << 30);
        assert!((counted - giga).abs() < 0.1, "{name}: {counted}");
        assert!(is_empty(&model));
    }
    assert_eq!(PoseConfig::named("pose_hrnet_w64"), None);
}

#[test]
fn networks_have_the_number_of_weights_of_the_page() {
    let table = [
        ("pose_resnet50", 33_999_697),
        ("pose_resnet50_psa_p", 36_518_417),
        ("pose_resnet50_psa_s", 36_130_649),
        ("pose_resnet101", 52_991_825),
        ("pose_resnet101_psa_p", 57_743_121),
        ("pose_resnet101_psa_s", 57_013_177),
        ("pose_resnet152", 68_635_473),
        ("pose_resnet152_psa_p", 75_225_617),
        ("pose_resnet152_psa_s", 74_214_233),
        ("pose_hrnet_w32", 28_536_113),
        ("pose_hrnet_w32_psa_p", 31_363_889),
        ("pose_hrnet_w32_psa_s", 30_936_945),
        ("pose_hrnet_w48", 63_595_745),
        ("pose_hrnet_w48_psa_p", 69_950_945),
        ("pose_hrnet_w48_psa_s", 68_980_289),
    ];
    assert_eq!(table.map(|(name, _)| name), PoseConfig::NAMES);
    for (name, weights) in table {
        let config = PoseConfig::named(name).expect(name);
        assert_eq!(trained_weights(&config.init(&cpu()).unwrap()), weights, "{name}");
    }
    let table = [
        ("segmentation_hrnet_w18", 9_641_119),
        ("segmentation_hrnet_w18_psa_p", 10_538_239),
        ("segmentation_hrnet_w18_psa_s", 10_405_291),
        ("segmentation_hrnet_w48", 65_859_379),
        ("segmentation_hrnet_w48_psa_p", 72_214_579),
        ("segmentation_hrnet_w48_psa_s", 71_243_923),
    ];
    assert_eq!(table.map(|(name, _)| name), SegmentationConfig::NAMES);
    for (name, weights) in table {
        let config = SegmentationConfig::named(name).expect(name);
        assert_eq!(trained_weights(&config.init(&cpu()).unwrap()), weights, "{name}");
    }
}

#[test]
fn attention_adds_the_published_number_of_weights() {
    let weights = |name: &str| trained_weights(&PoseConfig::named(name).expect(name).init(&cpu()).unwrap());
    assert_eq!(weights("pose_hrnet_w48_psa_p") - weights("pose_hrnet_w48"), 6_355_200);
    assert_eq!(weights("pose_hrnet_w48_psa_s") - weights("pose_hrnet_w48"), 5_384_544);
    let weights = |name: &str| trained_weights(&SegmentationConfig::named(name).expect(name).init(&cpu()).unwrap());
    assert_eq!(weights("segmentation_hrnet_w48_psa_p") - weights("segmentation_hrnet_w48"), 6_355_200);
    assert_eq!(weights("segmentation_hrnet_w48_psa_s") - weights("segmentation_hrnet_w48"), 5_384_544);
    // HRNetV2's published network.
    assert!((weights("segmentation_hrnet_w48") as f64 / 1e6 - 65.8).abs() < 0.1);
}

fn psa(flavour: Flavour, layout: Layout) -> PolarizedAttentionConfig {
    PolarizedAttentionConfig { flavour, layout, allow_odd: false }
}

#[test]
fn trunks_of_both_kinds_take_images_of_any_size() {
    let attention = [None, Some(psa(Flavour::Paper, Layout::Parallel)), Some(psa(Flavour::Official, Layout::Sequential))];
    for psa in attention {
        let narrow = ResNetConfig { width: 8, psa, ..ResNetConfig::imagenet(ResNetBlockKind::Basic, [1, 2, 1, 1], 0) };
        let hrnet = HrNetConfig { psa, ..HrNetConfig::new(8) };
        for sides in [[64, 48], [45, 37]] {
            let [quarter, half] = [4, 2].map(|stride| sides.map(|side: usize| side.div_ceil(stride)));
            let pose = |trunk, deconvs| PoseConfig { trunk, deconvs, keypoints: 3 }.init(&cpu()).unwrap();
            let maps = pose(TrunkConfig::HrNet(hrnet.clone()), vec![]).forward(images([1, 3, sides[0], sides[1]])).unwrap();
            assert_eq!(maps.dims(), [1, 3, quarter[0], quarter[1]]);
            let maps = pose(TrunkConfig::ResNet(narrow.clone()), vec![8, 8]).forward(images([1, 3, sides[0], sides[1]])).unwrap();
            let eighth = sides.map(|side| 4 * side.div_ceil(32));
            assert_eq!(maps.dims(), [1, 3, eighth[0], eighth[1]]);
            for trunk in [TrunkConfig::HrNet(HrNetConfig { all_maps: true, ..hrnet.clone() }), TrunkConfig::ResNet(narrow.clone())] {
                let config = SegmentationConfig { trunk, width: Some(8), resize: Resize::BilinearCorners, classes: 4 };
                let scores = config.init(&cpu()).unwrap().forward(images([1, 3, sides[0], sides[1]])).unwrap();
                assert_eq!(scores.dims(), [1, 4, sides[0], sides[1]]);
                assert!(scores.into_data().iter::<f32>().all(f32::is_finite));
            }
            let none =
                SegmentationConfig { trunk: TrunkConfig::HrNet(hrnet.clone()), ..SegmentationConfig::hrnet(8, 4) }.init(&cpu()).unwrap();
            assert_eq!(none.forward(images([0, 3, sides[0], sides[1]])).unwrap().dims(), [0, 4, sides[0], sides[1]]);
            let small = PsaHeatmapConfig { psa, blocks: 2, ..PsaHeatmapConfig::new(8, 3) }.init(&cpu()).unwrap();
            let even = half.map(|side| 2 * side);
            assert_eq!(small.forward(images([1, 3, sides[0], sides[1]])).unwrap().dims(), [1, 3, even[0], even[1]]);
        }
    }
}

#[test]
fn weights_come_back_under_the_authors_names() {
    for (layout, up) in [(Layout::Parallel, "conv_up.weight"), (Layout::Sequential, "conv_up.3.bias")] {
        let psa = Some(psa(Flavour::Official, layout));
        let trunk = TrunkConfig::HrNet(HrNetConfig { psa, ..HrNetConfig::new(8) });
        let pose = PoseConfig { trunk: trunk.clone(), deconvs: vec![], keypoints: 3 };
        let (model, names) = (pose.init(&cpu()).unwrap(), PsaNames::pose(psa));
        let (back, found) = round_trip(&model, pose.init(&cpu()).unwrap(), &names);
        let some = [
            "conv1.weight",
            "bn2.running_mean",
            "layer1.0.conv3.weight",
            "layer1.0.downsample.0.weight",
            "layer1.0.downsample.1.bias",
            "transition1.0.0.weight",
            "transition1.1.0.0.weight",
            "transition1.1.0.1.running_var",
            "transition3.3.0.0.weight",
            "stage2.0.branches.1.3.conv2.weight",
            "stage2.0.branches.0.0.deattn.conv_q_right.weight",
            &format!("stage4.1.branches.3.0.deattn.{up}"),
            "stage3.3.fuse_layers.0.2.0.weight",
            "stage3.3.fuse_layers.0.2.1.weight",
            "stage3.0.fuse_layers.2.0.1.0.weight",
            "stage3.0.fuse_layers.2.0.0.1.bias",
            "final_layer.bias",
        ];
        for name in some {
            assert!(found.iter().any(|known| known == name), "{name} is not among {found:#?}");
        }
        let x = images([1, 3, 64, 48]);
        assert_close("heatmaps", &back.forward(x.clone()).unwrap(), &model.forward(x.clone()).unwrap(), 0.0);

        let config = SegmentationConfig { trunk, ..SegmentationConfig::hrnet(8, 4) };
        let model = config.init(&cpu()).unwrap();
        let (back, found) = round_trip(&model, config.init(&cpu()).unwrap(), &PsaNames::segmentation(psa));
        assert!(
            ["last_layer.0.bias", "last_layer.1.running_var", "last_layer.3.weight"].iter().all(|name| found.iter().any(|n| n == name))
        );
        assert_close("scores", &back.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 0.0);
    }
}

#[test]
fn weights_of_residual_trunks_come_back_under_torchvisions_names() {
    let x = images([1, 3, 64, 48]);
    for attention in [None, Some(psa(Flavour::Paper, Layout::Sequential))] {
        let config = ResNetConfig { width: 4, psa: attention, ..ResNetConfig::imagenet(ResNetBlockKind::Bottleneck, [1, 2, 1, 1], 5) };
        let pose = PoseConfig { trunk: TrunkConfig::ResNet(config.clone()), deconvs: vec![4; 3], keypoints: 3 };
        let model = pose.init(&cpu()).unwrap();
        let (back, found) = round_trip(&model, pose.init(&cpu()).unwrap(), &PsaNames::pose(attention));
        let some = ["conv1.weight", "bn1.running_var", "layer2.1.bn3.weight", "layer4.0.downsample.0.weight", "deconv_layers.7.bias"];
        assert!(some.iter().all(|name| found.iter().any(|known| known == name)), "{found:#?}");
        assert_eq!(found.iter().any(|name| name == "layer3.0.deattn.ch_wq.weight"), attention.is_some());
        assert_close("heatmaps", &back.forward(x.clone()).unwrap(), &model.forward(x.clone()).unwrap(), 0.0);

        let model = config.init(&cpu()).unwrap();
        let (back, found) = round_trip(&model, config.init(&cpu()).unwrap(), &PsaNames::resnet(attention));
        assert!(
            ["conv1.weight", "layer2.1.bn3.weight", "fc.bias"].iter().all(|name| found.iter().any(|known| known == name)),
            "{found:#?}"
        );
        assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x.clone()).unwrap(), 0.0);
    }
}

#[test]
fn targets_and_losses_are_those_of_the_formulas() {
    let centres = Tensor::<3>::from_data(TensorData::new(vec![1.0_f32, 0.5], [1, 1, 2]), &cpu());
    let target = heatmap_targets(centres.clone(), [2, 3], 2.0).unwrap();
    let want = |y: f64, x: f64| (-((x - 1.0).powi(2) + (y - 0.5).powi(2)) / 8.0).exp() as f32;
    let values: Vec<f32> = (0..6).map(|i| want(f64::from(i / 3), f64::from(i % 3))).collect();
    let want = Tensor::<4>::from_data(TensorData::new(values.clone(), [1, 1, 2, 3]), &cpu());
    assert_close("target", &target, &want, 1e-6);
    let both = Tensor::cat(vec![want.clone(), want], 1);
    let weights = Tensor::<2>::from_data([[1.0, 0.0]], &cpu());
    let squares: f32 = values.iter().map(|x| x * x).sum();
    let loss = heatmap_loss(both.zeros_like(), both.clone(), Some(weights)).unwrap().into_scalar::<f32>();
    // Half of the mean over the pixels of the first keypoint, and nothing for the second.
    assert!((loss - 0.25 * squares / 6.0).abs() < 1e-7);

    let message = heatmap_targets(centres, [2, 3], 0.0).unwrap_err().to_string();
    assert_eq!(message, "heatmap_targets: `sigma` must be positive and finite, got 0");
    let message = heatmap_loss(both.clone(), both.clone().narrow(1, 0, 1), None).unwrap_err().to_string();
    assert_eq!(message, "heatmap_loss: `heatmaps` and `targets` must agree in shape, got [1, 2, 2, 3] and [1, 1, 2, 3]");
    let message = heatmap_loss(both.clone(), both, Some(Tensor::zeros([2, 2], &cpu()))).unwrap_err().to_string();
    assert_eq!(message, "heatmap_loss: `weights` must be of shape [1, 2], got [2, 2]");
}

#[test]
fn a_small_network_learns_the_place_of_a_dot() {
    use burn::optim::{AdamConfig, GradientsParams};
    let device = cpu().autodiff();
    device.seed(11);
    let config = PsaHeatmapConfig { psa: Some(psa(Flavour::Paper, Layout::Parallel)), ..PsaHeatmapConfig::new(8, 1) };
    let mut model = config.init(&device).unwrap();
    let centres: Vec<f32> = (0..16).flat_map(|i| [2.0 + (i % 4) as f32 * 2.0, 2.0 + (i / 4) as f32 * 2.0]).collect();
    let centres = Tensor::<3>::from_data(TensorData::new(centres, [16, 1, 2]), &device);
    let target = heatmap_targets(centres, [12, 12], 1.5).unwrap();
    let pictures = target.clone().expand([16, 3, 12, 12]);
    let mut optimizer = AdamConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..30 {
        let loss = heatmap_loss(model.forward(pictures.clone()).unwrap(), target.clone(), None).unwrap();
        losses.push(loss.clone().into_scalar::<f32>());
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-2, model, grads);
    }
    assert!(losses[29] < 0.2 * losses[0], "{losses:?}");
    let evaluated = model.valid().forward(pictures.inner()).unwrap();
    assert_eq!(evaluated.dims(), [16, 1, 12, 12]);
}

#[test]
fn configurations_and_images_that_do_not_fit_are_errors() {
    let message = |config: PsaHeatmapConfig| config.init(&cpu()).unwrap_err().to_string();
    let base = PsaHeatmapConfig::new(8, 3);
    assert_eq!(message(PsaHeatmapConfig { width: 0, ..base.clone() }), "psa_heatmap: `width` must be at least 1, got 0");
    let stem = Window { kernel: 3, stride: 2, padding: 3 };
    let want = "psa_heatmap: `stem` must be of a kernel and a stride of at least 1 and a padding less than the kernel, got Window { kernel: 3, stride: 2, padding: 3 }";
    assert_eq!(message(PsaHeatmapConfig { stem, ..base.clone() }), want);
    let odd = PsaHeatmapConfig { psa: Some(psa(Flavour::Paper, Layout::Parallel)), width: 7, ..base.clone() };
    assert_eq!(message(odd), "polarized: `d_model` must be even, unless `allow_odd` is set, got 7");
    let unpadded = PsaHeatmapConfig { stem: Window { kernel: 5, stride: 1, padding: 0 }, ..base };
    let error = unpadded.init(&cpu()).unwrap().forward(images([1, 3, 4, 9])).unwrap_err().to_string();
    assert_eq!(error, "psa_heatmap: `images` must be no smaller than the first window of 5 pixels, got [1, 3, 4, 9]");

    let error = HrNetConfig::new(0).init(&cpu()).unwrap_err().to_string();
    assert_eq!(error, "hrnet: `width` must be at least 1, got 0");
    let pose = PoseConfig { deconvs: vec![8, 0], ..PoseConfig::named("pose_resnet50").unwrap() };
    assert_eq!(pose.init(&cpu()).unwrap_err().to_string(), "psa: `deconvs` must be at least 1, got 0");
    let error = SegmentationConfig::hrnet(8, 0).init(&cpu()).unwrap_err().to_string();
    assert_eq!(error, "psa: `classes` must be at least 1, got 0");
    let model = SegmentationConfig::hrnet(8, 2).init(&cpu()).unwrap();
    let error = model.forward(Tensor::zeros([1, 1, 32, 32], &cpu())).unwrap_err().to_string();
    assert_eq!(error, "hrnet: `images` must be of shape [B, 3, Y, X] with pixels, got [1, 1, 32, 32]");
}
