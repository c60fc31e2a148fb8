use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};

use super::{
    activation::len,
    matrix::Matrix,
    parts::{Blank, in_blank_parts},
};

type Flat = FloatTensor<Flex>;

/// Elements per task.
const TASK: usize = 64 * 1024;

/// Tensors side by side along their last axis, which alone may differ.
pub(super) fn join(parts: &[Flat]) -> Flat {
    let mut places: Vec<Option<Flat>> = parts.iter().map(|_| None).collect();
    let rows: Vec<Matrix<'_>> = parts.iter().zip(&mut places).map(|(part, place)| Matrix::rows_of(part, place)).collect();
    let width: usize = rows.iter().map(|rows| rows.columns).sum();
    let per_task = (TASK / width.max(1)).max(1) * width;
    let write = |start: usize, [joined]: [&mut [Blank]; 1]| {
        for (n, mut joined) in joined.chunks_exact_mut(width).enumerate() {
            for rows in &rows {
                let (target, rest) = joined.split_at_mut(rows.columns);
                target.write_copy_of_slice(rows.row(start / width + n));
                joined = rest;
            }
        }
    };
    // SAFETY: the tasks write whole rows of the result, and the parts are as wide as it.
    let ([joined], _) = unsafe { in_blank_parts(parts.iter().map(len).sum(), per_task, write) };
    let mut shape: Vec<usize> = parts[0].layout().shape().iter().copied().collect();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    Flat::from_data(TensorData::new(joined, shape))
}
