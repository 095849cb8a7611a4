//! The ways in which verdicts on files are made, behind one decision core.

pub mod fanotify;
