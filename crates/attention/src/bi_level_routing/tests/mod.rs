mod goldens;
mod operation;
