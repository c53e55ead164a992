//! Farshore.
fn main() {}
