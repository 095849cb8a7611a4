//! Refused system calls and hooks that name no file: which it was, what was wanted, what refused it.

use std::fmt;

use govsandbox_ebpf::abi::{event::FLAG_FOREIGN_CALL, event::FLAG_HOOK, privilege::Hook};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::record::Record;

/// Bytes of the longest name.
const NAME_BYTES_MAX: usize = 32;

/// Name of a system call or of a hook of the kernel: `[a-z0-9_]`, at most 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CallName {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl CallName {
    /// A call that has no name here.
    pub const UNKNOWN: Self = Self::of("syscall");

    const fn of(name: &str) -> Self {
        let (mut bytes, name) = ([0; NAME_BYTES_MAX], name.as_bytes());
        let length = if name.len() < NAME_BYTES_MAX { name.len() } else { NAME_BYTES_MAX };
        let (taken, _) = bytes.split_at_mut(length);
        let (name, _) = name.split_at(length);
        taken.copy_from_slice(name);
        Self { bytes, length: length as u8 }
    }

    /// `None`: it is no such name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain);
        fits.then(|| Self::of(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        self.bytes
            .get(..usize::from(self.length))
            .and_then(|name| str::from_utf8(name).ok())
            .unwrap_or_default()
    }
}

impl fmt::Debug for CallName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), out)
    }
}

impl Serialize for CallName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for CallName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| D::Error::custom(format_args!("`{name}` is no action")))
    }
}

impl JsonSchema for CallName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CallName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9_]{1,32}$" })
    }
}

/// A system call that ended in an errno which the sandbox's filter gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number.
    pub number: u32,
    /// The low halves of its first arguments.
    pub arguments: [u32; 4],
    /// It was made as one of another architecture.
    pub foreign: bool,
    /// What the caller got.
    pub errno: i32,
}

/// What was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The call.
    pub call: CallName,
    /// Name of the rule.
    pub rule: &'static str,
    /// What was wanted, in words.
    pub detail: String,
}

type Answer = dyn Fn(&Attempt) -> Option<Refused> + Send;

/// Says whether the filter refused an attempt; `None`: the kernel itself did.
pub struct Filter(pub Box<Answer>);

impl fmt::Debug for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Filter")
    }
}

/// What a record of `RecordKind::Privilege` tells; `None`: nothing of ours refused it.
pub(super) fn refused(record: &Record<'_>, filter: &Filter) -> Option<Refused> {
    let mut arguments = [0; 4];
    for (word, bytes) in arguments.iter_mut().zip(record.head.address.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    let number = u32::try_from(record.head.value).ok()?;
    if record.has(FLAG_HOOK) {
        let hook = u8::try_from(number).ok().and_then(|number| Hook::try_from(number).ok());
        return Some(hook.map_or_else(|| by_unknown_hook(number), |hook| by_hook(hook, arguments)));
    }
    let errno = i32::try_from(record.head.errno).ok()?;
    filter.0(&Attempt { number, arguments, foreign: record.has(FLAG_FOREIGN_CALL), errno })
}

fn by_unknown_hook(number: u32) -> Refused {
    Refused { call: CallName::UNKNOWN, rule: "builtin/privileges", detail: format!("hook {number}") }
}

fn by_hook(hook: Hook, arguments: [u32; 4]) -> Refused {
    let [first, second, third, _] = arguments;
    let (rule, detail) = match hook {
        Hook::PtraceAccessCheck | Hook::PtraceTraceme => ("builtin/processes", format!("process {first}")),
        Hook::TaskKill => ("builtin/processes", format!("signal {second} to process {first}")),
        Hook::TaskSetnice | Hook::TaskSetioprio | Hook::TaskSetscheduler => {
            ("builtin/processes", format!("priority of process {first}"))
        }
        Hook::SbMount | Hook::MoveMount | Hook::SbUmount | Hook::SbRemount | Hook::SbPivotroot => {
            ("default/process.namespaces", "a mount".to_owned())
        }
        Hook::UsernsCreate => ("default/process.namespaces", "a user namespace".to_owned()),
        Hook::Bpf | Hook::PerfEventOpen => ("builtin/privileges", "kernel programs and counters".to_owned()),
        Hook::SocketCreate => ("builtin/sockets", format!("family {first}, type {second}, protocol {third}")),
        Hook::SocketSetsockopt => {
            ("builtin/sockets", format!("level {}, option {}", first.cast_signed(), second.cast_signed()))
        }
        Hook::FileIoctl => ("builtin/terminal", format!("command {first:#x}")),
    };
    Refused { call: CallName::of(hook.name()), rule, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        assert_eq!(CallName::parse("ptrace_access_check").unwrap().as_str(), "ptrace_access_check");
        for wrong in ["", "two words", "UPPER", "a\u{1b}[2J", &"x".repeat(33)] {
            assert!(CallName::parse(wrong).is_none(), "{wrong}");
        }
        assert_eq!(serde_json::from_str::<CallName>("\"bpf\"").unwrap(), CallName::of("bpf"));
        assert!(serde_json::from_str::<CallName>("\"<b>\"").is_err());
    }
}
