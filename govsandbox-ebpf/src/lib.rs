//! What the kernel programs and the host share: the records and map values that cross the boundary
//! ([`abi`]) and the code that decides whether something is allowed ([`decide`]).
//!
//! The same functions run in the kernel, in `policy explain` and in tests. Nothing here allocates, and
//! nothing here knows of BPF maps.
#![no_std]
#![cfg_attr(not(feature = "host"), deny(unsafe_code))]

pub mod abi;
pub mod decide;
