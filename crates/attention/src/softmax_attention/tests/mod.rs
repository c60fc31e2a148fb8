#![allow(clippy::unwrap_used, clippy::float_cmp, clippy::cast_possible_wrap, reason = "tests: a panic is a failure, zeros are exact")]

mod layer;
mod op;
mod sweep;
