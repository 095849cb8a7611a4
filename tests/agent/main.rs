//! A real agent: the pinned Claude Code, told by a scripted model what to do, under the shipped `claude` profile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

#[path = "../bed/mod.rs"]
mod bed;

mod claude;
mod script;
