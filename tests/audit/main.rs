//! The record: what is in the log after load, crashes, full disks and odd input.

mod bed;
mod chain;
