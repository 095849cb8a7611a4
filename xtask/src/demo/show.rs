//! What the demo prints, within 100 columns.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{model::Told, stage::Stage};

const COLUMNS: usize = 100;
/// Lines of a tool's answer that are shown.
const ANSWER_LINES: usize = 2;

/// Colours, or none.
#[derive(Clone, Copy)]
pub(super) struct Style {
    colour: bool,
}

impl Style {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }
}

/// The events of the run.
pub(super) struct Log {
    events: Vec<Value>,
}

impl Log {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read the log {}", path.display()))?;
        let events = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Self {
            events: events.with_context(|| format!("{} has a line that is no event", path.display()))?,
        })
    }

    fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event["kind"] == kind).count()
    }

    fn backend(&self) -> &str {
        let start = self.events.iter().find(|event| event["kind"] == "session.start");
        start.and_then(|event| event.pointer("/object/backend")?.as_str()).unwrap_or("unknown")
    }
}

pub(super) fn opening(style: Style) {
    println!(
        "Starting {} with a scripted model, in a network with no way out.\n",
        style.bold("govsandbox run -p claude -- claude")
    );
}

/// The calls of the tools, each with what the model was told.
pub(super) fn calls(style: Style, told: &[Told], stage: &Stage) {
    println!("{}\n", style.bold("What the agent did, and what its model was told"));
    for call in told {
        let what = match call.input.get("command").and_then(Value::as_str) {
            Some(command) => plain(command),
            None => stage.short(call.input.get("file_path").and_then(Value::as_str).unwrap_or_default()),
        };
        let mark = if call.is_error { style.bad("refused") } else { style.good("     ok") };
        println!("  {mark}  {:<6}{}", call.name, fit(&what, COLUMNS - 17));
        let lines: Vec<String> = call.content.lines().map(plain).filter(|line| is_worth_it(line)).collect();
        for line in lines.iter().take(ANSWER_LINES) {
            println!("{:17}{}", "", style.dim(&fit(line, COLUMNS - 17)));
        }
    }
    println!();
}

/// The agent puts its own lines around an answer.
fn is_worth_it(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("Exit code") && !line.starts_with('<')
}

/// The denials in the log, the same ones once.
pub(super) fn refusals(style: Style, log: &Log, stage: &Stage) {
    println!("{}\n", style.bold("What was refused, from the audit log"));
    let mut rows: Vec<(String, String, String, String)> = Vec::new();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for event in log.events.iter().filter(|event| event["outcome"] == "denied") {
        let row = (text(event, "/action"), object(event, stage), program(event), text(event, "/rule/id"));
        let place = rows.iter().position(|known| *known == row).unwrap_or(rows.len());
        if place == rows.len() {
            rows.push(row);
        }
        *counts.entry(place).or_default() += 1;
    }
    println!(
        "{}",
        style.dim(&format!("  {:<9}{:<32}{:<12}{:<36}{}", "action", "object", "by", "rule", "times"))
    );
    for (place, (action, object, program, rule)) in rows.iter().enumerate() {
        let count = counts.get(&place).copied().unwrap_or_default();
        println!(
            "  {}{:<32}{:<12}{:<36}{count:>5}",
            style.bad(&format!("{:<9}", fit(action, 8))),
            fit(object, 31),
            fit(program, 11),
            fit(rule, 35)
        );
    }
    println!("{}", style.dim("\n  `claude` itself opens .env too: it compares the project before and after each of its calls.\n"));
}

fn text(event: &Value, pointer: &str) -> String {
    plain(event.pointer(pointer).and_then(Value::as_str).unwrap_or_default())
}

fn object(event: &Value, stage: &Stage) -> String {
    let port = event.pointer("/object/port").and_then(Value::as_u64);
    match (port, text(event, "/object/path")) {
        (Some(port), _) => format!("{}:{port}", text(event, "/object/address")),
        (None, path) if path.is_empty() => text(event, "/object/detail"),
        (None, path) => stage.short(&path),
    }
}

fn program(event: &Value) -> String {
    let path = text(event, "/process/exe");
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Where to look further, and the verdict.
pub(super) fn ending(style: Style, log: &Log, stage: &Stage, leaked: bool) {
    let seen = format!(
        "{} programs started, {} files opened, {} connections",
        log.count("process.exec"),
        log.count("file.open"),
        log.count("net.connect")
    );
    let row = |name: &str, value: &str| println!("  {}{value}", style.dim(&format!("{name:<10}")));
    println!("{}\n", style.bold("What is left"));
    row("seen", &format!("{seen}, by the backend `{}`", log.backend()));
    row("log", &format!("{} ({} events, hash-chained)", stage.log.display(), log.events.len()));
    row("read it", &format!("sudo target/debug/govsandbox audit show --log {}", stage.log.display()));
    let verdict = if leaked {
        style.bad("the secret reached the model")
    } else {
        style.good("the secret is in nothing that the model was sent")
    };
    row("secret", &verdict);
}

/// At most that many characters.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_to_the_width() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("longer", 5), "long…");
        assert_eq!(fit("äöüß€", 4), "äöü…");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        assert_eq!(plain("a\x1b[31mb\r"), "a·[31mb·");
    }
}
