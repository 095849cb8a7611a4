//! The audit log as a test reads it: every line is checked against what the schema promises.

use std::{fs, os::unix::ffi::OsStrExt, path::Path};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Event(pub(crate) Value);

/// A whole file, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) events: Vec<Event>,
}

impl Log {
    /// Reads and checks a log; one that was never begun is empty.
    pub(crate) fn read(path: &Path) -> Self {
        let Ok(bytes) = fs::read(path) else { return Self::default() };
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "the last line of {} is cut", path.display());
        Self::parse(&bytes)
    }

    /// The whole lines of one that is being written.
    pub(crate) fn so_far(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        Self::parse(&bytes[..end])
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut previous = "0".repeat(64);
        let mut events = Vec::new();
        for (place, line) in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
            let text = str::from_utf8(line).expect("a line that is not UTF-8");
            assert!(
                line.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f),
                "a raw control character: {text:?}"
            );
            let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(value["schema"], "govsandbox.event/1", "{text}");
            assert_eq!(value["seq"], place + 1, "a hole: {text}");
            assert_eq!(value["prev"], previous, "the chain breaks: {text}");
            let (covered, _) = text.rsplit_once(",\"hash\":").expect("no hash");
            let digest: String = Sha256::digest(covered).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(value["hash"], digest, "the hash is wrong: {text}");
            previous = digest;
            events.push(Event(value));
        }
        Self { events }
    }

    pub(crate) fn of(&self, kind: &str) -> Vec<&Event> {
        self.events.iter().filter(|event| event.kind() == kind).collect()
    }

    /// Events of a kind about a path, whatever came of them.
    pub(crate) fn about(&self, kind: &str, path: &Path) -> Vec<&Event> {
        let path = written(path.as_os_str().as_bytes());
        self.events.iter().filter(|event| event.kind() == kind && event.object("path") == path).collect()
    }

    pub(crate) fn denied(&self, kind: &str, path: &Path) -> Vec<&Event> {
        let mut events = self.about(kind, path);
        events.retain(|event| event.text("outcome") == "denied");
        events
    }

    /// All denials of a kind.
    pub(crate) fn all_denied(&self, kind: &str) -> Vec<&Event> {
        let mut events = self.of(kind);
        events.retain(|event| event.text("outcome") == "denied");
        events
    }

    /// `process.exec` events whose argv is this.
    pub(crate) fn execs(&self, argv: &[&str]) -> Vec<&Event> {
        let mut events = self.of("process.exec");
        events.retain(|event| event.argv() == argv);
        events
    }

    /// How many events of a kind the log says it lost.
    pub(crate) fn lost(&self, kind: &str) -> u64 {
        let gaps = self.of("audit.gap");
        gaps.iter()
            .filter(|gap| gap.object("kind") == kind)
            .map(|gap| gap.0["object"]["count"].as_u64().unwrap())
            .sum()
    }

    /// Whether `pid` is `ancestor` or was started below it, by the parents that exec events name.
    pub(crate) fn descends(&self, mut pid: u64, ancestor: u64) -> bool {
        let mut seen = Vec::new();
        while pid != ancestor {
            let parent = self.events.iter().find(|event| event.pid() == pid).map(Event::ppid);
            match parent {
                Some(parent) if !seen.contains(&parent) => pid = parent,
                _ => return false,
            }
            seen.push(pid);
        }
        true
    }
}

impl Event {
    pub(crate) fn kind(&self) -> &str {
        self.text("kind")
    }

    /// A field of the top level; empty where there is none.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    /// A text of the object.
    pub(crate) fn object(&self, field: &str) -> &str {
        self.0["object"][field].as_str().unwrap_or_default()
    }

    /// A text of the process.
    pub(crate) fn process(&self, field: &str) -> &str {
        self.0["process"][field].as_str().unwrap_or_default()
    }

    pub(crate) fn rule(&self) -> Option<&str> {
        self.0["rule"]["id"].as_str()
    }

    pub(crate) fn pid(&self) -> u64 {
        self.0["process"]["pid"].as_u64().unwrap_or_default()
    }

    pub(crate) fn ppid(&self) -> u64 {
        self.0["process"]["ppid"].as_u64().unwrap_or_default()
    }

    pub(crate) fn argv(&self) -> Vec<&str> {
        self.0["process"]["argv"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

/// Bytes as the log writes them.
pub(crate) fn written(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}
