//! The way home.
