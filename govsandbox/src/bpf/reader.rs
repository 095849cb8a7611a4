//! Reads the ring buffers of one sandbox: what was refused has one of its own.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::maps::{Map, MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, poll};

use crate::sys;

/// Room for what was allowed: about 100,000 opens of ordinary paths.
const EVENTS_BYTES: u32 = 16 << 20;
/// Room for what was refused.
const DENIALS_BYTES: u32 = 4 << 20;
/// Records taken from one buffer before the other is looked at.
const TURN_RECORDS: usize = 16_384;

/// Both ring buffers.
pub struct Rings {
    events: RingBuf<MapData>,
    denials: RingBuf<MapData>,
}

/// Why [`Rings::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There may be records.
    Records,
    /// The other descriptor is readable.
    Other,
    /// Nothing in that time.
    Timeout,
}

impl Rings {
    pub(super) fn create() -> io::Result<Self> {
        Ok(Self { events: ring(EVENTS_BYTES)?, denials: ring(DENIALS_BYTES)? })
    }

    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    pub(super) fn denials(&self) -> BorrowedFd<'_> {
        self.denials.as_fd()
    }

    /// Waits for records, or for `other`.
    ///
    /// # Errors
    /// What poll(2) answers.
    pub fn wait(&self, other: BorrowedFd<'_>, timeout_ms: u32) -> io::Result<Woken> {
        let (events, denials) = (self.events(), self.denials());
        let mut watched = [
            PollFd::from_borrowed_fd(events, PollFlags::IN),
            PollFd::from_borrowed_fd(denials, PollFlags::IN),
            PollFd::from_borrowed_fd(other, PollFlags::IN),
        ];
        let timeout = rustix::time::Timespec {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
        };
        match poll(&mut watched, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |place: usize| watched.get(place).is_some_and(|fd| !fd.revents().is_empty());
        Ok(match (ready(0) || ready(1), ready(2)) {
            (true, _) => Woken::Records,
            (false, true) => Woken::Other,
            (false, false) => Woken::Timeout,
        })
    }

    /// Hands over what is there: refusals after what went before them. `true`: there may be more.
    ///
    /// A refusal that stands in its buffer came after the exec of the process in the other one; so refusals are taken
    /// first and handed over last.
    pub fn drain(&mut self, mut record: impl FnMut(&[u8])) -> bool {
        let refused: Vec<Vec<u8>> = take(&mut self.denials).collect();
        let mut taken = 0;
        while taken < TURN_RECORDS {
            let Some(item) = self.events.next() else { break };
            record(&item);
            taken += 1;
        }
        for item in &refused {
            record(item);
        }
        taken == TURN_RECORDS || refused.len() == TURN_RECORDS
    }
}

fn take(ring: &mut RingBuf<MapData>) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(|| ring.next().map(|item| item.to_vec())).take(TURN_RECORDS)
}

fn ring(size_bytes: u32) -> io::Result<RingBuf<MapData>> {
    let fd: OwnedFd = sys::bpf::create_ring_buffer(size_bytes)?;
    let data = MapData::from_fd(fd).map_err(io::Error::other)?;
    RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)
}
