//! Events that did not get into the log, counted.

use std::collections::BTreeMap;

use crate::event::model::{Event, Kind};

/// What was lost, by kind, denials apart.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<(Kind, bool), Loss>);

#[derive(Clone, Copy, Debug)]
struct Loss {
    count: u64,
    first: jiff::Timestamp,
    last: jiff::Timestamp,
}

impl Losses {
    /// Counts one event.
    pub(super) fn add(&mut self, event: &Event) {
        let loss = Loss { count: 1, first: event.time, last: event.time };
        self.join((event.kind, event.is_denial()), loss);
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (key, loss) in other.0 {
            self.join(key, loss);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the first of them, in the order of [`Self::events`].
    pub(super) fn forget_first(&mut self, count: usize) {
        for _ in 0..count {
            self.0.pop_first();
        }
    }

    /// One `audit.gap` for each kind.
    pub(super) fn events(&self, errno: Option<i32>, now: jiff::Timestamp) -> Vec<Event> {
        let event = |(&(kind, denials), loss): (&(Kind, bool), &Loss)| {
            let what = if denials { "denials that were not written" } else { "events that were not written" };
            Event::gap(now, kind.name(), loss.count, (loss.first, loss.last), what).with_errno(errno)
        };
        self.0.iter().map(event).collect()
    }

    fn join(&mut self, key: (Kind, bool), loss: Loss) {
        let sum = self.0.entry(key).or_insert(Loss { count: 0, ..loss });
        sum.count = sum.count.saturating_add(loss.count);
        sum.first = sum.first.min(loss.first);
        sum.last = sum.last.max(loss.last);
    }
}
