//! From policy files to what the layers enforce.

pub mod compile;
