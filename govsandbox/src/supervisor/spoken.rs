//! Whom connections through the relay said they talk to, until they end.

use std::collections::BTreeMap;

/// More connections than the relay holds at once: the end of one may have been lost.
const CONNECTIONS_MAX: usize = 16_384;

/// A connection: when it was asked for, ns since boot, and by which process.
pub(super) type Connection = (u64, u32);

/// The names, by connection.
#[derive(Debug, Default)]
pub(super) struct Spoken(BTreeMap<Connection, String>);

impl Spoken {
    /// A name that was compared and allowed.
    pub(super) fn add(&mut self, connection: Connection, name: String) {
        if self.0.len() >= CONNECTIONS_MAX {
            self.0.pop_first();
        }
        self.0.insert(connection, name);
    }

    /// The connection has ended.
    pub(super) fn take(&mut self, connection: Connection) -> Option<String> {
        self.0.remove(&connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way() {
        let mut spoken = Spoken::default();
        for time_ns in 0..=CONNECTIONS_MAX as u64 {
            spoken.add((time_ns, 7), time_ns.to_string());
        }
        assert_eq!(spoken.take((0, 7)), None);
        assert_eq!(spoken.take((1, 8)), None);
        assert_eq!(spoken.take((1, 7)).as_deref(), Some("1"));
        assert_eq!(spoken.take((1, 7)), None);
    }
}
