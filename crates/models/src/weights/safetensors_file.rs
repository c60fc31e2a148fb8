use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use burn::{
    store::{
        bridge,
        burn_pack::{Error as LazyError, Tensor as LazyTensor},
    },
    tensor::{BoolStore, DType, Shape, TensorData},
};
use safetensors::{Dtype, tensor::Metadata};

/// No header of a checkpoint is longer; one that says so is something else.
const LONGEST_HEADER: u64 = 100_000_000;

/// The tensors of a `.safetensors` file, each read from its place when it is needed.
///
/// Burn's own store parses the header once for each tensor: with a few thousand of them that takes longer than all else.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, LazyTensor>, String> {
    let failed = |e: io::Error| e.to_string();
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| format!("a file of {length} bytes is no .safetensors file"))?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER || 8 + size > length {
        return Err(format!("its header has {size} bytes, in a file of {length}"));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(failed)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| format!("its header: {e}"))?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let dtype = element(info.dtype).ok_or_else(|| format!("{name} is of the element type {:?}", info.dtype))?;
        let (start, end) = info.data_offsets;
        let bytes = info.shape.iter().try_fold(dtype.size(), |bytes, n| bytes.checked_mul(*n));
        let bytes = bytes.filter(|bytes| start.checked_add(*bytes) == Some(end));
        let bytes = bytes.ok_or_else(|| format!("{name} of shape {:?} lies from byte {start} to {end}", info.shape))?;
        let (start, end) = (8 + size + start as u64, (8 + size).saturating_add(end as u64));
        if end > length {
            return Err(format!("it ends within {name}: {length} bytes of at least {end}"));
        }
        let (path, shape) = (path.to_path_buf(), info.shape.clone());
        let read = move || {
            let mut values = vec![0; bytes];
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut values)?;
            Ok::<_, io::Error>(TensorData::from_bytes_vec(values, shape.clone(), dtype))
        };
        let read = move || read().map_err(|e| LazyError::ValidationError(e.to_string()));
        tensors.insert(name.clone(), bridge::deferred(name, dtype, Shape::from(info.shape.clone()), None, read));
    }
    Ok(tensors)
}

fn element(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool(BoolStore::Native),
        _ => return None,
    })
}
