//! What a session says of itself: its fields, its first and its last event.

use std::ffi::OsString;

use super::RunOptions;
use crate::{
    backend::Kind as Backend,
    event::{
        model::{Action, Event, Kind, Object, Outcome, SessionFields},
        text::Text,
    },
    id::{SandboxId, SessionId},
    launch::{Ended, privilege::Identity},
    policy::compile::Compiled,
};

/// One run.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) fields: SessionFields,
}

impl Session {
    pub(super) fn new(identity: &Identity, compiled: &Compiled, id: SandboxId, options: &RunOptions) -> Self {
        let session = SessionId::new();
        let command = options.command.first().map(std::path::PathBuf::from).unwrap_or_default();
        let fields = SessionFields {
            trace_id: trace_id(),
            session,
            sandbox_id: id.0,
            policy: compiled.digest.clone(),
            user: identity.name.clone(),
            uid: identity.uid,
            agent: command.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            tags: options.tags.clone(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        Self { fields }
    }

    /// `session.start`: the command, the backend, and what that does not hold.
    pub(super) fn start(&self, command: &[OsString], backend: Backend, not_held: Vec<String>) -> Event {
        use std::os::unix::ffi::OsStrExt as _;
        let command = command.iter().map(|word| Text(word.as_bytes().to_vec())).collect();
        let object = Object {
            command: Some(command),
            backend: Some(backend.name().to_owned()),
            not_held: Some(not_held),
            ..Object::default()
        };
        event(Kind::SessionStart, Action::Start, object)
    }

    /// Opens that the kernel refused without telling which.
    pub(super) fn unreadable(&self, count: u64) -> Event {
        let now = jiff::Timestamp::now();
        Event::gap(
            now,
            Kind::FileOpen.name(),
            count,
            (now, now),
            "refused by the kernel: the object could not be opened for a verdict",
        )
    }

    /// `session.end`: how the command ended; `status` is what the caller of `run` gets, `review` what is to be looked at.
    /// The recorder adds the counts.
    pub(super) fn end(&self, ended: Option<Ended>, status: u8, review: Option<Vec<Text>>) -> Event {
        let (exit_code, signal) = match ended {
            Some(Ended::Signalled(signal)) => (None, Some(signal)),
            Some(Ended::Exited(_)) | None => (Some(i32::from(status)), None),
        };
        event(Kind::SessionEnd, Action::End, Object { exit_code, signal, review, ..Object::default() })
    }
}

fn event(kind: Kind, action: Action, object: Object) -> Event {
    let time = jiff::Timestamp::now();
    Event { time, kind, action, outcome: Outcome::Allowed, errno: None, rule: None, process: None, object }
}

/// 32 hex digits, random but for the clock in front.
fn trace_id() -> String {
    format!("{:032x}", ulid::Ulid::new().0)
}
