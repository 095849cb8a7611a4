//! The privileged integration tests: test targets of `govsandbox` with `test = false`, so that plain `cargo test` is
//! green anywhere. They are built once and run natively and in virtual machines.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::tally::{Counts, Tally};
use crate::vm::{Machine, NotBooted};
use crate::{process, workspace};

/// Tells a test which backend it must get; without it, the one that this machine gives.
const BACKEND_VARIABLE: &str = "GOVSANDBOX_TEST_BACKEND";
/// Tells a test that times are those of an emulated processor.
const EMULATED_VARIABLE: &str = "GOVSANDBOX_TEST_EMULATED";
/// One target's time, natively and under emulation.
const NATIVE_LIMIT: Duration = Duration::from_secs(900);
const GUEST_LIMIT: Duration = Duration::from_secs(900);
/// The same when it was asked for by itself, for all users: it has the machine for as long as it needs.
const ALONE_LIMIT: Duration = Duration::from_secs(2700);
/// How often a machine that does not boot is started.
const BOOTS_MAX: usize = 3;

/// A kernel that the tests run on, beside the machine's own.
pub(super) struct Guest {
    pub(super) name: &'static str,
    series: &'static str,
    append: &'static str,
    backend: &'static str,
    /// The targets that run there. What tests no kernel runs natively alone: emulation makes a build or a package manager
    /// twenty times slower.
    targets: &'static [Row],
}

/// A target on a guest.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    /// What its test program is told.
    told: &'static [&'static str],
    /// Modules that are left out there.
    left_out: &'static [&'static [&'static str]],
    /// Not at all there: `--vm` runs it.
    alone: bool,
}

impl Row {
    const fn whole(name: &'static str) -> Self {
        Self { name, told: &[], left_out: &[], alone: false }
    }
}

/// Needs long on an emulated processor and depends little on how verdicts are made: `--vm` runs it.
const LONG: &[&str] = &[
    "flood::",
    "two::",
    "odd::",
    "limits::",
    "honest::",
    "exec_rules::",
    "differential::",
    "git::",
    "spelling::",
    "filesystems::",
    // bubblewrap, as an agent brings it along.
    "namespaces::",
    // Programs of the cgroup, which are the same on every backend.
    "connect::",
    "led::",
    "loopback::",
    "datagrams::",
    // Natively too; the hooks that differ are few.
    "special::",
    "members::",
    "passed::",
    "lists::",
    "stale::",
];
/// Needs long and does not depend on the kernel's version: left to the first guest.
const ON_THE_FIRST: &[&str] = &["links::", "unix::", "place::", "attribute::"];
/// Likewise: left to the second.
const ON_THE_SECOND: &[&str] = &["privilege::", "exec::", "replaced::", "change::"];
/// Comes to the same as on the machine's own kernel, which has the same backend.
const AS_NATIVELY: &[&str] =
    &["open::", "change::", "attribute::", "place::", "exec::", "privilege::", "replaced::"];

pub(super) const GUESTS: [Guest; 3] = [
    Guest {
        name: "6.12",
        series: "6.12",
        append: "",
        backend: "lsm",
        targets: &[
            Row { left_out: &[LONG, ON_THE_SECOND], ..Row::whole("enforce") },
            Row { alone: true, ..Row::whole("agent") },
            // Namespaces, mounts and Landlock, long before any hook is asked.
            Row { told: &["--with-hooks"], alone: true, ..Row::whole("confine") },
            // A thousand attempts, which the gate makes natively.
            Row { alone: true, ..Row::whole("escape") },
            // The service is the same on every kernel, and so are the programs that lead to it.
            Row { told: &["run::"], alone: true, ..Row::whole("egress") },
        ],
    },
    Guest {
        name: "6.1",
        series: "6.1",
        append: "",
        backend: "lsm",
        targets: &[Row { left_out: &[LONG, ON_THE_FIRST], ..Row::whole("enforce") }],
    },
    // BPF LSM programs load there too, and are never called: trying must tell.
    Guest {
        name: "6.12 without BPF LSM",
        series: "6.12",
        append: "lsm=landlock,lockdown,yama,apparmor",
        backend: "fanotify",
        targets: &[Row { left_out: &[LONG, ON_THE_FIRST, AS_NATIVELY], ..Row::whole("enforce") }],
    },
];

impl Guest {
    /// Those that a word stands for: the one of exactly that name, else all whose name contains it; no word: all.
    pub(super) fn wanted(word: Option<&str>) -> impl Iterator<Item = &'static Self> {
        let is_name = GUESTS.iter().any(|guest| Some(guest.name) == word);
        GUESTS.iter().filter(move |guest| {
            word.is_none_or(|word| if is_name { guest.name == word } else { guest.name.contains(word) })
        })
    }

    /// `whole`: nothing is left to `--vm`.
    pub(super) fn takes(&self, target: &str, whole: bool) -> bool {
        self.targets.iter().any(|row| row.name == target && (whole || !row.alone))
    }

    fn arguments(&self, target: &str, whole: bool) -> Vec<&'static str> {
        let Some(row) = self.targets.iter().find(|row| row.name == target) else { return Vec::new() };
        let mut words = row.told.to_vec();
        if !whole {
            words.extend(row.left_out.iter().copied().flatten().flat_map(|module| ["--skip", module]));
        }
        words
    }
}

/// A privileged test target that was built.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) executable: PathBuf,
}

/// The names of all privileged targets.
pub(super) fn names() -> Result<Vec<String>> {
    let mut command = workspace::cargo()?;
    let metadata = process::read(command.args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages =
        metadata.get("packages").and_then(Value::as_array).context("cargo metadata lists no packages")?;
    Ok(packages.iter().flat_map(privileged_targets).collect())
}

fn privileged_targets(package: &Value) -> Vec<String> {
    let targets = package.get("targets").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_privileged = |target: &&Value| {
        let is_test = target
            .get("kind")
            .and_then(Value::as_array)
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"));
        is_test && target.get("test") == Some(&Value::Bool(false))
    };
    let name = |target: &Value| target.get("name").and_then(Value::as_str).map(str::to_owned);
    targets.iter().filter(is_privileged).filter_map(name).collect()
}

/// Builds them. The whole workspace is named, so that features, and with them all artifacts, are those of the unit tests.
pub(super) fn build(names: &[String]) -> Result<Vec<Target>> {
    let mut command = workspace::cargo()?;
    command.args([
        "test",
        "--quiet",
        "--workspace",
        "--locked",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    for name in names {
        command.args(["--test", name]);
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`{}` failed: {}", process::describe(&command), output.status);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let mut targets: Vec<_> =
        said.lines().filter_map(built_test).filter(|target| names.contains(&target.name)).collect();
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    if targets.len() != names.len() {
        bail!("cargo built {} of {} privileged test targets", targets.len(), names.len());
    }
    Ok(targets)
}

fn built_test(line: &str) -> Option<Target> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = message.get("target")?;
    target.get("kind")?.as_array()?.iter().find(|kind| *kind == "test")?;
    let name = target.get("name")?.as_str()?.to_owned();
    Some(Target { name, executable: message.get("executable")?.as_str()?.into() })
}

impl Target {
    /// Whether the filter leaves anything of it; asked here, so that no machine is started for nothing.
    pub(super) fn has(&self, filter: Option<&str>) -> Result<bool> {
        let listed = process::read(Command::new(&self.executable).arg("--list").args(filter))?;
        Ok(listed.lines().any(|line| line.ends_with(": test")))
    }

    /// Runs it on this machine.
    pub(super) fn run_natively(&self, filter: Option<&str>) -> Result<Counts> {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", &NATIVE_LIMIT.as_secs().to_string()])
            .arg(&self.executable)
            .args(filter);
        command
            .current_dir(workspace::root()?.join("govsandbox"))
            .env("CARGO_MANIFEST_DIR", workspace::root()?.join("govsandbox"));
        super::count(&mut command)
    }

    /// Runs what the guest's row says of it on a kernel of its own; `whole`: all of it.
    pub(super) fn run_in(&self, guest: &Guest, filter: Option<&str>, whole: bool) -> Result<Counts> {
        let folder = workspace::root()?.join("govsandbox");
        let mut machine = Machine::new(guest.series);
        machine.append = guest.append.to_owned();
        machine.timeout = if whole { ALONE_LIMIT } else { GUEST_LIMIT };
        machine.folder = Some(folder.clone());
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        machine.environment = vec![
            variable(BACKEND_VARIABLE, guest.backend),
            variable(EMULATED_VARIABLE, "1"),
            variable("CARGO_MANIFEST_DIR", &folder.to_string_lossy()),
            variable("INSTA_UPDATE", "no"),
        ];
        let words =
            [self.executable.to_string_lossy().into_owned()].into_iter().chain(filter.map(str::to_owned));
        let words: Vec<String> =
            words.chain(guest.arguments(&self.name, whole).into_iter().map(str::to_owned)).collect();
        for _ in 1..BOOTS_MAX {
            match self.try_in(&machine, &words) {
                Err(error) if error.is::<NotBooted>() => eprintln!("xtask: {error}; once more"),
                other => return other,
            }
        }
        self.try_in(&machine, &words)
    }

    fn try_in(&self, machine: &Machine, words: &[String]) -> Result<Counts> {
        let (tally, counter) = Tally::new(std::io::stdout());
        let status = machine.run_with(words, Box::new(tally), Box::new(std::io::stderr()))?;
        Ok(super::judge(counter.counts(), status == 0, &format!("{} ended with status {status}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_targets_that_plain_cargo_test_leaves_out_are_privileged() {
        let package = serde_json::json!({ "targets": [
            { "kind": ["lib"], "name": "govsandbox", "test": true },
            { "kind": ["test"], "name": "cli", "test": true },
            { "kind": ["test"], "name": "enforce", "test": false },
            { "kind": ["bin"], "name": "govsandbox", "test": false },
        ]});
        assert_eq!(privileged_targets(&package), ["enforce"]);
    }

    #[test]
    fn the_executable_of_a_test_is_found_in_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"enforce"},"executable":"/t/enforce-1"}"#;
        let target = built_test(line).unwrap();
        assert_eq!((target.name.as_str(), target.executable), ("enforce", PathBuf::from("/t/enforce-1")));
        assert!(
            built_test(
                r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}"#
            )
            .is_none()
        );
    }

    #[test]
    fn a_word_that_is_a_guests_name_means_that_guest_alone() {
        let names = |word| Guest::wanted(word).map(|guest| guest.name).collect::<Vec<_>>();
        assert_eq!(names(Some("6.1")), ["6.1"]);
        assert_eq!(names(Some("without")), ["6.12 without BPF LSM"]);
        assert_eq!(names(None).len(), GUESTS.len());
    }

    #[test]
    fn every_guest_runs_what_is_enforced_and_the_first_all_else_if_asked() {
        assert!(GUESTS.iter().all(|guest| guest.takes("enforce", false)) && GUESTS[0].takes("escape", true));
        assert!(GUESTS[0].takes("agent", true) && !GUESTS[1].takes("agent", true));
        assert!(GUESTS[0].takes("confine", true) && !GUESTS[0].takes("confine", false));
        let [first, second, _] = &GUESTS;
        assert!(!first.takes("escape", false) && first.arguments("escape", true).is_empty());
        assert_eq!(first.arguments("confine", true), ["--with-hooks"]);
        let left_out = second.arguments("enforce", false);
        assert_eq!(left_out.len(), 2 * (LONG.len() + ON_THE_FIRST.len()));
        assert_eq!(left_out[..2], ["--skip", "flood::"]);
        assert!(second.arguments("enforce", true).is_empty());
    }
}
