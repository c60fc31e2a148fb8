use regard::polarized_attention::{Flavour, Layout as Branches, PolarizedAttentionConfig};

use crate::weights::{Layout, Names, Stored};

/// Where a path begins: the networks, `{}` = number of a layer.
const BEGINS: Names = Names(&[
    // The small network of heatmaps.
    ("stem.conv.", "stem."),
    ("stem.bn.", "stem_bn."),
    ("blocks.0.", "block."),
    ("deconv.conv.", "deconv."),
    ("deconv.bn.", "deconv_bn."),
    // Residual trunks, as torchvision.
    ("trunk.ResNet.stem.conv.", "conv1."),
    ("trunk.ResNet.stem.bn.", "bn1."),
    ("trunk.ResNet.stages.0.", "layer1."),
    ("trunk.ResNet.stages.1.", "layer2."),
    ("trunk.ResNet.stages.2.", "layer3."),
    ("trunk.ResNet.stages.3.", "layer4."),
    // High-resolution trunks, as their authors.
    ("trunk.HrNet.stem.0.conv.", "conv1."),
    ("trunk.HrNet.stem.0.bn.", "bn1."),
    ("trunk.HrNet.stem.1.conv.", "conv2."),
    ("trunk.HrNet.stem.1.bn.", "bn2."),
    ("trunk.HrNet.layer1.", "layer1."),
    ("trunk.HrNet.transitions.0.", "transition1."),
    ("trunk.HrNet.transitions.1.", "transition2."),
    ("trunk.HrNet.transitions.2.", "transition3."),
    ("trunk.HrNet.stages.0.", "stage2."),
    ("trunk.HrNet.stages.1.", "stage3."),
    ("trunk.HrNet.stages.2.", "stage4."),
    // Heads.
    ("deconv_layers.0.conv.", "deconv_layers.0."),
    ("deconv_layers.0.bn.", "deconv_layers.1."),
    ("deconv_layers.1.conv.", "deconv_layers.3."),
    ("deconv_layers.1.bn.", "deconv_layers.4."),
    ("deconv_layers.2.conv.", "deconv_layers.6."),
    ("deconv_layers.2.bn.", "deconv_layers.7."),
    ("joint.conv.", "last_layer.0."),
    ("joint.bn.", "last_layer.1."),
]);

/// Inside of a path.
const PARTS: [(&str, &str); 13] = [
    (".convs.0.conv.", ".conv1."),
    (".convs.0.bn.", ".bn1."),
    (".convs.1.conv.", ".conv2."),
    (".convs.1.bn.", ".bn2."),
    (".convs.2.conv.", ".conv3."),
    (".convs.2.bn.", ".bn3."),
    (".attention.", ".deattn."),
    (".downsample.conv.", ".downsample.0."),
    (".downsample.bn.", ".downsample.1."),
    (".One.", "."),
    (".Chain.", "."),
    // What is left are convolutions and norms one behind the other.
    (".conv.", ".0."),
    (".bn.", ".1."),
];

/// Names of the attention's tensors: here, in the released parallel and sequential forms, in ports of the paper's form.
const ATTENTION: [(&str, [&str; 3]); 7] = [
    ("gate.up.", ["conv_up.", "conv_up.0.", "ch_wz."]),
    ("gate.norm.", ["", "conv_up.1.", "ln."]),
    ("gate.last.", ["", "conv_up.3.", ""]),
    ("sp_q.", ["conv_q_left.", "conv_q_left.", "sp_wq."]),
    ("sp_v.", ["conv_v_left.", "conv_v_left.", "sp_wv."]),
    ("q.", ["conv_q_right.", "conv_q_right.", "ch_wq."]),
    ("v.", ["conv_v_right.", "conv_v_right.", "ch_wv."]),
];

/// The names of published checkpoints of a network of this module: torchvision's and the authors' of the trunks, the released code's of the
/// attention.
#[derive(Clone, Copy, Debug)]
pub struct PsaNames {
    /// Column of [`ATTENTION`].
    form: usize,
    /// The last layer.
    last: &'static str,
    /// The way to the network in [`BEGINS`].
    within: &'static str,
}

impl PsaNames {
    /// Those of a [`ResNet`](crate::resnet::ResNet) with this attention.
    pub fn resnet(psa: Option<PolarizedAttentionConfig>) -> Self {
        Self { form: form(psa), last: "fc.", within: "trunk.ResNet." }
    }

    /// Those of a [`PsaHeatmap`](super::PsaHeatmap) with this attention.
    pub fn heatmap(psa: Option<PolarizedAttentionConfig>) -> Self {
        Self { form: form(psa), last: "final.", within: "" }
    }

    /// Those of a [`PoseNet`](super::PoseNet) with this attention.
    pub fn pose(psa: Option<PolarizedAttentionConfig>) -> Self {
        Self { form: form(psa), last: "final_layer.", within: "" }
    }

    /// Those of a [`SegmentationNet`](super::SegmentationNet) with this attention.
    pub fn segmentation(psa: Option<PolarizedAttentionConfig>) -> Self {
        Self { form: form(psa), last: "last_layer.3.", within: "" }
    }
}

fn form(psa: Option<PolarizedAttentionConfig>) -> usize {
    match psa.map(|psa| (psa.flavour, psa.layout)) {
        None | Some((Flavour::Official, Branches::Parallel)) => 0,
        Some((Flavour::Official, Branches::Sequential)) => 1,
        Some((Flavour::Paper, _)) => 2,
    }
}

impl Layout for PsaNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let last = if self.within.is_empty() { "last." } else { "head." };
        let name = match path.strip_prefix(last) {
            Some(rest) => format!("{}{rest}", self.last),
            None => PARTS.iter().fold(BEGINS.rename(&format!("{}{path}", self.within)), |name, (here, there)| name.replace(here, there)),
        };
        let Some((block, field)) = name.split_once(".deattn.") else { return vec![Stored::new(name, shape)] };
        let found = ATTENTION.iter().find_map(|(here, there)| Some((field.strip_prefix(here)?, there[self.form])));
        let (rest, there) = found.unwrap_or((field, ""));
        // Linear layers are convolutions there, and the norm of a bottleneck is one over maps of one token.
        let mut shape = shape.to_vec();
        if shape.len() == 2 || there == "conv_up.1." {
            shape.extend([1, 1]);
        }
        vec![Stored::new(format!("{block}.deattn.{there}{rest}"), shape)]
    }

    fn ignores(&self, name: &str) -> bool {
        name.ends_with(".num_batches_tracked")
    }
}
