//! The whole decision against an oracle: random policies in files of every layer, a random tree of files, and the answer
//! worked out once more over plain texts and sets, as the grammar's words have it. Nothing of the compiler, the automaton
//! or the decision core is used for that.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use proptest::prelude::*;

use super::{
    explain::{Act, Tables},
    random_tests::{Anchor, FILES, LAYERS, Machine, Part, Pattern, Rules, rules},
};

const DEVICES: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"];

/// The grammar's words, worked out over texts and inodes.
struct Oracle<'a> {
    machine: &'a Machine,
    rules: &'a [Rules],
    seen: RefCell<HashMap<PathBuf, Rc<Seen>>>,
}

/// What lies behind a path.
struct Seen {
    real: PathBuf,
    inode: Option<(u64, u64)>,
    /// Of the path itself, should it be a symlink.
    own: Option<(u64, u64)>,
    /// Every symlink on the way, by its real name.
    links: Vec<PathBuf>,
}

type Said = (bool, Option<(String, &'static str)>);

impl Oracle<'_> {
    fn ask(&self, object: &Path, act: Act) -> Said {
        // 2. deny.
        let denying = self.first(|rules| &rules.deny, "deny", object, true);
        // 3. a change: protect.
        let change = act != Act::Read;
        let protecting =
            change.then(|| self.first(|rules| &rules.protect, "protect", object, true)).flatten();
        // Who takes a name away is refused by the first rule of either kind that it would get around.
        let first = |key: &'static str, of: fn(&Rules) -> &Vec<Pattern>| {
            (act == Act::Remove).then(|| self.first(of, key, object, false)).flatten()
        };
        let way = [first("deny", |rules| &rules.deny), first("protect", |rules| &rules.protect)];
        let [way_deny, way_protect] = way;
        if let Some(rule) = earliest(denying, way_deny).or_else(|| earliest(protecting, way_protect)) {
            return (false, Some((rule.id, rule.layer)));
        }
        let device = DEVICES.iter().any(|name| object.starts_with(Path::new("/dev").join(name)));
        if device && act != Act::Remove {
            return (true, None);
        }
        let listed = self.by_lists(object, change);
        match (act, object.parent()) {
            (Act::Remove, Some(folder)) if listed.0 && !self.by_lists(folder, true).0 => {
                self.by_lists(folder, true)
            }
            _ => listed,
        }
    }

    /// The first rule of a kind that covers the object (or, not `covers`, that a removal would get around).
    fn first(
        &self,
        of: impl Fn(&Rules) -> &Vec<Pattern>,
        key: &str,
        object: &Path,
        covers: bool,
    ) -> Option<Found> {
        let mut found: Option<Found> = None;
        for (order, ((name, _, layer, _), rules)) in FILES.iter().zip(self.rules).enumerate() {
            for (index, pattern) in of(rules).iter().enumerate() {
                let hit =
                    if covers { self.covers(pattern, object) } else { self.is_on_the_way(pattern, object) };
                let rank = (*layer, order, index);
                if hit && found.as_ref().is_none_or(|found| rank < found.rank) {
                    let id = format!("{name}/filesystem.{key}/{index}");
                    found = Some(Found { rank, id, layer: LAYERS[usize::from(*layer)] });
                }
            }
        }
        found
    }

    fn by_lists(&self, object: &Path, change: bool) -> Said {
        let mut named = None;
        for unit in 0..4 {
            // The files of one policy are one list, outer layers first.
            let mut own: Vec<_> =
                FILES.iter().zip(self.rules).filter(|((_, _, _, of), _)| *of == unit).collect();
            own.sort_by_key(|((_, _, layer, _), _)| *layer);
            let find = |write: bool| {
                let mut present = false;
                for ((name, _, layer, _), rules) in &own {
                    let list = if write { &rules.write } else { &rules.read };
                    let Some(list) = list else { continue };
                    present = true;
                    let hit = list.iter().position(|pattern| {
                        self.literal(pattern).iter().any(|path| {
                            let real = &self.seen(path).real;
                            object.starts_with(real)
                                || object.starts_with(path)
                                || (write && (is_beside(path, object) || is_beside(real, object)))
                        })
                    });
                    if let Some(index) = hit {
                        let key = if write { "write" } else { "read" };
                        let id = format!("{name}/filesystem.{key}/{index}");
                        return (true, Some((id, LAYERS[usize::from(*layer)])));
                    }
                }
                (present, None)
            };
            let ((has_write, writing), (has_read, reading)) = (find(true), find(false));
            let everything = |key: &str| Some((format!("default/filesystem.{key}"), "builtin"));
            // Of the chosen policy an absent list has its default: everything may be read, nothing written. Of another
            // one it is not there.
            let found = match (change, unit == 0) {
                (true, true) => writing,
                (true, false) if !has_write => everything("write"),
                (true, false) => writing,
                (false, _) if !has_read => everything("read"),
                (false, _) => reading.or(writing),
            };
            match found {
                Some(rule) => named = named.or(Some(rule)),
                None => return (false, everything(if change { "write" } else { "read" })),
            }
        }
        (true, named)
    }

    /// The paths that a pattern without wildcards names.
    fn literal(&self, pattern: &Pattern) -> Vec<PathBuf> {
        let names: Option<Vec<_>> = pattern
            .parts
            .iter()
            .map(|part| if let Part::Name(name) = part { Some(*name) } else { None })
            .collect();
        let bases = self.machine.bases(pattern.anchor);
        match names {
            Some(names) if pattern.anchor != Anchor::Anywhere => {
                bases.into_iter().map(|base| names.iter().fold(base, |path, name| path.join(name))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn covers(&self, pattern: &Pattern, object: &Path) -> bool {
        let parts = &pattern.parts
            [..pattern.parts.iter().rposition(|part| !matches!(part, Part::Deep)).map_or(0, |at| at + 1)];
        let pattern = &Pattern { parts: parts.to_vec(), ..pattern.clone() };
        let literal = self.literal(pattern);
        if literal.is_empty() {
            let mut all: Vec<Part> =
                if pattern.anchor == Anchor::Anywhere { vec![Part::Deep] } else { Vec::new() };
            all.extend(pattern.parts.iter().cloned());
            let bases = self.machine.bases(pattern.anchor);
            let bases = bases
                .iter()
                .map(|base| if pattern.anchor == Anchor::Anywhere { Path::new("/") } else { base });
            return bases.into_iter().filter_map(|base| object.strip_prefix(base).ok()).any(|below| {
                let names: Vec<&str> = below.iter().map(|name| name.to_str().unwrap()).collect();
                (0..=names.len()).any(|end| matches(&all, &names[..end]))
            });
        }
        literal.iter().any(|path| {
            let rule = self.seen(path);
            let same = |one: &Path| rule.inode.is_some() && self.seen(one).own == rule.inode;
            object.starts_with(path) || object.starts_with(&rule.real) || object.ancestors().any(same)
        })
    }

    fn seen(&self, path: &Path) -> Rc<Seen> {
        let fresh = || {
            let of = |found: fs::Metadata| (found.dev(), found.ino());
            Rc::new(Seen {
                real: really(path),
                inode: fs::metadata(path).ok().map(of),
                own: fs::symlink_metadata(path).ok().map(of),
                links: links_met(path, 0),
            })
        };
        Rc::clone(self.seen.borrow_mut().entry(path.to_owned()).or_insert_with(fresh))
    }

    /// Would the rule's path lead elsewhere without this name?
    fn is_on_the_way(&self, pattern: &Pattern, object: &Path) -> bool {
        self.literal_trimmed(pattern).iter().any(|path| {
            let rule = self.seen(path);
            let is_above = rule.real.starts_with(object) && rule.real != object;
            is_above || rule.links.iter().any(|link| link.starts_with(object))
        })
    }

    fn literal_trimmed(&self, pattern: &Pattern) -> Vec<PathBuf> {
        let end = pattern.parts.iter().rposition(|part| !matches!(part, Part::Deep)).map_or(0, |at| at + 1);
        self.literal(&Pattern { parts: pattern.parts[..end].to_vec(), ..pattern.clone() })
    }

    /// An entry that one file both allows and denies is an error of that file.
    fn contradicts(&self) -> bool {
        self.rules.iter().any(|rules| {
            let allowed = rules.read.iter().chain(&rules.write).flatten();
            allowed.into_iter().any(|allow| {
                let path = self.literal(allow);
                rules.deny.iter().any(|deny| self.literal_trimmed(deny) == path)
            })
        })
    }
}

struct Found {
    rank: (u8, usize, usize),
    id: String,
    layer: &'static str,
}

fn earliest(one: Option<Found>, other: Option<Found>) -> Option<Found> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.rank < one.rank { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// Symlinks followed, name by name; what is not there stays as it is written, and so does what leads in circles.
fn really(path: &Path) -> PathBuf {
    let mut left: Vec<_> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = left.pop() {
        match name.to_str().unwrap() {
            "/" => real = PathBuf::from("/"),
            ".." => drop(real.pop()),
            "." => {}
            name => match fs::read_link(real.join(name)) {
                Ok(_) if links == 40 => return path.to_owned(),
                Ok(target) => {
                    links += 1;
                    left.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
                }
                Err(_) => real.push(name),
            },
        }
    }
    real
}

/// The symlinks that a path leads through, by their real names: each of its prefixes that is one, and what that one's text
/// leads through.
fn links_met(path: &Path, depth: u32) -> Vec<PathBuf> {
    let mut met = Vec::new();
    for prefix in path.ancestors() {
        let (Ok(target), Some(folder), Some(name)) =
            (fs::read_link(prefix), prefix.parent(), prefix.file_name())
        else {
            continue;
        };
        let folder = really(folder);
        if depth < 40 {
            met.extend(links_met(&folder.join(target), depth + 1));
        }
        met.push(folder.join(name));
    }
    met
}

/// `NAME.*` of a writable file `NAME`.
fn is_beside(entry: &Path, object: &Path) -> bool {
    let (Some(entry_name), Some(name)) = (entry.file_name(), object.file_name()) else { return false };
    let (entry_name, name) = (entry_name.to_str().unwrap(), name.to_str().unwrap());
    let is_folder = fs::metadata(entry).is_ok_and(|found| found.is_dir());
    !is_folder
        && entry.parent() == object.parent()
        && name.len() > entry_name.len() + 1
        && name.starts_with(&format!("{entry_name}."))
}

fn matches(parts: &[Part], names: &[&str]) -> bool {
    match (parts.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((Part::Deep, rest)), _) => (0..=names.len()).any(|skipped| matches(rest, &names[skipped..])),
        (Some((part, rest)), Some((name, names))) => is_name(part, name) && matches(rest, names),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn is_name(part: &Part, name: &str) -> bool {
    match part {
        Part::Name(wanted) => name == *wanted,
        Part::Any | Part::Deep => true,
        Part::One => name.len() == 1,
        Part::Begins(with) => name.starts_with(with),
        Part::Ends(with) => name.ends_with(with),
        Part::Either(one, other) => name == *one || name == *other,
        Part::NotA => name.len() == 1 && name != "a",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_is_compiled_decides_as_the_grammar_says(
        (rules, mut rng) in prop::collection::vec(rules(), FILES.len()).prop_perturb(|rules, rng| (rules, rng))
    ) {
        let machine = Machine::new(&mut rng);
        machine.write(&rules);
        let oracle = Oracle { machine: &machine, rules: &rules, seen: RefCell::default() };
        let loaded = machine.load();
        prop_assert_eq!(loaded.is_err(), oracle.contradicts(), "{:?}", loaded.err());
        let Ok(loaded) = loaded else { return Ok(()) };
        let tables = Tables::new(&loaded.compiled, &loaded.automaton, &[]);
        let known = ["/dev/null", "/dev/pts/0", "/dev/kmsg", "/etc/passwd", "/"].map(PathBuf::from);
        // Paths that rules name, what lies above, below and beside them, and any.
        let named = rules.iter().flat_map(|rules| rules.read.iter().chain(&rules.write).chain([&rules.deny, &rules.protect]));
        let named: Vec<_> = named.flatten().flat_map(|pattern| oracle.literal(pattern)).take(16).collect();
        let near = named.iter().flat_map(|path| {
            let beside = format!("{}.x", path.display()).into();
            [path.clone(), path.join("a"), beside, path.parent().unwrap_or(path).to_owned()]
        });
        let near: Vec<_> = near.filter(|path| path.starts_with(&machine.root)).collect();
        for path in (0..16).map(|_| machine.any_path(&mut rng)).chain(known).chain(near) {
            for act in [Act::Read, Act::Change, Act::Remove] {
                let answer = tables.ask(&path, act);
                let object = match (act, path.parent(), path.file_name()) {
                    (Act::Remove, Some(folder), Some(name)) => really(folder).join(name),
                    _ => really(&path),
                };
                prop_assert_eq!(&answer.object, &object);
                let rule = answer.verdict.rule.map(|rule| (rule.id.0, rule.layer.to_string()));
                let (allowed, named) = oracle.ask(&object, act);
                let named = named.map(|(id, layer)| (id, layer.to_owned()));
                prop_assert_eq!((answer.verdict.allowed, rule), (allowed, named), "{:?} of {}", act, object.display());
            }
        }
    }
}
