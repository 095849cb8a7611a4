//! The record: what is in the log after load, crashes, full disks and odd input, and what people see of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod bed;
mod chain;
mod disk;
mod recorder;
mod report;
mod sample;
mod writers;
