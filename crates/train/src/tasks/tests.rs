use std::collections::HashMap;

use burn::tensor::Device;
use regard_models::{DecoderConfig, EncoderConfig, ModelConfig};

use super::*;
use crate::data::Corpus;

const ORDER: Order = Order { seed: 7, batch: 4, accumulation: 1, context: 16, rank: 0, world: 1 };

fn language() -> Task {
    let text: String = (0..400).map(|n| format!("{n} ")).collect();
    let (train, valid) = text.split_at(1000);
    let corpus = Corpus { name: "numbers".into(), train: train.into(), valid: valid.into(), test: None, tokenizer: "byte" };
    Task::Lm(Language::new(&corpus, Tokenizer::Byte, ORDER.context).unwrap())
}

fn recall(pairs: usize, context: usize) -> Task {
    Task::Recall(Recall::new(&RecallConfig { vocab: 33, pairs }, context).unwrap())
}

/// A batch of tokens.
fn tokens(samples: Samples) -> Batch {
    let Samples::Tokens(batch) = samples else { panic!("examples") };
    batch
}

/// Tasks that generate examples.
fn generators() -> Vec<Task> {
    vec![
        Task::ListOps(ListOps::new(&ListOpsConfig::default()).unwrap()),
        Task::Series(SyntheticSeries::new(&SeriesConfig::default()).unwrap()),
        Task::Control(Control::new(&ControlConfig::default()).unwrap()),
    ]
}

fn copy(distance: usize, context: usize) -> Task {
    Task::Copy(Copying::new(&CopyConfig { distance, ..CopyConfig::default() }, context).unwrap())
}

#[test]
fn a_batch_depends_on_seed_and_step_alone() {
    for task in [language(), recall(4, ORDER.context), copy(5, ORDER.context)] {
        let batch = tokens(task.batch(&ORDER, 5, 0));
        assert_eq!((batch.sequences(), batch.length), (4, 16));
    }
    for task in [vec![language(), recall(4, ORDER.context)], generators()].concat() {
        let batch = task.batch(&ORDER, 5, 0);
        assert_eq!(task.batch(&ORDER, 5, 0), batch);
        assert_ne!(task.batch(&ORDER, 6, 0), batch);
        assert_ne!(task.batch(&Order { seed: 8, ..ORDER }, 5, 0), batch);
    }
}

#[test]
fn ranks_and_passes_share_the_sequences_of_one_large_batch() {
    for task in [language(), recall(4, ORDER.context), copy(5, ORDER.context)] {
        let whole = tokens(task.batch(&ORDER, 3, 0));
        let join = |parts: Vec<Samples>| parts.into_iter().flat_map(|part| tokens(part).ids).collect::<Vec<_>>();
        let ranks = (0..2).map(|rank| task.batch(&Order { batch: 2, rank, world: 2, ..ORDER }, 3, 0)).collect();
        assert_eq!(join(ranks), whole.ids);
        let passes = (0..2).map(|pass| task.batch(&Order { batch: 2, accumulation: 2, ..ORDER }, 3, pass)).collect();
        assert_eq!(join(passes), whole.ids);
    }
}

#[test]
fn the_targets_of_text_are_the_tokens_after() {
    let batch = tokens(language().batch(&ORDER, 0, 0));
    for row in 0..batch.sequences() {
        let at = row * batch.length..(row + 1) * batch.length;
        assert_eq!(batch.ids[at.clone()][1..], batch.targets[at][..batch.length - 1]);
    }
}

#[test]
fn evaluation_predicts_every_token_of_the_split_once() {
    let Task::Lm(language) = language() else { unreachable!() };
    let valid = language.tokenizer().encode(&(0..400).map(|n| format!("{n} ")).collect::<String>()[1000..]).unwrap();
    for (context, batch) in [(16, 4), (7, 3), (1000, 2), (1, 100)] {
        let (batches, bytes) = language.evaluation(Split::Valid, usize::MAX / 2, batch, context).unwrap();
        let targets: Vec<u32> = batches.iter().flat_map(|b| b.targets.clone()).collect();
        assert_eq!(targets, valid[1..], "context {context}");
        assert_eq!(bytes, valid.len() - 1);
        assert!(batches.iter().all(|b| b.sequences() <= batch && b.ids.len() == b.targets.len()));
    }
}

#[test]
fn evaluation_stops_at_the_window_that_reaches_the_asked_number() {
    let (batches, bytes) = language().evaluation(Split::Valid, 33, 2, 16).unwrap();
    assert_eq!(batches.into_iter().map(tokens).map(|b| b.targets.len()).sum::<usize>(), 48);
    assert_eq!(bytes, Some(48));
}

#[test]
fn bytes_are_those_of_the_text_not_of_the_tokens() {
    let text = "one  two\nthree\n";
    let corpus = Corpus { name: "t".into(), train: text.repeat(9), valid: text.into(), test: None, tokenizer: "word" };
    let tokenizer = Tokenizer::word(&[text]);
    let language = Language::new(&corpus, tokenizer, 4).unwrap();
    let (_, bytes) = language.evaluation(Split::Valid, 100, 8, 4).unwrap();
    assert_eq!(bytes, text.len() - "one".len());
}

#[test]
fn text_shorter_than_the_context_is_refused() {
    let corpus = Corpus { name: "t".into(), train: "abcd".into(), valid: "ab".into(), test: None, tokenizer: "byte" };
    let error = Language::new(&corpus, Tokenizer::Byte, 4).unwrap_err();
    assert_eq!(error.to_string(), "the training split has 4 tokens, a context of 4 needs at least 5");
    let error = Language::new(&Corpus { valid: "a".into(), ..corpus }, Tokenizer::Byte, 3).unwrap_err();
    assert_eq!(error.to_string(), "the validation split has 1 tokens, a context of 1 needs at least 2");
}

#[test]
fn a_split_that_is_not_there_is_refused() {
    let error = language().evaluation(Split::Test, 10, 1, 8).unwrap_err();
    assert_eq!(error.to_string(), "`split` must be one that the data has, got test");
}

#[test]
fn every_query_of_recall_has_the_value_of_its_key_and_nothing_else_is_asked() {
    for (pairs, context) in [(1, 3), (4, 12), (4, 40), (16, 64)] {
        let task = recall(pairs, context);
        let batch = tokens(task.batch(&Order { context, ..ORDER }, 2, 0));
        for row in 0..batch.sequences() {
            let at = row * context..(row + 1) * context;
            let (ids, targets) = (&batch.ids[at.clone()], &batch.targets[at]);
            let pairs_of: HashMap<u32, u32> = ids[..2 * pairs].chunks(2).map(|pair| (pair[0], pair[1])).collect();
            assert_eq!(pairs_of.len(), pairs, "keys are different");
            let mut asked = 0;
            for (position, (&id, &target)) in ids.iter().zip(targets).enumerate() {
                if position < 2 * pairs || id == BLANK {
                    assert_eq!(target, BLANK);
                } else {
                    assert_eq!(target, pairs_of[&id]);
                    asked += 1;
                }
            }
            assert_eq!(asked, pairs);
            assert!(ids.iter().all(|&id| (id as usize) < task.vocab()));
        }
    }
}

#[test]
fn recall_says_what_does_not_fit() {
    let message = |vocab, pairs, context| Recall::new(&RecallConfig { vocab, pairs }, context).unwrap_err().to_string();
    assert_eq!(message(64, 0, 64), "`task.pairs` must be at least 1, got 0");
    assert_eq!(message(16, 8, 64), "`task.vocab` must be at least 17 for 8 pairs, got 16");
    assert_eq!(message(64, 8, 23), "`model.context` must be at least 24 for 8 pairs, got 23");
}

#[test]
fn splits_of_generated_examples_are_their_own_and_the_same_every_time() {
    for task in generators() {
        let form = task.form().unwrap();
        let FormInput::Steps { length, .. } = form.input else { unreachable!() };
        let sets = [Split::Train, Split::Valid, Split::Test].map(|split| task.evaluation(split, 10 * length, 4, length).unwrap().0);
        assert!(sets.iter().all(|set| set.len() == 3), "10 examples in batches of 4");
        assert!(sets[0] != sets[1] && sets[1] != sets[2]);
        assert_eq!(task.evaluation(Split::Valid, 10 * length, 4, length).unwrap().0, sets[1]);
    }
}

#[test]
fn every_target_of_copy_is_the_token_a_distance_back_and_the_first_positions_have_none() {
    for (distance, context) in [(1, 2), (1, 16), (5, 16), (15, 16)] {
        let task = copy(distance, context);
        assert_eq!(task.ignore(), Some(0));
        let (evaluation, bytes) = task.evaluation(Split::Valid, 10 * context, 4, context).unwrap();
        assert_eq!((evaluation.iter().map(|s| tokens(s.clone()).sequences()).collect::<Vec<_>>(), bytes), (vec![4, 4, 2], None));
        assert_ne!(evaluation, task.evaluation(Split::Test, 10 * context, 4, context).unwrap().0, "a set of its own");
        for batch in evaluation.into_iter().chain([task.batch(&Order { context, ..ORDER }, 2, 0)]).map(tokens) {
            for row in 0..batch.sequences() {
                let at = row * context..(row + 1) * context;
                let (ids, targets) = (&batch.ids[at.clone()], &batch.targets[at]);
                assert!(targets[..distance].iter().all(|&target| target == BLANK));
                assert_eq!(targets[distance..], ids[..context - distance]);
                assert!(ids.iter().all(|&id| id != BLANK && (id as usize) < task.vocab()));
            }
        }
    }
}

#[test]
fn a_model_takes_from_the_task_what_its_file_leaves_out_and_nothing_else() {
    use regard::MixerConfig;
    let mixers = || vec![MixerConfig::named("flow", 2).unwrap()];
    for task in generators() {
        let mut model = ModelConfig::from(EncoderConfig::open(8, 1, mixers()));
        task.fit(&mut model).unwrap();
        let fitted = model.clone();
        task.fit(&mut model).unwrap();
        assert_eq!(model, fitted);
        model.init(&Device::flex()).unwrap();
        let ModelConfig::Encoder(config) = fitted else { unreachable!() };
        let error = task.fit(&mut EncoderConfig { length: 7, ..config }.into()).unwrap_err().to_string();
        assert!(error.starts_with("`model.length` must be "), "{error}");
        let error = task.fit(&mut DecoderConfig::new(0, 8, 1, mixers(), 16).into()).unwrap_err();
        assert_eq!(error.to_string(), "`model.kind` must be `encoder` for this task, got decoder");
    }
    let error = language().fit(&mut EncoderConfig::open(8, 1, mixers()).into()).unwrap_err();
    assert_eq!(error.to_string(), "`model.kind` must be `decoder` for this task, got encoder");
}

#[test]
fn copy_says_what_does_not_fit() {
    let message = |vocab, distance, context| Copying::new(&CopyConfig { vocab, distance }, context).unwrap_err().to_string();
    assert_eq!(message(2, 1, 64), "`task.vocab` must be from 3 to 2147483647, got 2");
    assert_eq!(message(17, 0, 64), "`task.distance` must be at least 1, got 0");
    assert_eq!(message(17, 8, 8), "`model.context` must be more than the distance 8, got 8");
}
