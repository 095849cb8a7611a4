//! Which types aya may copy to and from maps as bytes.
#![expect(
    unsafe_code,
    reason = "`aya::Pod` is an unsafe trait; this file is the only place that implements it"
)]

use super::egress::{AliasKey, EgressKey, EgressService, Original, PortTable, Server};
use super::exec::ExecHits;
use super::ground::Ground;
use super::rule::{Hits, Loss, LossKey, SandboxConfig, SyscallSpec, TagKey, TagRule, TaskMark};

// SAFETY: `repr(C)` of integers without implicit padding (sizes asserted beside each type), valid for every bit pattern.
unsafe impl aya::Pod for EgressKey {}
// SAFETY: as above.
unsafe impl aya::Pod for AliasKey {}
// SAFETY: as above.
unsafe impl aya::Pod for EgressService {}
// SAFETY: as above.
unsafe impl aya::Pod for Original {}
// SAFETY: as above.
unsafe impl aya::Pod for Server {}
// SAFETY: as above.
unsafe impl aya::Pod for Ground {}
// SAFETY: as above.
unsafe impl aya::Pod for Hits {}
// SAFETY: as above.
unsafe impl aya::Pod for PortTable {}
// SAFETY: as above.
unsafe impl aya::Pod for SandboxConfig {}
// SAFETY: as above.
unsafe impl aya::Pod for TagKey {}
// SAFETY: as above.
unsafe impl aya::Pod for TaskMark {}
// SAFETY: as above.
unsafe impl aya::Pod for Loss {}
// SAFETY: as above.
unsafe impl aya::Pod for LossKey {}
// SAFETY: as above.
unsafe impl aya::Pod for SyscallSpec {}
// SAFETY: as above.
unsafe impl aya::Pod for TagRule {}
// SAFETY: as above.
unsafe impl aya::Pod for ExecHits {}
