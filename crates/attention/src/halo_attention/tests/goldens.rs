use burn::tensor::Tensor;
use regard_testkit::{Case, run};

use crate::{
    blocks::project,
    halo_attention::{
        Border, HaloAttention, HaloAttentionConfig, HaloWidths, KvLayout, StridedPositions,
        reference::{self, relative_logits},
    },
};

#[test]
fn goldens_of_halonet_pass() {
    run(
        "halonet",
        &["layer."],
        &[
            ("layer.halo_rel_pos_logits", golden_logits),
            ("layer.halo_attention", golden_attention),
            ("layer.halo_attention_out_proj", golden_attention),
        ],
    );
}

fn golden_logits(case: &Case) {
    let y = relative_logits(case.float("in.q"), case.float("param.height_rel"), case.float("param.width_rel"), case.size("block_size"));
    case.output("y", y);
}

fn golden_attention(case: &Case) {
    let out_proj = case.flag("out_proj");
    let config = HaloAttentionConfig {
        block: case.size("block_size"),
        halo: case.size("halo_size"),
        stride: case.size("stride"),
        avg_down: case.flag("avg_down"),
        positions: if case.text("stride_rel") == "index" { StridedPositions::Index } else { StridedPositions::Pixel },
        scaled_positions: case.flag("scale_pos_embed"),
        border: if case.text("border") == "zero" { Border::Zero } else { Border::Mask },
        qkv_bias: case.flag("qkv_bias"),
        out_proj,
        kv_layout: if out_proj { KvLayout::KeysFirst } else { KvLayout::PerHead },
        ..HaloAttentionConfig::new(case.size("num_heads"))
    };
    let widths = HaloWidths { input: case.size("dim"), key: case.size("dim_head_qk"), value: case.size("dim_head_v") };
    assert_eq!(case.size("dim_out"), if out_proj { widths.input } else { config.heads * widths.value });
    let renames: &[_] = if out_proj {
        &[
            ("q.", "to_q."),
            ("kv.", "to_kv."),
            ("height_rel", "rel_pos_emb.rel_height"),
            ("width_rel", "rel_pos_emb.rel_width"),
            ("out.", "to_out."),
        ]
    } else {
        &[("height_rel", "pos_embed.height_rel"), ("width_rel", "pos_embed.width_rel")]
    };
    let layer = || -> HaloAttention { case.load(config.init_widths(widths, case.device()).unwrap(), renames) };
    let x = || case.float::<4>("in.x").permute([0, 2, 3, 1]);
    case.output("y", layer().attend(x()).permute([0, 3, 1, 2]));
    case.again();
    case.output("y", by_definition(&layer(), x()).permute([0, 3, 1, 2]));
}

/// The layer with its operation replaced by the definition.
fn by_definition(layer: &HaloAttention, x: Tensor<4>) -> Tensor<4> {
    let [b, y, columns, _] = x.dims();
    let HaloWidths { key, value, .. } = layer.widths;
    let heads = layer.kv.weight.val().dims()[1] / (key + value);
    let kv = project(&layer.kv, x.clone());
    let (k, v) = match layer.kv_layout {
        KvLayout::PerHead => {
            let kv = kv.reshape([b, y, columns, heads, key + value]);
            (kv.clone().narrow(4, 0, key), kv.narrow(4, key, value))
        }
        KvLayout::KeysFirst => (
            kv.clone().narrow(3, 0, heads * key).reshape([b, y, columns, heads, key]),
            kv.narrow(3, heads * key, heads * value).reshape([b, y, columns, heads, value]),
        ),
    };
    // All queries, then those `stride` apart.
    let stride = layer.options.stride;
    let q = project(&layer.q, x).reshape([b, y, columns, heads, key]);
    let every = |length: usize| -> Vec<i64> { (0..length as i64).step_by(stride).collect() };
    let index = |rows: Vec<i64>| Tensor::<1, burn::tensor::Int>::from_data(rows.as_slice(), &q.device());
    let q = q.clone().select(1, index(every(y))).select(2, index(every(columns)));
    let [_, queries_y, queries_x, ..] = q.dims();
    let scale = 1.0 / (key as f64).sqrt();
    let factor = if layer.options.scaled_positions { scale } else { 1.0 };
    let relative = [layer.height_rel.val(), layer.width_rel.val()];
    let o = reference::blocks([q, k, v], relative, &layer.options, [scale, factor]);
    let o = o.reshape([b, queries_y, queries_x, heads * value]);
    match &layer.out {
        Some(out) => project(out, o),
        None => o,
    }
}
