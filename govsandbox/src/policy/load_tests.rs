//! Whole policies, from files to what is enforced.

use std::{
    fs,
    path::{Path, PathBuf},
};

use govsandbox_ebpf::decide::path::Operation;
use tempfile::TempDir;

use super::{
    Context, Loaded, PolicyError, Sources,
    compile::{EgressEffect, EgressTarget, Layer, Mode, PathEffect},
    explain,
    git_config::merged,
    load,
    repositories::Repositories,
};
use crate::id::RuleIndex;

/// A machine of its own: home, project and /etc in a temporary folder.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["home/app", "etc/policies", "etc/policy.d", "home/.config/govsandbox/policies"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    fn sources(&self, policies: &[&str]) -> Sources {
        let context = Context {
            project: self.path("home/app"),
            project_given: false,
            home: self.path("home"),
            tmp: vec![self.path("tmp"), PathBuf::from("/var/tmp")],
            runtime: PathBuf::from("/run/user/1000"),
            state: self.path("home/.local/state/govsandbox"),
            repositories: Repositories::default(),
            etc: self.path("etc"),
        };
        let policies = policies.iter().map(|policy| (*policy).to_owned()).collect();
        Sources { policies, command_name: "true".to_owned(), context, mode_override: None }
    }

    fn load(&self, policies: &[&str]) -> Result<Loaded, PolicyError> {
        load(&self.sources(policies))
    }
}

fn verdict(loaded: &Loaded, path: impl AsRef<Path>, operation: Operation) -> (bool, String) {
    use std::os::unix::ffi::OsStrExt;
    let path = path.as_ref().as_os_str().as_bytes();
    let verdict = explain::path(&loaded.compiled, &loaded.automaton, path, operation);
    (verdict.allowed, verdict.rule.map(|rule| rule.id.0).unwrap_or_default())
}

fn says(allowed: bool, rule: &str) -> (bool, String) {
    (allowed, rule.to_owned())
}

#[test]
fn every_shipped_profile_loads_without_a_warning() {
    let machine = Machine::new();
    for name in ["base", "default", "claude", "ci"] {
        let loaded =
            machine.load(&[name]).unwrap_or_else(|error| panic!("{name}: {:?}", miette::Report::new(error)));
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
        assert_eq!(loaded.compiled.name, name);
        assert!(loaded.files.is_empty());
    }
}

#[test]
fn the_command_picks_its_profile_and_default_is_the_rest() {
    let machine = Machine::new();
    for (command, profile) in
        [("/usr/local/bin/claude", "claude"), ("codex", "default"), ("../x", "default"), ("", "default")]
    {
        let sources = Sources { command_name: command.to_owned(), ..machine.sources(&[]) };
        assert_eq!(load(&sources).unwrap().compiled.name, profile, "{command}");
    }
}

#[test]
fn the_claude_profile_lets_it_work_and_keeps_secrets() {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("home/app/.git/hooks")).unwrap();
    let claude = machine.load(&["claude"]).unwrap();
    let home = |name: &str| machine.path("home").join(name);
    for readable in [
        "app/src/main.rs",
        "app/.env.example",
        ".claude/settings.json",
        "other/README.md",
        "app/certs/ca.pem",
    ] {
        assert!(verdict(&claude, home(readable), Operation::Read).0, "{readable}");
    }
    for writable in [
        "app/src/main.rs",
        "app/.git/objects/ab/cdef",
        "app/.git/index",
        "app/sub/.git/config",
        "app/node_modules/x/index.js",
        ".claude/projects/x.jsonl",
        ".claude.json",
        ".claude.json.tmp.81.a0",
        ".cargo/registry/cache/x",
        ".npm/_cacache/x",
    ] {
        assert!(verdict(&claude, home(writable), Operation::Change).0, "{writable}");
    }
    for secret in
        [".ssh/id_ed25519", "app/.env", "app/.env.production", "app/sub/tls.key.pem", "app/id_rsa", ".netrc"]
    {
        assert!(!verdict(&claude, home(secret), Operation::Read).0, "{secret}");
    }
    for held in [
        "app/.git/hooks/pre-commit",
        "app/.git/config",
        "app/.git/commondir",
        "app/.vscode/tasks.json",
        ".claude/settings.json",
        "app/.claude/settings.local.json",
        ".bashrc",
        "app/.mcp.json",
    ] {
        assert!(verdict(&claude, home(held), Operation::Read).0, "{held}");
        assert!(!verdict(&claude, home(held), Operation::Change).0, "{held}");
    }
    assert_eq!(verdict(&claude, home("other/x"), Operation::Change), says(false, "default/filesystem.write"));
    assert!(verdict(&claude, "/etc/ssl/certs/ca-certificates.pem", Operation::Read).0);
    assert!(verdict(&claude, "/dev/null", Operation::Change).0);
    let (allowed, rule) = verdict(&claude, "/etc/shadow", Operation::Read);
    assert!(!allowed && rule.starts_with("base/filesystem.deny/"), "{rule}");
    let names = claude.compiled.egress.iter().flat_map(|lists| &lists.rules);
    let name =
        |rule: &super::compile::EgressRule| rule.target == EgressTarget::Name("api.anthropic.com".to_owned());
    assert!(names.into_iter().any(name));
}

#[test]
fn rules_are_numbered_by_precedence() {
    let machine = Machine::new();
    machine.write(
        "etc/policy.toml",
        "version = 1\n[filesystem]\ndeny = ['/sys-deny']\nprotect = ['/sys-protect']\n",
    );
    let session = "version = 1\n[filesystem]\nwrite = ['/w']\ndeny = ['/d0', '**/*.d1']\nprotect = ['/p']\n[network]\nallow = ['localhost']\ndeny = ['10.0.0.0/8']\n";
    let session = machine.write("session.toml", session);
    let loaded = machine.load(&[&session]).unwrap();
    let ids: Vec<_> = loaded.compiled.rules.iter().map(|rule| (rule.id.0.as_str(), rule.layer)).collect();
    assert_eq!(
        ids,
        [
            ("builtin/own-files", Layer::Builtin),
            ("policy/filesystem.deny/0", Layer::System),
            ("session/filesystem.deny/0", Layer::Session),
            ("session/filesystem.deny/1", Layer::Session),
            ("session/network.deny/0", Layer::Session),
            ("policy/filesystem.protect/0", Layer::System),
            ("session/filesystem.protect/0", Layer::Session),
            ("default/filesystem.read", Layer::Builtin),
            ("session/filesystem.write/0", Layer::Session),
            ("session/network.allow/0", Layer::Session),
        ]
    );
    let literal =
        loaded.compiled.paths.literals.iter().find(|literal| literal.path == Path::new("/p")).unwrap();
    assert_eq!((literal.effect, literal.rule.0), (PathEffect::Protect, 7));
    assert_eq!(loaded.compiled.paths.globs.len(), 1);
}

#[test]
fn keys_of_a_protected_config_hold_together_and_never_open_what_another_rule_closes() {
    let machine = Machine::new();
    machine.write(
        "home/app/.govsandbox.toml",
        "version = 1\n[filesystem]\nprotect = [{ path = '{project}/.git/config', keys = ['branch.*.merge', 'user.*'] }]\n",
    );
    let session = "version = 1\n[filesystem]\nprotect = [{ path = '{project}/.git/config', keys = ['branch.*'] }, '/p']\n";
    let session = machine.write("session.toml", session);
    let rule = |loaded: &Loaded, id: &str| {
        let at = loaded.compiled.rules.iter().position(|rule| rule.id.0 == id).unwrap();
        RuleIndex(u16::try_from(at + 1).unwrap())
    };
    let config = |branch: &str| format!("[branch \"x\"]\n\t{branch}\n").into_bytes();

    let loaded = machine.load(&[&session]).unwrap();
    let (closed, open) =
        (rule(&loaded, "session/filesystem.protect/1"), rule(&loaded, "session/filesystem.protect/0"));
    // What lets nothing change decides first.
    assert!(closed.0 < open.0);
    assert_eq!(loaded.compiled.paths.keys_of(closed), None);
    let keys = loaded.compiled.paths.keys_of(open).unwrap();
    assert!(merged(b"", &config("merge = refs/heads/a"), keys).is_ok());
    assert!(merged(b"", &config("description = a"), keys).is_err(), "the project's file narrows");
    assert!(merged(b"", b"[user]\n\tname = a\n", keys).is_err(), "and opens nothing");

    let shown = loaded.effective.lists.iter().flat_map(|list| &list.rules);
    let shown: Vec<_> = shown.map(|rule| rule.rule.as_str()).collect();
    assert!(shown.contains(&"{project}/.git/config but for branch.*"), "{shown:?}");
}

#[test]
fn the_machine_and_the_project_only_narrow() {
    let machine = Machine::new();
    machine.write(
        "etc/policy.d/10-site.toml",
        "version = 1\n[filesystem]\nwrite = ['/srv', '{project}']\n[network]\ndeny = ['192.0.2.0/24']\n",
    );
    machine.write("home/app/.govsandbox.toml", "version = 1\nmode = 'audit'\n[filesystem]\nwrite = ['{project}/src', '/opt']\n[network]\nallow = []\n");
    let session = machine.write(
        "session.toml",
        "version = 1\n[filesystem]\nwrite = ['/srv', '{project}']\n[network]\nallow = ['*:443']\n",
    );
    let loaded = machine.load(&[&session]).unwrap();
    let project = machine.path("home/app");
    assert!(verdict(&loaded, project.join("src/x"), Operation::Change).0);
    assert!(!verdict(&loaded, project.join("doc/x"), Operation::Change).0, "the project's file narrows");
    assert!(!verdict(&loaded, "/srv/x", Operation::Change).0, "the project's file does not have it");
    assert!(!verdict(&loaded, "/opt/x", Operation::Change).0, "the project's file can't widen");
    // None of the three has a read list.
    assert!(verdict(&loaded, "/opt/x", Operation::Read).0);
    assert_eq!(loaded.compiled.mode, Mode::Enforce, "the default is not the project's to loosen");
    // The chosen policy's list with the machine's deny, and the project's empty one.
    let egress: Vec<_> = loaded.compiled.egress.iter().map(|lists| lists.rules.len()).collect();
    assert_eq!(egress, [2, 0]);
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn two_runs_of_one_policy_have_one_digest_and_another_rule_another() {
    let machine = Machine::new();
    let one = machine.write("one.toml", "version = 1\nname = 'x'\n[filesystem]\ndeny = ['/a']\n");
    let same = machine.write("two.json", r#"{"version": 1, "name": "x", "filesystem": {"deny": ["/a"]}}"#);
    let other = machine.write("three.toml", "version = 1\nname = 'x'\n[filesystem]\ndeny = ['/b']\n");
    let digest = |policy: &str| machine.load(&[policy]).unwrap().compiled.digest;
    assert_eq!(digest(&one), digest(&same));
    assert_ne!(digest(&one), digest(&other));
    assert_eq!(digest(&one).len(), "sha256:".len() + 64);
}

#[test]
fn the_machines_files_are_roots_own() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    let file = machine.write("etc/policy.d/site.toml", "version = 1\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(machine.load(&["default"]).is_ok());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    let error = machine.load(&["default"]).unwrap_err();
    assert!(
        matches!(&error, PolicyError::WritableByOthers { path } if path.ends_with("site.toml")),
        "{error}"
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(machine.path("etc/policy.d"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(machine.load(&["default"]), Err(PolicyError::WritableByOthers { .. })));
}

#[test]
fn a_file_does_not_take_the_place_of_a_shipped_profile() {
    let machine = Machine::new();
    // What an agent may have left there.
    machine
        .write("home/.config/govsandbox/policies/claude.toml", "version = 1\n[filesystem]\nwrite = ['/']\n");
    machine.write("home/.config/govsandbox/policies/mine.toml", "version = 1\nextends = ['base']\n");
    machine.write("etc/policies/mine.json", r#"{"version": 1, "mode": "audit"}"#);
    assert!(machine.load(&["claude"]).unwrap().files.is_empty());
    // The machine's before the user's.
    let mine = machine.load(&["mine"]).unwrap();
    assert_eq!((mine.compiled.mode, mine.files.len()), (Mode::Audit, 1));
}

#[test]
fn what_is_reached_twice_counts_once() {
    let machine = Machine::new();
    let one = machine.write("one.toml", "version = 1\nextends = ['base']\n");
    let two = machine
        .write("two.toml", "version = 1\nextends = ['base', './one.toml']\n[filesystem]\ndeny = ['/two']\n");
    let base = machine.load(&["base"]).unwrap().compiled.rules.len();
    let both = machine.load(&[&one, &two, &one]).unwrap();
    assert_eq!(both.compiled.rules.len(), base + 1);
    assert_eq!(both.compiled.name, "one+two");
    assert_eq!(both.files.len(), 2);
}

#[test]
fn the_command_line_says_the_mode_unless_the_machine_is_stricter() {
    let machine = Machine::new();
    let audit = Sources { mode_override: Some(Mode::Audit), ..machine.sources(&["default"]) };
    assert_eq!(load(&audit).unwrap().compiled.mode, Mode::Audit);
    machine.write("etc/policy.toml", "version = 1\nmode = 'enforce'\n");
    assert_eq!(load(&audit).unwrap().compiled.mode, Mode::Enforce);
}

#[test]
fn the_machine_says_where_the_log_is_and_the_lowest_limit_holds() {
    let machine = Machine::new();
    let text = "version = 1\n[audit]\nlog = '/var/log/agents.jsonl'\n[limits]\npids_max = 500\n";
    machine.write("etc/policy.toml", text);
    let session = machine
        .write("s.toml", "version = 1\n[audit]\nlog = '{state}/own.jsonl'\n[limits]\npids_max = 900\n");
    let compiled = machine.load(&[&session]).unwrap().compiled;
    assert_eq!(
        (compiled.audit_log.as_path(), compiled.pids_max.as_ref().map(|limit| limit.max)),
        (Path::new("/var/log/agents.jsonl"), Some(500))
    );
    assert_eq!(compiled.pids_max.unwrap().rule.layer, Layer::System);
}

#[test]
fn a_denied_name_wins_over_an_allowed_one_in_any_layer() {
    let machine = Machine::new();
    machine.write("etc/policy.toml", "version = 1\n[network]\ndeny = ['bad.example']\n");
    let session =
        machine.write("s.toml", "version = 1\n[network]\nallow = ['bad.example', 'good.example:443']\n");
    let compiled = machine.load(&[&session]).unwrap().compiled;
    let [lists] = compiled.egress.as_slice() else { panic!("{:?}", compiled.egress) };
    let denied = lists.rules.first().unwrap();
    assert_eq!(
        (denied.effect, &denied.target),
        (EgressEffect::Deny, &EgressTarget::Name("bad.example".to_owned()))
    );
    assert!(
        lists.rules.iter().skip(1).all(|rule| rule.effect == EgressEffect::Allow && rule.rule > denied.rule)
    );
}
