use crate::weights::Names;

/// What most published networks call the parts of a block, behind the block's own name.
pub const BLOCK_NAMES: Names = Names(&[
    ("norm.", "norm1."),
    ("mixer.", "attn."),
    ("gamma", "gamma1"),
    ("channel_norm.", "norm2."),
    ("mlp.up.", "mlp.fc1."),
    ("mlp.down.", "mlp.fc2."),
    ("channel_gamma", "gamma2"),
]);

/// The path of a parameter cut behind the numbers of the block that it belongs to, `levels.0.blocks.3.` and the rest; `None` outside of
/// blocks.
pub fn split_block(path: &str) -> Option<(&str, &str)> {
    let mut end = path.find("blocks.")? + "blocks.".len();
    while let Some(length) = path[end..].find('.').filter(|&n| n > 0 && path[end..end + n].bytes().all(|b| b.is_ascii_digit())) {
        end += length + 1;
    }
    Some(path.split_at(end))
}
