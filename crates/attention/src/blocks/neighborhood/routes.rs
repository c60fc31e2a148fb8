use std::{ops::Range, sync::Arc};

/// For each region of a map the regions that its tokens see.
///
/// S rows of S regions each cut the map, every region but those at the lower and right border of ⌈Y/S⌉ × ⌈X/S⌉ tokens: those are smaller, or
/// empty, where the sides do not divide.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Regions S per side.
    pub(crate) side: usize,
    /// Regions that each region sees.
    pub(crate) topk: usize,
    /// Their numbers, row-major, best first: `[B, S², k]`
    pub(crate) index: Arc<[usize]>,
}

impl Routes {
    /// The numbers of the regions that each region sees, row-major, best first: `[B, S², k]`
    pub fn index(&self) -> &[usize] {
        &self.index
    }

    /// Tokens of a whole region.
    pub(crate) fn size(&self, grid: [usize; 2]) -> [usize; 2] {
        grid.map(|length| length.div_ceil(self.side).max(1))
    }

    /// Rows and columns of a region.
    pub(crate) fn region(&self, number: usize, grid: [usize; 2]) -> [Range<usize>; 2] {
        let (size, at) = (self.size(grid), [number / self.side, number % self.side]);
        std::array::from_fn(|i| (at[i] * size[i]).min(grid[i])..((at[i] + 1) * size[i]).min(grid[i]))
    }

    /// Rows and columns of the regions that the region of a token sees, best first.
    pub(crate) fn seen(&self, b: usize, token: [usize; 2], grid: [usize; 2]) -> impl Iterator<Item = [Range<usize>; 2]> {
        let size = self.size(grid);
        let region = token[0] / size[0] * self.side + token[1] / size[1];
        let first = (b * self.side * self.side + region) * self.topk;
        self.index[first..first + self.topk].iter().map(move |number| self.region(*number, grid))
    }
}
