//! What an event was about, in a few words that are safe for a terminal.

use crate::{
    audit::record::Record,
    event::{
        model::{Kind, Object},
        text::{Text, for_terminal},
    },
};

/// The object: a path, an address, a command, what was lost.
#[must_use]
pub fn object(record: &Record) -> String {
    let object = &record.object;
    match record.kind {
        Kind::SessionStart => session_start(object),
        Kind::SessionEnd => session_end(object),
        Kind::ProcessExec => exec(record),
        Kind::ProcessExit => ending(object).unwrap_or_default(),
        Kind::FileOpen | Kind::FileChange => file(object),
        Kind::NetConnect | Kind::NetSend | Kind::NetListen => destination(object),
        Kind::DnsQuery => query(object),
        Kind::NetClose => closed(object),
        Kind::PrivilegeUse => detail(object),
        Kind::Approval => approval(object),
        Kind::AuditGap => gap(object),
    }
}

/// An address, and whom it was taken for where that was told.
fn destination(object: &Object) -> String {
    match &object.server_name {
        Some(name) => format!("{} as {}", address(object), for_terminal(name)),
        None => address(object),
    }
}

/// `AAAA api.example.com: 2001:db8::1 2001:db8::2`.
fn query(object: &Object) -> String {
    let name = for_terminal(object.name.as_deref().unwrap_or_default());
    let record_type = for_terminal(object.record_type.as_deref().unwrap_or("?"));
    let mark = if object.smuggling { " (looks like data)" } else { "" };
    match object.answers.as_deref().unwrap_or_default() {
        [] => format!("{record_type} {name}{mark}"),
        answers => format!("{record_type} {name}{mark}: {}", for_terminal(&answers.join(" "))),
    }
}

/// `api.example.com: for the session, uid 1000 after 3.2 s`.
fn approval(object: &Object) -> String {
    let about = match (&object.address, &object.name) {
        (None, Some(name)) => for_terminal(name).into_owned(),
        _ => address(object),
    };
    let by = object.decided_by.map(|uid| format!(", uid {uid}")).unwrap_or_default();
    let waited_ms = object.waited_ns.unwrap_or_default() / 1_000_000;
    format!("{about}: {}{by} after {}.{} s", detail(object), waited_ms / 1000, waited_ms % 1000 / 100)
}

fn closed(object: &Object) -> String {
    let bytes = |count: Option<u64>| count.unwrap_or_default();
    let (sent, received) = (bytes(object.bytes_sent), bytes(object.bytes_received));
    format!("{}: {sent} bytes sent, {received} received", destination(object))
}

/// The base name of the program, or what stands for it.
#[must_use]
pub fn program(record: &Record) -> String {
    let exe = record.process.as_ref().and_then(|process| process.exe.as_ref());
    let Some(Text(path)) = exe else { return "-".to_owned() };
    let base = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    Text::from(base).for_terminal()
}

/// Words as one would type them in a shell.
#[must_use]
pub fn command_line(words: &[Text]) -> String {
    let quote = |word: &Text| {
        let is_plain =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_^".contains(byte) || *byte >= 0x80;
        let shown = word.for_terminal();
        if !word.0.is_empty() && word.0.iter().all(is_plain) {
            shown
        } else {
            format!("'{}'", shown.replace('\'', "'\\''"))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// `192.0.2.1:443/tcp (api.example.com)`.
#[must_use]
pub fn address(object: &Object) -> String {
    let address = for_terminal(object.address.as_deref().unwrap_or("?"));
    let mut text = if address.contains(':') { format!("[{address}]") } else { address.into_owned() };
    if let Some(port) = object.port {
        text += &format!(":{port}");
    }
    if let Some(protocol) = &object.protocol {
        text += &format!("/{}", for_terminal(protocol));
    }
    if let Some(name) = &object.name {
        text += &format!(" ({})", for_terminal(name));
    }
    text
}

/// `exit status 1` or `killed by signal 9`.
#[must_use]
pub fn ending(object: &Object) -> Option<String> {
    let signal = object.signal.map(|signal| format!("killed by signal {signal}"));
    signal.or_else(|| object.exit_code.map(|code| format!("exit status {code}")))
}

fn session_start(object: &Object) -> String {
    let command = command_line(object.command.as_deref().unwrap_or_default());
    let Some(backend) = &object.backend else { return command };
    let caveat = match object.not_held.as_ref().map_or(0, Vec::len) {
        0 => String::new(),
        1 => ", 1 guarantee not held".to_owned(),
        count => format!(", {count} guarantees not held"),
    };
    format!("{command} ({}{caveat})", for_terminal(backend))
}

fn session_end(object: &Object) -> String {
    let denied =
        object.counts.iter().flatten().filter(|(name, _)| name.ends_with(".denied")).map(|(_, count)| count);
    let ending = ending(object).unwrap_or_else(|| "ended".to_owned());
    let ending = match denied.sum::<u64>() {
        0 => ending,
        denied => format!("{ending}, {denied} denied"),
    };
    match object.review.as_ref().map_or(0, Vec::len) {
        0 => ending,
        1 => format!("{ending}, 1 file to look at"),
        files => format!("{ending}, {files} files to look at"),
    }
}

fn exec(record: &Record) -> String {
    let path = shown(record.object.path.as_ref());
    let argv = record.process.as_ref().and_then(|process| process.argv.as_deref());
    let arguments = argv.and_then(|argv| argv.get(1..)).unwrap_or_default();
    let cut = record.process.as_ref().is_some_and(|process| process.argv_truncated);
    let mut text = path;
    if !arguments.is_empty() {
        text += " ";
        text += &command_line(arguments);
    }
    if cut {
        text += " …";
    }
    text
}

fn file(object: &Object) -> String {
    let cut = if object.path_truncated { "…" } else { "" };
    let path = shown(object.path.as_ref());
    match &object.target {
        Some(target) => format!("{cut}{path} → {}", target.for_terminal()),
        None => format!("{cut}{path}"),
    }
}

fn gap(object: &Object) -> String {
    let kind = for_terminal(object.kind.as_deref().unwrap_or("unknown"));
    let count = object.count.unwrap_or_default();
    match detail(object) {
        detail if detail.is_empty() => format!("{count} × {kind} lost"),
        detail => format!("{count} × {kind} lost: {detail}"),
    }
}

fn detail(object: &Object) -> String {
    for_terminal(object.detail.as_deref().unwrap_or_default()).into_owned()
}

fn shown(text: Option<&Text>) -> String {
    text.map_or_else(|| "?".to_owned(), Text::for_terminal)
}
