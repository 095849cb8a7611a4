//! All that is known of one event, a block of lines each, and the heading of a session.

use std::io::{self, Write};

use super::{layout::Layout, phrase};
use crate::{
    audit::record::Record,
    event::text::{Text, for_terminal},
};

/// Writes whose session the events that follow are, its policy and its tags.
///
/// # Errors
/// Those of `out`.
pub fn write_session(out: &mut dyn Write, record: &Record, layout: &Layout) -> io::Result<()> {
    let heading = format!(
        "session {}: {} as {} on {}, from {}",
        for_terminal(&record.session.0),
        for_terminal(&record.actor.agent),
        for_terminal(&record.actor.user),
        for_terminal(&record.host),
        layout.date(record.time),
    );
    writeln!(out, "{}", layout.heading(&layout.fit(heading)))?;
    let tags: String = record.tags.iter().map(|(key, value)| format!("  {key}={value}")).collect();
    writeln!(out, "{}", layout.fit(format!("{}{}", for_terminal(&record.policy), for_terminal(&tags))))
}

/// Writes everything that the record says of the event itself; nothing is cut.
///
/// # Errors
/// Those of `out`.
pub fn write_details(out: &mut dyn Write, record: &Record, layout: &Layout) -> io::Result<()> {
    let errno = record.errno.as_deref().map(|errno| format!(" {}", for_terminal(errno))).unwrap_or_default();
    let kind = record.kind.name();
    writeln!(
        out,
        "{}  {}  {kind} {}  {}{errno}",
        layout.heading(&format!("#{}", record.seq)),
        layout.date(record.time),
        record.action.name(),
        layout.paint(record.outcome, record.outcome.name()),
    )?;
    for (name, value) in fields(record) {
        writeln!(out, "    {name:<9} {value}")?;
    }
    writeln!(out)
}

fn fields(record: &Record) -> Vec<(&'static str, String)> {
    let text = |text: &Option<Text>| text.as_ref().map(Text::for_terminal);
    let string = |text: &Option<String>| text.as_ref().map(|text| for_terminal(text).into_owned());
    let rule = record.rule.as_ref();
    let process = record.process.as_ref();
    let object = &record.object;
    let times = object.from.as_ref().zip(object.to.as_ref()).map(|(from, to)| format!("{from} to {to}"));
    let inode = object.dev.as_ref().zip(object.ino).map(|(dev, ino)| format!("{dev}, inode {ino}"));
    let escaped = (!record.escaped.is_empty()).then(|| record.escaped.join(", "));
    let counts = object
        .counts
        .iter()
        .flatten()
        .map(|(name, count)| ("count", format!("{count:>7} {}", for_terminal(name))));
    let review = object.review.iter().flatten().map(|path| ("look at", path.for_terminal()));
    let not_held = object.not_held.iter().flatten().map(|what| ("not held", for_terminal(what).into_owned()));
    [
        ("object", Some(phrase::object(record)).filter(|object| !object.is_empty())),
        ("rule", rule.map(|rule| format!("{} ({})", for_terminal(&rule.id.0), layer_name(rule)))),
        ("flags", string(&object.flags)),
        ("device", inode),
        ("lost", times),
        (
            "process",
            process.map(|process| {
                format!(
                    "{} (thread {}, parent {}, uid {})",
                    process.pid, process.tid, process.ppid, process.uid
                )
            }),
        ),
        ("program", process.and_then(|process| text(&process.exe))),
        ("arguments", process.and_then(|process| process.argv.as_deref()).map(phrase::command_line)),
        ("directory", process.and_then(|process| text(&process.cwd))),
        ("escaped", escaped.map(|escaped| for_terminal(&escaped).into_owned())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .chain(review)
    .chain(not_held)
    .chain(counts)
    .collect()
}

fn layer_name(rule: &crate::event::model::Rule) -> String {
    format!("{:?}", rule.layer).to_lowercase()
}
