use std::{fs, path::Path};

use burn::{
    module::Module,
    store::ModuleSnapshot,
    tensor::{Int, Tensor},
};
use regard::{blocks::MoeConfig, kimi_delta::KimiDeltaConfig};
use regard_testkit::{assert_close, cpu};
use tempfile::tempdir;

use super::{Checkpoint, Layout, Names, Report, Stored, WeightsError, read, write};
use crate::{
    Decoder, KimiLinearConfig, TnlConfig,
    flowformer::{FlowformerConfig, FlowformerSeriesConfig, FlowformerVisionConfig, LANGUAGE_NAMES, SeriesLayout, VisionLayout},
    kimi_linear::{self, Dialect},
    tnl,
};

/// Every parameter, with its place and its bits.
fn bits(model: &impl Module) -> Vec<(String, Vec<f32>)> {
    let tensors = model.collect(None, None, false);
    tensors.into_iter().map(|t| (t.name.clone(), burn::store::bridge::to_data(&t).unwrap().try_to_vec().unwrap())).collect()
}

fn tiny_tnl() -> TnlConfig {
    TnlConfig::new(5, 4, 2, 2, 3)
}

fn tiny_kimi() -> KimiLinearConfig {
    let moe = MoeConfig { shared: 1, ..MoeConfig::new(3, 2, 6) };
    let kda = KimiDeltaConfig { value_heads: Some(4), ..KimiDeltaConfig::new(2) };
    KimiLinearConfig { moe: Some(moe), kda, ..KimiLinearConfig::new(19, 16, 4, 2) }
}

fn error<T>(result: super::Result<T>) -> WeightsError {
    match result {
        Ok(_) => panic!("it was read"),
        Err(error) => error,
    }
}

#[test]
fn paths_are_renamed_by_the_first_pair_that_fits() {
    let names = Names(&[("blocks.{}.up.", "h.{}.a."), ("blocks.{}.", "h.{}."), ("a.{}.{}.x", "{}-{}")]);
    for (path, name) in [
        ("blocks.10.up.weight", "h.10.a.weight"),
        ("blocks.3.down.weight", "h.3.down.weight"),
        ("blocks.x.up.weight", "blocks.x.up.weight"),
        ("a.1.22.x", "1-22"),
        ("head.weight", "head.weight"),
    ] {
        assert_eq!(names.rename(path), name);
    }
    assert_eq!(names.stored("blocks.1.w", &[2, 3]), [Stored::new("h.1.w", [2, 3])]);
}

#[test]
fn a_pytorch_file_gives_the_weights_it_holds_in_any_float_type() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/weights/tests/tnl_tiny.pt");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let order: Vec<String> = checkpoint.names().map(Into::into).collect();
    let (model, report) = tnl::read_weights(tiny_tnl().decoder().unwrap().skeleton(&cpu()).unwrap(), &path).unwrap();
    assert_eq!(report, Report { taken: 12, ..Report::default() });
    // Tensor i of the alphabet holds (i + 0)/256, (i + 1)/256, … in rows of outputs.
    let value = |name: &str, element: usize| (order.iter().position(|n| n == name).unwrap() + element) as f32 / 256.0;
    let at = |tensor: Tensor<2>, row: usize, column: usize| tensor.narrow(0, row, 1).narrow(1, column, 1).into_scalar::<f32>();
    assert_eq!(at(model.embedding.weight.val(), 2, 3), value("model.embed_tokens.weight", 11));
    let mlp = model.blocks[1].mlp.dense().unwrap();
    // Burn keeps inputs in rows.
    assert_eq!(at(mlp.gate.as_ref().unwrap().weight.val(), 3, 2), value("model.layers.1.channel_mixer.l1.weight", 11));
    assert_eq!(at(mlp.up.weight.val(), 1, 2), value("model.layers.1.channel_mixer.l2.weight", 9));
    assert_eq!(at(mlp.down.weight.val(), 2, 3), value("model.layers.1.channel_mixer.l3.weight", 11));
    let logits = model.forward(Tensor::<2, Int>::from_data([[1, 4, 0]], &cpu()), None);
    assert!(logits.into_data().iter::<f32>().all(f32::is_finite));
}

#[test]
fn of_the_file_of_a_training_program_the_weights_are_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/weights/tests");
    let [plain, wrapped] = ["tnl_tiny.pt", "tnl_tiny_training.pt"].map(|name| {
        let (model, report) = tnl::read_weights(tiny_tnl().decoder().unwrap().skeleton(&cpu()).unwrap(), folder.join(name)).unwrap();
        assert_eq!(report, Report { taken: 12, ..Report::default() }, "{name}");
        bits(&model)
    });
    assert_eq!(plain, wrapped);
}

fn round_trip<M: Module>(model: &M, empty: M, layout: &impl Layout) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(model, layout, &path).unwrap();
    let (back, report) = read(empty, layout, &Checkpoint::open(folder.path()).unwrap()).unwrap();
    assert!(report.extra.is_empty(), "{report}");
    assert_eq!(bits(&back), bits(model));
    let message = write(model, layout, &path).unwrap_err().to_string();
    assert!(message.ends_with("it exists already"), "{message}");
}

#[test]
fn every_model_comes_back_as_it_was_written() {
    let config = FlowformerConfig::new(17, 16, 2, 2, 8);
    round_trip(&config.init(&cpu()).unwrap(), config.decoder().skeleton(&cpu()).unwrap(), &LANGUAGE_NAMES);
    let config = FlowformerVisionConfig::new(16, [4, 4, 8, 8], [1, 0, 2, 1], 2, 5);
    let config = FlowformerVisionConfig { patch: 2, ..config };
    round_trip(&config.init(&cpu()).unwrap(), config.init(&cpu()).unwrap(), &VisionLayout);
    let config = FlowformerSeriesConfig { d_model: 8, d_ff: 12, ..FlowformerSeriesConfig::new(3, 7, 4) };
    round_trip(&config.init(&cpu()).unwrap(), config.init(&cpu()).unwrap(), &SeriesLayout);
}

#[test]
fn kimi_linear_comes_back_in_both_dialects_whole_and_in_shards() {
    let config = tiny_kimi();
    let model = config.init(&cpu()).unwrap();
    for dialect in [Dialect::Published, Dialect::Transformers] {
        let folder = tempdir().unwrap();
        let whole = folder.path().join("whole.safetensors");
        kimi_linear::write_weights(&model, &config, dialect, &whole).unwrap();
        kimi_linear::write_shards(&model, &config, dialect, folder.path(), 10_000).unwrap();
        let shards = fs::read_dir(folder.path()).unwrap().count() - 2;
        assert!(shards > 2, "{shards} shards");
        for path in [whole.as_path(), folder.path(), &folder.path().join("model.safetensors.index.json")] {
            let (back, report) = kimi_linear::read_weights(config.skeleton(&cpu()).unwrap(), &config, path).unwrap();
            assert!(report.extra.is_empty(), "{report}");
            assert_eq!(bits(&back), bits(&model));
        }
    }
}

#[test]
fn a_bias_of_the_output_gate_is_read_where_there_is_one() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let plain = tiny_kimi();
    let biased = KimiLinearConfig { kda: KimiDeltaConfig { gate_bias: true, ..plain.kda.clone() }, ..plain.clone() };
    let model = biased.init(&cpu()).unwrap();
    kimi_linear::write_weights(&model, &biased, Dialect::Published, &path).unwrap();
    let (back, _) = kimi_linear::read_weights(biased.skeleton(&cpu()).unwrap(), &biased, &path).unwrap();
    assert_eq!(bits(&back), bits(&model));
    let (_, report) = kimi_linear::read_weights(plain.skeleton(&cpu()).unwrap(), &plain, &path).unwrap();
    let bias = |layer: usize| format!("model.layers.{layer}.self_attn.g_b_proj.bias");
    assert_eq!(report.extra, [bias(0), bias(1), bias(2)]);
}

#[test]
fn the_published_dialect_has_the_published_names() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let config = tiny_kimi();
    kimi_linear::write_weights(&config.init(&cpu()).unwrap(), &config, Dialect::Published, &path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut want = vec!["lm_head.weight".to_string(), "model.embed_tokens.weight".into(), "model.norm.weight".into()];
    for layer in 0..4 {
        let full = layer == 3;
        let mixer: &[&str] = if full {
            &["q_proj.weight", "kv_a_proj_with_mqa.weight", "kv_a_layernorm.weight", "kv_b_proj.weight", "o_proj.weight"]
        } else {
            &[
                "q_proj.weight",
                "k_proj.weight",
                "v_proj.weight",
                "q_conv1d.weight",
                "k_conv1d.weight",
                "v_conv1d.weight",
                "f_a_proj.weight",
                "f_b_proj.weight",
                "dt_bias",
                "A_log",
                "b_proj.weight",
                "g_a_proj.weight",
                "g_b_proj.weight",
                "o_norm.weight",
                "o_proj.weight",
            ]
        };
        want.extend(mixer.iter().map(|name| format!("model.layers.{layer}.self_attn.{name}")));
        want.extend(["input_layernorm", "post_attention_layernorm"].map(|name| format!("model.layers.{layer}.{name}.weight")));
        let matrices = ["gate_proj", "up_proj", "down_proj"];
        if layer == 0 {
            want.extend(matrices.map(|name| format!("model.layers.0.mlp.{name}.weight")));
            continue;
        }
        let moe = format!("model.layers.{layer}.block_sparse_moe");
        want.extend([format!("{moe}.gate.weight"), format!("{moe}.gate.e_score_correction_bias")]);
        want.extend(matrices.map(|name| format!("{moe}.shared_experts.{name}.weight")));
        want.extend((0..3).flat_map(|e| ["w1", "w2", "w3"].map(|w| format!("{moe}.experts.{e}.{w}.weight"))));
    }
    want.sort();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), want);
    for (name, shape) in [
        ("model.layers.0.self_attn.q_conv1d.weight", vec![16, 1, 4]),
        ("model.layers.0.self_attn.v_conv1d.weight", vec![32, 1, 4]),
        ("model.layers.0.self_attn.A_log", vec![1, 1, 4, 1]),
        ("model.layers.2.block_sparse_moe.experts.1.w2.weight", vec![16, 6]),
        ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", vec![36, 16]),
    ] {
        assert_eq!(checkpoint.get(name).unwrap().shape.to_vec(), shape, "{name}");
    }
}

fn written(model: &Decoder, folder: &Path) -> std::path::PathBuf {
    let path = folder.join("model.safetensors");
    tnl::write_weights(model, &path).unwrap();
    path
}

#[test]
fn what_is_missing_misshapen_or_unused_is_reported_under_the_checkpoints_names() {
    let folder = tempdir().unwrap();
    let path = written(&tiny_tnl().init(&cpu()).unwrap(), folder.path());
    // One layer more, another vocabulary, a gate without weights.
    let other = TnlConfig { vocab: 7, layers: 3, ..tiny_tnl() };
    let failure = error(tnl::read_weights(other.decoder().unwrap().skeleton(&cpu()).unwrap(), &path));
    let WeightsError::Mismatch { report, .. } = &failure else { panic!("{failure}") };
    assert_eq!((report.taken, report.missing.len(), report.misshapen.len(), report.extra.len()), (11, 5, 1, 0));
    let text = failure.to_string();
    for line in [
        "do not fit the network",
        "11 tensors fit",
        "5 missing from the checkpoint:\n  model.layers.2.token_mixer.qkvu_proj.weight",
        "1 of another shape:\n  model.embed_tokens.weight: [5, 4] in the checkpoint, [7, 4] in the network",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    let shorter = TnlConfig { layers: 1, ..tiny_tnl() };
    let (_, report) = tnl::read_weights(shorter.decoder().unwrap().skeleton(&cpu()).unwrap(), &path).unwrap();
    assert_eq!((report.taken, report.extra.len()), (7, 5));
    assert!(report.to_string().contains("5 in the checkpoint without use:\n  model.layers.1.channel_mixer.l1.weight"), "{report}");
}

#[test]
fn long_lists_are_cut() {
    let report = Report { missing: (0..30).map(|i| format!("t{i}")).collect(), ..Report::default() };
    assert!(report.to_string().ends_with("  t11\n  … and 18 more"));
}

#[test]
fn a_shard_that_is_missing_or_lacks_a_tensor_is_one_clear_error() {
    let folder = tempdir().unwrap();
    let config = tiny_kimi();
    let model = config.init(&cpu()).unwrap();
    kimi_linear::write_shards(&model, &config, Dialect::Published, folder.path(), 20_000).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let mut shards: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    shards.retain(|name| name.contains("-of-"));
    shards.sort();
    let text = fs::read_to_string(&index).unwrap();

    let first = folder.path().join(&shards[0]);
    let away = folder.path().join("away");
    fs::rename(&first, &away).unwrap();
    let held = text.matches(&shards[0]).count();
    let message = error(Checkpoint::open(folder.path())).to_string();
    assert_eq!(
        message,
        format!("{} names the shard {}, which is missing: {held} of the checkpoint's tensors are in it", index.display(), shards[0])
    );
    fs::rename(&away, &first).unwrap();

    fs::write(&index, text.replacen("model.embed_tokens.weight", "model.embed_tokens.bias", 1)).unwrap();
    let message = error(Checkpoint::open(&index)).to_string();
    assert!(message.ends_with("holds model.embed_tokens.bias, which it does not"), "{message}");

    fs::write(&index, "{}").unwrap();
    let message = error(Checkpoint::open(&index)).to_string();
    assert!(message.contains("no index of shards: missing field `weight_map`"), "{message}");
}

#[test]
fn what_is_no_checkpoint_is_an_error() {
    let folder = tempdir().unwrap();
    let message = error(Checkpoint::open(folder.path())).to_string();
    assert!(message.ends_with("the folder holds no model.safetensors, pytorch_model.bin or index of one"), "{message}");
    let message = error(Checkpoint::open(folder.path().join("none.pt"))).to_string();
    assert!(message.ends_with("there is no such file"), "{message}");
    for name in ["broken.safetensors", "broken.pt"] {
        let path = folder.path().join(name);
        fs::write(&path, "nothing of the kind").unwrap();
        let message = error(Checkpoint::open(&path)).to_string();
        assert!(message.starts_with(&format!("cannot read the weights in {}: ", path.display())), "{message}");
    }
    let path = folder.path().join("header.safetensors");
    fs::write(&path, [u64::MAX.to_le_bytes(), [b'{'; 8]].concat()).unwrap();
    let message = error(Checkpoint::open(&path)).to_string();
    assert!(message.ends_with(": its header has 18446744073709551615 bytes, in a file of 16"), "{message}");
    let path = folder.path().join("weights.gguf");
    fs::write(&path, "GGUF").unwrap();
    let message = error(Checkpoint::open(&path)).to_string();
    assert!(message.contains("it must be a .safetensors file, a PyTorch file"), "{message}");

    let path = written(&tiny_tnl().init(&cpu()).unwrap(), folder.path());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let read = tnl::read_weights(tiny_tnl().decoder().unwrap().skeleton(&cpu()).unwrap(), &path);
    let message = error(read).to_string();
    assert!(message.starts_with("cannot read the weights in "), "{message}");
    assert!(message.contains("it ends within "), "{message}");
}

#[test]
fn a_checkpoint_with_a_head_fits_a_tied_network() {
    let folder = tempdir().unwrap();
    let untied = TnlConfig { tied: false, ..tiny_tnl() }.init(&cpu()).unwrap();
    let path = written(&untied, folder.path());
    let (tied, report) = tnl::read_weights(tiny_tnl().decoder().unwrap().skeleton(&cpu()).unwrap(), &path).unwrap();
    assert_eq!((report.taken, report.extra.len()), (12, 0));
    assert_close("embedding", &tied.embedding.weight.val(), &untied.embedding.weight.val(), 0.0);
}
