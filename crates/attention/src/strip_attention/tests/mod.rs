mod errors;
mod goldens;
mod operation;
