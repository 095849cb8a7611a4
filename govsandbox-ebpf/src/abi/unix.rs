//! Unix sockets of others that a sandbox may reach, as a table.

use super::exec::ExecAutomaton;

/// Bytes of the longest name of a socket (`sun_path`, unix(7)).
pub const NAME_BYTES_MAX: usize = 108;

/// `network.unix` of one sandbox.
#[repr(C)]
#[derive(Clone, Debug)]
#[cfg_attr(
    feature = "host",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct UnixTable {
    /// Over the path that a socket is bound to, or a NUL and its abstract name. [`super::exec::ExecHits::allow`]: the
    /// lists that have it; [`super::exec::ExecHits::deny`]: the best of the rules that do, none of which denies.
    pub sockets: ExecAutomaton,
    /// Lists that there are: a socket needs all of them.
    pub required: u16,
    pub _pad: [u16; 3],
}
const _: () = assert!(size_of::<UnixTable>().is_multiple_of(8));
