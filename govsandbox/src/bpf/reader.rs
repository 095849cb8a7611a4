//! Reads the ring buffers of one sandbox: what was refused has one of its own.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::maps::{Map, MapData, RingBuf};
use govsandbox_ebpf::abi::event::EventRecord;
use rustix::event::{PollFd, PollFlags, poll};
use zerocopy::FromBytes as _;

use crate::{id::SandboxId, sys};

/// Room for what was allowed: about 20,000 opens of ordinary paths. Both count twice in this process's memory, because
/// their pages are mapped twice in a row.
const EVENTS_BYTES: u32 = 4 << 20;
/// Room for what was refused.
const DENIALS_BYTES: u32 = 2 << 20;
/// Records taken from one buffer before the other is looked at.
const TURN_RECORDS: usize = 16_384;

/// Both ring buffers.
pub struct Rings {
    events: RingBuf<MapData>,
    denials: RingBuf<MapData>,
    sandbox_id: u32,
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
    /// Those of a slot; made if it has none yet. What an earlier sandbox left in them is skipped.
    pub(super) fn of_slot(events: &MapData, denials: &MapData, slot: u32, id: SandboxId) -> io::Result<Self> {
        Ok(Self {
            events: ring(events, slot, EVENTS_BYTES)?,
            denials: ring(denials, slot, DENIALS_BYTES)?,
            sandbox_id: id.0,
        })
    }

    fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn denials(&self) -> BorrowedFd<'_> {
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

    /// Hands over what is there, by time. `true`: there may be more.
    ///
    /// A refusal that stands in its buffer came after the exec of its process in the other one; so refusals are taken
    /// first.
    pub fn drain(&mut self, mut record: impl FnMut(&EventRecord, &[u8])) -> bool {
        let own = self.sandbox_id;
        let mut refused: VecDeque<Vec<u8>> = VecDeque::new();
        while refused.len() < TURN_RECORDS {
            let Some(item) = self.denials.next() else { break };
            refused.push_back(item.to_vec());
        }
        let more = refused.len() == TURN_RECORDS;
        let mut hand_over = |bytes: &[u8]| match EventRecord::read_from_prefix(bytes) {
            Ok((header, _)) if header.sandbox_id != own => {}
            Ok((header, _)) => record(&header, bytes),
            Err(_) => tracing::error!(bytes = bytes.len(), "a record is too short"),
        };
        let mut taken = 0;
        while taken < TURN_RECORDS {
            let Some(item) = self.events.next() else { break };
            while refused.front().is_some_and(|refused| time(refused) <= time(&item)) {
                if let Some(refused) = refused.pop_front() {
                    hand_over(&refused);
                }
            }
            hand_over(&item);
            taken += 1;
        }
        for item in &refused {
            hand_over(item);
        }
        more || taken == TURN_RECORDS
    }
}

/// `time_boot_ns`, which every record begins with.
fn time(record: &[u8]) -> u64 {
    record.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// The ring buffer in a slot of a map of maps.
fn ring(outer: &MapData, slot: u32, size_bytes: u32) -> io::Result<RingBuf<MapData>> {
    let outer = outer.fd().as_fd();
    let data = match sys::bpf::inner_id(outer, slot)? {
        Some(id) => MapData::from_id(id).map_err(io::Error::other)?,
        None => {
            let fd = sys::bpf::create_ring_buffer(size_bytes)?;
            sys::bpf::insert_inner(outer, slot, &fd)?;
            MapData::from_fd(fd).map_err(io::Error::other)?
        }
    };
    RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)
}
