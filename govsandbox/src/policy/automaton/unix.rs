//! `network.unix` → the table that [`govsandbox_ebpf::decide::unix`] asks.

use std::os::unix::ffi::OsStrExt as _;

use govsandbox_ebpf::{
    abi::{
        exec::{ALLOW_LISTS_MAX, ExecHits},
        unix::UnixTable,
    },
    decide::{
        Decision,
        exec::{START, next, scan},
        unix::decide_unix,
    },
};
use zerocopy::FromZeros;

use super::{
    AutomatonError,
    exec::{ExecTableError, add_path, fill, literal, segments},
    graph::Graph,
    positions::Positions,
};
use crate::policy::{
    compile::{UnixPlan, UnixSockets},
    explain::real_path,
    rule::{glob::Part, path::ExpandedPath},
};

/// Before an abstract name: no path begins so, and in an address it stands there too.
const ABSTRACT: u8 = 0;

/// Builds the table. `None`: no policy names any.
///
/// # Errors
/// [`ExecTableError`]: it does not fit.
pub fn build(plan: &UnixPlan) -> Result<Option<Box<UnixTable>>, ExecTableError> {
    if plan.rules.is_empty() {
        return Ok(None);
    }
    if plan.lists > ALLOW_LISTS_MAX {
        return Err(ExecTableError::TooManyLists { count: plan.lists });
    }
    let mut names = Positions::new(b'/');
    for rule in &plan.rules {
        let hits = ExecHits { allow: 1 << rule.list, deny: rule.rule.0, ..ExecHits::NONE };
        match &rule.sockets {
            UnixSockets::Paths(paths) => {
                for path in paths {
                    match path {
                        ExpandedPath::Literal(path) => {
                            add_path(&mut names, literal(path.as_os_str().as_bytes()), hits);
                            // The kernel tells of no symlinks on the way to what is bound.
                            if let Some(real) = real_path(path) {
                                add_path(&mut names, literal(real.as_os_str().as_bytes()), hits);
                            }
                        }
                        ExpandedPath::Glob(pattern) => add_path(&mut names, segments(pattern)?, hits),
                    }
                }
            }
            UnixSockets::Abstract(name) => {
                let name: Vec<Part> = name.iter().map(|byte| Part::Byte(*byte)).collect();
                names.add_marked(ABSTRACT, &name, hits);
            }
        }
    }
    let mut table = UnixTable::new_box_zeroed().map_err(|_| AutomatonError::Memory)?;
    fill(&mut table.sockets, &Graph::of(names)?.merged())?;
    table.required = u16::try_from((1_u32 << plan.lists) - 1).unwrap_or(u16::MAX);
    Ok(Some(table))
}

/// May a socket of others be reached? `name`: an absolute path without symlinks, or a NUL and an abstract name.
#[must_use]
pub fn decide(table: Option<&UnixTable>, name: &[u8]) -> Decision {
    match table {
        Some(table) if !name.is_empty() => decide_unix(table.required, scan(&table.sockets, name)),
        _ => Decision::DENY_DEFAULT,
    }
}

/// Is whatever lies below a folder listed alike, be the folder called one or the other?
#[must_use]
pub fn lists_alike_below(table: &UnixTable, one: &[u8], other: &[u8]) -> bool {
    let below = |path: &[u8]| {
        let state = path.iter().fold(START, |state, byte| next(&table.sockets, state, *byte));
        next(&table.sockets, state, b'/')
    };
    below(one) == below(other)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{id::RuleIndex, policy::compile::UnixRule};

    fn table(lists: usize, rules: Vec<(usize, UnixSockets)>) -> Box<UnixTable> {
        let rules = rules.into_iter().enumerate().map(|(place, (list, sockets))| UnixRule {
            list,
            sockets,
            rule: RuleIndex(place as u16 + 2),
        });
        build(&UnixPlan { rules: rules.collect(), lists }).unwrap().unwrap()
    }

    fn path(path: &str) -> UnixSockets {
        UnixSockets::Paths(vec![ExpandedPath::Literal(PathBuf::from(path))])
    }

    fn glob(pattern: &str) -> UnixSockets {
        UnixSockets::Paths(vec![ExpandedPath::Glob(pattern.as_bytes().to_vec())])
    }

    fn rule(table: &UnixTable, name: &[u8]) -> Option<u16> {
        let decision = decide(Some(table), name);
        decision.allow.then_some(decision.rule)
    }

    #[test]
    fn a_socket_is_named_by_its_path_by_a_folder_by_a_pattern_or_abstractly_and_whole() {
        let table = table(
            1,
            vec![
                (0, path("/nowhere/bus")),
                (0, glob("/nowhere/.X11-unix/X*")),
                (0, UnixSockets::Abstract(b"/tmp/.X11-unix/X0".to_vec())),
            ],
        );
        assert_eq!(rule(&table, b"/nowhere/bus"), Some(2));
        assert_eq!(rule(&table, b"/nowhere/bus/below"), Some(2));
        assert_eq!(rule(&table, b"/nowhere/.X11-unix/X12"), Some(3));
        assert_eq!(rule(&table, b"\0/tmp/.X11-unix/X0"), Some(4));
        for other in [
            &b"/nowhere/bus2"[..],
            b"/nowhere",
            b"/nowhere/.X11-unix/Y",
            b"\0/tmp/.X11-unix/X",
            b"\0/tmp/.X11-unix/X0\0",
            b"\0/tmp/.X11-unix/X01",
            b"/tmp/.X11-unix/X0",
            b"\0/nowhere/bus",
            b"\0",
            b"",
        ] {
            assert_eq!(rule(&table, other), None, "{other:?}");
        }
        assert!(!decide(None, b"/nowhere/bus").allow);
    }

    #[test]
    fn folders_differ_where_something_below_one_is_listed() {
        let table = table(1, vec![(0, path("/nowhere/a/bus")), (0, glob("/**/.X11-unix/X*"))]);
        assert!(lists_alike_below(&table, b"/nowhere/b", b"/nowhere/c"));
        for (one, other) in [("/nowhere/b", "/nowhere/a"), ("/b", "/nowhere"), ("/b", "/.X11-unix")] {
            assert!(!lists_alike_below(&table, one.as_bytes(), other.as_bytes()), "{one} {other}");
        }
    }

    #[test]
    fn every_policy_must_name_it() {
        let both =
            table(2, vec![(0, path("/nowhere/a")), (0, path("/nowhere/b")), (1, glob("/nowhere/[a]"))]);
        assert_eq!(rule(&both, b"/nowhere/a"), Some(2));
        assert_eq!(rule(&both, b"/nowhere/b"), None);
        assert!(build(&UnixPlan { rules: Vec::new(), lists: 1 }).unwrap().is_none());
    }
}
