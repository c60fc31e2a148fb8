use super::decode::Keypoint;

/// How much people differ about each of the 17 keypoints of COCO: σ_k of [`keypoint_similarity`].
pub const COCO_SIGMAS: [f64; 17] =
    [0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089];

/// How many keypoints are less than `threshold` from the truth (x, y), in the unit of both.
pub fn correct_keypoints(found: &[Keypoint], truth: &[[f64; 2]], threshold: f64) -> usize {
    found.iter().zip(truth).filter(|(found, truth)| (found.x - truth[0]).hypot(found.y - truth[1]) < threshold).count()
}

/// Object keypoint similarity: the mean of `exp(−d² / (2 area (2σ_k)²))` over the keypoints with a label; `None` if there is none.
///
/// `truth` holds (x, y) and whether there is a label, for each keypoint.
pub fn keypoint_similarity(found: &[Keypoint], truth: &[([f64; 2], bool)], area: f64, sigmas: &[f64]) -> Option<f64> {
    let labelled = found.iter().zip(truth).zip(sigmas).filter(|((_, (_, label)), _)| *label);
    let similarities: Vec<f64> = labelled
        .map(|((found, (truth, _)), sigma)| {
            let squared = (found.x - truth[0]).powi(2) + (found.y - truth[1]).powi(2);
            (-squared / (2.0 * (area + f64::EPSILON) * (2.0 * sigma).powi(2))).exp()
        })
        .collect();
    (!similarities.is_empty()).then(|| similarities.iter().sum::<f64>() / similarities.len() as f64)
}

/// How often pixels of each class were given each class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[truth, found]`
    counts: Vec<u64>,
}

impl Confusion {
    /// Of so many classes, without pixels.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts pixels; those whose truth is no class are left out.
    ///
    /// # Panics
    /// If a class that was found is none: networks give what they were built for.
    pub fn count(&mut self, found: impl IntoIterator<Item = usize>, truth: impl IntoIterator<Item = usize>) {
        for (found, truth) in found.into_iter().zip(truth) {
            assert!(found < self.classes, "class {found} of {}", self.classes);
            if truth < self.classes {
                self.counts[truth * self.classes + found] += 1;
            }
        }
    }

    /// Intersection over union of each class; `None` for one that neither is nor was found anywhere.
    pub fn intersections_over_unions(&self) -> Vec<Option<f64>> {
        let n = self.classes;
        let of = |class: usize| {
            let is: u64 = self.counts[class * n..][..n].iter().sum();
            let found: u64 = (0..n).map(|truth| self.counts[truth * n + class]).sum();
            let both = self.counts[class * n + class];
            let union = is + found - both;
            (union > 0).then(|| both as f64 / union as f64)
        };
        (0..n).map(of).collect()
    }

    /// Their mean over the classes that occur (mIoU); `None` if there are no pixels.
    pub fn mean_intersection_over_union(&self) -> Option<f64> {
        let known: Vec<f64> = self.intersections_over_unions().into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}
