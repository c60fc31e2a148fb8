mod layer;
mod op;
mod sweep;
