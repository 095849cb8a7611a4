//! Whole policies, from files to what is enforced.

use std::{
    fs,
    path::{Path, PathBuf},
};

use govsandbox_ebpf::decide::path::Operation;
use tempfile::TempDir;

use super::{
    Context, Loaded, PolicyError, Sources,
    compile::{EgressTarget, Layer, Mode, PathEffect},
    explain, load,
};

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
    assert_eq!((literal.effect, literal.rule.0), (PathEffect::Protect, 6));
    assert_eq!(loaded.compiled.paths.globs.len(), 1);
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
