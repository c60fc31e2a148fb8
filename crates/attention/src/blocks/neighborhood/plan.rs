use std::{fmt::Debug, ops::Range};

use super::{axis::WindowAxis, halo::HaloAxis, routes::Routes};

/// Who sees whom on a grid, axis by axis: what kernels go by. Grids of fewer than three axes have leading ones of length 1.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) axes: [PlanAxis; 3],
    /// Who sees whom instead, region by region of the last two axes, if not by the windows of the axes.
    pub(crate) routes: Option<Routes>,
    /// Factor on `q · k`.
    pub(crate) scale: f64,
}

/// One axis of a [`Plan`].
#[derive(Clone, Debug)]
pub(crate) struct PlanAxis {
    /// Tokens.
    pub(crate) length: usize,
    /// Positions that share a window: tiles of queries do best to begin and end with them.
    pub(crate) stride: usize,
    /// Positions of a block, over whose ends no tile of queries may reach.
    pub(crate) block: usize,
    /// Offsets of a key from its query for which a table of biases has a number, 2k − 1.
    pub(crate) offsets: usize,
    /// Groups of tokens that see nothing of one another.
    pub(crate) groups: Vec<Group>,
    /// Where keys are for biases that depend on the query, if there are any.
    pub(crate) relative: Option<RelativeAxis>,
}

/// Of key and query, the number of the vector whose product with the query is added to their score is the difference of these.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelativeAxis {
    /// Of each key.
    pub(crate) places: Vec<usize>,
    /// Of each query; may be negative.
    pub(crate) origins: Vec<isize>,
}

/// A dilation group along an axis: position p is the token `first + p · step`.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) first: usize,
    pub(crate) step: usize,
    /// The positions that each position sees. Neither their starts nor their ends ever go back.
    pub(crate) seen: Vec<Range<usize>>,
}

impl Group {
    /// The positions that any of some positions sees.
    pub(crate) fn seen_by(&self, positions: &Range<usize>) -> Range<usize> {
        self.seen[positions.start].start..self.seen[positions.end - 1].end
    }
}

impl PlanAxis {
    fn new(axis: WindowAxis, length: usize) -> Self {
        let groups = (0..axis.dilation).map(|first| {
            let positions = (length - first).div_ceil(axis.dilation);
            Group { first, step: axis.dilation, seen: (0..positions).map(|p| axis.seen(p, positions)).collect() }
        });
        Self { length, stride: axis.stride, block: length.max(1), offsets: 2 * axis.window - 1, groups: groups.collect(), relative: None }
    }
}

impl Plan {
    /// For a grid for which the axes have been checked.
    pub(crate) fn new(axes: &[WindowAxis], grid: &[usize], scale: f64) -> Self {
        let missing = 3 - axes.len();
        let axis = |i: usize| if i < missing { (WindowAxis::new(1), 1) } else { (axes[i - missing], grid[i - missing]) };
        Self { axes: [0, 1, 2].map(axis).map(|(axis, length)| PlanAxis::new(axis, length)), routes: None, scale }
    }

    /// For a map of Y × X tokens whose regions see the regions that they are sent to.
    pub(crate) fn routed(routes: Routes, grid: [usize; 2], scale: f64) -> Self {
        let mut plan = Self::new(&[WindowAxis::new(1); 2], &grid, scale);
        for (axis, size) in plan.axes[1..].iter_mut().zip(routes.size(grid)) {
            axis.block = size;
        }
        Self { routes: Some(routes), ..plan }
    }

    /// For a map of Y × X tokens in blocks with a halo.
    pub(crate) fn halo(axis: HaloAxis, grid: [usize; 2], scale: f64) -> Self {
        let mut plan = Self::new(&[WindowAxis::new(1); 2], &grid, scale);
        for (plan, length) in plan.axes[1..].iter_mut().zip(grid) {
            *plan = axis.plan(length);
        }
        plan
    }

    /// The dilation groups of the grid: one of each axis.
    pub(crate) fn groups(&self) -> impl Iterator<Item = [&Group; 3]> {
        let [a, b, c] = &self.axes;
        a.groups.iter().flat_map(move |x| b.groups.iter().flat_map(move |y| c.groups.iter().map(move |z| [x, y, z])))
    }

    /// Numbers of a table of biases: one for each offset.
    pub(crate) fn table(&self) -> usize {
        self.axes.iter().map(|axis| axis.offsets).product()
    }
}

/// The pieces of at most `size` positions of an axis of `length`.
pub(crate) fn pieces(length: usize, size: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..length).step_by(size).map(move |start| start..(start + size).min(length))
}

/// The pieces of a range, none of which reaches over a multiple of `block`.
pub(crate) fn pieces_of_blocks(range: &Range<usize>, size: usize, block: usize) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
    let Range { start, end } = *range;
    let piece = move |at: usize| (at < end).then(|| at..(at + size).min((at / block + 1) * block).min(end));
    std::iter::successors(piece(start), move |last| piece(last.end))
}
