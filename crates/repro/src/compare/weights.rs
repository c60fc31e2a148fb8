use burn::tensor::Device;
use regard::{MixerConfig, softmax_attention::SoftmaxAttentionConfig};
use regard_models::{DecoderConfig, ImageConfig, MapMixerConfig, ModelConfig};
use regard_train::Task;

use super::{Candidate, CompareConfig};
use crate::{Error, Result};

/// Largest difference of two candidates' weights, as a share.
const TOLERANCE: f64 = 0.02;

/// The model of a candidate, with the inner width that gives it the common number of weights.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchedCandidate {
    /// The candidate's name.
    pub name: String,
    /// Its model.
    pub model: ModelConfig,
    /// The mixers of its layers, repeated.
    pub mixers: Vec<MapMixerConfig>,
    /// Inner width of its channel mixers.
    pub d_ff: usize,
    /// Trained weights of the model.
    pub params: usize,
    /// Floating-point operations of training per token, forward and backward.
    pub flops_per_token: f64,
}

/// Gives all candidates the number of weights of a transformer of this size: softmax attention and channel mixers of the usual width.
///
/// The channel mixer's inner width is what gives: a mixer with more weights of its own leaves fewer to it.
///
/// # Errors
/// If a mixer rejects the size, or has so many weights that the channel mixers would vanish, or two candidates differ by more than 2 %.
pub(super) fn match_weights(config: &CompareConfig, task: &Task) -> Result<Vec<MatchedCandidate>> {
    // One head without positions fits any width, and has the weights of any number of heads.
    let attention = SoftmaxAttentionConfig { rotary_base: None, ..SoftmaxAttentionConfig::new(1) };
    let (attention, usual) = if config.of_images() {
        let vision = SoftmaxAttentionConfig { bias: true, ..attention };
        (vision, ImageConfig::open(config.size.d_model, config.size.layers, Vec::new()).d_ff)
    } else {
        (attention, DecoderConfig::new(0, config.size.d_model, config.size.layers, Vec::new(), config.context).d_ff)
    };
    let yardstick = Candidate { name: "softmax".into(), mixers: vec![MixerConfig::Softmax(attention).into()] };
    let target = weights(&fitted(config, &yardstick, task, usual)?)?;
    let matched: Vec<_> = config.candidates.iter().map(|c| match_one(config, c, task, target)).collect::<Result<_>>()?;
    let (few, many) = matched.iter().fold((usize::MAX, 0), |(few, many), m| (few.min(m.params), many.max(m.params)));
    if many as f64 > few as f64 * (1.0 + TOLERANCE) {
        let odd = matched.iter().max_by_key(|m| m.params.abs_diff(target)).map(|m| m.name.clone()).unwrap_or_default();
        return Err(Error::value("size", "such that weights can agree within 2 %", format!("{} ({odd} is the odd one)", config.size)));
    }
    Ok(matched)
}

/// The model of a candidate for the task.
fn fitted(config: &CompareConfig, candidate: &Candidate, task: &Task, d_ff: usize) -> Result<ModelConfig> {
    let mut model = config.model(candidate, task.vocab(), d_ff)?;
    task.fit(&mut model)?;
    Ok(model)
}

fn match_one(config: &CompareConfig, candidate: &Candidate, task: &Task, target: usize) -> Result<MatchedCandidate> {
    let [narrow, wider] = [1, 2].map(|d_ff| fitted(config, candidate, task, d_ff));
    let unfit = |error: regard::Error| {
        let text = error.to_string();
        let rule = text.split_once(": ").map_or(text.as_str(), |(_, rule)| rule).to_owned();
        Error::Size { size: config.size, candidate: candidate.name.clone(), rule }
    };
    // Weights are a linear function of the inner width in all models.
    let [narrow, wider] = [weights(&narrow?).map_err(unfit)?, weights(&wider?).map_err(unfit)?];
    let per_unit = wider - narrow;
    let fixed = narrow - per_unit;
    if fixed + per_unit > target {
        return Err(Error::Unmatched { candidate: candidate.name.clone(), target, fixed });
    }
    let exact = (target - fixed) as f64 / per_unit as f64;
    let share = |d_ff: usize| ((fixed + d_ff * per_unit) as f64 / target as f64 - 1.0).abs();
    // Round widths are faster: the roundest that stays well inside the tolerance.
    let rounded = |step: f64| ((exact / step).round() * step) as usize;
    let d_ff = [8.0, 4.0, 2.0].into_iter().map(rounded).find(|w| *w > 0 && share(*w) < TOLERANCE / 4.0).unwrap_or_else(|| rounded(1.0));
    let model = fitted(config, candidate, task, d_ff)?;
    let built = model.init(&Device::flex())?;
    let (params, flops) = (built.params(), built.training_flops_per_token(model.context()));
    let (name, mixers) = (candidate.name.clone(), candidate.mixers.clone());
    Ok(MatchedCandidate { name, params, flops_per_token: flops.unwrap_or_default(), model, mixers, d_ff })
}

/// Counts the weights of a model by building it: no formula can be wrong.
fn weights(model: &ModelConfig) -> regard::Result<usize> {
    Ok(model.init(&Device::flex())?.params())
}

#[cfg(test)]
mod tests {
    use regard_train::{ClassifyConfig, TaskConfig, data::DataConfig};

    use super::*;
    use crate::compare::Size;

    fn matched(size: Size, names: &[&str]) -> Result<Vec<MatchedCandidate>> {
        let candidates = names.iter().map(|n| Candidate::parse(n, size.heads).unwrap()).collect();
        let data = DataConfig { tokenizer: Some("byte".into()), ..DataConfig::new("embedded") };
        let config = CompareConfig { size, candidates, data: Some(data), ..CompareConfig::lm() };
        let task = Task::load(&config.run(config.model(&config.candidates[0], 0, 1)?, 1, 0))?;
        match_weights(&config, &task)
    }

    #[test]
    fn the_weights_of_every_pair_of_kinds_agree_within_two_percent() {
        for size in [Size::TINY, Size::SMALL] {
            let all = matched(size, MixerConfig::KINDS).unwrap();
            for a in &all {
                for b in &all {
                    let ratio = a.params as f64 / b.params as f64;
                    assert!((ratio - 1.0).abs() <= TOLERANCE, "{size}: {} has {}, {} has {}", a.name, a.params, b.name, b.params);
                }
            }
        }
    }

    /// Candidates for images of 28 × 28 pixels, which are the first four of a data set.
    fn matched_images(size: Size, names: &[&str]) -> Result<Vec<MatchedCandidate>> {
        let place = std::env::temp_dir().join(format!("regard-weights-{}-{}", std::process::id(), size.d_model));
        std::fs::create_dir_all(&place).unwrap();
        let header = |sizes: &[u32]| [0x0800 + sizes.len() as u32].iter().chain(sizes).flat_map(|n| n.to_be_bytes()).collect::<Vec<_>>();
        let write = |name: &str, header: Vec<u8>, body: &[u8]| std::fs::write(place.join(name), [&header, body].concat()).unwrap();
        write("train-images-idx3-ubyte", header(&[20, 28, 28]), &[7; 20 * 784]);
        write("train-labels-idx1-ubyte", header(&[20]), &(0..10).chain(0..10).collect::<Vec<u8>>());
        let data = Some(DataConfig::new(place.to_str().unwrap()));
        let candidates = names.iter().map(|n| Candidate::parse_image(n, size.heads).unwrap()).collect();
        let config = CompareConfig { size, data, candidates, ..CompareConfig::new(TaskConfig::Classify(ClassifyConfig::default())) };
        let task = Task::load(&config.run(config.model(&config.candidates[0], 0, 1)?, 1, 0));
        std::fs::remove_dir_all(&place).unwrap();
        match_weights(&config, &task?)
    }

    #[test]
    fn networks_for_images_have_equal_weights_whatever_is_in_them() {
        let names = [MapMixerConfig::KINDS, &["vit", "resnet", "neighborhood+channel"]].concat();
        for size in [Size::TINY, Size::SMALL] {
            let all = matched_images(size, &names).unwrap();
            let (few, many) = (all.iter().map(|m| m.params).min().unwrap(), all.iter().map(|m| m.params).max().unwrap());
            assert!(many as f64 <= few as f64 * (1.0 + TOLERANCE), "{size}: from {few} to {many}");
            let model = |name: &str| {
                let ModelConfig::Image(model) = &all.iter().find(|m| m.name == name).unwrap().model else { panic!("another model") };
                model.clone()
            };
            assert_eq!((model("vit").d_ff, model("vit").patch, model("vit").map()), (4 * size.d_model, 2, [14, 14]));
            assert!(model("resnet").d_ff < size.d_model && model("resnet").stem != model("vit").stem);
        }
        let error = matched_images(Size { d_model: 66, layers: 1, heads: 4 }, &["channel"]).unwrap_err().to_string();
        assert_eq!(error, "the size D=66,L=1,H=4 does not fit the mixer `channel`: `heads` must be a divisor of d_model = 66, got 4");
    }

    #[test]
    fn a_candidate_has_the_same_weights_whatever_it_is_compared_with() {
        let all = matched(Size::TINY, MixerConfig::KINDS).unwrap();
        for one in all {
            assert_eq!(matched(Size::TINY, &[&one.name]).unwrap(), [one]);
        }
    }

    #[test]
    fn a_size_that_a_candidate_cannot_have_is_named_with_the_candidate_and_the_rule() {
        let error = |d_model, heads, name| matched(Size { d_model, layers: 1, heads }, &[name]).unwrap_err();
        let indivisible = error(30, 4, "lightning");
        assert_eq!(
            indivisible.to_string(),
            "the size D=30,L=1,H=4 does not fit the mixer `lightning`: `heads` must be a divisor of d_model = 30, got 4"
        );
        assert!(indivisible.hint().unwrap().starts_with("H must divide D"));
        let odd = error(33, 1, "softmax").to_string();
        assert_eq!(
            odd,
            "the size D=33,L=1,H=1 does not fit the mixer `softmax`: `heads` must be such that d_model / heads is even for rotary positions, got 1"
        );
        matched(Size { d_model: 33, layers: 1, heads: 3 }, &["flow", "kimi_delta"]).unwrap();
    }
}
