//! Types that cross the boundary between kernel and host: `repr(C)`, fixed-width integers, no implicit
//! padding, sizes asserted.

pub mod egress;
pub mod event;
pub mod exec;
pub mod ground;
#[cfg(feature = "host")]
mod pod;
pub mod privilege;
pub mod rule;
pub mod unix;

/// Goes up on any change of layout or meaning of what stands in this folder; the host refuses an object or a
/// pinned map of another value. Names the folder under bpffs.
pub const ABI_VERSION: u32 = 1;

/// Bytes of the longest path that the kernel hands to user space (`PATH_MAX`, include/uapi/linux/limits.h).
pub const PATH_BYTES_MAX: usize = 4096;
