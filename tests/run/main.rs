//! `govsandbox run` as its caller meets it: statuses, streams, signals, the terminal, and every refusal to start.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

#[path = "../bed/mod.rs"]
mod bed;

mod descriptors;
mod disk;
mod fault;
mod killed;
mod machine;
mod misfortune;
mod performer;
mod refused;
mod signals;
mod status;
mod streams;
mod terminal;
mod unload;
mod work;
