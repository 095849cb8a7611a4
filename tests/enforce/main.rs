//! What a sandbox holds and what its log tells, subject by subject: needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's way to fail"
)]

#[path = "../bed/mod.rs"]
mod bed;

mod attribute;
mod change;
mod connect;
mod datagrams;
mod differential;
mod exec;
mod exec_rules;
mod filesystems;
mod flood;
mod git;
mod honest;
mod led;
mod limits;
mod links;
mod lists;
mod loopback;
mod members;
mod namespaces;
mod odd;
mod open;
mod passed;
mod place;
mod privilege;
mod replaced;
mod special;
mod spelling;
mod stale;
mod tree;
mod two;
mod unix;
