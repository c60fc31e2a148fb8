//! Operations measured over shapes.
