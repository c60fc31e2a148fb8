use std::path::PathBuf;

use super::report::Report;

/// Why weights could not be read or written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file cannot be read, or is not what its name says.
    #[error("cannot read the weights in {}: {message}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// There are no weights at a path.
    #[error("no weights in {}: {want}", path.display())]
    None {
        /// The path.
        path: PathBuf,
        /// What is looked for there.
        want: &'static str,
    },
    /// An index names a file that is not there.
    #[error("{} names the shard {shard}, which is missing: {tensors} of the checkpoint's tensors are in it", index.display())]
    Shard {
        /// The index.
        index: PathBuf,
        /// The missing file.
        shard: String,
        /// Number of tensors that it should hold.
        tensors: usize,
    },
    /// A shard lacks a tensor that the index says it holds.
    #[error("{} says that the shard {shard} holds {tensor}, which it does not", index.display())]
    NotInShard {
        /// The index.
        index: PathBuf,
        /// The file.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// The checkpoint does not fit the network.
    #[error("the weights in {} do not fit the network\n{report}", path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// What is missing, of another shape, or not used.
        report: Report,
    },
    /// A file cannot be written.
    #[error("cannot write the weights to {}: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
}
