use burn::tensor::{Tensor, TensorData};
use regard_testkit::{Sampler, cpu};

use crate::psa::{
    COCO_SIGMAS, Confusion, Decoding, Keypoint, correct_keypoints, decode_heatmaps, heatmap_targets, keypoint_similarity, to_image,
};

fn centres(points: &[[f32; 2]]) -> Tensor<3> {
    Tensor::from_data(TensorData::new(points.concat(), [1, points.len(), 2]), &cpu())
}

#[test]
fn a_peak_is_found_as_closely_as_the_decoding_says() {
    let mut sampler = Sampler::new(5);
    let points: Vec<[f32; 2]> = (0..40).map(|_| [sampler.uniform(5.0, 26.0) as f32, sampler.uniform(5.0, 18.0) as f32]).collect();
    let heatmaps = heatmap_targets(centres(&points), [24, 32], 2.0).unwrap();
    let truth: Vec<[f64; 2]> = points.iter().map(|point| point.map(f64::from)).collect();
    let worst = |decoding| {
        let found = decode_heatmaps(&heatmaps, decoding).unwrap().remove(0);
        let error = |(found, truth): (&Keypoint, &[f64; 2])| (found.x - truth[0]).abs().max((found.y - truth[1]).abs());
        found.iter().zip(&truth).map(error).fold(0.0, f64::max)
    };
    assert!(worst(Decoding::Argmax) <= 0.5 + 1e-6);
    assert!(worst(Decoding::Quarter) <= 0.25 + 1e-6);
    // Of a Gaussian the logarithm is a parabola, and so it is behind another Gaussian, up to the end of the blur.
    assert!(worst(Decoding::DARK) < 0.01, "{}", worst(Decoding::DARK));
    assert!(worst(Decoding::Argmax) > 0.3 && worst(Decoding::Quarter) > 0.15, "otherwise nothing is told apart");
    let found = decode_heatmaps(&heatmaps, Decoding::DARK).unwrap().remove(0);
    assert_eq!(correct_keypoints(&found, &truth, 0.1), 40);
}

#[test]
fn peaks_at_the_border_stay_on_their_pixel() {
    let heatmaps = heatmap_targets(centres(&[[0.2, 0.3], [7.2, 3.8], [1.2, 1.0]]), [4, 8], 1.0).unwrap();
    for decoding in [Decoding::Argmax, Decoding::Quarter, Decoding::Dark { kernel: 3 }] {
        let found = decode_heatmaps(&heatmaps, decoding).unwrap().remove(0);
        assert_eq!(found.iter().map(|k| [k.x, k.y]).collect::<Vec<_>>(), [[0.0, 0.0], [7.0, 3.0], [1.0, 1.0]], "{decoding:?}");
    }
}

#[test]
fn a_quarter_goes_to_the_larger_neighbour_and_nowhere_between_equals() {
    let mut values = vec![0.0_f32; 5 * 6];
    values[2 * 6 + 3] = 2.0;
    values[2 * 6 + 2] = 1.0;
    let heatmap = Tensor::<4>::from_data(TensorData::new(values, [1, 1, 5, 6]), &cpu());
    assert_eq!(decode_heatmaps(&heatmap, Decoding::Quarter).unwrap()[0][0], Keypoint { x: 2.75, y: 2.0, score: 2.0 });
    let flat = Tensor::<4>::zeros([2, 1, 5, 6], &cpu());
    for decoding in [Decoding::Argmax, Decoding::Quarter] {
        assert_eq!(decode_heatmaps(&flat, decoding).unwrap(), vec![vec![Keypoint { x: 0.0, y: 0.0, score: 0.0 }]; 2]);
    }
}

#[test]
fn keypoints_of_heatmaps_lie_in_images_with_and_without_bias() {
    let keypoint = Keypoint { x: 3.0, y: 7.0, score: 1.0 };
    assert_eq!(to_image(keypoint, [8, 4], [32, 16], false), Keypoint { x: 12.0, y: 28.0, score: 1.0 });
    assert_eq!(to_image(keypoint, [8, 4], [32, 16], true), Keypoint { x: 15.0, y: 31.0, score: 1.0 });
    assert_eq!(to_image(Keypoint { x: 0.0, ..keypoint }, [8, 1], [32, 1], true).x, 0.0);
}

#[test]
fn similarities_and_unions_are_those_of_their_formulas() {
    let found = [Keypoint { x: 3.0, y: 4.0, score: 1.0 }, Keypoint { x: 0.0, y: 0.0, score: 1.0 }];
    let truth = [([0.0, 0.0], true), ([9.0, 9.0], false)];
    let want = (-25.0_f64 / (2.0 * 100.0 * 0.052 * 0.052)).exp();
    let similarity = keypoint_similarity(&found, &truth, 100.0, &COCO_SIGMAS).unwrap();
    assert!((similarity / want - 1.0).abs() < 1e-12);
    assert_eq!(keypoint_similarity(&found, &[([0.0; 2], false); 2], 100.0, &COCO_SIGMAS), None);

    let mut confusion = Confusion::new(3);
    assert_eq!(confusion.mean_intersection_over_union(), None);
    // 255 stands for pixels without a class.
    confusion.count([0, 0, 1, 1, 0], [0, 1, 1, 1, 255]);
    assert_eq!(confusion.intersections_over_unions(), [Some(0.5), Some(2.0 / 3.0), None]);
    assert_eq!(confusion.mean_intersection_over_union(), Some(f64::midpoint(0.5, 2.0 / 3.0)));
}

#[test]
fn heatmaps_that_say_nothing_are_refused() {
    let error = |heatmaps: &Tensor<4>, decoding| decode_heatmaps(heatmaps, decoding).unwrap_err().to_string();
    let nan = Tensor::<4>::full([1, 1, 2, 2], f32::NAN, &cpu());
    assert_eq!(error(&nan, Decoding::Argmax), "decode_heatmaps: `heatmaps` must be finite, got NaN");
    let even = Decoding::Dark { kernel: 4 };
    assert_eq!(error(&Tensor::zeros([1, 1, 2, 2], &cpu()), even), "decode_heatmaps: `kernel` must be odd, got 4");
    let none = Tensor::<4>::zeros([1, 1, 0, 2], &cpu());
    assert_eq!(error(&none, Decoding::Argmax), "decode_heatmaps: `heatmaps` must be of shape [B, K, Y, X] with pixels, got [1, 1, 0, 2]");
}
