//! Random policies, random trees, random operations: the kernel's verdict is the host's, and so is the rule.
//!
//! A worker in the sandbox does one operation at a time. Before each, this process asks the decision core on the host
//! about the files as they lie there at that moment; afterwards it compares the errno, and at the end the events.
//!
//! `GOVSANDBOX_DIFFERENTIAL=SEED,COUNT` plays a run again, or a longer one.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, chown, lchown, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use govsandbox::policy::{
    Context,
    compile::Compiled,
    explain::{Act, Answer, Tables, Why, path},
    load_alone,
    repositories::Repositories,
};

use govsandbox_ebpf::{
    abi::rule::Automaton,
    decide::{
        automaton::{below, decide_symlink},
        path::Operation as Decided,
    },
};

use crate::bed::{DENIED_CHANGE, Event, TestBed, args, backend, log::written, toml_string};

const SEED: u64 = 0x5eed_0001;
/// Together with three emulated kernels 50,000, unless the machine is too slow for them.
const NATIVE_COUNT: usize = 35_000;
const EMULATED_COUNT: usize = 5_000;
/// After that no other policy is begun.
const TIME_MAX: Duration = Duration::from_secs(90);
/// Fewer would prove little.
const COUNT_MIN: usize = 1_000;
/// Operations under one policy: starting a run costs more than all of them.
const OPERATIONS_EACH: usize = 600;
const NAMES: [&str; 7] = ["a", "b", "c", ".x", "k.pem", "a.x", "deep"];

/// A xorshift generator: the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A tree in memory, removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(bed: &TestBed, random: &mut Random) -> Self {
        let root = Path::new("/dev/shm").join(format!("govsandbox-differential.{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        chown(&root, Some(bed.uid()), Some(bed.uid())).unwrap();
        let tree = Self(root);
        for _ in 0..30 {
            let (path, other) = (tree.any(random), tree.any(random));
            fs::create_dir_all(path.parent().unwrap()).ok(); // what can't be made is left away
            match random.below(8) {
                0 | 1 => fs::create_dir(&path).ok(),
                2 if other.is_file() && !other.is_symlink() => fs::hard_link(&other, &path).ok(),
                3 => symlink(&other, &path).ok(),
                _ => (!path.exists() && !path.is_symlink())
                    .then(|| fs::write(&path, "content"))
                    .and_then(Result::ok),
            };
        }
        for path in tree.all() {
            lchown(path, Some(bed.uid()), Some(bed.uid())).unwrap();
        }
        tree
    }

    fn any(&self, random: &mut Random) -> PathBuf {
        (0..=random.below(3)).fold(self.0.clone(), |path, _| path.join(random.pick(&NAMES)))
    }

    /// Every name below the root.
    fn all(&self) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            folders.extend(names.iter().filter(|name| name.is_dir() && !name.is_symlink()).cloned());
            found.extend(names);
        }
        found
    }

    /// Mostly what exists (`all` of it): operations on nothing prove nothing.
    fn near(&self, all: &[PathBuf], random: &mut Random) -> PathBuf {
        if all.is_empty() || random.one_in(4) { self.any(random) } else { random.pick(all).clone() }
    }

    fn new_name(&self, all: &[PathBuf], random: &mut Random) -> PathBuf {
        let path = if all.is_empty() || random.one_in(6) { &self.0 } else { random.pick(all) };
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(&self.0) };
        folder.join(random.pick(&NAMES))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn policy(tree: &Tree, random: &mut Random) -> String {
    let list = |patterns: Vec<String>| {
        let texts: Vec<_> = patterns.iter().map(|pattern| toml_string(pattern)).collect();
        format!("[{}]", texts.join(", "))
    };
    let all = tree.all();
    let held = |random: &mut Random| {
        let count = random.below(4);
        let patterns = (0..count).map(|_| {
            let root = tree.0.display();
            match random.below(9) {
                0 => "**/*.pem".to_owned(),
                1 => "[!a].x".to_owned(),
                2 => format!("{root}/*/{}", random.pick(&NAMES)),
                3 => format!("{root}/**/{{b,.x}}"),
                4 => format!("{root}/?/**"),
                // May be missing.
                5 | 6 => tree.any(random).display().to_string(),
                _ => random.pick(&all).display().to_string(),
            }
        });
        list(patterns.collect())
    };
    let (deny, protect) = (held(random), held(random));
    let folders: Vec<_> = all.iter().filter(|path| path.is_dir() && !path.is_symlink()).collect();
    let single =
        |path: &&PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1);
    // Not `a`: that `a.x` beside it may be written too is what the rules say and Landlock does not hold.
    let has_no_sibling = |path: &&PathBuf| !path.ends_with("a");
    let files: Vec<_> = all.iter().filter(single).filter(has_no_sibling).collect();
    let mut write = vec![tree.0.display().to_string()];
    if random.one_in(3) && !folders.is_empty() {
        write = (0..2).map(|_| random.pick(&folders).display().to_string()).collect();
        if !files.is_empty() {
            write.push(random.pick(&files).display().to_string());
        }
    }
    format!(
        "[filesystem]\nwrite = {}\ndeny = {deny}\nprotect = {protect}\n[trace]\nopens = \"denied\"\n",
        list(write)
    )
}

/// One operation: the worker's verb and its paths.
#[derive(Debug, Clone)]
struct Operation {
    verb: &'static str,
    path: PathBuf,
    target: Option<PathBuf>,
}

fn operation(tree: &Tree, random: &mut Random) -> Operation {
    let all = tree.all();
    let one = |verb, path| Operation { verb, path, target: None };
    match random.below(20) {
        0..=3 => one("read", tree.near(&all, random)),
        4 => one("list", tree.near(&all, random)),
        5 => one("o-path", tree.near(&all, random)),
        6 => one(if backend() == "lsm" { "openat2" } else { "read" }, tree.near(&all, random)),
        7 | 8 => one("write", tree.near(&all, random)),
        9 => one("open-truncate", tree.near(&all, random)),
        10 => one("truncate", tree.near(&all, random)),
        11 => {
            // A folder that lost its mode bits would refuse by itself from then on.
            let path = tree.near(&all, random);
            one(if path.is_dir() { "list" } else { "chmod" }, path)
        }
        12 => one("create", tree.new_name(&all, random)),
        13 => one("mkdir", tree.new_name(&all, random)),
        14 => one("unlink", tree.near(&all, random)),
        15 => one("rmdir", tree.near(&all, random)),
        16 => Operation {
            verb: "symlink",
            path: tree.near(&all, random),
            target: Some(tree.new_name(&all, random)),
        },
        17 => {
            let path = tree.near(&all, random);
            // A link to a symlink itself is not what any rule is about.
            if path.is_symlink() {
                return one("read", path);
            }
            Operation { verb: "link", path, target: Some(tree.new_name(&all, random)) }
        }
        _ => {
            let target = if random.one_in(3) { tree.near(&all, random) } else { tree.new_name(&all, random) };
            let path = tree.near(&all, random);
            let inode = |path| fs::symlink_metadata(path).map(|found| found.ino()).ok();
            // A rename to another name of the same file does nothing, and says that it was done.
            if inode(&path).is_some() && inode(&path) == inode(&target) {
                return one("list", path);
            }
            Operation { verb: "rename", path, target: Some(target) }
        }
    }
}

impl Operation {
    /// Would it succeed if nothing were refused? What would not says nothing about the rules.
    fn makes_sense(&self) -> bool {
        let kind = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.file_type());
        let is_free = |path: &Path| kind(path).is_none() && path.parent().is_some_and(Path::is_dir);
        let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
        let path = &self.path;
        match (self.verb, &self.target) {
            ("list", _) => path.is_dir(),
            ("read" | "o-path" | "openat2" | "write" | "open-truncate" | "truncate" | "chmod", _) => {
                path.is_file()
            }
            ("create" | "mkdir", _) => is_free(path),
            ("unlink", _) => kind(path).is_some_and(|kind| !kind.is_dir()),
            ("rmdir", _) => kind(path).is_some_and(|kind| kind.is_dir()) && is_empty(path),
            ("symlink", Some(target)) => is_free(target),
            ("link", Some(target)) => kind(path).is_some_and(|kind| kind.is_file()) && is_free(target),
            ("rename", Some(target)) => {
                let (Some(from), real) = (kind(path), real_name(path)) else { return false };
                let real_target = real_name(target);
                let same = |one: &Path, other: &Path| {
                    let id = |path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
                    id(one) == id(other)
                };
                let fits = match kind(target) {
                    None => target.parent().is_some_and(Path::is_dir),
                    Some(to) => {
                        from.is_dir() == to.is_dir()
                            && (!to.is_dir() || is_empty(target))
                            && !same(path, target)
                    }
                };
                fits && !from.is_fifo() && !real_target.starts_with(&real) && !real.starts_with(&real_target)
            }
            _ => false,
        }
    }

    /// What the host says of each object that it is about.
    fn ask(&self, tables: &Tables<'_>) -> Vec<Answer> {
        let made = |path: &Path| vec![tables.ask(path, Act::Change), folder(tables, path)];
        let taken = |path: &Path| vec![tables.ask(path, Act::Remove)];
        match (self.verb, &self.target) {
            ("read" | "list" | "o-path" | "openat2", _) => vec![tables.ask(&self.path, Act::Read)],
            ("create" | "mkdir", _) => made(&self.path),
            ("unlink" | "rmdir", _) => taken(&self.path),
            ("symlink", Some(target)) => made(target),
            ("rename", Some(target)) => {
                let to = if fs::symlink_metadata(target).is_ok() { taken(target) } else { made(target) };
                [taken(&self.path), to].concat()
            }
            ("link", Some(target)) => {
                let mut all = [vec![tables.ask(&self.path, Act::Change)], made(target)].concat();
                // Landlock asks for a name in the folder that the file lies in, but not for one beside it.
                if real_name(&self.path).parent() != real_name(target).parent() {
                    all.push(folder(tables, &self.path));
                }
                all
            }
            _ => vec![tables.ask(&self.path, Act::Change)],
        }
    }

    /// What an event calls it.
    fn actions(&self) -> &'static [&'static str] {
        match self.verb {
            "read" | "o-path" | "openat2" => &["read"],
            "list" => &["list"],
            "write" => &["write"],
            "open-truncate" => &["write", "truncate"],
            "create" => &["create", "write"],
            "mkdir" | "symlink" => &["create"],
            "unlink" | "rmdir" => &["unlink"],
            verb => std::slice::from_ref(match verb {
                "truncate" => &"truncate",
                "chmod" => &"chmod",
                "link" => &"link",
                _ => &"rename",
            }),
        }
    }

    fn line(&self) -> String {
        let target = self.target.iter().map(|target| format!("\t{}", target.display())).collect::<String>();
        format!("{}\t{}{target}\n", self.verb, self.path.display())
    }
}

/// A name is of its folder: the allow-lists are asked about that too, the rules are not.
fn folder(tables: &Tables<'_>, path: &Path) -> Answer {
    let mut answer = tables.ask(path.parent().unwrap(), Act::Change);
    if answer.why != Why::Unlisted {
        answer.verdict.allowed = true;
    }
    answer
}

/// The rule by which a symlink does not come to stand where rules by name hold below.
const IN_PLACE: &str = "builtin/symlink-in-place";

impl Operation {
    /// Where it makes a symlink stand.
    fn new_symlink(&self) -> Option<PathBuf> {
        let is_one = match self.verb {
            "symlink" => true,
            "rename" => self.path.is_symlink(),
            _ => false,
        };
        self.target.as_deref().filter(|_| is_one).map(real_name)
    }
}

/// The same answer by the text of the rules.
fn may_be_symlink(tables: &Tables<'_>, automaton: &Automaton, place: &Path) -> bool {
    let path = place.as_os_str().as_encoded_bytes();
    let mut literals = tables.compiled().paths.literals.iter();
    let folder = place.parent().unwrap().as_os_str().as_encoded_bytes();
    literals.all(|literal| literal.path == place || !literal.path.starts_with(place))
        && decide_symlink(automaton, below(automaton, folder), below(automaton, path)).allow
}

/// The last name itself, what leads to it followed.
fn real_name(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap();
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).join(path.file_name().unwrap())
}

/// Objects that were there at the start, and what was opened since: what `fanotify` does not hold is told by them.
struct Known {
    at_start: HashSet<(PathBuf, u64)>,
    touched: HashSet<u64>,
    /// Folders above what a literal rule found.
    above: HashSet<PathBuf>,
    /// What literal rules found.
    named: HashSet<PathBuf>,
    writable: Vec<PathBuf>,
    /// What rules matched by some name at the start: `fanotify` holds it under its other names too.
    matched: HashSet<u64>,
}

impl Known {
    fn of(tree: &Tree, compiled: &Compiled, tables: &Tables<'_>) -> Self {
        let of = |path: PathBuf| {
            let inode = fs::symlink_metadata(&path).unwrap().ino();
            (path, inode)
        };
        let literals = compiled.paths.literals.iter().filter_map(|literal| literal.path.canonicalize().ok());
        let named: HashSet<PathBuf> = literals.collect();
        let entries = compiled.paths.allow.iter().flat_map(|lists| &lists.write);
        Self {
            at_start: tree.all().into_iter().map(of).collect(),
            touched: HashSet::new(),
            above: named.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect(),
            writable: entries.filter_map(|entry| entry.path.canonicalize().ok()).collect(),
            named,
            matched: tree
                .all()
                .iter()
                .filter(|path| matches!(tables.ask(path, Act::Change).why, Why::Path | Why::Object))
                .filter_map(|path| fs::metadata(path).ok().map(|found| found.ino()))
                .collect(),
        }
    }

    /// Must this refusal by the host be one of the kernel's? `landlock` is its ABI.
    fn is_held(&self, operation: &Operation, refusal: &Answer, landlock: i32) -> bool {
        if refusal.why == Why::Unlisted {
            // Landlock knows no attributes, and truncate(2) from its third version on.
            return operation.verb != "chmod" && (operation.verb != "truncate" || landlock >= 3);
        }
        if backend() == "lsm" {
            return true;
        }
        // docs/security.md, "What `fanotify` does not hold".
        if refusal.why == Why::Way {
            return self.above.contains(&refusal.object);
        }
        let object = &refusal.object;
        let inode = fs::symlink_metadata(object).map(|found| found.ino()).ok();
        let is_held = self.named.iter().chain(&self.writable).any(|folder| object.starts_with(folder));
        if operation.verb == "chmod" && !is_held {
            return false; // only writable folders are looked through for what patterns match
        }
        let opens = ["read", "list", "o-path", "write", "open-truncate"].contains(&operation.verb);
        // A mount holds no symlink.
        let is_link = fs::symlink_metadata(object).is_ok_and(|found| found.is_symlink());
        let was_there =
            !is_link && inode.is_some_and(|inode| self.at_start.contains(&(object.clone(), inode)));
        let never_touched = inode.is_some_and(|inode| !self.touched.contains(&inode));
        was_there && (never_touched || refusal.why == Why::Object) || (opens && never_touched)
    }
}

/// Everything that one policy's run came to.
#[derive(Default, Debug)]
struct Sum {
    done: usize,
    allowed: usize,
    refused: usize,
    /// Refusals that the backend is known not to hold, or to hold more of.
    not_compared: usize,
}

#[test]
fn the_kernel_decides_as_the_host_does() {
    let emulated = crate::bed::is_emulated();
    let (seed, count, time_max) = match std::env::var("GOVSANDBOX_DIFFERENTIAL") {
        Ok(text) => {
            let (seed, count) = text.split_once(',').expect("SEED,COUNT");
            (seed.parse().unwrap(), count.parse().unwrap(), Duration::MAX)
        }
        Err(_) => (SEED, if emulated { EMULATED_COUNT } else { NATIVE_COUNT }, TIME_MAX),
    };
    let start = Instant::now();
    let bed = TestBed::new("differential");
    let mut sum = Sum::default();
    for round in 0.. {
        if sum.done >= count || start.elapsed() > time_max {
            break;
        }
        // Each round by itself, so that one can be played again.
        let own_seed = seed + round;
        let mut random = Random(own_seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        one_policy(&bed, &mut random, OPERATIONS_EACH.min(count - sum.done), own_seed, &mut sum);
    }
    println!("differential: {sum:?} from seed {seed}");
    // Were nearly everything allowed, or refused, or left out, it would prove nothing.
    assert!(sum.done >= COUNT_MIN.min(count), "{sum:?}");
    assert!(sum.allowed > sum.done / 20 && sum.refused > sum.done / 100, "{sum:?}");
    assert!(sum.not_compared < sum.done / 4, "{sum:?}");
}

fn one_policy(bed: &TestBed, random: &mut Random, count: usize, seed: u64, sum: &mut Sum) {
    let tree = Tree::new(bed, random);
    let text = policy(&tree, random);
    let file = bed.policy("test", &text);
    let context = Context {
        project: bed.project(),
        project_given: true,
        home: bed.home(),
        tmp: vec![bed.tmp()],
        runtime: "/run/user/1".into(),
        repositories: Repositories::default(),
        state: bed.root().join("state"),
        etc: "/etc/govsandbox".into(),
    };
    let loaded = match load_alone(file.to_str().unwrap(), &context) {
        Ok(loaded) => loaded,
        // An entry both allowed and denied.
        Err(_) => return,
    };
    let tables = Tables::new(&loaded.compiled, &loaded.automaton, &[]);
    let landlock = govsandbox::launch::landlock::strength().abi;
    let mut known = Known::of(&tree, &loaded.compiled, &tables);
    let mut start = bed.start(&[&file], bed.worker(args!["serve"]));
    start.process.stdin(Stdio::piped());
    let mut child = start.spawn();
    let (mut ask, mut answers) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    let mut expected: Vec<(Operation, Vec<Answer>, String, bool, bool, Option<&str>)> = Vec::new();
    for _ in 0..count {
        let operation = operation(&tree, random);
        let said = operation.ask(&tables);
        let makes_sense = operation.makes_sense();
        let named = [Some(&operation.path), operation.target.as_ref()].into_iter().flatten();
        let by_lists = named.into_iter().any(|path| !folder(&tables, path).verdict.allowed);
        let denying: Vec<Answer> = said.into_iter().filter(|answer| !answer.verdict.allowed).collect();
        let in_place =
            operation.new_symlink().is_some_and(|place| !may_be_symlink(&tables, &loaded.automaton, &place));
        let must = in_place || denying.iter().any(|refusal| known.is_held(&operation, refusal, landlock));
        let inode = fs::metadata(&operation.path).ok().map(|found| found.ino());
        // A folder stays where it is when rules by name would mean something else below its new path.
        let moves_names = operation.verb == "rename" && operation.path.is_dir();
        let is_link = operation.path.is_symlink();
        // A pipe that nobody reads is told by the answer that does not come.
        let _ = ask.write_all(operation.line().as_bytes());
        let Some(answer) = answers.next().transpose().unwrap() else {
            drop(ask);
            panic!(
                "seed {seed}: the worker is gone: {}\n{text}",
                start.read(child.wait_with_output().unwrap())
            );
        };
        let refused = DENIED_CHANGE.contains(&answer.as_str());
        sum.done += 1;
        let tell = || {
            format!("seed {seed}: {operation:?} came to `{answer}`; the host refuses by {denying:#?}\n{text}")
        };
        if makes_sense && denying.is_empty() && !in_place && refused {
            // Where a mount holds a rule's place, names don't cross it.
            let by_mount = ["EXDEV", "EBUSY", "EROFS"].contains(&answer.as_str()) && operation.verb != "read";
            let by_other_name = inode.is_some_and(|inode| known.matched.contains(&inode));
            let is_known = backend() == "fanotify" && (by_mount || by_other_name);
            assert!(is_known || moves_names, "the kernel refuses more: {}", tell());
            sum.not_compared += 1;
        } else if must {
            assert!(!answer.starts_with("ok"), "the kernel lets it pass: {}", tell());
            assert!(!makes_sense || refused, "not by a rule: {}", tell());
        } else if !denying.is_empty() {
            sum.not_compared += 1;
        } else if makes_sense {
            assert!(answer.starts_with("ok"), "{}", tell());
            sum.allowed += 1;
        }
        if refused && must && makes_sense {
            sum.refused += 1;
            // What is known of an inode, of a link on the way and of the names below a folder may be named first.
            let is_matched = inode.is_some_and(|inode| known.matched.contains(&inode));
            let by_more = moves_names || is_matched || is_link && !in_place;
            let by_place = in_place.then_some(IN_PLACE);
            expected.push((operation, denying, answer, by_lists, by_more, by_place));
        } else if answer.starts_with("ok") {
            known.touched.extend(inode);
        }
    }
    drop(ask);
    let run = start.read(child.wait_with_output().unwrap());
    assert!(run.status.success(), "{run}");
    let mut events: Vec<&Event> =
        [run.log.all_denied("file.open"), run.log.all_denied("file.change")].concat();
    for (operation, denying, answer, by_lists, by_more, by_place) in &expected {
        // By Landlock, whatever else refuses it.
        let unlisted = (*by_lists && answer != "EPERM").then(|| "default/filesystem.write".to_owned());
        let mut rules: Vec<String> =
            denying.iter().filter_map(|answer| Some(answer.verdict.rule.as_ref()?.id.0.clone())).collect();
        rules.extend(by_place.map(str::to_owned));
        if answer != "EPERM" {
            // Landlock or a mount came first: the rule is found from the path alone, other names of the file are not known.
            let act = if operation.actions()[0] == "read" { Decided::Read } else { Decided::Change };
            let by_path = denying
                .iter()
                .filter_map(|answer| path(tables.compiled(), &loaded.automaton, answer.bytes(), act).rule);
            rules.extend(by_path.map(|rule| rule.id.0).chain(unlisted));
        }
        let names = [Some(&operation.path), operation.target.as_ref()].into_iter().flatten().cloned();
        let names: Vec<String> = names
            .flat_map(|path| [real_name(&path), path])
            .chain(denying.iter().map(|answer| answer.object.clone()))
            .map(|path| written(path.as_os_str().as_encoded_bytes()))
            .collect();
        let about = |event: &&&Event| {
            let own = names.iter().any(|name| event.object("path") == name || event.object("target") == name);
            own && operation.actions().contains(&event.text("action"))
                && event.rule().is_some_and(|rule| *by_more || rules.iter().any(|own| own == rule))
        };
        let Some(place) = events.iter().position(|event| about(&event)) else {
            let near =
                run.log.events.iter().filter(|event| names.iter().any(|name| event.object("path") == name));
            let near: Vec<_> = near
                .map(|event| {
                    (event.text("action"), event.text("errno"), event.rule(), event.object("target"))
                })
                .collect();
            panic!(
                "seed {seed}: no event of {operation:?} ({answer}), which {denying:#?} refuse\n{text}\nnear: {near:#?}"
            );
        };
        events.remove(place);
    }
}
