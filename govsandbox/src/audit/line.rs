//! An event as a line of the log.

use std::{borrow::Cow, collections::BTreeMap, io};

use serde::{Serialize, Serializer};

use super::{
    chain::ChainHash,
    record::{Actor, SCHEMA},
};
use crate::{
    event::{
        errno,
        model::{Action, Event, Kind, Object, Outcome, Process, Rule, SessionFields},
        text::{Text, misleads},
    },
    id::SessionId,
};

/// Bytes of one line at most, so that a reader needs no more memory than this. An event that would be longer loses the
/// ends of its texts: only a command line of the user (`session.start`) comes near it.
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one list of arguments in an event that had to be cut.
const CUT_ARGUMENTS_BYTES: usize = 16 << 10;
/// Bytes of one path or string in an event that had to be cut.
const CUT_TEXT_BYTES: usize = 4096;

/// What the lines of one session have in common, ready to be written.
#[derive(Debug)]
pub(super) struct LineContext<'a> {
    session: &'a SessionFields,
    actor: Actor,
}

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    seq: u64,
    #[serde(serialize_with = "nanoseconds")]
    time: jiff::Timestamp,
    session: &'a SessionId,
    trace_id: &'a str,
    span_id: &'a str,
    kind: Kind,
    action: Action,
    outcome: Outcome,
    errno: Option<Cow<'static, str>>,
    rule: Option<&'a Rule>,
    policy: &'a str,
    actor: &'a Actor,
    process: Option<&'a Process>,
    object: &'a Object,
    tags: &'a BTreeMap<String, String>,
    host: &'a str,
    sandbox_id: u32,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    escaped: &'a [&'static str],
    prev: ChainHash,
}

impl<'a> LineContext<'a> {
    pub(super) fn new(session: &'a SessionFields) -> Self {
        let actor = Actor { user: session.user.clone(), uid: session.uid, agent: session.agent.clone() };
        Self { session, actor }
    }

    /// Appends the line to `out`, newline included, and returns its hash.
    ///
    /// # Errors
    /// None that is known of: all keys are strings and `out` is memory. On one, `out` is as it was.
    pub(super) fn encode(
        &self,
        out: &mut Vec<u8>,
        seq: u64,
        prev: ChainHash,
        event: &Event,
    ) -> Result<ChainHash, serde_json::Error> {
        let start = out.len();
        self.encode_body(out, seq, prev, event).inspect_err(|_| out.truncate(start))?;
        if out.len() - start > LINE_BYTES_MAX {
            out.truncate(start);
            self.encode_body(out, seq, prev, &cut(event)).inspect_err(|_| out.truncate(start))?;
        }
        let hash = ChainHash::of(out.get(start..).unwrap_or_default());
        out.extend_from_slice(b",\"hash\":\"");
        out.extend_from_slice(&hash.hex());
        out.extend_from_slice(b"\"}\n");
        Ok(hash)
    }

    /// The line up to `,"hash":`.
    fn encode_body(
        &self,
        out: &mut Vec<u8>,
        seq: u64,
        prev: ChainHash,
        event: &Event,
    ) -> Result<(), serde_json::Error> {
        let span = span_id(&self.session.trace_id, event.process.as_ref()).hex();
        let line = Line {
            schema: SCHEMA,
            seq,
            time: event.time,
            session: &self.session.session,
            trace_id: &self.session.trace_id,
            span_id: span.get(..16).and_then(|hex| std::str::from_utf8(hex).ok()).unwrap_or_default(),
            kind: event.kind,
            action: event.action,
            outcome: event.outcome,
            errno: event.errno.map(errno::name),
            rule: event.rule.as_ref(),
            policy: &self.session.policy,
            actor: &self.actor,
            process: event.process.as_ref(),
            object: &event.object,
            tags: &self.session.tags,
            host: &self.session.host,
            sandbox_id: self.session.sandbox_id,
            escaped: &escaped_fields(event),
            prev,
        };
        line.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, TerminalSafe))?;
        out.pop(); // the brace: `hash` comes last
        Ok(())
    }
}

/// The span of a process is a function of the trace and of the process, so that every event of a process has the same
/// and exporters need no state. Events about the session have that of process 0.
fn span_id(trace_id: &str, process: Option<&Process>) -> ChainHash {
    let (pid, start_ns) = process.map_or((0, 0), |process| (process.pid, process.start_ns));
    let mut name = [0; 44];
    let parts = trace_id.bytes().take(32).chain(pid.to_be_bytes()).chain(start_ns.to_be_bytes());
    name.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    ChainHash::of(&name)
}

fn nanoseconds<S: Serializer>(time: &jiff::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    const PRINTER: jiff::fmt::temporal::DateTimePrinter =
        jiff::fmt::temporal::DateTimePrinter::new().precision(Some(9));
    let mut text = String::with_capacity(32);
    PRINTER.print_timestamp(time, &mut text).map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&text)
}

fn escaped_fields(event: &Event) -> Vec<&'static str> {
    let one = |text: &Option<Text>| text.as_ref().is_some_and(Text::needs_escape);
    let any = |list: &Option<Vec<Text>>| list.iter().flatten().any(Text::needs_escape);
    let process = event.process.as_ref();
    [
        ("process.exe", process.is_some_and(|process| one(&process.exe))),
        ("process.argv", process.is_some_and(|process| any(&process.argv))),
        ("process.cwd", process.is_some_and(|process| one(&process.cwd))),
        ("object.path", one(&event.object.path)),
        ("object.target", one(&event.object.target)),
        ("object.command", any(&event.object.command)),
    ]
    .into_iter()
    .filter_map(|(field, escaped)| escaped.then_some(field))
    .collect()
}

fn cut(event: &Event) -> Event {
    let mut event = event.clone();
    if let Some(process) = &mut event.process {
        process.argv_truncated |= process.argv.as_mut().is_some_and(cut_arguments);
        cut_text(&mut process.exe);
        cut_text(&mut process.cwd);
    }
    let object = &mut event.object;
    object.path_truncated |= cut_text(&mut object.path);
    object.path_truncated |= cut_text(&mut object.target);
    let command_was_cut = object.command.as_mut().is_some_and(cut_arguments);
    for text in
        [&mut object.detail, &mut object.name, &mut object.flags, &mut object.address].into_iter().flatten()
    {
        text.truncate(text.floor_char_boundary(CUT_TEXT_BYTES));
    }
    if command_was_cut {
        let detail = object.detail.get_or_insert_default();
        detail.push_str(if detail.is_empty() { "" } else { "; " });
        detail.push_str("the command line was too long for one record, its end is missing");
    }
    event
}

/// Keeps the end, as the kernel program does.
fn cut_text(text: &mut Option<Text>) -> bool {
    let Some(Text(bytes)) = text else { return false };
    let excess = bytes.len().saturating_sub(CUT_TEXT_BYTES);
    bytes.drain(..excess);
    excess > 0
}

fn cut_arguments(arguments: &mut Vec<Text>) -> bool {
    let mut room = CUT_ARGUMENTS_BYTES;
    for (place, Text(bytes)) in arguments.iter_mut().enumerate() {
        if bytes.len() >= room {
            bytes.truncate(room);
            arguments.truncate(place + 1);
            return true;
        }
        room -= bytes.len() + 1; // every argument costs a byte, so that their number is bounded too
    }
    false
}

/// Writes `\uXXXX` for what would steer a terminal, which JSON alone does only for C0: `cat` of the log is safe.
struct TerminalSafe;

impl serde_json::ser::Formatter for TerminalSafe {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write_terminal_safe(out, fragment)
    }
}

/// Writes JSON text with `\uXXXX` in place of each character that would steer a terminal.
pub(crate) fn write_terminal_safe<W: io::Write + ?Sized>(out: &mut W, json: &str) -> io::Result<()> {
    if json.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return out.write_all(json.as_bytes());
    }
    for piece in json.split_inclusive(misleads) {
        let Some(character) = piece.chars().next_back().filter(|character| misleads(*character)) else {
            out.write_all(piece.as_bytes())?;
            continue;
        };
        out.write_all(piece.strip_suffix(character).unwrap_or_default().as_bytes())?;
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}")?;
        }
    }
    Ok(())
}
