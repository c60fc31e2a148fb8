//! What holds for every mechanism of the registry, and what the project's page says of them. A mechanism gets these tests by being
//! registered.

#![allow(clippy::unwrap_used, reason = "in helpers of tests too")]

mod image_mixers;
mod mixers;
mod readme;
mod weights;
