//! Fills the maps of one sandbox.
