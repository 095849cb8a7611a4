//! The egress service as a process, in a network of the test's own: real servers of DNS, TLS and HTTP behind it, and a
//! supervisor that stands in for the sandbox's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../agent/claude.rs"]
mod claude;

mod agent;
mod asked;
mod broker;
mod clients;
mod dns;
mod hostile;
mod hosts;
mod many;
mod process;
mod proxy;
mod relay;
mod run;
mod servers;
mod stage;
