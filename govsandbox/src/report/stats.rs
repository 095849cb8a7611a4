//! Counts over a log.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    io::{self, Write},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    egress::{self, Egress, EgressStats},
    layout::{Layout, keep_end},
    phrase,
};
use crate::{
    audit::record::Record,
    event::{
        model::{Kind, Outcome},
        text::{Text, for_terminal},
    },
};

/// Rows of each list.
pub(super) const TOP: usize = 10;
/// Different objects, programs or addresses that are told apart; a log with more counts the rest together.
pub(super) const DISTINCT_MAX: usize = 100_000;

/// Counts records as they come.
#[derive(Debug, Default)]
pub struct Counter {
    stats: Stats,
    denied: Tally<(String, String, String)>,
    programs: Tally<String>,
    addresses: Tally<(String, &'static str)>,
    egress: Egress,
    sessions: HashMap<String, usize>,
}

/// What a log comes to.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    /// Whole, readable lines.
    pub events: u64,
    /// Lines that say nothing.
    pub damaged: u64,
    /// Events that `audit.gap` records report as lost.
    pub lost: u64,
    /// Time of the earliest event.
    pub first: Option<Timestamp>,
    /// Time of the latest event.
    pub last: Option<Timestamp>,
    /// In the order of their first record.
    pub sessions: Vec<SessionStats>,
    /// Kind → outcome → count.
    pub kinds: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Most often refused, with the rule.
    pub denied: Vec<DeniedStats>,
    /// Most often executed.
    pub programs: Vec<ProgramStats>,
    /// Most often connected or sent to.
    pub addresses: Vec<AddressStats>,
    /// By host, the one that most was sent to first.
    pub hosts: Vec<EgressStats>,
    /// By program that did so, the one that sent most first.
    pub senders: Vec<EgressStats>,
}

/// One run.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct SessionStats {
    pub session: String,
    pub agent: String,
    pub user: String,
    pub first: Timestamp,
    pub last: Timestamp,
    pub events: u64,
    pub denied: u64,
    /// How it ended; absent while it runs and when its supervisor was killed.
    pub end: Option<String>,
}

/// An object that was refused.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct DeniedStats {
    pub count: u64,
    pub kind: String,
    pub object: String,
    pub rule: String,
}

/// A program that was executed.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct ProgramStats {
    pub count: u64,
    pub path: String,
}

/// An address that was connected or sent to, by outcome.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the log")]
pub struct AddressStats {
    pub count: u64,
    pub address: String,
    pub outcome: &'static str,
}

#[derive(Debug)]
struct Tally<K> {
    counts: HashMap<K, u64>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self { counts: HashMap::new() }
    }
}

impl<K: Hash + Ord + Clone> Tally<K> {
    fn add(&mut self, key: K) {
        if self.counts.len() < DISTINCT_MAX || self.counts.contains_key(&key) {
            *self.counts.entry(key).or_default() += 1;
        }
    }

    /// Most frequent first, then by name.
    fn top(self) -> Vec<(K, u64)> {
        let mut rows: Vec<_> = self.counts.into_iter().collect();
        rows.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        rows.truncate(TOP);
        rows
    }
}

impl Counter {
    /// Counts a line that could not be read.
    pub fn add_damaged(&mut self) {
        self.stats.damaged += 1;
    }

    /// Counts one record.
    pub fn add(&mut self, record: &Record) {
        let stats = &mut self.stats;
        stats.events += 1;
        stats.first = Some(stats.first.map_or(record.time, |first| first.min(record.time)));
        stats.last = Some(stats.last.map_or(record.time, |last| last.max(record.time)));
        *stats.kinds.entry(record.kind.name()).or_default().entry(record.outcome.name()).or_default() += 1;
        self.add_to_session(record);
        self.egress.add(record);
        let is_denial = matches!(record.outcome, Outcome::Denied | Outcome::WouldDeny);
        if is_denial {
            let rule = record.rule.as_ref().map_or_else(|| "-".to_owned(), |rule| rule.id.0.clone());
            self.denied.add((phrase::object(record), record.kind.name().to_owned(), rule));
        }
        match record.kind {
            Kind::ProcessExec if !is_denial => {
                self.programs.add(record.object.path.as_ref().map(Text::for_terminal).unwrap_or_default());
            }
            Kind::NetConnect | Kind::NetSend => {
                self.addresses.add((phrase::address(&record.object), record.outcome.name()));
            }
            Kind::AuditGap => {
                self.stats.lost = self.stats.lost.saturating_add(record.object.count.unwrap_or_default());
            }
            Kind::SessionStart
            | Kind::SessionEnd
            | Kind::ProcessExec
            | Kind::ProcessExit
            | Kind::FileOpen
            | Kind::FileChange
            | Kind::DnsQuery
            | Kind::NetListen
            | Kind::NetClose
            | Kind::PrivilegeUse
            | Kind::Approval => {}
        }
    }

    fn add_to_session(&mut self, record: &Record) {
        let sessions = &mut self.stats.sessions;
        let place = *self.sessions.entry(record.session.0.clone()).or_insert(sessions.len());
        if place == sessions.len() {
            sessions.push(SessionStats {
                session: record.session.0.clone(),
                agent: record.actor.agent.clone(),
                user: record.actor.user.clone(),
                first: record.time,
                last: record.time,
                events: 0,
                denied: 0,
                end: None,
            });
        }
        let Some(session) = sessions.get_mut(place) else { return };
        session.events += 1;
        session.denied += u64::from(record.outcome == Outcome::Denied);
        session.first = session.first.min(record.time);
        session.last = session.last.max(record.time);
        if record.kind == Kind::SessionEnd {
            session.end = phrase::ending(&record.object);
        }
    }

    /// The result.
    #[must_use]
    pub fn finish(self) -> Stats {
        let denied = |((object, kind, rule), count)| DeniedStats { count, kind, object, rule };
        let (hosts, senders) = self.egress.finish();
        Stats {
            hosts,
            senders,
            denied: self.denied.top().into_iter().map(denied).collect(),
            programs: self
                .programs
                .top()
                .into_iter()
                .map(|(path, count)| ProgramStats { count, path })
                .collect(),
            addresses: self
                .addresses
                .top()
                .into_iter()
                .map(|((address, outcome), count)| AddressStats { count, address, outcome })
                .collect(),
            ..self.stats
        }
    }
}

/// Writes the counts as text.
///
/// # Errors
/// Those of `out`.
pub fn write_stats(out: &mut dyn Write, stats: &Stats, layout: &Layout) -> io::Result<()> {
    write_summary(out, stats, layout)?;
    let mut section = |title: &str, rows: Vec<String>| -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{}", layout.heading(title))?;
        rows.into_iter().try_for_each(|row| writeln!(out, "{}", layout.fit(row)))
    };
    section("events", kind_rows(stats))?;
    section("refused most often", stats.denied.iter().map(|row| denied_row(row, layout)).collect())?;
    section(
        "programs",
        stats.programs.iter().map(|row| format!("{:>8}  {}", row.count, row.path)).collect(),
    )?;
    let address = |row: &AddressStats| format!("{:>8}  {:<10}  {}", row.count, row.outcome, row.address);
    section("addresses", stats.addresses.iter().map(address).collect())?;
    section("egress by host", egress::rows(&stats.hosts, layout))?;
    section("egress by program", egress::rows(&stats.senders, layout))?;
    section(
        "sessions",
        stats.sessions.iter().rev().take(TOP).flat_map(|row| session_rows(row, layout)).collect(),
    )
}

fn write_summary(out: &mut dyn Write, stats: &Stats, layout: &Layout) -> io::Result<()> {
    let sessions = stats.sessions.len();
    writeln!(out, "{} events in {sessions} session{}", stats.events, if sessions == 1 { "" } else { "s" })?;
    if let (Some(first), Some(last)) = (stats.first, stats.last) {
        writeln!(out, "{} to {}", layout.date(first), layout.date(last))?;
    }
    if stats.lost > 0 {
        let line = format!("{} events lost: see `audit show all --kind audit.gap`", stats.lost);
        writeln!(out, "{}", layout.paint(Outcome::Denied, &layout.fit(line)))?;
    }
    if stats.damaged > 0 {
        let line = format!("{} lines are damaged", stats.damaged);
        writeln!(out, "{}", layout.paint(Outcome::Denied, &layout.fit(line)))?;
    }
    Ok(())
}

fn kind_rows(stats: &Stats) -> Vec<String> {
    let outcomes = Outcome::ALL.map(Outcome::name);
    let heading = outcomes.iter().fold(format!("  {:<14}", ""), |row, name| row + &format!("{name:>11}"));
    let row = |(kind, counts): (&&str, &BTreeMap<&str, u64>)| {
        outcomes.iter().fold(format!("  {kind:<14}"), |row, name| match counts.get(name) {
            Some(count) => row + &format!("{count:>11}"),
            None => row + &format!("{:>11}", "·"),
        })
    };
    let rows: Vec<String> = stats.kinds.iter().map(row).collect();
    if rows.is_empty() { rows } else { [heading].into_iter().chain(rows).collect() }
}

fn denied_row(row: &DeniedStats, layout: &Layout) -> String {
    let rule = for_terminal(&row.rule);
    let fixed = 8 + 2 + 13 + 2 + 2 + rule.len();
    let object = match layout.columns {
        Some(columns) => keep_end(&row.object, columns.saturating_sub(fixed).max(16)),
        None => row.object.clone(),
    };
    format!("{:>8}  {:<13}  {object}  {rule}", row.count, row.kind)
}

/// Two lines each: what the id and the counts need is more than a narrow terminal has.
fn session_rows(row: &SessionStats, layout: &Layout) -> [String; 2] {
    let (session, agent, user) =
        (for_terminal(&row.session), for_terminal(&row.agent), for_terminal(&row.user));
    let end = row.end.as_deref().unwrap_or("no end recorded");
    [
        format!("  {session}  {}", layout.date(row.first)),
        format!("    {agent} as {user}: {} events, {} denied, {end}", row.events, row.denied),
    ]
}
