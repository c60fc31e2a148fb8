mod errors;
mod goldens;
mod operation;
mod sweep;
