//! `policy check`: what is wrong, where, and what to do.

use std::{fs, os::unix::fs::symlink};

use insta::assert_snapshot;

use crate::bed::Bed;

#[test]
fn shipped_profiles_are_valid() {
    let ran = Bed::new().run(&["policy", "check", "base", "default", "claude", "ci"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(ran.out.lines().filter(|line| line.starts_with("ok ")).count(), 4, "{}", ran.out);
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    let bed = Bed::new();
    assert_snapshot!(bed.complaint("typo.toml", "version = 1\n\n[filesystem]\nwrte = [\"/tmp\"]\n"));
}

#[test]
fn json_points_at_the_same_places() {
    let bed = Bed::new();
    assert_snapshot!(
        bed.complaint("typo.json", "{\n  \"version\": 1,\n  \"filesystem\": { \"dney\": [] }\n}\n")
    );
}

#[test]
fn everything_wrong_with_a_file_is_told_at_once() {
    let bed = Bed::new();
    let policy = r#"version = 1
mode = "enforce"

[filesystem]
write = ["src/generated", "~bob/x", "{projct}/x", "/srv/../x"]
deny = ["/a/{b}/c", "/x[ab", "/y**"]

[network]
allow = ["API.example.com", "10.0.0.1/8", "a.*.com", "db:70000", "https://a.example/x"]

[audit]
retention = "90d"

[exec]
deny = ["git push"]

[[rule]]
id = "Four Eyes"
match = {}
effect = "ask"
"#;
    assert_snapshot!(bed.complaint("wrong.toml", policy));
}

#[test]
fn keys_that_open_programs_and_files_without_keys_are_pointed_at() {
    let bed = Bed::new();
    let policy = r#"version = 1

[filesystem]
protect = [
    { path = "{project}/.git/config", keys = ["branch.*", "remote.*.fetch"] },
    { path = "{project}/.git/config", keys = ["branch.*", "core.hooksPath"] },
    { path = "~/.gitconfig", keys = ["alias"] },
    { path = "~/.bashrc", keys = ["branch.*"] },
    { path = "**/.git/config", keys = ["branch.*"] },
    { path = "{project}/.git/config", keys = [] },
]
"#;
    assert_snapshot!(bed.complaint("keys.toml", policy));
}

#[test]
fn what_this_version_does_not_enforce_is_refused() {
    let bed = Bed::new();
    for (key, policy) in [
        ("ports of `localhost`", "[network]\nlisten = ['localhost:8080']"),
        ("empty `network.listen`", "[network]\nlisten = []"),
        ("sinks", "[audit]\nsinks = ['https://siem.example/ingest']"),
        ("redact", "[audit]\nredact = ['(?i)authorization: .*']"),
        ("retention", "[audit]\nretention = '90d'"),
        ("[[rule]]", "[[rule]]\nid = 'x'\nmatch = { exec = 'kubectl' }\neffect = 'ask'"),
        ("a wildcard in `filesystem.write`", "[filesystem]\nwrite = ['/a/*']"),
    ] {
        let said = bed.complaint("later.toml", format!("version = 1\n{policy}\n"));
        assert!(said.contains("is not enforced by this version"), "{key}: {said}");
        assert!(said.contains(key), "{key}: {said}");
    }
}

#[test]
fn a_proxy_is_named_without_a_password_and_by_no_project() {
    let bed = Bed::new();
    for (network, said) in [
        (
            "proxy = 'http://me:secret@proxy.example:3128'",
            "a password in a policy can be read by whom it is kept from",
        ),
        ("proxy = 'socks5://proxy.example'", "a proxy by `socks5` is not spoken to"),
        ("proxy = 'http://'", "this is no URL of a proxy"),
        ("proxy = 'http://a:1'\nproxy_from_env = true", "both a proxy and the environment's are named"),
    ] {
        let complaint = bed.complaint("p.toml", format!("version = 1\n[network]\n{network}\n"));
        assert!(complaint.contains(said), "{network}: {complaint}");
    }
    for (network, shown) in [
        ("proxy = 'http://Proxy.example:3128/'", "http://proxy.example:3128"),
        ("proxy_from_env = true", "from the environment"),
        ("proxy_from_env = false", "none"),
    ] {
        bed.write("p.toml", format!("version = 1\n[network]\n{network}\n"));
        let ran = bed.run(&["policy", "show", "-p", "./p.toml"]);
        let line = ran.out.lines().find(|line| line.contains("network.proxy")).unwrap_or_default();
        assert!(ran.status == Some(0) && line.contains(shown), "{network}: {ran:?}");
    }
    bed.write("p.toml", "version = 1\n");
    bed.write(".govsandbox.toml", "version = 1\n[network]\nproxy = 'http://evil.example'\n");
    let ran = bed.run(&["policy", "show", "-p", "./p.toml"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.err.contains("a project's own file can't say which way connections go"), "{}", ran.err);
}

#[test]
fn hosts_can_be_asked_about_and_this_machine_and_datagrams_can_not() {
    let bed = Bed::new();
    let rule = |network: &str| {
        format!(
            "version = 1\n[network]\nask_timeout = '2m'\n[[rule]]\nid = 'asks'\nmatch = {{ network = {network} }}\neffect = 'ask'\n"
        )
    };
    for network in
        ["'*'", "'*.example:8000-8010'", "'10.0.0.0/8:22'", "{ host = '[2001:db8::/32]', ports = 443 }"]
    {
        bed.write("p.toml", rule(network));
        let ran = bed.run(&["policy", "show", "-p", "./p.toml"]);
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{network}: {ran:?}");
        assert!(ran.out.contains("asks") && ran.out.contains("120s"), "{network}: {}", ran.out);
    }
    for near in
        ["'localhost'", "'127.0.0.1:5432'", "'0.0.0.0/0'", "'0.0.0.0'", "'[::1]'", "'[::]'", "'[::/0]'"]
    {
        let said = bed.complaint("p.toml", rule(near));
        assert!(said.contains("connections to this machine itself are not asked about"), "{near}: {said}");
    }
    let said = bed.complaint("p.toml", rule("{ host = '*', protocol = 'udp' }"));
    assert!(said.contains("a datagram can't wait for an answer"), "{said}");
    for more in ["group = ['payments']", "effect = 'deny'"] {
        let text = rule("'*'").replace(
            "effect = 'ask'",
            if more.starts_with("effect") { more } else { "effect = 'ask'\nGROUP" },
        );
        let said = bed.complaint("p.toml", text.replace("GROUP", more));
        assert!(said.contains("such a `[[rule]]` is not enforced by this version"), "{more}: {said}");
    }
    let said = bed.complaint("p.toml", rule("'*'").replace("2m", "2 minutes"));
    assert!(said.contains("`2 minutes` is no length of time"), "{said}");
}

#[test]
fn programs_that_everything_else_needs_are_not_denied_by_mistake() {
    let bed = Bed::new();
    for (exec, said) in [
        ("deny = ['env']", "`p/exec.deny/0` denies `/usr/bin/env`: no script that begins with"),
        ("deny = ['x', '/usr/bin']", "`p/exec.deny/1` denies `/usr/bin/sh`: no script, no `sh -c`"),
        ("deny = ['ld-linux*']", "no dynamically linked program starts"),
        ("allow = ['cargo']", "`exec.allow` has no shell"),
    ] {
        bed.write("p.toml", format!("version = 1\n[exec]\n{exec}\n"));
        let ran = bed.run(&["policy", "check", "p.toml"]);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        assert!(ran.err.replace("\n    ", " ").contains(said), "{exec}: {}", ran.err);
        assert!(ran.err.contains("[exec]"), "no place in {}", ran.err);
    }
    let fine = "deny = ['sudo', { command = 'env', args = ['-i', '**'] }]\nallow = ['sh', 'cargo']";
    bed.write("p.toml", format!("version = 1\n[exec]\n{fine}\n"));
    assert_eq!(bed.run(&["policy", "check", "p.toml"]).err, "");
}

#[test]
fn a_default_that_is_written_out_changes_nothing() {
    let bed = Bed::new();
    let policy = r#"version = 1
mode = "enforce"
require = "root"
extends = []
[filesystem]
read = ["/"]
write = ["/srv/**"]
[exec]
deny = []
[network]
verify = "address"
listen = ["localhost"]
unix = []
icmp = "deny"
proxy_from_env = false
ask_timeout = "30s"
[process]
root = "drop"
namespaces = "deny"
ptrace = "tree"
userfaultfd = "deny"
[trace]
opens = "first"
args = true
[audit]
log = "{state}/audit.jsonl"
required = false
sinks = []
redact = []
"#;
    bed.write("defaults.toml", policy);
    let ran = bed.run(&["policy", "check", "defaults.toml"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
}

#[test]
fn syntax_errors_name_the_place() {
    let bed = Bed::new();
    assert_snapshot!("toml_syntax", bed.complaint("syntax.toml", "version = 1\n[filesystem\ndeny = []\n"));
    assert_snapshot!(
        "toml_duplicate",
        bed.complaint("twice.toml", "version = 1\nmode = 'audit'\nmode = 'enforce'\n")
    );
    assert_snapshot!("json_duplicate", bed.complaint("twice.json", "{\"version\": 1,\n \"version\": 1}"));
    assert_snapshot!("json_trailing", bed.complaint("trailing.json", "{\"version\": 1}\n{}"));
    assert_snapshot!("json_cut", bed.complaint("cut.json", "{\"version\": 1, \"mode\": "));
}

#[test]
fn values_of_the_wrong_kind_are_told() {
    let bed = Bed::new();
    assert_snapshot!("missing_version", bed.complaint("empty.toml", ""));
    assert_snapshot!("version_2", bed.complaint("newer.toml", "version = 2\n"));
    assert_snapshot!("not_a_list", bed.complaint("string.toml", "version = 1\n[filesystem]\ndeny = '/x'\n"));
    assert_snapshot!("unknown_word", bed.complaint("word.toml", "version = 1\nmode = 'audti'\n"));
    assert_snapshot!("null", bed.complaint("null.json", r#"{"version": 1, "filesystem": {"write": null}}"#));
    assert_snapshot!("not_a_table", bed.complaint("list.json", "[1]"));
    assert_snapshot!(
        "table_with_a_typo",
        bed.complaint("host.toml", "version = 1\n[network]\nallow = [{ host = 'a.example', port = 80 }]\n")
    );
}

#[test]
fn files_that_are_no_policies_are_told_apart() {
    let bed = Bed::new();
    let said = bed.complaint("latin1.toml", b"version = 1\n# caf\xe9\n");
    assert!(said.contains("not UTF-8 text: byte 17 is 0xe9"), "{said}");
    let said = bed.complaint("huge.toml", format!("version = 1\n# {}\n", "x".repeat(10 << 20)));
    assert!(said.contains("more than 1024 KiB"), "{said}");
    let said = bed.complaint("escape.toml", "version = 1\n# \u{1b}[2J\n");
    assert!(said.contains("control character") && !said.contains('\u{1b}'), "{said:?}");
    let said = bed.complaint("escaped.toml", "version = 1\n[filesystem]\ndeny = [\"a/\\u001b[2J\"]\n");
    assert!(said.contains("project") && !said.contains('\u{1b}'), "{said:?}");
    let deep = format!("{{\"version\": {}1{}}}", "[".repeat(40), "]".repeat(40));
    assert!(bed.complaint("deep.json", deep).contains("nested more than"), "depth");
    fs::create_dir(bed.project().join("folder.toml")).unwrap();
    let ran = bed.run(&["policy", "check", "folder.toml"]);
    assert!(ran.status == Some(1) && ran.err.contains("not a regular file"), "{ran:?}");
}

#[test]
fn what_can_not_be_read_is_no_verdict() {
    let bed = Bed::new();
    let ran = bed.run(&["policy", "check", "./absent.toml"]);
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert_snapshot!(ran.err);
}

#[test]
fn an_unknown_name_is_told_with_the_nearest_one() {
    let bed = Bed::new();
    let ran = bed.run(&["policy", "check", "cluade"]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.err.contains("did you mean `claude`?"), "{}", ran.err);
    bed.write("mine", "version = 1\n");
    let ran = bed.run(&["policy", "check", "mine"]);
    assert!(ran.err.contains("`./mine`"), "{}", ran.err);
}

#[test]
fn extends_that_leads_nowhere_or_back_is_told() {
    let bed = Bed::new();
    bed.write("b.toml", "version = 1\nextends = ['./c.toml']\n");
    bed.write("c.toml", "version = 1\nextends = ['./a.toml']\n");
    assert_snapshot!("cycle", bed.complaint("a.toml", "version = 1\nextends = ['./b.toml']\n"));
    assert_snapshot!("unknown", bed.complaint("d.toml", "version = 1\nextends = ['bsae']\n"));
    assert_snapshot!("unreadable", bed.complaint("e.toml", "version = 1\nextends = ['./absent.toml']\n"));
    for step in 0..20 {
        bed.write(&format!("s{step}.toml"), format!("version = 1\nextends = ['./s{}.toml']\n", step + 1));
    }
    let said = bed.complaint("deep.toml", "version = 1\nextends = ['./s0.toml']\n");
    assert!(said.contains("more than 16 deep"), "{said}");
}

#[test]
fn rules_against_each_other_are_told() {
    let bed = Bed::new();
    let policy = "version = 1\n[filesystem]\nwrite = ['/srv/data', '{project}']\ndeny = ['/srv/data/']\n";
    assert_snapshot!("contradictory", bed.complaint("both.toml", policy));
    let policy = "version = 1\n[filesystem]\nwrite = ['/srv/data/x']\ndeny = ['/srv/data']\n";
    bed.write("within.toml", policy);
    let ran = bed.run(&["policy", "check", "within.toml"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), "ok       within.toml: 3 rules, 1 warning\n"));
    assert_snapshot!("no_effect", ran.err);
}

#[test]
fn what_comes_with_a_project_is_not_trusted() {
    let bed = Bed::new();
    let said = bed.complaint(".govsandbox.toml", "version = 1\nextends = ['../secret.toml']\n");
    assert!(said.contains("can't build on other files"), "{said}");
    let said = bed.complaint(".govsandbox.toml", "version = 1\n[audit]\nlog = '/tmp/elsewhere'\n");
    assert!(said.contains("can't say where the log is"), "{said}");
    // As root govsandbox could read what the project's author can't, and show it in an error.
    fs::remove_file(bed.project().join(".govsandbox.toml")).unwrap();
    fs::write(bed.home().join("secret"), "CANARY").unwrap();
    symlink(bed.home().join("secret"), bed.project().join(".govsandbox.toml")).unwrap();
    let ran = bed.run(&["policy", "check", ".govsandbox.toml"]);
    assert!(ran.err.contains("is a symlink") && !ran.err.contains("CANARY"), "{ran:?}");
}

#[test]
fn json_output_has_every_finding_with_its_place() {
    let bed = Bed::new();
    bed.write("wrong.toml", "version = 1\n[filesystem]\ndeny = ['a/b',\n  'é/x']\n");
    let ran = bed.run(&["policy", "check", "--format", "json", "wrong.toml", "base"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(1), ""), "{ran:?}");
    assert_snapshot!(ran.out);
}

#[test]
fn usage_errors_are_status_2() {
    let ran = Bed::new().run(&["policy", "check", "--no-such-option"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(2), ""), "{ran:?}");
}
