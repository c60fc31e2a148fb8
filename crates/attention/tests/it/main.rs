//! What holds for every mechanism of the registry, and what the project's page says of them. A mechanism gets these tests by being
//! registered.

mod mixers;
mod readme;
