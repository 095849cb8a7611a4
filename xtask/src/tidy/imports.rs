//! Who may import whom, inside `govsandbox/src`.

use super::source::Source;

/// A module of the library and what it may name: modules of its own crate, or parts of them, and parts of
/// `govsandbox_ebpf` (written `ebpf::…`). A module may always name itself.
const ALLOWED: [(&str, &[&str]); 16] = [
    ("id", &[]),
    ("sys", &[]),
    ("diagnostic", &[]),
    ("fault", &[]),
    ("policy", &["id", "sys", "diagnostic", "ebpf::abi", "ebpf::decide"]),
    // `policy::compile`: an event names the rule that decided and the layer it came from. `policy::explain`, `ebpf::decide`:
    // a syscall that failed is explained by asking the decision core.
    ("event", &["id", "policy::compile", "policy::explain", "ebpf::abi", "ebpf::decide"]),
    // `diagnostic`: a log that can't be written is said on stderr, once, by the thread that finds out.
    // `sys`: the lock beside the log.
    ("audit", &["id", "sys", "event", "diagnostic"]),
    ("sink", &["id", "audit"]),
    ("approval", &["sys"]),
    // `ebpf::decide::egress`: how the kernel's tables spell an address.
    ("bpf", &["id", "fault", "sys", "policy::compile", "ebpf::abi", "ebpf::decide::egress"]),
    // `diagnostic`: an exec that fails has an exit status of its own. `ebpf::decide::privilege`: the numbers that the seccomp
    // filter and the hooks both know.
    (
        "launch",
        &["id", "fault", "sys", "diagnostic", "policy::compile", "ebpf::abi", "ebpf::decide::privilege"],
    ),
    // `ebpf::decide`: which rule holds for a name is asked of the decision core.
    ("egress", &["id", "sys", "policy::compile", "ebpf::abi", "ebpf::decide"]),
    // `ebpf::decide`: what answers fanotify's questions asks the decision core. `policy::automaton`: names that do not
    // exist yet become patterns. `policy::git_config`: what a protected config may become is pure.
    // `policy::procfs`: which files are each process's own.
    (
        "backend",
        &[
            "id",
            "sys",
            "policy::automaton",
            "policy::compile",
            "policy::git_config",
            "policy::procfs",
            "policy::rule::glob",
            "policy::way",
            "ebpf::abi",
            "ebpf::decide",
            "bpf",
            "launch",
            "egress",
        ],
    ),
    // `backend::machine`: what `doctor` found.
    ("report", &["id", "audit", "event", "policy::explain", "backend::machine"]),
    (
        "supervisor",
        &[
            "id",
            "sys",
            "diagnostic",
            "fault",
            "approval",
            "event",
            "audit",
            "policy",
            "sink",
            "bpf",
            "launch",
            "egress",
            "backend",
            "report",
            "ebpf",
        ],
    ),
    // `audit`, `event`: `audit show` and `tail` select records by what is in them, and write them out.
    // `backend::machine`, `backend::unload`: `doctor` and `unload` need no supervisor. `egress::service`: a process of its
    // own, which the supervisor starts.
    (
        "cli",
        &[
            "id",
            "approval",
            "supervisor",
            "policy",
            "report",
            "audit",
            "event",
            "backend::machine",
            "backend::unload",
            "diagnostic",
            "egress::service",
        ],
    ),
];

/// The names in this file that its module may not import, with their lines.
pub(super) fn check(path: &str, source: &Source) -> Vec<(usize, String)> {
    // Unit tests in a file of their own, as those at the end of a file, may use what they like.
    if path.ends_with("_tests.rs") {
        return Vec::new();
    }
    let Some(module) = module_path(path) else { return Vec::new() };
    let Some(own) = module.first().cloned() else { return Vec::new() };
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == own) else {
        return vec![(1, format!("module `{own}` is not in the table of who may import whom"))];
    };
    let mut found = Vec::new();
    for (at, name) in named(source, module.len()) {
        let is_allowed = within(&name, &own) || allowed.iter().any(|allowed| within(&name, allowed));
        if !is_allowed {
            found.push((source.line(at), format!("`{own}` may not import `{name}`")));
        }
    }
    found.dedup();
    found
}

/// Whether `name` is `allowed` or something inside it, by component.
fn within(name: &str, allowed: &str) -> bool {
    name.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `govsandbox/src/policy/rule/mod.rs` → `policy`, `rule`. None for the roots of the crate and for other crates.
fn module_path(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix("govsandbox/src/")?.strip_suffix(".rs")?;
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    if ["lib", "main"].contains(&inside) {
        return None;
    }
    Some(inside.split('/').map(str::to_owned).collect())
}

/// Every path that starts at the crate's root or at `govsandbox_ebpf`, with where it stands; groups are taken apart.
fn named(source: &Source, depth: usize) -> Vec<(usize, String)> {
    let code = source.code_before_tests();
    let mut names = Vec::new();
    // `super::` as often as the file is deep is the crate's root, too.
    let up = "super::".repeat(depth);
    for (start, prefix) in [("crate::", ""), (up.as_str(), ""), ("govsandbox_ebpf::", "ebpf")] {
        for (at, _) in code.match_indices(start) {
            let before = code.get(..at).unwrap_or_default().chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let rest = code.get(at + start.len()..).unwrap_or_default();
            if start == up && rest.starts_with("super::") {
                continue; // an inline module, deeper than its file: it is not known how deep
            }
            names.extend(tree(rest, prefix).0.into_iter().map(|name| (at, name)));
        }
    }
    names.sort();
    names
}

/// The paths of a use tree, `prefix` before each, and what follows the tree.
fn tree<'a>(text: &'a str, prefix: &str) -> (Vec<String>, &'a str) {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        let mut names = Vec::new();
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return (names, after);
            }
            let (some, after) = tree(rest, prefix);
            if after.len() == rest.len() {
                return (names, after); // not a use tree
            }
            names.extend(some);
            // `as name` and whatever else stands before the next comma or brace
            rest = after.get(after.find([',', '}']).unwrap_or(after.len())..).unwrap_or_default();
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word.is_empty() {
        return (Vec::new(), text);
    }
    let name = match (prefix, word) {
        (prefix, "self" | "*") => prefix.to_owned(),
        ("", word) => word.to_owned(),
        (prefix, word) => format!("{prefix}::{word}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => tree(rest, &name),
        _ => (vec![name], rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(path, &Source::parse(text))
            .into_iter()
            .map(|(line, message)| format!("{line}: {message}"))
            .collect()
    }

    #[test]
    fn what_the_table_allows_is_allowed() {
        let text = "use crate::id::RuleId;\nuse govsandbox_ebpf::{abi::rule::{Automaton, RuleIndex}, decide};\nuse crate::policy::raw;\n";
        assert_eq!(found("govsandbox/src/policy/compile.rs", text), [""; 0]);
    }

    #[test]
    fn what_it_does_not_is_told_with_its_line() {
        let text = "use crate::id::RuleId;\nfn f() { crate::cli::main() }\n";
        assert_eq!(found("govsandbox/src/policy/raw.rs", text), ["2: `policy` may not import `cli::main`"]);
    }

    #[test]
    fn a_part_of_a_module_does_not_open_the_rest_of_it() {
        assert_eq!(found("govsandbox/src/launch/mod.rs", "use crate::policy::compile::Compiled;"), [""; 0]);
        let text = "use crate::policy::{compile::{self, Compiled}, load as l, merge};";
        assert_eq!(
            found("govsandbox/src/launch/mod.rs", text),
            ["1: `launch` may not import `policy::load`", "1: `launch` may not import `policy::merge`"]
        );
        assert_eq!(found("govsandbox/src/launch/mod.rs", "use crate::policy::compiled;").len(), 1);
    }

    #[test]
    fn the_way_up_by_super_counts_too() {
        assert_eq!(found("govsandbox/src/id.rs", "use super::event::Event;").len(), 1);
        assert_eq!(found("govsandbox/src/event/text.rs", "use super::model::Event;"), [""; 0]);
        assert_eq!(found("govsandbox/src/event/text.rs", "use super::super::audit;").len(), 1);
    }

    #[test]
    fn comments_strings_and_unit_tests_do_not_import() {
        let text = "//! [`crate::cli`]\nconst A: &str = \"crate::cli\";\n#[cfg(test)]\nmod tests {\n use crate::cli;\n}\n";
        assert_eq!(found("govsandbox/src/id.rs", text), [""; 0]);
        assert_eq!(found("govsandbox/src/event/decode_tests.rs", "use crate::cli;"), [""; 0]);
        assert_eq!(found("govsandbox/src/event/decode.rs", "use crate::cli;").len(), 1);
    }

    #[test]
    fn an_unknown_module_must_be_entered_in_the_table() {
        assert_eq!(found("govsandbox/src/novelty.rs", "").len(), 1);
        assert_eq!(found("govsandbox/src/lib.rs", "use crate::cli;"), [""; 0]);
    }

    #[test]
    fn the_table_has_no_cycle() {
        // Each module stands after all that it imports, the way the table is written.
        for (at, (name, allowed)) in ALLOWED.iter().enumerate() {
            for allowed in allowed.iter().filter(|allowed| !allowed.starts_with("ebpf")) {
                let module = allowed.split("::").next().unwrap();
                let position = ALLOWED.iter().position(|(name, _)| *name == module).unwrap();
                assert!(position < at, "`{name}` imports `{module}`, which stands below it");
            }
        }
    }
}
