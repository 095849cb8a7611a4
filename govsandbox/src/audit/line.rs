//! An event as a line of the log.

use std::io;

use jiff::fmt::{StdIoWrite, temporal::DateTimePrinter};
use serde::{Serialize, ser::Error as _};

use super::{
    chain::ChainHash,
    record::{Actor, SCHEMA},
};
use crate::event::{
    errno,
    model::{Event, Process, SessionFields},
    text::{Text, misleads},
};

/// Bytes of one line at most, so that a reader needs no more memory than this. An event that would be longer loses the
/// ends of its texts: only a command line of the user (`session.start`) comes near it.
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one list of arguments in an event that had to be cut.
const CUT_ARGUMENTS_BYTES: usize = 16 << 10;
/// Bytes of one path or string in an event that had to be cut.
const CUT_TEXT_BYTES: usize = 4096;

/// What the lines of one session have in common, as it stands in each: nearly half of a line is rendered once.
#[derive(Debug)]
pub(super) struct LineContext<'a> {
    trace_id: &'a str,
    /// `session`, `trace_id`.
    run: Vec<u8>,
    /// `policy`, `actor`.
    subject: Vec<u8>,
    /// `tags`, `host`, `sandbox_id`.
    place: Vec<u8>,
    /// The last process that a span was made for: events of one come in rows.
    span: Option<(ProcessKey, Span)>,
}

/// `pid` and `start_ns`; zeros stand for the session itself.
type ProcessKey = (u32, u64);
/// Hex digits.
type Span = [u8; 16];

impl<'a> LineContext<'a> {
    /// # Errors
    /// None that is known of: all keys are strings.
    pub(super) fn new(session: &'a SessionFields) -> Result<Self, serde_json::Error> {
        let actor = Actor { user: session.user.clone(), uid: session.uid, agent: session.agent.clone() };
        let (mut run, mut subject, mut place) = (Vec::new(), Vec::new(), Vec::new());
        field(&mut run, "session", &session.session)?;
        field(&mut run, "trace_id", &session.trace_id)?;
        field(&mut subject, "policy", &session.policy)?;
        field(&mut subject, "actor", &actor)?;
        field(&mut place, "tags", &session.tags)?;
        field(&mut place, "host", &session.host)?;
        field(&mut place, "sandbox_id", &session.sandbox_id)?;
        Ok(Self { trace_id: &session.trace_id, run, subject, place, span: None })
    }

    /// Appends the line to `out`, newline included, and returns its hash.
    ///
    /// # Errors
    /// None that is known of: all keys are strings and `out` is memory. On one, `out` is as it was.
    pub(super) fn encode(
        &mut self,
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

    /// The line up to `,"hash":`. The order is that of [`super::record::Record`], to which a test compares it.
    fn encode_body(
        &mut self,
        out: &mut Vec<u8>,
        seq: u64,
        prev: ChainHash,
        event: &Event,
    ) -> Result<(), serde_json::Error> {
        let span = self.span(event.process.as_ref());
        out.extend_from_slice(b"{\"schema\":\"");
        out.extend_from_slice(SCHEMA.as_bytes());
        out.push(b'"');
        field(out, "seq", &seq)?;
        out.extend_from_slice(b",\"time\":\"");
        TIME_PRINTER
            .print_timestamp(&event.time, StdIoWrite(&mut *out))
            .map_err(serde_json::Error::custom)?;
        out.push(b'"');
        out.extend_from_slice(&self.run);
        word(out, "span_id", &span);
        word(out, "kind", event.kind.name().as_bytes());
        word(out, "action", event.action.name().as_bytes());
        word(out, "outcome", event.outcome.name().as_bytes());
        field(out, "errno", &event.errno.map(errno::name))?;
        field(out, "rule", &event.rule)?;
        out.extend_from_slice(&self.subject);
        field(out, "process", &event.process)?;
        field(out, "object", &event.object)?;
        out.extend_from_slice(&self.place);
        let escaped = escaped_fields(event);
        if !escaped.is_empty() {
            field(out, "escaped", &escaped)?;
        }
        word(out, "prev", &prev.hex());
        Ok(())
    }

    /// The span of a process is a function of the trace and of the process, so that every event of a process has the
    /// same and exporters need no state.
    fn span(&mut self, process: Option<&Process>) -> Span {
        let key = process.map_or((0, 0), |process| (process.pid, process.start_ns));
        if let Some((_, span)) = self.span.filter(|(known, _)| *known == key) {
            return span;
        }
        let mut name = self.trace_id.as_bytes().to_vec();
        name.extend_from_slice(&key.0.to_be_bytes());
        name.extend_from_slice(&key.1.to_be_bytes());
        let mut span = [0; 16];
        span.iter_mut().zip(ChainHash::of(&name).hex()).for_each(|(to, from)| *to = from);
        self.span = Some((key, span));
        span
    }
}

const TIME_PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));

/// `,"NAME":VALUE`
fn field(out: &mut Vec<u8>, name: &str, value: &impl Serialize) -> Result<(), serde_json::Error> {
    key(out, name);
    value.serialize(&mut serde_json::Serializer::with_formatter(out, TerminalSafe))
}

/// `,"NAME":"WORD"` of words of ours, which need no escape.
fn word(out: &mut Vec<u8>, name: &str, word: &[u8]) {
    key(out, name);
    out.push(b'"');
    out.extend_from_slice(word);
    out.push(b'"');
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
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
        ("object.review", any(&event.object.review)),
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
