//! The kinds of rules: for each, the form in the file becomes the checked form.

pub mod egress;
pub mod exec;
pub mod glob;
pub mod path;
pub mod proxy;
pub mod unix;
