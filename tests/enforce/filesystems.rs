//! The file systems that a project may lie on: what a rule names, matches or leaves out is held on each of them, and where
//! they show files of elsewhere, there too.
//!
//! A kernel that knows no such file system mounts none, and then there is nothing to hold.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    bed::{DENIED, DENIED_CHANGE, TestBed, args, backend, sh},
    stale::Inside,
};

const MIB: u64 = 1 << 20;
const CANARY: &str = "ok CANARY";
const POLICY: &str = "[filesystem]\nwrite = [\"{project}\"]\n\
    deny = [\"{project}/secret\", \"{project}/vault\", \"{project}/later\", \"**/.env\", \"{project}/keys/*.pem\"]\n\
    protect = [\"{project}/sealed\", \"**/*.lock\"]\n\
    [exec]\ndeny = [\"{project}/tool\"]\n[trace]\nopens = \"first\"\n";

/// One that can be had as a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
    Squashfs,
    Overlay,
    /// A folder shown once more by a program (bindfs).
    Fuse,
}

/// A file system over the bed's project.
struct Disk {
    /// Its place, and before it that of what it needs.
    points: Vec<PathBuf>,
    /// Folders where the same files lie, or the one image of all of them.
    origins: Vec<PathBuf>,
}

impl Disk {
    /// `None`: this kernel has no such file system.
    fn over_project(bed: &TestBed, kind: Kind) -> Option<Self> {
        let (name, point, store) = (kind.name(), bed.project(), bed.root().join("store"));
        fs::create_dir(&store).unwrap();
        // Where they are modules, nothing but root's own call loads them.
        let _ = Command::new("modprobe").args(["-a", "loop", name]).output();
        let known = fs::read_to_string("/proc/filesystems").unwrap();
        if !known.lines().any(|line| line.split_ascii_whitespace().last() == Some(name)) {
            return None;
        }
        let [lower, upper, work, image] = ["lower", "upper", "work", "image"].map(|name| store.join(name));
        let mut origins = Vec::new();
        let mut points = vec![point.clone()];
        if kind == Kind::Overlay {
            // None lies on another one, as the roots of machines may be.
            run(mount().args(["-t", "tmpfs", "none"]).arg(&store));
            points.insert(0, store.clone());
        }
        if matches!(kind, Kind::Squashfs | Kind::Overlay | Kind::Fuse) {
            fs::create_dir(&lower).unwrap();
            bed.give(&lower);
            stage(bed, &lower);
            origins.push(lower.clone());
        }
        match kind {
            Kind::Tmpfs => run(mount().args(["-t", name, "-o", "mode=755", "none"]).arg(&point)),
            Kind::Ext4 | Kind::Xfs | Kind::Btrfs | Kind::Squashfs => {
                if kind == Kind::Squashfs {
                    run(Command::new("mksquashfs").args([&lower, &image]).args(["-quiet", "-no-progress"]));
                    fs::remove_dir_all(&lower).unwrap();
                } else {
                    // The smallest that mkfs.xfs makes.
                    File::create(&image).unwrap().set_len(300 * MIB).unwrap();
                    let force = if kind == Kind::Ext4 { "-F" } else { "-f" };
                    run(Command::new(format!("mkfs.{name}")).args(["-q", force]).arg(&image));
                }
                bed.give(&image);
                run(mount().args(["-o", "loop", "-t", name]).args([&image, &point]));
                origins = vec![image];
            }
            Kind::Overlay => {
                for folder in [&upper, &work] {
                    fs::create_dir(folder).unwrap();
                    bed.give(folder);
                }
                let [lower, upper, work] = [&lower, &upper, &work].map(|layer| layer.display());
                let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                run(mount().args(["-t", name, "-o", &layers, "none"]).arg(&point));
            }
            Kind::Fuse => run(Command::new("bindfs").args([&lower, &point])),
        }
        if !matches!(kind, Kind::Squashfs | Kind::Overlay | Kind::Fuse) {
            bed.give(&point);
            stage(bed, &point);
        }
        Some(Self { points, origins })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for point in self.points.iter().rev() {
            run(Command::new("umount").args(["-n", "-l"]).arg(point));
        }
    }
}

impl Kind {
    /// As the kernel calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Overlay => "overlay",
            Self::Fuse => "fuse",
        }
    }
}

/// Not told to mount's own table, which all tests share.
fn mount() -> Command {
    let mut command = Command::new("mount");
    command.arg("-n");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn stage(bed: &TestBed, project: &Path) {
    for name in ["secret", "vault/inner", "sealed", "a/.env", "keys/x.pem", "conf/app.lock", "plain"] {
        bed.file(project.join(name), "CANARY");
    }
    fs::hard_link(project.join("secret"), project.join("twin")).unwrap();
    std::os::unix::fs::symlink("secret", project.join("linked")).unwrap();
    for name in ["tool", "allowed"] {
        bed.program(Path::new("/bin/true"), &project.join(name));
        bed.give(&project.join(name));
    }
}

/// What reads.
const READS: [[&str; 3]; 8] = [
    ["read", "secret", ""],
    ["read", "linked", ""],
    ["read", "twin", ""],
    ["o-path", "secret", ""],
    ["read", "a/.env", ""],
    ["read", "keys/x.pem", ""],
    ["list", "vault", ""],
    ["read", "vault/inner", ""],
];

/// What changes, in an order in which all of it succeeds where nothing is held.
const CHANGES: [[&str; 3]; 21] = [
    ["append", "sealed", ""],
    ["truncate", "sealed", ""],
    ["chmod", "sealed", ""],
    ["fchmod", "sealed", ""],
    ["append", "conf/app.lock", ""],
    ["truncate", "conf/app.lock", ""],
    ["append", "twin", ""],
    ["link", "secret", "l1"],
    ["link", "sealed", "l2"],
    ["link", "keys/x.pem", "l3"],
    ["mkdir", "later", ""],
    ["mkdir", "conf/a.lock", ""],
    ["create", "conf/new.lock", ""],
    ["rename", "plain", "conf/other.lock"],
    ["symlink", "a", "b.lock"],
    ["exec", "tool", ""],
    ["rename", "sealed", "gone"],
    ["unlink", "a/.env", ""],
    ["unlink", "twin", ""],
    ["rename", "vault", "v"],
    ["rename", "keys", "k"],
];

/// What neither is about.
const FREE: [[&str; 3]; 7] = [
    ["read", "sealed", ""],
    ["read", "conf/app.lock", ""],
    ["append", "plain", ""],
    ["create", "fresh", ""],
    ["link", "plain", "other"],
    ["rename", "fresh", "conf/fresh"],
    ["exec", "allowed", ""],
];

fn in_project(project: &Path, [verb, one, other]: [&str; 3]) -> Vec<PathBuf> {
    let names = [one, other].into_iter().filter(|name| !name.is_empty());
    [PathBuf::from(verb)].into_iter().chain(names.map(|name| project.join(name))).collect()
}

fn tell(inside: &mut Inside<'_>, words: &[PathBuf]) -> String {
    inside.step(&words.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

#[track_caller]
fn is_refused(inside: &mut Inside<'_>, words: &[PathBuf]) {
    let answer = tell(inside, words);
    let is_refusal = DENIED.contains(&answer.as_str()) || DENIED_CHANGE.contains(&answer.as_str());
    assert!(is_refusal, "{words:?}: {answer}");
}

fn succeeds_bare(bed: &TestBed, words: &[PathBuf]) {
    let answers = bed.bare_steps(words.iter().map(Into::into).collect());
    assert!(
        answers.iter().all(|answer| answer.starts_with("ok")),
        "positive control: {words:?}: {answers:?}"
    );
}

/// All of it, on one of them.
fn holds(kind: Kind) {
    let bed = TestBed::new(kind.name());
    let Some(disk) = Disk::over_project(&bed, kind) else { return };
    let project = bed.project();
    let step = |step: [&str; 3]| in_project(&project, step);
    let is_writable = kind != Kind::Squashfs;
    let changes = CHANGES.iter().filter(|_| is_writable);
    // An overlay moves no folder of a lower layer (EXDEV).
    let moves_folders = is_writable && kind != Kind::Overlay;
    // There each name is an inode of its own, and rules hold it by its path.
    let has_free_links = backend() == "lsm" && matches!(kind, Kind::Fuse | Kind::Overlay);
    let is_free = |[_, name, _]: &[&str; 3]| has_free_links && *name == "twin";
    let mut inside = Inside::start_with(&bed, &bed.policy("test", POLICY));
    for tried in READS.iter().chain(changes.clone()).filter(|tried| !is_free(tried)) {
        is_refused(&mut inside, &step(*tried));
    }
    // Up to some kernel the same goes for an overlay; later ones ask about the file below, too.
    if has_free_links && kind == Kind::Fuse {
        assert_eq!(tell(&mut inside, &step(["read", "twin", ""])), CANARY, "docs/security.md says otherwise");
    }
    for origin in &disk.origins {
        elsewhere(origin).iter().for_each(|words| is_refused(&mut inside, words));
    }
    for free in FREE.iter().filter(|[verb, ..]| is_writable || ["read", "exec"].contains(verb)) {
        let answer = tell(&mut inside, &step(*free));
        assert!(answer.starts_with("ok"), "neighbour control: {free:?}: {answer}");
    }
    if moves_folders {
        assert_eq!(tell(&mut inside, &step(["rename", "a", "moved"])), "ok");
        is_refused(&mut inside, &step(["read", "moved/.env", ""]));
        fs::rename(project.join("moved"), project.join("a")).unwrap();
    }
    if is_writable {
        // As who saves from outside does.
        for name in ["secret", "sealed"] {
            let beside = bed.file("beside", "CANARY");
            fs::rename(beside, project.join(name)).unwrap();
        }
        is_refused(&mut inside, &step(["read", "secret", ""]));
        is_refused(&mut inside, &step(["append", "sealed", ""]));
    }
    let run = inside.end();
    assert!(run.status.success(), "{run}");

    READS.iter().for_each(|tried| succeeds_bare(&bed, &step(*tried)));
    for origin in &disk.origins {
        elsewhere(origin).iter().for_each(|words| succeeds_bare(&bed, words));
    }
    // A refused open leaves an empty file on `fanotify`.
    let _ = fs::remove_file(project.join("conf/new.lock"));
    let fixed = ["vault", "keys"];
    let changes =
        changes.filter(|[verb, name, _]| moves_folders || *verb != "rename" || !fixed.contains(name));
    changes.for_each(|tried| succeeds_bare(&bed, &step(*tried)));
}

/// Ways to the same content by its origin's own path.
fn elsewhere(origin: &Path) -> Vec<Vec<PathBuf>> {
    if origin.is_file() {
        return vec![vec![PathBuf::from("read-start"), origin.to_owned()]];
    }
    let tried =
        [["read", "secret", ""], ["read", "keys/x.pem", ""], ["list", "vault", ""], ["append", "sealed", ""]];
    tried.map(|step| in_project(origin, step)).to_vec()
}

#[test]
fn a_file_system_in_memory() {
    holds(Kind::Tmpfs);
}

#[test]
fn xfs() {
    holds(Kind::Xfs);
}

#[test]
fn btrfs() {
    holds(Kind::Btrfs);
}

#[test]
fn an_image_that_can_only_be_read() {
    holds(Kind::Squashfs);
}

#[test]
fn an_overlay_and_its_layers() {
    holds(Kind::Overlay);
}

#[test]
fn a_folder_shown_once_more_by_a_program() {
    holds(Kind::Fuse);
}

/// Volumes of one file system number their files from the same number on. None is made, and none taken for another.
#[test]
fn volumes_with_the_same_numbers_are_told_apart() {
    let bed = TestBed::new("volumes");
    let Some(_disk) = Disk::over_project(&bed, Kind::Btrfs) else { return };
    let project = bed.project();
    let at = |name: &str| project.join(name);
    for volume in ["one", "two"] {
        run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(at(volume)));
        bed.give(&at(volume));
        bed.file(at(volume).join("first"), "CANARY");
    }
    let number = |name: &str| fs::metadata(at(name)).unwrap().ino();
    assert_eq!((number("one/first"), number("one/first")), (number("two/first"), number("secret")));
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/two\", \"{project}/secret\"]\n\
         [trace]\nopens = \"first\"\n",
    );
    bed.file("one/plain", "");
    let both = [at("one/first"), at("two/first"), at("secret")];
    let (denied, answers) =
        bed.run_steps(&policy, both.iter().flat_map(|path| args!["read", path]).collect());
    assert_eq!(answers[0], CANARY, "{denied}");
    assert!(answers[1..].iter().all(|answer| DENIED.contains(&answer.as_str())), "{answers:?}: {denied}");
    let free = bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\n[trace]\nopens = \"first\"\n");
    let (told, answers) = bed.run_steps(&free, both.iter().flat_map(|path| args!["read", path]).collect());
    assert_eq!(answers, [CANARY; 3], "{told}");
    for path in &both {
        assert_eq!(told.log.about("file.open", path).len(), 1, "{}: {told}", path.display());
    }
    for made in ["snapshot one three", "create four"] {
        let command = || sh(format!("btrfs subvolume {made}"));
        let refused = bed.run(&policy, command());
        assert!(!refused.status.success(), "{made}: {refused}");
        assert_eq!(refused.log.all_denied("privilege.use").len(), 1, "{made}: {refused}");
        assert!(bed.bare(command()).status.success(), "positive control: {made}");
    }
}

/// The first open of each process and file is told. A file that bears the number of one that is gone is another file; so
/// is one that has another name by then, since the log would say nothing of that name.
#[test]
fn what_bears_the_number_of_a_file_that_is_gone_is_told_of_too() {
    let bed = TestBed::new("number");
    let Some(_disk) = Disk::over_project(&bed, Kind::Ext4) else { return };
    let project = bed.project();
    let at = |name: &str| project.join(name);
    let made_and_removed = |name: &str| args!["create", at(name), "unlink", at(name)];
    let steps = [
        made_and_removed("one"),
        made_and_removed("two"),
        args!["mkdir", at("x")],
        made_and_removed("x/same"),
        args!["rmdir", at("x"), "mkdir", at("y")],
        made_and_removed("y/same"),
        args!["create", at("made"), "append", at("made"), "rename", at("made"), at("script")],
        args!["append", at("script"), "append", at("script")],
    ]
    .concat();
    let (run, answers) = bed.run_steps(&bed.policy("test", POLICY), steps);
    assert!(answers.iter().all(|answer| answer == "ok"), "{answers:?}: {run}");
    let opens = |name: &str| run.log.about("file.open", &at(name));
    let told = ["one", "two", "x/same", "y/same", "made", "script"].map(|name| opens(name).len());
    assert_eq!(told, [1; 6], "{run}");
    let number = |name: &str| opens(name)[0].0["object"]["ino"].as_u64();
    assert_eq!(number("one"), number("two"), "numbers are not used again here: {run}");
}

/// A file system below a folder that a rule names, mounted elsewhere too.
#[test]
fn what_is_mounted_below_a_held_folder_is_held_at_its_other_places() {
    let bed = TestBed::new("below");
    let below = [bed.folder("vault/m"), bed.folder("kept/m")];
    let other = [bed.folder("one"), bed.folder("two")];
    let at = |name: &str| bed.project().join(name);
    let script = format!(
        "cd '{}'; for pair in vault:one kept:two; do folder=${{pair%:*}}; mount -n -t tmpfs none $folder/m; \
         echo CANARY > $folder/m/file; chown -R {} $folder/m; mount -n --bind $folder/m ${{pair#*:}}; done",
        bed.project().display(),
        bed.uid()
    );
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/vault\"]\nprotect = [\"{project}/kept\"]\n",
    );
    let steps = || {
        bed.worker(args![
            "read",
            at("one/file"),
            "list",
            at("one"),
            "append",
            at("two/file"),
            "create",
            at("two/new"),
            "read",
            at("two/file")
        ])
    };
    let run = bed.start(&[&policy], steps()).after_in_own_mounts(&script).finish();
    let out = run.out();
    let answers: Vec<&str> = out.lines().collect();
    let (refused, read) = answers.split_at(4);
    assert!(refused.iter().all(|answer| DENIED_CHANGE.contains(answer)), "{answers:?}: {run}");
    assert_eq!(read, [CANARY], "neighbour control: {run}");
    let free = bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\n");
    let run = bed.start(&[&free], steps()).after_in_own_mounts(&script).finish();
    assert_eq!(run.out(), format!("{CANARY}\nok file\nok\nok\n{CANARY}\nmore\n"), "positive control: {run}");
    drop((below, other));
}
