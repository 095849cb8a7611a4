//! Between the threads that see events and the one that writes them: bounded, and adding to it never waits.

use std::collections::VecDeque;

use super::gap::Losses;
use crate::event::model::{Event, Kind};

/// Memory of waiting events that are no denials, in bytes: about 70,000 events. It is used only while the disk stalls.
const EVENT_BYTES_MAX: usize = 64 << 20;
/// Room that only denials and events about the session and the log itself may use, in bytes.
const DENIAL_BYTES_MAX: usize = 16 << 20;

/// Events that room is kept for between two turns, about 1 MiB.
const LIKELY_EVENTS_MAX: usize = 2048;

/// Events in their order of arrival. What is taken out still counts until it is [`Queue::release`]d.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Event>,
    event_bytes: usize,
    denial_bytes: usize,
    limits: Limits,
    pub(super) losses: Losses,
}

/// Bytes of memory that waiting events may hold; by default 64 MiB and 16 MiB.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of events that are no denials.
    pub event_bytes_max: usize,
    /// Of denials and of events about the session and the log itself.
    pub denial_bytes_max: usize,
}

/// Room that events take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weight {
    event_bytes: usize,
    denial_bytes: usize,
}

impl Weight {
    pub(super) fn of<'e>(events: impl IntoIterator<Item = &'e Event>) -> Self {
        let mut weight = Self::default();
        for event in events {
            let bytes = if has_own_room(event) { &mut weight.denial_bytes } else { &mut weight.event_bytes };
            *bytes += event.size_bytes();
        }
        weight
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { event_bytes_max: EVENT_BYTES_MAX, denial_bytes_max: DENIAL_BYTES_MAX }
    }
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self { waiting: VecDeque::new(), event_bytes: 0, denial_bytes: 0, limits, losses: Losses::default() }
    }

    /// Adds the event, or counts it as lost when its room is full.
    pub(super) fn push(&mut self, event: Event) {
        let bytes = event.size_bytes();
        let (used, bytes_max) = self.room(&event);
        if *used + bytes > bytes_max {
            self.losses.add(&event);
            return;
        }
        *used += bytes;
        self.waiting.push_back(event);
    }

    /// Would it be kept?
    pub(super) fn has_room(&mut self, event: &Event) -> bool {
        let (used, bytes_max) = self.room(event);
        *used + event.size_bytes() <= bytes_max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Neither events nor losses wait.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.losses.is_empty()
    }

    pub(super) fn take(&mut self) -> VecDeque<Event> {
        // As many are likely to come next; a burst must not stay in memory.
        let likely = self.waiting.len().min(LIKELY_EVENTS_MAX);
        std::mem::replace(&mut self.waiting, VecDeque::with_capacity(likely))
    }

    /// Gives back the room of events that are done with.
    pub(super) fn release(&mut self, weight: Weight) {
        self.event_bytes = self.event_bytes.saturating_sub(weight.event_bytes);
        self.denial_bytes = self.denial_bytes.saturating_sub(weight.denial_bytes);
    }

    fn room(&mut self, event: &Event) -> (&mut usize, usize) {
        if has_own_room(event) {
            (&mut self.denial_bytes, self.limits.denial_bytes_max)
        } else if matches!(event.kind, Kind::ProcessExec | Kind::ProcessExit) {
            // What others do is told of in vain where nobody knows who they are.
            (&mut self.event_bytes, self.limits.event_bytes_max / 4 * 5)
        } else {
            (&mut self.event_bytes, self.limits.event_bytes_max)
        }
    }
}

/// Denials, and what the sandboxed processes can't make many of.
fn has_own_room(event: &Event) -> bool {
    event.is_denial()
        || match event.kind {
            Kind::SessionStart | Kind::SessionEnd | Kind::Approval | Kind::AuditGap => true,
            Kind::ProcessExec
            | Kind::ProcessExit
            | Kind::FileOpen
            | Kind::FileChange
            | Kind::NetConnect
            | Kind::NetSend
            | Kind::DnsQuery
            | Kind::NetListen
            | Kind::NetClose
            | Kind::PrivilegeUse => false,
        }
}
