use crate::{
    vision::{BLOCK_NAMES, split_block},
    weights::{Layout, Stored},
};

/// The names of timm's `vision_transformer` checkpoints, those of DeiT among them.
#[derive(Clone, Copy, Debug)]
pub struct VitNames;

impl Layout for VitNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let name = split_block(path).map_or_else(|| path.to_owned(), |(block, rest)| block.to_owned() + &BLOCK_NAMES.rename(rest));
        let mut stored = Stored::new(name, shape);
        let outer = match path {
            "cls_token" => 2,
            "pos_embed" => 1,
            _ => 0,
        };
        stored.shape.splice(0..0, std::iter::repeat_n(1, outer));
        vec![stored]
    }
}
