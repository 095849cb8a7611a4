//! Who was talked to, how much, and by which programs.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    layout::{Layout, keep_end},
    stats::{DISTINCT_MAX, TOP},
};
use crate::{
    audit::record::Record,
    event::{
        model::{Kind, Outcome},
        text::{Text, for_terminal},
    },
};

/// Stands for all that found no place of their own.
const OTHERS: &str = "(others)";
/// The columns before whom it is about.
const FIXED: usize = 38;
/// It stands beside them where there is so much room.
const NAME_COLUMNS_MIN: usize = 16;

/// What went to one host, or out of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EgressStats {
    /// A host by its name where it is known, else by its address; or the file of a program.
    pub name: String,
    /// Connections, and datagrams without one, that were not refused.
    pub connections: u64,
    /// Lookups, connections and datagrams that a rule refused, or would have.
    pub refused: u64,
    /// Bytes out, of connections that have ended.
    pub bytes_sent: u64,
    /// Bytes in, of connections that have ended.
    pub bytes_received: u64,
}

/// Counts by host and by program.
#[derive(Debug, Default)]
pub(super) struct Egress {
    hosts: Sums,
    programs: Sums,
}

#[derive(Debug, Default)]
struct Sums(HashMap<String, EgressStats>);

impl Egress {
    pub(super) fn add(&mut self, record: &Record) {
        let is_refused = matches!(record.outcome, Outcome::Denied | Outcome::WouldDeny);
        let goes_through = matches!(record.outcome, Outcome::Allowed | Outcome::WouldDeny);
        let object = &record.object;
        let (is_connection, host) = match record.kind {
            // What was looked up, not the server that was asked.
            Kind::DnsQuery if is_refused => (false, object.name.as_deref()),
            Kind::NetConnect | Kind::NetSend => {
                let named = object.server_name.as_deref().or(object.name.as_deref());
                (goes_through, named.or(object.address.as_deref()))
            }
            Kind::NetClose => {
                let known = object.name.as_deref().or(object.address.as_deref());
                if let (Some(known), Some(said)) = (known, object.server_name.as_deref()) {
                    self.hosts.move_connection(&for_terminal(known), &for_terminal(said));
                }
                (false, object.server_name.as_deref().or(known))
            }
            Kind::DnsQuery
            | Kind::SessionStart
            | Kind::SessionEnd
            | Kind::ProcessExec
            | Kind::ProcessExit
            | Kind::FileOpen
            | Kind::FileChange
            | Kind::NetListen
            | Kind::PrivilegeUse
            | Kind::Approval
            | Kind::AuditGap => return,
        };
        // A unix socket has none: what is said there does not leave this machine.
        let Some(host) = host.map(for_terminal) else { return };
        let exe = record.process.as_ref().and_then(|process| process.exe.as_ref());
        let program = exe.map_or_else(|| "?".to_owned(), Text::for_terminal);
        for sums in [self.hosts.of(&host), self.programs.of(&program)] {
            sums.connections += u64::from(is_connection);
            sums.refused += u64::from(is_refused);
            sums.bytes_sent = sums.bytes_sent.saturating_add(object.bytes_sent.unwrap_or_default());
            sums.bytes_received =
                sums.bytes_received.saturating_add(object.bytes_received.unwrap_or_default());
        }
    }

    /// Hosts and programs, those that most was sent to first.
    pub(super) fn finish(self) -> (Vec<EgressStats>, Vec<EgressStats>) {
        (self.hosts.top(), self.programs.top())
    }
}

impl Sums {
    fn of(&mut self, name: &str) -> &mut EgressStats {
        let name = if self.0.len() < DISTINCT_MAX || self.0.contains_key(name) { name } else { OTHERS };
        self.0
            .entry(name.to_owned())
            .or_insert_with(|| EgressStats { name: name.to_owned(), ..EgressStats::default() })
    }

    /// Whom a connection was for is known at its end, where its address has several names.
    fn move_connection(&mut self, from: &str, to: &str) {
        let counted = self.0.get_mut(from).filter(|sums| from != to && sums.connections > 0);
        if let Some(sums) = counted {
            sums.connections -= 1;
            if (EgressStats { name: String::new(), ..sums.clone() }) == EgressStats::default() {
                self.0.remove(from);
            }
            self.of(to).connections += 1;
        }
    }

    fn top(self) -> Vec<EgressStats> {
        let mut rows: Vec<_> = self.0.into_values().collect();
        let weight = |row: &EgressStats| (row.bytes_sent, row.bytes_received, row.connections, row.refused);
        rows.sort_by(|a, b| weight(b).cmp(&weight(a)).then_with(|| a.name.cmp(&b.name)));
        rows.truncate(TOP);
        rows
    }
}

/// The rows under their heading; none where there is nothing. On a narrow terminal the name has a line of its own.
pub(super) fn rows(stats: &[EgressStats], layout: &Layout) -> Vec<String> {
    let row = |row: &EgressStats| {
        let (sent, received) = (bytes(row.bytes_sent), bytes(row.bytes_received));
        let counts = format!("{sent:>10}{received:>10}{:>8}{:>8}", row.connections, row.refused);
        // Of a host as of a path the end says more.
        match layout.columns {
            None => vec![format!("{counts}  {}", row.name)],
            Some(columns) if columns < FIXED + NAME_COLUMNS_MIN => {
                vec![counts, format!("  {}", keep_end(&row.name, columns.saturating_sub(2)))]
            }
            Some(columns) => vec![format!("{counts}  {}", keep_end(&row.name, columns - FIXED))],
        }
    };
    let heading = format!("{:>10}{:>10}{:>8}{:>8}", "sent", "received", "opened", "refused");
    if stats.is_empty() {
        Vec::new()
    } else {
        [heading].into_iter().chain(stats.iter().flat_map(row)).collect()
    }
}

/// `715 B`, `1.9 KiB`, `1023 MiB`: at most eight columns.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let place = (count.ilog2() / 10).saturating_sub(1);
    let unit = UNITS.get(place as usize).copied().unwrap_or_default();
    let tenths = (u128::from(count) * 10) >> (10 * (place + 1));
    if tenths < 100 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", tenths / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_digits_at_least_and_eight_columns_at_most() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1955, "1.9 KiB"),
            (10 * 1024 - 1, "9.9 KiB"),
            (10 * 1024, "10 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "15 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
            assert!(text.len() <= 8);
        }
    }

    #[test]
    fn what_finds_no_place_is_counted_with_the_others() {
        let mut sums = Sums::default();
        for number in 0..DISTINCT_MAX + 5 {
            sums.of(&number.to_string()).bytes_sent += 1;
        }
        sums.of("0").bytes_sent += 10;
        let rows = sums.top();
        assert_eq!((rows[0].name.as_str(), rows[0].bytes_sent), ("0", 11));
        assert_eq!((rows[1].name.as_str(), rows[1].bytes_sent), (OTHERS, 5));
    }
}
