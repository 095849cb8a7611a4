//! The agent, to come.
fn main() {}
