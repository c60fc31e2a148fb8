use crate::blocks::simd::{scratch, transpose};

/// A matrix in panels of columns as wide as the registers of a product, each panel in one piece: rows of a wide matrix would fall on the
/// same few places of the nearest cache.
pub(crate) struct Panels {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    width: usize,
}

/// Some columns of a matrix, all rows, `width` numbers apart.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    /// The first column.
    pub(super) start: usize,
    /// Number of columns.
    pub(super) columns: usize,
    /// Where the panel begins in the data.
    at: usize,
}

impl Panels {
    /// # Panics
    /// If `width` is 0.
    pub(crate) fn new(rows: usize, columns: usize, width: usize) -> Self {
        Self { data: scratch(rows * columns.next_multiple_of(width)), rows, columns, width }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn panels(&self) -> impl Iterator<Item = Panel> + use<> {
        let Self { rows, columns, width, .. } = *self;
        (0..columns).step_by(width).map(move |start| Panel { start, columns: width.min(columns - start), at: start * rows })
    }

    pub(super) fn of(&self, panel: Panel) -> *const f32 {
        self.data[panel.at..].as_ptr()
    }

    pub(super) fn of_mut(&mut self, panel: Panel) -> *mut f32 {
        self.data[panel.at..].as_mut_ptr()
    }

    /// From rows one after another.
    #[inline(always)]
    pub(crate) fn load(&mut self, matrix: &[f32]) {
        for Panel { start, columns, at } in self.panels() {
            let panel = self.data[at..].chunks_exact_mut(self.width);
            for (to, from) in panel.zip(matrix.chunks_exact(self.columns)) {
                to[..columns].copy_from_slice(&from[start..start + columns]);
            }
        }
    }

    /// To rows one after another.
    #[inline(always)]
    pub(crate) fn store(&self, matrix: &mut [f32]) {
        for Panel { start, columns, at } in self.panels() {
            let panel = self.data[at..].chunks_exact(self.width);
            for (from, to) in panel.zip(matrix.chunks_exact_mut(self.columns)) {
                to[start..start + columns].copy_from_slice(&from[..columns]);
            }
        }
    }

    /// Becomes the transpose of another matrix.
    #[inline(always)]
    pub(crate) fn turn(&mut self, other: &Self) {
        assert!((self.rows, self.columns, self.width) == (other.columns, other.rows, other.width), "the sizes of the transpose");
        let width = self.width;
        for to in self.panels() {
            for from in other.panels() {
                let target = &mut self.data[to.at + from.start * width..][..from.columns * width];
                let source = &other.data[from.at + to.start * width..][..to.columns * width];
                // SAFETY: the source has `to.columns` rows of `width` numbers.
                unsafe { transpose(source.as_ptr(), width, to.columns, from.columns, 1.0, target, width) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use regard_testkit::sweep;

    use super::*;

    #[test]
    fn panels_keep_a_matrix_and_turn_it() {
        sweep("panels", 100, |s| {
            let (rows, columns, width) = (s.size(1, 40), s.size(1, 40), s.pick(&[2, 8, 16]));
            let matrix: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let mut panels = Panels::new(rows, columns, width);
            panels.load(&matrix);
            let mut copy = scratch(matrix.len());
            panels.store(&mut copy);
            assert_eq!(copy, matrix);
            let mut turned = Panels::new(columns, rows, width);
            turned.turn(&panels);
            turned.store(&mut copy);
            for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                assert_eq!(copy[j * rows + i], matrix[i * columns + j]);
            }
        });
    }
}
