//! Tensors as stacks of matrices with one distance in memory between them.

use burn::{
    backend::{Backend, Cube, TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};

use super::plan::Lie;

/// A stack of matrices in memory.
pub(super) struct Operand {
    pub(super) tensor: CubeTensor,
    /// The columns lie one after another, not the rows.
    turned: bool,
    /// Distance of rows, or of columns of a turned matrix.
    leading: usize,
    /// Distance of matrices; 0 if there is one for all.
    pub(super) batch_stride: usize,
}

/// Lengths of the axes of the stack that two tensors of the same number of axes make, if they go together.
pub(super) fn batch(a: &CubeTensor, b: &CubeTensor) -> Option<Vec<usize>> {
    let (a, b) = (a.shape(), b.shape());
    let axes = a.num_dims() - 2;
    (0..axes)
        .map(|axis| match (a[axis], b[axis]) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

impl Operand {
    /// The tensor as a stack of `stack` matrices, copied if it does not lie so.
    pub(super) fn new(tensor: &CubeTensor, stack: &[usize]) -> Self {
        Self::of(tensor.clone(), stack).unwrap_or_else(|| {
            let tensor = into_contiguous(tensor.clone());
            Self::of(tensor.clone(), stack).unwrap_or_else(|| {
                // Some axes of the stack are repeated and others are not.
                let shape = tensor.shape();
                let whole: Vec<usize> = stack.iter().copied().chain([shape[stack.len()], shape[stack.len() + 1]]).collect();
                let tensor = into_contiguous(expand::<Cube>(tensor, Shape::from(whole)));
                Self::of(tensor, stack).expect("rows one after another are a stack of matrices")
            })
        })
    }

    fn of(tensor: CubeTensor, stack: &[usize]) -> Option<Self> {
        let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
        let axes = stack.len();
        let ([rows, columns], [row, column]) = ([shape[axes], shape[axes + 1]], [strides[axes], strides[axes + 1]]);
        // The stride of an axis of length 1 says nothing.
        let (turned, leading) = if (column == 1 || columns == 1) && (rows == 1 || row >= columns) {
            (false, if rows == 1 { columns } else { row })
        } else if (row == 1 || rows == 1) && (columns == 1 || column >= rows) {
            (true, if columns == 1 { rows } else { column })
        } else {
            return None;
        };
        // From the innermost axis outwards, each must be as far apart as all the inner ones are long.
        let mut batch_stride = None;
        let mut next = 0;
        for axis in (0..axes).rev().filter(|axis| stack[*axis] > 1) {
            let stride = if shape[axis] == 1 { 0 } else { strides[axis] };
            if batch_stride.is_some() && stride != next {
                return None;
            }
            batch_stride = batch_stride.or(Some(stride));
            next = stride * stack[axis];
        }
        Some(Self { turned, leading, batch_stride: batch_stride.unwrap_or(0), tensor })
    }

    /// Makes one matrix of the stack, if the rows of all its matrices, `rows` of each, are equally far apart.
    pub(super) fn stack_rows(&mut self, rows: usize) -> bool {
        if self.turned {
            return false;
        }
        if rows == 1 && self.batch_stride >= self.leading {
            self.leading = self.batch_stride;
        }
        self.batch_stride == rows * self.leading
    }

    pub(super) fn lie(&self) -> Lie {
        Lie { turned: self.turned, leading: self.leading, batch_stride: self.batch_stride }
    }
}

fn expand<B: Backend>(tensor: FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
    B::float_expand(tensor, shape)
}
