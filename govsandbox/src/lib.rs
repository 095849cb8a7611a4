//! govsandbox runs a coding agent inside limits that the kernel enforces, and records what it did.
//!
//! Data flows one way: [`cli`] → [`policy`] → [`supervisor`] → [`launch`], [`backend`], [`bpf`] → [`event`] →
//! [`audit`] → [`report`].

pub mod approval;
pub mod audit;
pub mod backend;
pub mod bpf;
pub mod cli;
pub mod diagnostic;
pub mod egress;
pub mod event;
pub mod fault;
pub mod id;
pub mod launch;
pub mod policy;
pub mod report;
pub mod supervisor;
pub mod sys;
