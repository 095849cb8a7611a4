//! Records → text for people.

pub mod details;
pub mod doctor;
pub mod egress;
pub mod json;
pub mod layout;
pub mod line;
pub mod phrase;
pub mod select;
pub mod stats;
