//! The bytes of a ring buffer's record, checked and cut into header and texts.

use govsandbox_ebpf::abi::event::{
    EventRecord, FLAG_ARGV_CUT, FLAG_PATH_CUT, RecordAction, RecordKind, RecordOutcome, TEXT_BYTES_MAX,
    UnknownByte,
};
use zerocopy::FromBytes;

use super::{
    model::{Action, Kind},
    privilege::CallName,
};

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the fixed part.
    #[error("cannot read a kernel record: it has {bytes} bytes, its fixed part alone has {needed}")]
    Short {
        /// Bytes that there are.
        bytes: usize,
        /// Bytes of an [`EventRecord`].
        needed: usize,
    },
    /// The lengths in the fixed part and the bytes behind it differ.
    #[error("cannot read a kernel record: its texts have {present} bytes, its lengths say {declared}")]
    Texts {
        /// Sum of the lengths, in bytes.
        declared: u64,
        /// Bytes behind the fixed part.
        present: usize,
    },
    /// No [`RecordKind`].
    #[error("cannot read a kernel record: {0} is no kind of record")]
    Kind(u8),
    /// No [`RecordAction`].
    #[error("cannot read a kernel record: {0} is no action")]
    Action(u8),
    /// No [`RecordOutcome`].
    #[error("cannot read a kernel record: {0} is no outcome")]
    Outcome(u8),
    /// Each is known, together they mean nothing.
    #[error("cannot read a kernel record: {action:?} is no action of {kind:?}")]
    ActionOfKind {
        /// What the record tells.
        kind: RecordKind,
        /// What it says was done.
        action: RecordAction,
    },
    /// The value is none of its kind.
    #[error("cannot read a kernel record: {value} is no value of {kind:?}")]
    Value {
        /// What the record tells.
        kind: RecordKind,
        /// What stands in it.
        value: u64,
    },
}

/// One record: its fixed part, the meaning of its bytes, its texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) head: EventRecord,
    pub(super) kind: RecordKind,
    pub(super) action: RecordAction,
    pub(super) outcome: RecordOutcome,
    pub(super) path: &'a [u8],
    pub(super) second: &'a [u8],
    pub(super) argv: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// The bytes are no record of this ABI.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let short = DecodeError::Short { bytes: bytes.len(), needed: size_of::<EventRecord>() };
        let (mut head, texts) = EventRecord::read_from_prefix(bytes).map_err(|_| short)?;
        let kind = RecordKind::try_from(head.kind).map_err(|UnknownByte(byte)| DecodeError::Kind(byte))?;
        let action =
            RecordAction::try_from(head.action).map_err(|UnknownByte(byte)| DecodeError::Action(byte))?;
        let outcome =
            RecordOutcome::try_from(head.outcome).map_err(|UnknownByte(byte)| DecodeError::Outcome(byte))?;
        let declared = u64::from(head.path_len) + u64::from(head.second_len) + u64::from(head.argv_len);
        // `kernel/emit.rs` sends so many bytes at most: the end of what comes last is then missing.
        let cut = texts.len() == TEXT_BYTES_MAX && declared > TEXT_BYTES_MAX as u64;
        if !cut && declared != texts.len() as u64 {
            return Err(DecodeError::Texts { declared, present: texts.len() });
        }
        if cut {
            head.flags |= if head.argv_len == 0 { FLAG_PATH_CUT } else { FLAG_ARGV_CUT };
        }
        let (path, rest) = take(texts, head.path_len);
        let (second, rest) = take(rest, head.second_len);
        let (argv, _) = take(rest, head.argv_len);
        let record = Self { head, kind, action, outcome, path, second, argv };
        record.kind_and_action().ok_or(DecodeError::ActionOfKind { kind, action })?;
        Ok(record)
    }

    /// A record that was made here, with its object's path, the new one of a rename or link, the arguments of an exec.
    pub(super) fn of(head: &EventRecord, path: &'a [u8], second: &'a [u8], argv: &'a [u8]) -> Self {
        Self {
            head: *head,
            kind: RecordKind::try_from(head.kind).unwrap_or(RecordKind::Open),
            action: RecordAction::try_from(head.action).unwrap_or(RecordAction::Read),
            outcome: RecordOutcome::try_from(head.outcome).unwrap_or(RecordOutcome::Denied),
            path,
            second,
            argv,
        }
    }

    /// Is this bit set?
    pub(super) fn has(&self, flag: u32) -> bool {
        self.head.flags & flag != 0
    }

    /// In the words of the log; `None` for what is no event or does not fit together. A fork, which is none, is told as
    /// an exec.
    pub(super) fn kind_and_action(&self) -> Option<(Kind, Action)> {
        Some(match (self.kind, self.action) {
            (RecordKind::Exec | RecordKind::Fork, _) => (Kind::ProcessExec, Action::Exec),
            (RecordKind::Exit, _) => (Kind::ProcessExit, Action::Exit),
            (RecordKind::Connect, _) => (Kind::NetConnect, Action::Connect),
            (RecordKind::Send, _) => (Kind::NetSend, Action::Send),
            (RecordKind::Listen, RecordAction::Accept) => (Kind::NetListen, Action::Accept),
            (RecordKind::Listen, _) => (Kind::NetListen, Action::Listen),
            (RecordKind::Close, _) => (Kind::NetClose, Action::Close),
            // Which call it is says [`super::privilege`].
            (RecordKind::Privilege, _) => (Kind::PrivilegeUse, Action::Call(CallName::UNKNOWN)),
            (RecordKind::Open, RecordAction::Read) => (Kind::FileOpen, Action::Read),
            (RecordKind::Open, RecordAction::Write) => (Kind::FileOpen, Action::Write),
            (RecordKind::Open, RecordAction::Execute) => (Kind::FileOpen, Action::Execute),
            (RecordKind::Open, RecordAction::List) => (Kind::FileOpen, Action::List),
            (RecordKind::Change, RecordAction::Create) => (Kind::FileChange, Action::Create),
            (RecordKind::Change, RecordAction::Truncate) => (Kind::FileChange, Action::Truncate),
            (RecordKind::Change, RecordAction::Unlink) => (Kind::FileChange, Action::Unlink),
            (RecordKind::Change, RecordAction::Rename) => (Kind::FileChange, Action::Rename),
            (RecordKind::Change, RecordAction::Link) => (Kind::FileChange, Action::Link),
            (RecordKind::Change, RecordAction::Chmod) => (Kind::FileChange, Action::Chmod),
            (RecordKind::Change, RecordAction::Chown) => (Kind::FileChange, Action::Chown),
            (RecordKind::Change, RecordAction::Xattr) => (Kind::FileChange, Action::Xattr),
            (RecordKind::Change, RecordAction::Mount) => (Kind::FileChange, Action::Mount),
            (
                RecordKind::Open,
                RecordAction::None
                | RecordAction::Create
                | RecordAction::Truncate
                | RecordAction::Unlink
                | RecordAction::Rename
                | RecordAction::Link
                | RecordAction::Chmod
                | RecordAction::Chown
                | RecordAction::Xattr
                | RecordAction::Mount
                | RecordAction::Accept,
            )
            | (
                RecordKind::Change,
                RecordAction::None
                | RecordAction::Read
                | RecordAction::Write
                | RecordAction::Execute
                | RecordAction::List
                | RecordAction::Accept,
            ) => return None,
        })
    }
}

/// The next text, as much of it as there is.
fn take(texts: &[u8], length: u32) -> (&[u8], &[u8]) {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(texts.len());
    texts.split_at_checked(length).unwrap_or((texts, &[]))
}
