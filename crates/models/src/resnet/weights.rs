use crate::weights::{Layout, Stored};

/// The names of torchvision's and timm's checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct ResNetNames;

impl Layout for ResNetNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        vec![Stored::new(renamed(path).unwrap_or_else(|| path.to_owned()), shape)]
    }

    fn ignores(&self, name: &str) -> bool {
        name.ends_with(".num_batches_tracked")
    }
}

/// The name of a parameter; layers and convolutions are counted from 1 there.
fn renamed(path: &str) -> Option<String> {
    let (owner, field) = path.rsplit_once('.')?;
    let parts: Vec<&str> = owner.split('.').collect();
    let next = |index: &str| index.parse().ok().map(|index: usize| index + 1);
    Some(match parts[..] {
        ["stem", layer] => format!("{layer}1.{field}"),
        ["stages", stage, block, "convs", index, layer] => format!("layer{}.{block}.{layer}{}.{field}", next(stage)?, next(index)?),
        ["stages", stage, block, "downsample", layer] => {
            let index = usize::from(layer == "bn");
            format!("layer{}.{block}.downsample.{index}.{field}", next(stage)?)
        }
        ["head"] => format!("fc.{field}"),
        _ => return None,
    })
}
