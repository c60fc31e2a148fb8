mod device;
mod errors;
mod goldens;
mod kernel;
mod layer;
mod op;

use super::Variant;

const VARIANTS: [Variant; 4] = [Variant::Tiled, Variant::ParallelScan, Variant::LeftProduct, Variant::Recurrent];
