//! The ways in which verdicts on files are made, behind one decision core.

mod agent;
pub mod fanotify;
pub mod guarantee;
pub mod machine;
pub mod unload;
