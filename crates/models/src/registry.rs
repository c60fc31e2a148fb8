//! The networks that have a name.

use burn::{
    module::Module,
    tensor::{DType, Device},
};
use regard::Result;

use crate::{
    KimiLinearConfig, TnlConfig,
    biformer::BiFormerConfig,
    davit::DavitConfig,
    flowformer::{FlowformerConfig, FlowformerVisionConfig},
    halonet::HaloNetConfig,
    nat::NatConfig,
    psa::{PoseConfig, SegmentationConfig},
    resnet::ResNetConfig,
    s2aformer::S2aFormerConfig,
    vision::trained_weights,
    vit::VitConfig,
};

/// A named network.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// Its configuration.
    pub config: NetworkConfig,
}

/// The configuration of a [`Network`].
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "few, and short-lived")]
pub enum NetworkConfig {
    /// BiFormer.
    BiFormer(BiFormerConfig),
    /// DaViT.
    Davit(DavitConfig),
    /// Flowformer for language.
    Flowformer(FlowformerConfig),
    /// Flowformer for images.
    FlowformerVision(FlowformerVisionConfig),
    /// HaloNet and its hybrids.
    HaloNet(HaloNetConfig),
    /// Kimi Linear.
    KimiLinear(KimiLinearConfig),
    /// NAT, DiNAT, DiNAT_s and the isotropic networks.
    Nat(NatConfig),
    /// Keypoints, with polarized self-attention or without.
    Pose(PoseConfig),
    /// Residual networks of convolutions.
    ResNet(ResNetConfig),
    /// S2AFormer.
    S2aFormer(S2aFormerConfig),
    /// Classes of pixels, with polarized self-attention or without.
    Segmentation(SegmentationConfig),
    /// TransNormerLLM.
    Tnl(TnlConfig),
    /// Vision transformers.
    Vit(VitConfig),
}

/// Numbers of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Trained weights.
    pub all: usize,
    /// Those that one token, or image, meets: without idle experts, and without an embedding that is only looked up.
    pub active: usize,
}

/// All named networks, ordered by family and size.
pub fn networks() -> Vec<Network> {
    let flowformer = |name| FlowformerConfig::named(name).map(NetworkConfig::Flowformer);
    let kimi_linear = |name| KimiLinearConfig::named(name).map(NetworkConfig::KimiLinear);
    let tnl = |name| TnlConfig::named(name).map(NetworkConfig::Tnl);
    let entry = |name, paper, config: Option<NetworkConfig>| config.map(|config| Network { name, paper, config });
    let paper = "Wu et al. 2022, arXiv 2202.06258";
    let davit = |name| DavitConfig::named(name).map(NetworkConfig::Davit);
    let nat = |name| NatConfig::named(name).map(NetworkConfig::Nat);
    let resnet = |name| ResNetConfig::named(name).map(NetworkConfig::ResNet);
    let vit = |name| VitConfig::named(name).map(NetworkConfig::Vit);
    let biformer = |name| BiFormerConfig::named(name).map(NetworkConfig::BiFormer);
    let halonet = |name| HaloNetConfig::named(name).map(NetworkConfig::HaloNet);
    let s2aformer = |name| S2aFormerConfig::named(name).map(NetworkConfig::S2aFormer);
    let pose = |name| PoseConfig::named(name).map(NetworkConfig::Pose);
    let segmentation = |name| SegmentationConfig::named(name).map(NetworkConfig::Segmentation);
    let of_psa = |name: &str| match name {
        _ if name.contains("_psa_") => "Liu et al. 2021, arXiv 2107.00782",
        _ if name.contains("hrnet") => "Sun et al. 2019, arXiv 1902.09212",
        _ => "Xiao et al. 2018, arXiv 1804.06208",
    };
    let of_nat = |name: &str| match name {
        _ if name.starts_with("nat_") && !name.contains("isotropic") => "Hassani et al. 2022, arXiv 2204.07143",
        _ => "Hassani & Shi 2022, arXiv 2209.15001",
    };
    let vision = [entry("flowformer_vision", paper, Some(NetworkConfig::FlowformerVision(FlowformerVisionConfig::imagenet())))];
    (FlowformerConfig::NAMES.iter().map(|name| entry(name, paper, flowformer(name))))
        .chain(vision)
        .chain(KimiLinearConfig::NAMES.iter().map(|name| entry(name, "Kimi Team 2025, arXiv 2510.26692", kimi_linear(name))))
        .chain(DavitConfig::NAMES.iter().map(|name| entry(name, "Ding et al. 2022, arXiv 2204.03645", davit(name))))
        .chain(NatConfig::NAMES.iter().map(|name| entry(name, of_nat(name), nat(name))))
        .chain(HaloNetConfig::NAMES.iter().map(|name| entry(name, "Vaswani et al. 2021, arXiv 2103.12731", halonet(name))))
        .chain(BiFormerConfig::NAMES.iter().map(|name| entry(name, "Zhu et al. 2023, arXiv 2303.08810", biformer(name))))
        .chain(S2aFormerConfig::NAMES.iter().map(|name| entry(name, "Xu et al. 2025, IEEE TIP", s2aformer(name))))
        .chain(PoseConfig::NAMES.iter().map(|name| entry(name, of_psa(name), pose(name))))
        .chain(SegmentationConfig::NAMES.iter().map(|name| entry(name, of_psa(name), segmentation(name))))
        .chain(VitConfig::NAMES.iter().map(|name| entry(name, "Touvron et al. 2020, arXiv 2012.12877", vit(name))))
        .chain(ResNetConfig::NAMES.iter().map(|name| entry(name, "He et al. 2015, arXiv 1512.03385", resnet(name))))
        .chain(TnlConfig::NAMES.iter().map(|name| entry(name, "Qin et al. 2024, arXiv 2405.17381", tnl(name))))
        .flatten()
        .collect()
}

impl Network {
    /// Numbers of weights, from a build for shapes alone.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn weights(&self, device: &Device) -> Result<Weights> {
        let dense = |all| Ok(Weights { all, active: all });
        let decoder = match &self.config {
            NetworkConfig::BiFormer(config) => return dense(trained_weights(&config.skeleton(device)?)),
            NetworkConfig::Davit(config) => return dense(config.skeleton(device)?.num_params()),
            NetworkConfig::FlowformerVision(config) => return dense(config.init(device)?.num_params()),
            NetworkConfig::HaloNet(config) => return dense(trained_weights(&config.init(device)?)),
            NetworkConfig::Nat(config) => return dense(config.skeleton(device)?.num_params()),
            NetworkConfig::Pose(config) => return dense(trained_weights(&config.init(device)?)),
            NetworkConfig::ResNet(config) => return dense(trained_weights(&config.init(device)?)),
            NetworkConfig::S2aFormer(config) => return dense(trained_weights(&config.skeleton(device)?)),
            NetworkConfig::Segmentation(config) => return dense(trained_weights(&config.init(device)?)),
            NetworkConfig::Vit(config) => return dense(config.skeleton(device)?.num_params()),
            NetworkConfig::Flowformer(config) => config.decoder(),
            NetworkConfig::KimiLinear(config) => config.decoder()?,
            NetworkConfig::Tnl(config) => config.decoder()?,
        };
        let decoder = decoder.skeleton(device)?;
        Ok(Weights { all: decoder.params(), active: decoder.active_params() })
    }

    /// Bytes that decoding keeps of one sequence of `tokens` tokens with weights of the float type `dtype`; `None` if the network does not
    /// decode.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn state_bytes(&self, tokens: usize, dtype: DType) -> Result<Option<usize>> {
        Ok(match &self.config {
            NetworkConfig::Flowformer(config) => Some(config.state_bytes()),
            NetworkConfig::BiFormer(_)
            | NetworkConfig::Davit(_)
            | NetworkConfig::FlowformerVision(_)
            | NetworkConfig::HaloNet(_)
            | NetworkConfig::Nat(_)
            | NetworkConfig::Pose(_)
            | NetworkConfig::ResNet(_)
            | NetworkConfig::S2aFormer(_)
            | NetworkConfig::Segmentation(_)
            | NetworkConfig::Vit(_) => None,
            NetworkConfig::KimiLinear(config) => Some(config.cache_bytes(tokens, dtype)?.total()),
            NetworkConfig::Tnl(config) => Some(config.state_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use regard_testkit::cpu;

    use super::*;

    #[test]
    fn every_named_network_is_listed_once_with_its_weights() {
        let networks = networks();
        let mut names: Vec<_> = networks.iter().map(|n| n.name).collect();
        names.sort_unstable();
        names.dedup();
        let lists = [
            &BiFormerConfig::NAMES,
            DavitConfig::NAMES,
            &FlowformerConfig::NAMES,
            &HaloNetConfig::NAMES,
            KimiLinearConfig::NAMES,
            NatConfig::NAMES,
            &PoseConfig::NAMES,
            ResNetConfig::NAMES,
            &S2aFormerConfig::NAMES,
            &SegmentationConfig::NAMES,
            TnlConfig::NAMES,
            VitConfig::NAMES,
        ];
        assert_eq!(names.len(), lists.map(<[_]>::len).iter().sum::<usize>() + 1);
        for network in &networks {
            let Weights { all, active } = network.weights(&cpu()).unwrap();
            if let NetworkConfig::Tnl(config) = &network.config {
                assert_eq!((all, active), (config.params(), config.params()), "{}", network.name);
            }
            assert!(active > 0 && active <= all, "{}", network.name);
            let [short, long] = [1 << 12, 1 << 20].map(|tokens| network.state_bytes(tokens, DType::BF16).unwrap());
            let grows = matches!(network.config, NetworkConfig::KimiLinear(_));
            assert_eq!(short < long, grows, "{}", network.name);
        }
    }

    #[test]
    fn the_states_have_the_published_sizes() {
        let bytes = |name: &str| {
            let networks = networks();
            networks.iter().find(|n| n.name == name).unwrap().state_bytes(1 << 20, DType::BF16).unwrap()
        };
        assert_eq!(bytes("tnl_385m"), Some(4 * 3_276_800));
        assert_eq!(bytes("tnl_7b"), Some(4 * 16_252_928));
        assert_eq!(bytes("kimi_linear_48b"), Some(8064 * (1 << 20) + (40 << 20) + 2 * 737_280));
        assert_eq!(bytes("flowformer_vision"), None);
    }
}
