//! Records → text for people.

pub mod details;
pub mod layout;
pub mod line;
pub mod phrase;
pub mod stats;
