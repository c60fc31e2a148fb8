use super::plan::{Group, PlanAxis, RelativeAxis};

/// One axis of a map that is cut into blocks, whose tokens all see their own block and a halo around it.
///
/// Places are counted from the first of the halo of the first block: the token x is at `x + halo`. Where the blocks do not divide the axis, the
/// last one is filled up with tokens that nobody sees; the halo begins behind these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HaloAxis {
    /// Tokens of a block.
    pub(crate) block: usize,
    /// Tokens on either side of it.
    pub(crate) halo: usize,
    /// Distance of the tokens of a block that are queries.
    pub(crate) stride: usize,
    /// Whether the place of a query in its block counts tokens, not queries.
    pub(crate) in_pixels: bool,
    /// Whether there are keys outside of the map: then the first and last `halo` keys are such.
    pub(crate) outside: bool,
}

impl HaloAxis {
    /// Tokens that a query sees in the middle of a map.
    pub(crate) fn window(&self) -> usize {
        self.block + 2 * self.halo
    }

    pub(super) fn plan(&self, length: usize) -> PlanAxis {
        let Self { block, halo, stride, in_pixels, outside } = *self;
        let (window, filled) = (self.window(), length.next_multiple_of(block));
        let per_block = block / stride;
        // How many keys there are before a place.
        let before = |place: usize| {
            let on_map = place.clamp(halo, halo + length) - halo;
            if outside { place.min(halo) + on_map + place.saturating_sub(filled + halo).min(halo) } else { on_map }
        };
        let places =
            if outside { (0..length + halo).chain(filled + halo..filled + 2 * halo).collect() } else { (halo..length + halo).collect() };
        let queries = 0..length.div_ceil(stride);
        let start = |query: usize| query / per_block * block;
        let origin = |query: usize| {
            let inside = query % per_block * if in_pixels { stride } else { 1 };
            (start(query) + inside + 1) as isize - window as isize
        };
        let seen = queries.clone().map(|query| before(start(query))..before(start(query) + window)).collect();
        PlanAxis {
            length: queries.len(),
            stride: per_block,
            block: queries.len().max(1),
            offsets: 2 * window - 1,
            groups: vec![Group { first: 0, step: 1, seen }],
            relative: Some(RelativeAxis { places, origins: queries.map(origin).collect() }),
        }
    }
}
