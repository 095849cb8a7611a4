//! Rules about files of processes in `/proc`: each process has its own, under its number, and `/proc/self` is another one
//! for who asks.

use std::{os::unix::ffi::OsStrExt as _, path::Path};

use super::rule::{glob, path::ExpandedPath};

const PROC: &[u8] = b"/proc/";
/// Nothing else in `/proc` begins with a digit.
const ANY: &[u8] = b"/proc/[0-9]*";
const ANY_TASK: &[u8] = b"/proc/[0-9]*/task/[0-9]*";

/// What a rule that denies or protects stands for: where it names a file of one process, that of every process and thread.
#[must_use]
pub fn of_every_process(path: ExpandedPath) -> Vec<ExpandedPath> {
    let patterns = match &path {
        ExpandedPath::Literal(path) => of_one(&glob::quote(path.as_os_str().as_bytes())),
        ExpandedPath::Glob(pattern) => {
            of_one(pattern).or_else(|| Some(vec![pattern.clone(), below_task(of_any(pattern)?)?]))
        }
    };
    match patterns {
        Some(patterns) => patterns.into_iter().map(ExpandedPath::Glob).collect(),
        None => vec![path],
    }
}

/// The patterns for a path that a symlink of `/proc` leads to, which has this process's number. `None`: it leads elsewhere.
#[must_use]
pub fn of_resolved(path: &Path) -> Option<Vec<Vec<u8>>> {
    of_one(&glob::quote(path.as_os_str().as_bytes()))
}

/// Is a pattern, or a part of what it matches, about files of processes?
#[must_use]
pub fn is_of_processes(pattern: &[u8]) -> bool {
    split(pattern).is_some_and(|(first, _)| is_number(first) || is_wild(first))
}

/// What lies below one process: by its number, or by a symlink to that of the caller.
fn of_one(pattern: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (first, rest) = split(pattern)?;
    let below = match first {
        b"self" | b"thread-self" => rest,
        b"net" | b"mounts" => pattern.get(PROC.len()..)?,
        number if is_number(number) => rest,
        _ => return None,
    };
    if below.is_empty() {
        return Some(vec![ANY.to_vec()]);
    }
    let whole = [ANY, b"/", below].concat();
    Some(std::iter::once(whole).chain(below_task(below)).collect())
}

/// What lies below every process.
fn of_any(pattern: &[u8]) -> Option<&[u8]> {
    let (first, rest) = split(pattern)?;
    (is_wild(first) && first != b"**" && !rest.is_empty()).then_some(rest)
}

/// The same file is there for each thread.
fn below_task(rest: &[u8]) -> Option<Vec<u8>> {
    let is_task = rest == b"task" || rest.starts_with(b"task/");
    (!is_task).then(|| [ANY_TASK, b"/", rest].concat())
}

/// The name in `/proc`, and what lies below it.
fn split(pattern: &[u8]) -> Option<(&[u8], &[u8])> {
    let below = pattern.strip_prefix(PROC)?;
    let end = below.iter().position(|byte| *byte == b'/').unwrap_or(below.len());
    let (first, rest) = below.split_at_checked(end)?;
    Some((first, rest.strip_prefix(b"/").unwrap_or_default()))
}

fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

fn is_wild(name: &[u8]) -> bool {
    name.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(paths: Vec<ExpandedPath>) -> Vec<String> {
        let text = |path| match path {
            ExpandedPath::Literal(path) => path.display().to_string(),
            ExpandedPath::Glob(pattern) => String::from_utf8(pattern).unwrap(),
        };
        paths.into_iter().map(text).collect()
    }

    #[test]
    fn the_own_process_is_every_process() {
        let literal = |path: &str| texts(of_every_process(ExpandedPath::Literal(path.into())));
        let environ = ["/proc/[0-9]*/environ", "/proc/[0-9]*/task/[0-9]*/environ"];
        for one in ["/proc/self/environ", "/proc/thread-self/environ", "/proc/17/environ"] {
            assert_eq!(literal(one), environ, "{one}");
        }
        assert_eq!(literal("/proc/net/a*")[0], "/proc/[0-9]*/net/a\\*");
        assert_eq!(literal("/proc/self"), ["/proc/[0-9]*"]);
        assert_eq!(literal("/proc/self/task/3/environ").len(), 1);
        for other in ["/proc", "/proc/kallsyms", "/proc/sys/self/x", "/home/proc/self/environ"] {
            assert_eq!(literal(other), [other]);
        }
        let glob = |pattern: &str| texts(of_every_process(ExpandedPath::Glob(pattern.into())));
        assert_eq!(glob("/proc/self/env*")[0], "/proc/[0-9]*/env*");
        assert_eq!(glob("/proc/*/environ"), ["/proc/*/environ", "/proc/[0-9]*/task/[0-9]*/environ"]);
        for other in ["/proc/**/environ", "/**/environ", "/proc/*"] {
            assert_eq!(glob(other), [other]);
        }
    }

    #[test]
    fn patterns_about_processes_are_known() {
        for one in ["/proc/*/environ", "/proc/[0-9]*", "/proc/**", "/proc/4/fd"] {
            assert!(is_of_processes(one.as_bytes()), "{one}");
        }
        for other in ["/proc/sys/*", "/**/environ", "/proc", "/processes/*"] {
            assert!(!is_of_processes(other.as_bytes()), "{other}");
        }
    }
}
