use std::{fs, process::Command};

use proptest::prelude::*;

use super::*;

const OLD: &str = "\
[core]
\trepositoryformatversion = 0
\tbare = false
; a note
[remote \"origin\"]
\turl = https://example.com/a.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch \"main\"]
\tremote = origin
\tmerge = refs/heads/main
";

fn branches() -> Keys {
    Keys::parse(["branch.*", "remote.*.fetch"]).unwrap()
}

fn with(more: &str) -> Result<String, Refused> {
    merged(OLD.as_bytes(), format!("{OLD}{more}").as_bytes(), &branches())
        .map(|text| String::from_utf8(text).unwrap())
}

/// What the real git reads from a config, by key; `None`: it refuses it.
fn git_list(text: &[u8]) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let listed = Command::new("git")
        .args(["config", "--list", "-z", "--file"])
        .arg(file.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .output()
        .expect("these tests compare with the real git: install it");
    let entry = |entry: &[u8]| match entry.iter().position(|byte| *byte == b'\n') {
        Some(at) => (String::from_utf8_lossy(&entry[..at]).into_owned(), Some(entry[at + 1..].to_owned())),
        None => (String::from_utf8_lossy(entry).into_owned(), None),
    };
    let entries = listed.stdout.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    listed.status.success().then(|| entries.map(entry).collect())
}

fn own_list(text: &[u8]) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    let lines = read::read(text).ok()?;
    let entries = lines.into_iter().filter_map(|line| match line {
        Line::Entry { name, value, .. } => {
            let sub = name.section.sub.as_ref();
            let sub = sub.map(|sub| format!(".{}", String::from_utf8_lossy(sub))).unwrap_or_default();
            Some((format!("{}{sub}.{}", name.section.name, name.key), value))
        }
        _ => None,
    });
    Some(entries.collect())
}

#[test]
fn a_branch_that_tracks_another_is_written_and_all_else_stays() {
    let more = "[branch \"x\"]\n\tremote = origin\n\tmerge = refs/heads/main\n";
    let expected = format!("{OLD}[branch \"x\"]\n\tmerge = refs/heads/main\n\tremote = origin\n");
    assert_eq!(with(more).unwrap(), expected);
    // What only the new file says in comments or by its order is not taken over.
    assert_eq!(with("# a comment\n[alias]\n").unwrap(), OLD);
}

#[test]
fn a_branch_that_goes_takes_its_section_along() {
    let at = OLD.find("[branch").unwrap();
    let kept = merged(OLD.as_bytes(), &OLD.as_bytes()[..at], &branches()).unwrap();
    assert_eq!(String::from_utf8(kept).unwrap(), OLD[..at]);
}

#[test]
fn what_runs_programs_is_refused_by_name_however_it_is_written() {
    for (more, key) in [
        ("[core]\n\thooksPath = /tmp/x\n", "core.hookspath"),
        ("[CORE]\nHOOKSPATH=/tmp/x", "core.hookspath"),
        ("[core]\n\tfsmonitor = \"/tmp/x\"\n", "core.fsmonitor"),
        ("[core]\n\tsshCommand = sh -c 'x'\n", "core.sshcommand"),
        ("[core]\n\tpager = x\n", "core.pager"),
        ("[core]\n\tbare\n", "core.bare"),
        ("[include]\n\tpath = x\n", "include.path"),
        ("[includeIf \"gitdir:/\"]\n\tpath = x\n", "includeif.gitdir:/.path"),
        ("[filter \"x\"]\n\tclean = y\n", "filter.x.clean"),
        ("[alias]\n\tst = !x\n", "alias.st"),
        ("[credential]\n\thelper = x\n", "credential.helper"),
        ("[url \"evil:\"]\n\tinsteadOf = https:\n", "url.evil:.insteadof"),
        ("[remote \"origin\"]\n\turl = ext::x\n", "remote.origin.url"),
        ("[remote \"origin\"]\n\tuploadpack = x\n", "remote.origin.uploadpack"),
        ("[branch \"x\"]\n\tmergeOptions = -s x\n", "branch.x.mergeoptions"),
        ("[branch \"\u{1b}[2J\"]\n\tmergeOptions = -s x\n", "line"),
    ] {
        match with(more) {
            Err(Refused::Key { key: found }) => assert_eq!(found, key, "{more}"),
            Err(Refused::Unusual { .. }) => assert_eq!(key, "line", "{more}"),
            other => panic!("{more}: {other:?}"),
        }
    }
    // To take something away is a change as well.
    let without = OLD.replace("\tbare = false\n", "");
    let refused = merged(OLD.as_bytes(), without.as_bytes(), &branches());
    assert_eq!(refused, Err(Refused::Key { key: "core.bare".into() }));
}

#[test]
fn what_parsers_disagree_about_is_refused() {
    for more in [
        "[branch \"x\"] fsmonitor = y\n",
        "[branch.x]\n\tremote = origin\n",
        "[branch \"x\"]\n\tdescription = a\\\n\tb\n",
        "[branch \"x\"]\r\n\tdescription = a\r\n",
        "[branch \"x\"]\n\tdescription = a\rb\n",
        "[branch \"x\"]\n\tdescription = a\0b\n",
        "[branch \"x\"]\n\tdescription = a\tb\n",
        "[branch \"x\"]\n\tdescription = \"a\n",
        "[branch \"x\"]\n\tdescription = \\q\n",
        "[branch \"x\"]\n\tdescription # a\n",
        "[branch \"x\n",
        "[branch \"x\"\n",
        "[bra nch]\n",
        "[branch\"x\"]\n",
        "[branch \"x\"]y\n",
        "= a\n",
        "\u{feff}[branch \"x\"]\n",
    ] {
        assert!(matches!(with(more), Err(Refused::Unusual { .. })), "{more:?}: {:?}", with(more));
    }
    assert!(matches!(merged(b"a = b\n", b"", &branches()), Err(Refused::Unusual { line: 1 })));
    assert_eq!(merged(b"", &vec![b'\n'; CONFIG_BYTES_MAX + 1], &branches()), Err(Refused::TooLarge));
}

#[test]
fn a_branch_follows_only_remotes_that_are_there() {
    for (remote, allowed) in [
        ("origin", true),
        (".", true),
        ("https://evil.example/x.git", false),
        ("ext::sh -c x", false),
        ("../other", false),
        ("nosuch", false),
    ] {
        for key in ["remote", "pushRemote"] {
            let written = with(&format!("[branch \"x\"]\n\t{key} = {remote}\n"));
            assert_eq!(written.is_ok(), allowed, "{key} {remote}: {written:?}");
        }
    }
    for (url, allowed) in
        [("https://x.example/y", true), ("../y", true), ("ext::sh -c x", false), ("-ux", false)]
    {
        let keys = Keys::parse(["submodule.*.url"]).unwrap();
        let new = format!("{OLD}[submodule \"y\"]\n\turl = {url}\n");
        assert_eq!(merged(OLD.as_bytes(), new.as_bytes(), &keys).is_ok(), allowed, "{url}");
    }
    // A remote can't be made up first: its address is closed.
    assert!(with("[remote \"evil\"]\n\tfetch = x\n[branch \"x\"]\n\tremote = evil\n").is_err());
}

#[test]
fn a_line_is_never_longer_than_git_reads() {
    let long = "x".repeat(2000);
    let refused = with(&format!("[branch \"x\"]\n\tdescription = {long}\n"));
    assert_eq!(refused, Err(Refused::Value { key: "branch.x.description".into() }));
    let refused = with(&format!("[branch \"{long}\"]\n\tdescription = x\n"));
    assert!(matches!(refused, Err(Refused::Value { .. })), "{refused:?}");
}

#[test]
fn keys_of_two_rules_hold_together() {
    let both = branches().and(&Keys::parse(["branch.*.merge"]).unwrap());
    let new = |key: &str| format!("{OLD}[branch \"x\"]\n\t{key} = y\n");
    assert!(merged(OLD.as_bytes(), new("merge").as_bytes(), &both).is_ok());
    assert!(merged(OLD.as_bytes(), new("description").as_bytes(), &both).is_err());
}

#[test]
fn patterns_that_open_programs_are_errors() {
    for closed in [
        "core.hooksPath",
        "core.*",
        "Core.Pager",
        "alias.*",
        "alias.st",
        "filter.x.clean",
        "include.path",
        "url.*",
        "includeIf.*.path",
        "credential.helper",
        "remote.*.url",
        "remote.pushDefault",
        "branch.*.mergeOptions",
        "gpg.program",
        "diff.*.textconv",
        "merge.x.driver",
        "submodule.*.update",
        "extensions.worktreeConfig",
        "protocol.ext.allow",
        "mytool.command",
        "remote.origin.uploadpack",
        "remote.*.proxy",
    ] {
        assert_eq!(Keys::parse([closed]), Err(KeyError::Closed(closed.to_owned())), "{closed}");
    }
    for malformed in ["branch", "", ".", "*.x", "bra*.x", "branch.", "branch.x.", "branch.x.m*", "br anch.x"]
    {
        assert_eq!(Keys::parse([malformed]), Err(KeyError::Malformed(malformed.to_owned())), "{malformed}");
    }
    assert_eq!(Keys::parse([]), Err(KeyError::None));
    for open in [
        "branch.*",
        "branch.*.merge",
        "branch.a.b.merge",
        "remote.*.fetch",
        "remote.*",
        "user.name",
        "gitflow.*",
    ] {
        assert!(Keys::parse([open]).is_ok(), "{open}");
    }
    // `remote.*` opens what of a remote can be opened, and nothing else.
    let remote = Keys::parse(["remote.*", "branch.*"]).unwrap();
    let new = format!("{OLD}[remote \"origin\"]\n\tproxy = x\n");
    assert!(merged(OLD.as_bytes(), new.as_bytes(), &remote).is_err());
}

/// Pieces that configs, honest and not, are made of.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        16 => prop::sample::select(vec![
            "[core]\n", "[branch \"x\"]\n", "[branch \"y \\\" \\\\ z\"]\n", "[BRANCH \"x\"]\n", "[remote \"origin\"]\n",
            "\turl = u\n", "\tremote = origin\n", "\tremote = .\n", "\tmerge = refs/heads/x\n", "\thooksPath = /x\n",
            "\tfetch = +a:b\n", "\tdescription = \" a ; b # c \\n \\\" \" d  \n", "\tautoSetupMerge\n", "\tbare = true # x\n",
            "\t Description= \"\" a\n", "\tmerge = \n", "; fsmonitor = x\n", "\n", "\tdescription = a\\\\ ; b\n",
            "\tdescription = \u{fc}\u{202e}\n",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "[", "]", "\"", "\\", "\n", "=", "#", ";", " ", "\t", "\r\n", "\r", "\0", "\u{feff}", ".", "a", "[a.b]\n",
            "[branch \"x\"] fsmonitor = y\n", "\\\n", "\u{b}", "\u{c}", "\x7f", "\tx = a\tb\n", "\tx = \"a\n",
        ]).prop_map(str::to_owned),
    ];
    let rest = prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat().into_bytes());
    (header(), rest).prop_map(|(header, rest)| [header, rest].concat())
}

/// What may be added: mostly.
fn additions() -> impl Strategy<Value = Vec<u8>> {
    let entry = prop::sample::select(vec![
        "\tremote = .\n",
        "\tmerge = refs/heads/x\n",
        "\tdescription = \" a ; b # c \\n \\\" \" d  \n",
        "\tautoSetupMerge\n",
        "\tmerge = \"[core]\\n\\thooksPath = x\"\n",
    ]);
    let entries = prop::collection::vec(entry, 0..4).prop_map(|entries| entries.concat().into_bytes());
    let section = (header(), entries).prop_map(|(header, entries)| [header, entries].concat());
    prop_oneof![4 => section, 1 => pieces()]
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let headers = ["[branch \"x\"]\n", "[branch \"y \\\" \\\\ z\"]\n", "[BRANCH \"x\"]\n", "[branch]\n"];
    prop::sample::select(headers.to_vec()).prop_map(|header| header.as_bytes().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_git_reads(text in pieces()) {
        if let Some(own) = own_list(&text) {
            prop_assert_eq!(Some(own), git_list(&text));
        }
    }

    #[test]
    fn to_git_only_allowed_keys_differ(old in pieces(), new in additions(), joined in any::<bool>()) {
        let new = if joined { [old.as_slice(), b"\n", new.as_slice()].concat() } else { new };
        if let Ok(written) = merged(&old, &new, &branches()) {
            let (old, new, written) = (git_list(&old).unwrap(), git_list(&new).unwrap(), git_list(&written).unwrap());
            let allowed = |key: &str| key.starts_with("branch.") || (key.starts_with("remote.") && key.ends_with(".fetch"));
            let closed = |list: &[(String, Option<Vec<u8>>)]| -> Vec<_> {
                list.iter().filter(|(key, _)| !allowed(key)).cloned().collect()
            };
            prop_assert_eq!(closed(&old), closed(&written));
            for (key, _) in new.iter().chain(&written).filter(|(key, _)| allowed(key)) {
                let values = |list: &[(String, Option<Vec<u8>>)]| -> Vec<_> {
                    list.iter().filter(|(other, _)| other == key).map(|(_, value)| value.clone()).collect()
                };
                prop_assert_eq!(values(&new), values(&written), "{}", key);
            }
        }
    }
}
