//! Random policies, random trees, random operations: the kernel's verdict is the host's, and so is the rule.
//!
//! A worker in the sandbox does one operation at a time. Before each, this process asks the decision core on the host
//! about the files as they lie there at that moment; afterwards it compares the errno, and at the end the events.
//!
//! `GOVSANDBOX_DIFFERENTIAL=SEED,COUNT` plays a run again, or a longer one.

mod random;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
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

use self::random::{Operation, Random, Tree, operation, policy, real_name};
use crate::bed::{DENIED_CHANGE, Event, TestBed, args, backend, log::written};

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

impl Operation {
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

    /// Numbers of the files that it is about, as far as they are there.
    fn objects(&self) -> Vec<u64> {
        let named = [Some(&self.path), self.target.as_ref()].into_iter().flatten();
        named.filter_map(|path| fs::metadata(path).ok()).map(|found| found.ino()).collect()
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

/// Objects that were there at the start, and what was opened since: what `fanotify` does not hold is told by them.
struct Known {
    at_start: HashSet<(PathBuf, u64)>,
    touched: HashSet<u64>,
    /// Folders above what a literal rule found.
    above: HashSet<PathBuf>,
    /// What literal rules found.
    named: HashSet<PathBuf>,
    writable: Vec<PathBuf>,
    /// What rules matched by some name at the start: it is held under its other names too.
    matched: HashMap<u64, BTreeSet<String>>,
}

/// By inode the rules that match one of its names.
fn matched(all: &[PathBuf], tables: &Tables<'_>) -> HashMap<u64, BTreeSet<String>> {
    let mut matched = HashMap::<u64, BTreeSet<String>>::new();
    for path in all {
        for answer in [Act::Read, Act::Change].map(|act| tables.ask(path, act)) {
            let is_by_rule = matches!(answer.why, Why::Path | Why::Object);
            if let (true, Some(rule), Ok(found)) = (is_by_rule, answer.verdict.rule, fs::metadata(path)) {
                matched.entry(found.ino()).or_default().insert(rule.id.0);
            }
        }
    }
    matched
}

impl Known {
    /// Rules that a refusal may name beside those by which the host refuses: of other names of the object, of what lies on
    /// the way, of what lies below a folder that moves.
    fn others(
        &self,
        operation: &Operation,
        denying: &[Answer],
        tables: &Tables<'_>,
        automaton: &Automaton,
    ) -> BTreeSet<String> {
        let mut rules = BTreeSet::new();
        let mut ask = |path: &Path| {
            let answers = [Act::Read, Act::Change, Act::Remove].map(|act| tables.ask(path, act));
            rules.extend(answers.into_iter().filter_map(|answer| Some(answer.verdict.rule?.id.0)));
        };
        if operation.path.is_symlink() {
            ask(&real_name(&operation.path));
            operation.path.canonicalize().iter().for_each(|path| ask(path));
        }
        // A folder stays where it is when rules by name would mean something else below its new path.
        if let ("rename", true, Some(target)) = (operation.verb, operation.path.is_dir(), &operation.target) {
            let (from, to) = (real_name(&operation.path), real_name(target));
            for path in Tree::below(&from) {
                ask(&path);
                ask(&to.join(path.strip_prefix(&from).unwrap()));
            }
            rules.insert("builtin/renamed-folder".to_owned());
        }
        rules.extend(
            operation.objects().iter().filter_map(|inode| self.matched.get(inode)).flatten().cloned(),
        );
        // What leads to a named place is held by a mount (`fanotify`), and a pattern may match it too.
        for answer in denying.iter().filter(|answer| answer.why == Why::Way) {
            rules.extend(
                path(tables.compiled(), automaton, answer.bytes(), Decided::Change)
                    .rule
                    .map(|rule| rule.id.0),
            );
        }
        rules
    }

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
            matched: matched(&tree.all(), tables),
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

/// A refusal that must be in the log.
struct Expected {
    operation: Operation,
    denying: Vec<Answer>,
    answer: String,
    /// Its names are not in the write list.
    by_lists: bool,
    /// One of these is named.
    rules: BTreeSet<String>,
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
    let mut expected: Vec<Expected> = Vec::new();
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
        let objects = operation.objects();
        let inode = fs::metadata(&operation.path).ok().map(|found| found.ino());
        // A folder stays where it is when rules by name would mean something else below its new path.
        let moves_names = operation.verb == "rename" && operation.path.is_dir();
        let others = known.others(&operation, &denying, &tables, &loaded.automaton);
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
            let by_other_name = objects.iter().any(|inode| known.matched.contains_key(inode));
            let is_known = by_other_name || (backend() == "fanotify" && by_mount);
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
            let own = denying.iter().filter_map(|answer| Some(answer.verdict.rule.as_ref()?.id.0.clone()));
            let rules = own.chain(in_place.then(|| IN_PLACE.to_owned())).chain(others).collect();
            expected.push(Expected { operation, denying, answer, by_lists, rules });
        } else if answer.starts_with("ok") {
            known.touched.extend(inode);
        }
    }
    drop(ask);
    let run = start.read(child.wait_with_output().unwrap());
    assert!(run.status.success(), "{run}");
    let mut events: Vec<&Event> =
        [run.log.all_denied("file.open"), run.log.all_denied("file.change")].concat();
    for Expected { operation, denying, answer, by_lists, mut rules } in expected {
        // By Landlock, whatever else refuses it.
        let unlisted = (by_lists && answer != "EPERM").then(|| "default/filesystem.write".to_owned());
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
                && event.rule().is_some_and(|rule| rules.contains(rule))
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
                "seed {seed}: no event of {operation:?} ({answer}), which {denying:#?} refuse, by one of {rules:?}\n{text}\nnear: {near:#?}"
            );
        };
        events.remove(place);
    }
}
