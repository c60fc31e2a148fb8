use std::collections::BTreeSet;

use burn::{
    module::Module,
    store::{
        ModuleSnapshot, bridge,
        burn_pack::{Error as LazyError, Tensor as LazyTensor},
    },
    tensor::{DType, Shape, TensorData},
};

use super::{Checkpoint, Layout, Misshapen, Report, Result, WeightsError, parameters::Parameter, parameters::parameters};

/// Reads the weights of `model` from a checkpoint of a layout. Floats of any width become f32.
///
/// A network made by [`DecoderConfig::skeleton`](crate::DecoderConfig::skeleton) has no other weights in memory meanwhile; a tensor is read
/// when its turn comes.
///
/// # Errors
/// If a tensor is missing or of another shape (the error holds the whole report), or a file cannot be read.
pub fn read<M: Module>(mut model: M, layout: &impl Layout, checkpoint: &Checkpoint) -> Result<(M, Report)> {
    let mut report = Report::default();
    let mut used = BTreeSet::new();
    let mut tensors = Vec::new();
    for parameter in parameters(&model) {
        let stored = layout.stored(&parameter.name, &parameter.shape);
        let mut parts = Vec::new();
        for part in &stored {
            used.insert(part.name.clone());
            match checkpoint.get(&part.name) {
                None => report.missing.push(part.name.clone()),
                Some(tensor) if fits(tensor, &part.shape) => parts.push(tensor.clone()),
                Some(tensor) => report.misshapen.push(Misshapen {
                    name: part.name.clone(),
                    want: part.shape.clone(),
                    got: tensor.shape.to_vec(),
                    element: (!tensor.dtype.is_float()).then(|| format!("{:?}", tensor.dtype)),
                }),
            }
        }
        report.taken += parts.len();
        if parts.len() == stored.len() {
            tensors.push(assembled(parameter, parts));
        }
    }
    report.extra = checkpoint.names().filter(|name| !used.contains(*name) && !layout.ignores(name)).map(Into::into).collect();
    let path = checkpoint.path().to_path_buf();
    if !report.complete() {
        return Err(WeightsError::Mismatch { path, report });
    }
    let applied = model.apply(tensors, None, None, false);
    match applied.errors.first() {
        Some(error) => Err(WeightsError::Read { path, message: error.to_string() }),
        None => Ok((model, report)),
    }
}

/// Whether a tensor is of floats and of the shape `want` up to axes of length 1.
fn fits(tensor: &LazyTensor, want: &[usize]) -> bool {
    let long = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    tensor.dtype.is_float() && long(&tensor.shape.to_vec()) == long(want)
}

/// The tensor of a parameter as Burn keeps it, made of its parts when it is asked for.
fn assembled(parameter: Parameter, parts: Vec<LazyTensor>) -> LazyTensor {
    let Parameter { path, shape, swapped, .. } = parameter;
    let mut kept = shape.clone();
    if swapped {
        kept.reverse();
    }
    let made = kept.clone();
    bridge::deferred(path, DType::F32, Shape::from(kept), None, move || {
        let mut values = Vec::with_capacity(shape.iter().product());
        for part in &parts {
            let data = bridge::to_data(part)?.convert_dtype(DType::F32);
            values.extend_from_slice(data.as_slice::<f32>().map_err(|e| LazyError::ValidationError(format!("{e:?}")))?);
        }
        if values.len() != shape.iter().product::<usize>() {
            return Err(LazyError::ValidationError(format!("{} numbers for the shape {shape:?}", values.len())));
        }
        let values = if swapped { transposed(&values, shape[0], shape[1]) } else { values };
        Ok(TensorData::new(values, made.clone()))
    })
}

/// Rows and columns swapped, in squares that fit the cache.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const SIDE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for top in (0..rows).step_by(SIDE) {
        for left in (0..columns).step_by(SIDE) {
            for row in top..rows.min(top + SIDE) {
                for column in left..columns.min(left + SIDE) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}
