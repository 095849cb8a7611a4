//! Rules that look at one file by itself.

use super::source::Source;

/// A file that grows past it has two subjects. Unit tests at its end don't count.
const CODE_LINES_MAX: usize = 500;

/// Names that promise nothing and collect everything.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "manager", "misc"];

/// Where unsafe code may stand: files, and folders with all below.
const UNSAFE_ALLOWED: [&str; 7] = [
    "govsandbox-ebpf/src/abi/pod.rs",
    "govsandbox-ebpf/src/kernel/",
    "govsandbox/src/launch/child.rs",
    "govsandbox/src/sys/",
    "tests/bed/programs.rs",
    "tests/bed/sys.rs",
    // An attempt is made of raw system calls.
    "tests/escape/",
];

/// Top-level folders that are of one machine, or of one user on it.
const MACHINE_FOLDERS: [&str; 2] = ["root", "work"];

/// Hosts that scripts must not name: the ordinary clients know where to go, and a mirror may be set.
const REGISTRY_HOSTS: [&str; 8] = [
    "deb.debian.org",
    "files.pythonhosted.org",
    "index.crates.io",
    "proxy.golang.org",
    "pypi.org",
    "registry.npmjs.org",
    "security.debian.org",
    "static.crates.io",
];

/// Rules for any text file.
pub(super) fn check_text(path: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let stems = path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    for name in stems.filter(|stem| EMPTY_NAMES.contains(stem)) {
        found.push((1, format!("`{name}` says nothing about what is inside")));
    }
    for (at, line) in text.lines().enumerate() {
        // A policy is about paths and hosts of the machine that it rules.
        if !path.starts_with("policies/") {
            for folder in MACHINE_FOLDERS.iter().filter(|folder| names_path(line, folder)) {
                found.push((at + 1, format!("a path below the folder `{folder}` is of one machine only")));
            }
        }
        if is_script(path) {
            for host in REGISTRY_HOSTS.iter().filter(|host| line.contains(*host)) {
                found.push((at + 1, format!("names the registry host {host}")));
            }
        }
    }
    found
}

/// Rules for Rust code.
pub(super) fn check_source(path: &str, source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines = source.code_before_tests().lines().count();
    if lines > CODE_LINES_MAX && !path.starts_with("tests/") {
        found.push((
            CODE_LINES_MAX + 1,
            format!("{lines} lines before the tests, at most {CODE_LINES_MAX}: two subjects?"),
        ));
    }
    if !UNSAFE_ALLOWED
        .iter()
        .any(|allowed| path == *allowed || (allowed.ends_with('/') && path.starts_with(allowed)))
    {
        for at in source.words("unsafe") {
            let rest = source.code().get(at..).unwrap_or_default();
            // `#[unsafe(no_mangle)]` marks an attribute, not a block.
            if !rest.starts_with("unsafe(") {
                found.push((source.line(at), "unsafe code may not stand in this file".to_owned()));
            }
        }
    }
    for at in source.words("ignore") {
        let before = source.code().get(..at).unwrap_or_default().trim_end();
        if before.ends_with("#[") {
            found
                .push((source.line(at), "a test is never ignored: it fails with what is missing".to_owned()));
        }
    }
    found
}

fn is_script(path: &str) -> bool {
    path == "README.md"
        || path.starts_with(".ci/")
        || path.starts_with(".github/")
        || [".sh", ".yml", ".yaml"].iter().any(|ending| path.ends_with(ending))
}

/// Whether the line holds an absolute path into that folder (`a/root/b` is none).
fn names_path(line: &str, folder: &str) -> bool {
    line.match_indices(&format!("/{folder}/")).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~}*)>]/".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_source(path: &str, text: &str) -> Vec<(usize, String)> {
        check_source(path, &Source::parse(text))
    }

    #[test]
    fn a_long_file_is_told_but_its_unit_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(CODE_LINES_MAX);
        let tests = "#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(in_source("govsandbox/src/id.rs", &format!("{long}{tests}")), []);
        assert_eq!(in_source("govsandbox/src/id.rs", &format!("fn g() {{}}\n{long}")).len(), 1);
        assert_eq!(in_source("tests/enforce/open.rs", &format!("fn g() {{}}\n{long}")), []);
    }

    #[test]
    fn unsafe_stands_only_where_it_may() {
        let block = "fn f() { unsafe { g() } }";
        assert_eq!(in_source("govsandbox/src/sys/mod.rs", block), []);
        assert_eq!(in_source("govsandbox/src/policy/mod.rs", block).len(), 1);
        assert_eq!(in_source("govsandbox/src/policy/mod.rs", "#![deny(unsafe_code)]\n// unsafe\n"), []);
        assert_eq!(in_source("govsandbox-ebpf/src/main.rs", "#[unsafe(no_mangle)]\nstatic A: u8 = 0;"), []);
    }

    #[test]
    fn no_test_is_ignored() {
        let attribute = concat!("#[", "ignore", " = \"slow\"]\nfn f() {}");
        assert_eq!(in_source("tests/enforce/open.rs", attribute).len(), 1);
        assert_eq!(in_source("tests/enforce/open.rs", "let ignore = 1;"), []);
    }

    #[test]
    fn empty_names_are_told_for_files_and_folders() {
        assert_eq!(check_text("govsandbox/src/util.rs", "").len(), 1);
        assert_eq!(check_text("tests/common/mod.rs", "").len(), 1);
        assert_eq!(check_text("govsandbox/src/utility_bill.rs", ""), []);
    }

    #[test]
    fn paths_of_one_machine_are_told() {
        let home = format!("{}root/x", '/');
        assert_eq!(check_text("docs/a.md", &format!("see {home} and `{home}`")).len(), 1);
        assert_eq!(check_text("docs/a.md", &format!("a{home} {{project}}{home}")), []);
        assert_eq!(check_text("policies/base.toml", &home), []);
    }

    #[test]
    fn scripts_name_no_registry_but_policies_do() {
        let line = "curl https://registry.npmjs.org/x";
        assert_eq!(check_text(".ci/run", line).len(), 1);
        assert_eq!(check_text("policies/claude.toml", line), []);
    }
}
