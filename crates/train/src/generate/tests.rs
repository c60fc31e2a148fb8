use burn::tensor::Device;
use regard::MixerConfig;
use regard_models::{DecoderConfig, Positions};

use super::*;

fn draws(sampling: &Sampling, logits: &[f32], count: usize) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(1);
    let mut counts = vec![0; logits.len()];
    (0..count).for_each(|_| counts[sampling.draw(logits, &mut generator) as usize] += 1);
    counts
}

#[test]
fn tokens_are_drawn_by_their_probability() {
    let logits = [0.5_f32, 0.3, 0.2].map(f32::ln);
    for (temperature, want) in [(1.0, [0.5, 0.3, 0.2]), (0.5, [25.0 / 38.0, 9.0 / 38.0, 4.0 / 38.0])] {
        let counts = draws(&Sampling { temperature, ..Sampling::default() }, &logits, 20_000);
        for (count, want) in counts.into_iter().zip(want) {
            // Four standard deviations of a share.
            assert!((count as f64 / 20_000.0 - want).abs() < 0.015, "{count} {want}");
        }
    }
}

#[test]
fn only_the_most_likely_tokens_are_drawn_where_that_is_asked() {
    let logits = [0.1_f32, 0.5, 0.15, 0.25].map(f32::ln);
    let kept = |sampling| draws(&sampling, &logits, 2000).into_iter().map(|count| count > 0).collect::<Vec<_>>();
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    assert_eq!(kept(Sampling { top_k: Some(2), ..sampling.clone() }), [false, true, false, true]);
    assert_eq!(kept(Sampling { top_p: Some(0.7), ..sampling.clone() }), [false, true, false, true]);
    assert_eq!(kept(Sampling { top_p: Some(0.4), ..sampling.clone() }), [false, true, false, false]);
    assert_eq!(kept(Sampling { top_p: Some(1.0), ..sampling.clone() }), [true; 4]);
    assert_eq!(kept(Sampling::greedy()), [false, true, false, false]);
    assert_eq!(draws(&Sampling::greedy(), &[1.0, 1.0], 10), [10, 0], "ties go to the smaller number");
}

#[test]
fn sampling_says_what_does_not_fit() {
    let message = |sampling: Sampling| sampling.validate().unwrap_err().to_string();
    assert_eq!(message(Sampling { temperature: -1.0, ..Sampling::default() }), "`temperature` must be at least 0, got -1");
    assert_eq!(message(Sampling { top_k: Some(0), ..Sampling::default() }), "`top_k` must be at least 1, got 0");
    assert_eq!(message(Sampling { top_p: Some(0.0), ..Sampling::default() }), "`top_p` must be in (0, 1], got 0");
}

fn model(positions: Positions, vocab: usize) -> Decoder {
    let mixers = vec![MixerConfig::named("softmax", 2).unwrap()];
    DecoderConfig { positions, init_std: 0.5, ..DecoderConfig::new(vocab, 8, 1, mixers, 8) }.init(&Device::flex()).unwrap()
}

#[test]
fn greedy_text_is_what_the_whole_forward_pass_would_choose() {
    let tokenizer = Tokenizer::char("abcdefgh");
    let model = model(Positions::None, 8);
    let text = generate(&model, &tokenizer, "bad", 12, &Sampling::greedy(), &mut |_| ()).unwrap().text;
    let mut ids = tokenizer.encode("bad").unwrap();
    for character in tokenizer.encode(&text).unwrap() {
        let tokens: Vec<i32> = ids.iter().map(|&id| id.cast_signed()).collect();
        let t = tokens.len();
        let logits = model.forward(Tensor::from_data(TensorData::new(tokens, [1, t]), &Device::flex()), None);
        let best: i64 = logits.narrow(1, t - 1, 1).reshape([8]).argmax(0).into_data().iter::<i64>().next().unwrap();
        assert_eq!(i64::from(character), best);
        ids.push(character);
    }
}

#[test]
fn text_goes_on_past_the_learned_positions() {
    let tokenizer = Tokenizer::char("abcdefgh");
    let model = model(Positions::Learned, 8);
    for prompt in ["", "a", "abcdefg", "abcdefgh", "abcdefghabcdefgh"] {
        let text = generate(&model, &tokenizer, prompt, 30, &Sampling::default(), &mut |_| ()).unwrap().text;
        assert_eq!(text.chars().count(), 30);
    }
}

#[test]
fn the_pieces_handed_on_are_the_text_and_a_seed_repeats_it() {
    let model = model(Positions::None, 256);
    let sampling = Sampling { temperature: 2.0, seed: 5, ..Sampling::default() };
    let mut pieces = String::new();
    let text = generate(&model, &Tokenizer::Byte, "x", 40, &sampling, &mut |piece| pieces.push_str(piece)).unwrap().text;
    assert_eq!(pieces, text);
    assert_eq!(generate(&model, &Tokenizer::Byte, "x", 40, &sampling, &mut |_| ()).unwrap().text, text);
    let other = Sampling { seed: 6, ..sampling };
    assert_ne!(generate(&model, &Tokenizer::Byte, "x", 40, &other, &mut |_| ()).unwrap().text, text);
    assert_eq!(generate(&model, &Tokenizer::Byte, "x", 0, &other, &mut |_| ()).unwrap().text, "");
}

#[test]
fn a_prompt_that_the_vocabulary_cannot_spell_is_refused() {
    let error = generate(&model(Positions::None, 8), &Tokenizer::char("abcdefgh"), "xa", 1, &Sampling::default(), &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the vocabulary has no character 'x' (at character 0 of the text)");
}
