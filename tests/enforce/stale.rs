//! What is kept of a folder between two opens is worth nothing once the folder, or one above it, is somewhere else.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::bed::{DENIED, Run, Start, TestBed, args, backend, machine::Machine, procs};

const CANARY: &str = "ok CANARY-7f3a";

/// A worker in a sandbox that does what it is told while it runs.
pub(crate) struct Inside<'bed> {
    start: Start<'bed>,
    child: Child,
    ask: ChildStdin,
    tell: BufReader<ChildStdout>,
}

impl<'bed> Inside<'bed> {
    fn start(bed: &'bed TestBed, deny: &[&str]) -> Self {
        Self::start_with(bed, &bed.deny(deny))
    }

    pub(crate) fn start_with(bed: &'bed TestBed, policy: &Path) -> Self {
        Self::of(bed.start(&[policy], bed.worker(args!["serve"])))
    }

    /// On a machine of its own.
    pub(crate) fn start_on(bed: &'bed TestBed, policy: &Path, machine: &Machine) -> Self {
        Self::of(bed.start(&[policy], bed.worker(args!["serve"])).on(machine))
    }

    fn of(mut start: Start<'bed>) -> Self {
        start.process.stdin(Stdio::piped());
        let mut child = start.spawn();
        let (ask, tell) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { start, child, ask, tell }
    }

    #[track_caller]
    pub(crate) fn step(&mut self, words: &[&Path]) -> String {
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        writeln!(self.ask, "{}", words.join("\t")).unwrap();
        let mut answer = String::new();
        self.tell.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// Several times: what is kept is made by the first and used by the next.
    #[track_caller]
    fn reads(&mut self, path: &Path) {
        for time in 0..3 {
            assert_eq!(self.step(&[Path::new("read"), path]), CANARY, "{} at time {time}", path.display());
        }
    }

    #[track_caller]
    fn is_refused(&mut self, path: &Path) {
        for time in 0..3 {
            let answer = self.step(&[Path::new("read"), path]);
            assert!(DENIED.contains(&answer.as_str()), "{} at time {time}: {answer}", path.display());
        }
    }

    /// Mounts within the sandbox, as root from outside may; not told to mount's own table (`-n`), which all tests share.
    fn mount(&self, words: &[&Path]) {
        let inside =
            procs::below(self.child.id()).into_iter().find(|process| process.name == "worker").unwrap();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &inside.pid.to_string(), "--"]).args(words);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    pub(crate) fn supervisor(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn end(self) -> Run {
        let Self { start, child, ask, tell } = self;
        drop((ask, tell));
        start.read(procs::wait_with_output(child, Duration::from_secs(180)))
    }
}

/// Other backends remember files, not folders, and say what that comes to.
fn is_theirs(bed: &TestBed) -> bool {
    if backend() == "lsm" {
        return false;
    }
    let run = bed.run(&bed.policy("test", ""), args!["true"]);
    let start = run.log.of("session.start")[0].0["object"]["not_held"].to_string();
    assert!(start.contains("renam"), "not_held says nothing of renames: {run}");
    true
}

fn swap(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn what_takes_the_place_of_a_named_file_from_outside_is_held_too() {
    let bed = TestBed::new("stale-replaced");
    let (secret, below) = (bed.file("secret", "old"), bed.file("vault/below", "old"));
    let mut inside = Inside::start(&bed, &["{project}/secret", "{project}/vault", "*.pem"]);
    let plain = bed.file("plain", "CANARY-7f3a");
    inside.reads(&plain);
    inside.is_refused(&secret);
    inside.is_refused(&below);
    // As editors and tools that log in write: anew, then renamed over the old one.
    fs::rename(bed.file("secret.new", "CANARY-7f3a"), &secret).unwrap();
    fs::remove_dir_all(bed.project().join("vault")).unwrap();
    bed.file("vault/below", "CANARY-7f3a");
    inside.is_refused(&secret);
    inside.is_refused(&below);
    let run = inside.end();
    let denied = run.log.all_denied("file.open");
    assert_eq!(denied.len(), 12, "{run}");
    let rules = ["test/filesystem.deny/0", "test/filesystem.deny/1"];
    assert!(denied.iter().all(|event| rules.contains(&event.rule().unwrap_or_default())), "{run}");
    // Without any pattern too.
    let mut inside = Inside::start(&bed, &["{project}/secret"]);
    inside.is_refused(&secret);
    fs::rename(bed.file("secret.new", "CANARY-7f3a"), &secret).unwrap();
    inside.is_refused(&secret);
    inside.end();
    // Neighbour control: other files that are replaced are read on.
    assert!(
        run.log.about("file.open", &plain).iter().all(|event| event.text("outcome") == "allowed"),
        "{run}"
    );
}

#[test]
fn a_folder_above_that_gets_a_denied_name_takes_its_files_along() {
    let bed = TestBed::new("stale-rename");
    if is_theirs(&bed) {
        return;
    }
    let file = |top: &str| bed.project().join(top).join("a/b/c/file");
    bed.file("plain/a/b/c/file", "CANARY-7f3a");
    bed.file("plain/a/b/c/with-a-name-that-does-not-lie-within-its-dentry", "CANARY-7f3a");
    let (plain, secrets) = (bed.project().join("plain"), bed.project().join("secrets"));
    let mut inside = Inside::start(&bed, &["**/secrets"]);
    inside.reads(&file("plain"));
    fs::rename(&plain, &secrets).unwrap();
    inside.is_refused(&file("secrets"));
    inside.is_refused(&secrets.join("a/b/c/with-a-name-that-does-not-lie-within-its-dentry"));
    fs::rename(&secrets, &plain).unwrap();
    // Positive control: the name was the cause.
    inside.reads(&file("plain"));
    inside.reads(&plain.join("a/b/c/with-a-name-that-does-not-lie-within-its-dentry"));
    // By a folder that is held open, too.
    assert_eq!(inside.step(&[Path::new("cd"), &plain.join("a/b/c")]), "ok");
    inside.reads(Path::new("file"));
    fs::rename(&plain, &secrets).unwrap();
    inside.is_refused(Path::new("file"));
    fs::rename(&secrets, &plain).unwrap();
    inside.reads(Path::new("file"));
    let run = inside.end();
    assert!(run.log.denied("file.open", &file("secrets")).len() >= 3, "{run}");
}

#[test]
fn folders_that_change_places_change_rules() {
    let bed = TestBed::new("stale-exchange");
    if is_theirs(&bed) {
        return;
    }
    let (plain, secrets) = (bed.project().join("x/plain"), bed.project().join("secrets"));
    let (here, there) =
        (bed.file("x/plain/d/file", "CANARY-7f3a"), bed.file("secrets/d/file", "CANARY-7f3a"));
    let mut inside = Inside::start(&bed, &["{project}/secrets/**/f*"]);
    inside.reads(&here);
    inside.is_refused(&there);
    assert_eq!(inside.step(&[Path::new("cd"), &plain.join("d")]), "ok");
    inside.reads(Path::new("file"));
    swap(&plain, &secrets);
    inside.is_refused(Path::new("file"));
    inside.is_refused(&there);
    inside.reads(&here);
    swap(&plain, &secrets);
    inside.reads(Path::new("file"));
    inside.reads(&here);
    inside.end();
}

#[test]
fn a_folder_is_not_renamed_from_inside_to_where_a_rule_means_what_it_holds() {
    let bed = TestBed::new("stale-inside");
    if is_theirs(&bed) {
        return;
    }
    let from = bed.file("a/d/e/key", "CANARY-7f3a");
    let folder = bed.folder("b");
    let mut inside = Inside::start(&bed, &["{project}/b/**/key"]);
    inside.reads(&from);
    let (old, new) = (bed.project().join("a/d"), folder.join("d"));
    let answer = inside.step(&[Path::new("rename"), &old, &new]);
    assert!(DENIED.contains(&answer.as_str()), "{answer}");
    inside.reads(&from);
    inside.end();
}

#[test]
fn each_mount_of_a_folder_has_a_path_of_its_own() {
    let bed = TestBed::new("stale-mount");
    if is_theirs(&bed) {
        return;
    }
    let real = bed.file("plain/d/key", "CANARY-7f3a").parent().unwrap().parent().unwrap().to_owned();
    let (vault, free) = (bed.folder("vault/m"), bed.folder("free"));
    let key = |folder: &Path| folder.join("d/key");
    let mut inside = Inside::start(&bed, &["{project}/vault/**/key"]);
    inside.reads(&key(&real));
    inside.mount(&[Path::new("mount"), Path::new("-n"), Path::new("--bind"), &real, &vault]);
    inside.is_refused(&key(&vault));
    inside.reads(&key(&real));
    // The mount itself moves: same folder, same mount, another path.
    inside.mount(&[Path::new("mount"), Path::new("-n"), Path::new("--move"), &vault, &free]);
    inside.reads(&key(&free));
    inside.mount(&[Path::new("mount"), Path::new("-n"), Path::new("--move"), &free, &vault]);
    inside.is_refused(&key(&vault));
    inside.mount(&[Path::new("mount"), Path::new("-n"), Path::new("--move"), &vault, &bed.folder("aside")]);
    inside.mount(&[Path::new("mount"), Path::new("-n"), Path::new("--bind"), &real, &free]);
    inside.reads(&key(&free));
    // The folder that a mount stands on is renamed, from where no mount is in the way.
    fs::rename(&free, vault.parent().unwrap().join("free")).unwrap();
    inside.is_refused(&key(&vault.parent().unwrap().join("free")));
    inside.end();
}

/// A rename that has returned is seen by every open that begins afterwards, whatever other opens do meanwhile.
#[test]
fn no_open_is_let_through_by_what_it_was_before_a_rename() {
    let bed = TestBed::new("stale-race");
    if is_theirs(&bed) {
        return;
    }
    bed.file("plain/a/b/file", "CANARY-7f3a");
    let (plain, secrets) = (bed.project().join("plain"), bed.project().join("secrets"));
    let file = |top: &Path| -> PathBuf { top.join("a/b/file") };
    let mut inside = Inside::start(&bed, &["**/secrets"]);
    for noise in [file(&plain), file(&secrets), PathBuf::from("file"), PathBuf::from("file")] {
        assert_eq!(inside.step(&[Path::new("cd"), &plain.join("a/b")]), "ok");
        assert_eq!(inside.step(&[Path::new("noise"), &noise]), "ok");
    }
    for turn in 0..150 {
        let by = if turn % 2 == 0 { file(&plain) } else { PathBuf::from("file") };
        assert_eq!(inside.step(&[Path::new("read"), &by]), CANARY, "turn {turn}");
        fs::rename(&plain, &secrets).unwrap();
        let by = if turn % 2 == 0 { file(&secrets) } else { PathBuf::from("file") };
        let answer = inside.step(&[Path::new("read"), &by]);
        assert!(DENIED.contains(&answer.as_str()), "turn {turn}: {answer}");
        fs::rename(&secrets, &plain).unwrap();
    }
    inside.end();
}
