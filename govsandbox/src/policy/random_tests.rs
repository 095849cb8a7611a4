//! Random policies in files of every layer, and a random tree of files for them to be about.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use proptest::{prelude::*, test_runner::TestRng};
use tempfile::TempDir;

use super::{Context, Loaded, PolicyError, Sources, load};

pub(super) const NAMES: [&str; 5] = ["a", "b", "c", ".x", "a.x"];

/// One component of a pattern.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Name(&'static str),
    Deep,
    Any,
    One,
    /// `a*`
    Begins(&'static str),
    /// `*x`
    Ends(&'static str),
    /// `{a,b}`
    Either(&'static str, &'static str),
    /// `[!a]`
    NotA,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Anchor {
    Tree,
    Home,
    Project,
    Tmp,
    Anywhere,
    Dev,
    Root,
}

#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) anchor: Anchor,
    pub(super) parts: Vec<Part>,
    pub(super) tail: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) read: Option<Vec<Pattern>>,
    pub(super) write: Option<Vec<Pattern>>,
    pub(super) deny: Vec<Pattern>,
    pub(super) protect: Vec<Pattern>,
}

/// Where a policy file lies: its name, its place below the machine's root, its layer (0 is the outermost), whose list
/// its allow-lists are part of.
pub(super) const FILES: [(&str, &str, u8, usize); 8] = [
    // What the chosen policy extends comes before it.
    ("sysprofile", "etc/policies/sysprofile.toml", 1, 0),
    ("usrprofile", "t/a/.config/govsandbox/policies/usrprofile.toml", 2, 0),
    ("beside", "beside.toml", 4, 0),
    ("first", "first.toml", 4, 0),
    ("second", "second.toml", 4, 0),
    ("policy", "etc/policy.toml", 1, 1),
    ("part", "etc/policy.d/part.toml", 1, 2),
    ("proj", "t/b/.govsandbox.toml", 3, 3),
];
pub(super) const LAYERS: [&str; 5] = ["builtin", "system", "user", "project", "session"];

pub(super) fn pattern(literal: bool) -> impl Strategy<Value = Pattern> {
    let name = || prop::sample::select(&NAMES[..]);
    let glob = prop_oneof![
        3 => Just(Part::Deep),
        2 => Just(Part::Any),
        1 => Just(Part::One),
        1 => prop::sample::select(vec!["a", "."]).prop_map(Part::Begins),
        1 => prop::sample::select(vec!["x", ".x"]).prop_map(Part::Ends),
        1 => (name(), name()).prop_map(|(one, other)| Part::Either(one, other)),
        1 => Just(Part::NotA),
    ];
    let part = prop_oneof![4 => name().prop_map(Part::Name), 3 => glob];
    let part = if literal { name().prop_map(Part::Name).boxed() } else { part.boxed() };
    let anchors =
        [(12, Anchor::Tree), (3, Anchor::Home), (3, Anchor::Project), (2, Anchor::Tmp), (1, Anchor::Dev)];
    let anchors = anchors.into_iter().chain((!literal).then_some((6, Anchor::Anywhere)));
    let anchors: Vec<_> =
        anchors.chain([(1, Anchor::Root)]).map(|(weight, anchor)| (weight, Just(anchor))).collect();
    let tails = prop::sample::select(vec!["", "", "", "/", "/**"]);
    (prop::strategy::Union::new_weighted(anchors), prop::collection::vec(part, 0..4), tails).prop_map(
        |(anchor, mut parts, tail)| {
            match anchor {
                // `**` alone is everything, as the root is; one name is at any depth.
                Anchor::Anywhere if parts.iter().all(|part| matches!(part, Part::Deep)) => {
                    parts = vec![Part::Name("c")]
                }
                Anchor::Dev => parts.truncate(0),
                Anchor::Root => parts.truncate(0),
                _ => {}
            }
            Pattern { anchor, parts, tail }
        },
    )
}

pub(super) fn rules() -> impl Strategy<Value = Rules> {
    let allow = || prop::option::weighted(0.4, prop::collection::vec(pattern(true), 0..4));
    // Few, or the first deny rule decides everything.
    let held = || prop_oneof![4 => Just(Vec::new()), 2 => prop::collection::vec(pattern(false), 1..3)];
    (allow(), allow(), held(), held()).prop_map(|(read, write, deny, protect)| Rules {
        read,
        write,
        deny,
        protect,
    })
}

pub(super) struct Machine {
    _folder: TempDir,
    pub(super) root: PathBuf,
}

impl Machine {
    /// A tree of files, folders, hard and soft links below `t`; the home is `t/a`, the project `t/b`, `{tmp}` two folders.
    pub(super) fn new(rng: &mut TestRng) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for folder in ["etc/policies", "etc/policy.d", "t/a/.config/govsandbox/policies", "t/a", "t/b", "t/c"]
        {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let machine = Self { _folder: folder, root };
        for _ in 0..14 {
            let (path, other) = (machine.any_path(rng), machine.any_path(rng));
            // What fails (a name that is taken, a folder that is a file) is left away.
            let _ = match rng.next_u32() % 8 {
                0 | 1 => fs::create_dir_all(&path),
                2 | 3 => fs::create_dir_all(path.parent().unwrap()).and_then(|()| create(&path)),
                4 | 5 => fs::hard_link(other, path),
                _ => symlink(other, path),
            };
        }
        machine
    }

    pub(super) fn any_path(&self, rng: &mut TestRng) -> PathBuf {
        let depth = 1 + rng.next_u32() % 4;
        let names = (0..depth).map(|_| NAMES[rng.next_u32() as usize % NAMES.len()]);
        names.fold(self.root.join("t"), |path, name| path.join(name))
    }

    pub(super) fn bases(&self, anchor: Anchor) -> Vec<PathBuf> {
        match anchor {
            Anchor::Tree => vec![self.root.join("t")],
            Anchor::Home => vec![self.root.join("t/a")],
            Anchor::Project => vec![self.root.join("t/b")],
            Anchor::Tmp => vec![self.root.join("t/c"), self.root.join("t/.x")],
            Anchor::Anywhere => vec!["/**".into()],
            Anchor::Dev => vec!["/dev".into()],
            Anchor::Root => vec!["/".into()],
        }
    }

    pub(super) fn write(&self, all: &[Rules]) {
        for ((name, path, ..), rules) in FILES.iter().zip(all) {
            let list = |key: &str, patterns: &[Pattern]| {
                let texts: Vec<_> =
                    patterns.iter().map(|pattern| format!("'{}'", self.text(pattern))).collect();
                format!("{key} = [{}]\n", texts.join(", "))
            };
            let mut text = "version = 1\n".to_owned();
            if *name == "first" {
                text.push_str("extends = ['sysprofile', 'usrprofile', './beside.toml']\n");
            }
            text.push_str("[filesystem]\n");
            text.push_str(&list("deny", &rules.deny));
            text.push_str(&list("protect", &rules.protect));
            rules.read.iter().for_each(|read| text.push_str(&list("read", read)));
            rules.write.iter().for_each(|write| text.push_str(&list("write", write)));
            // A project's file is called `.govsandbox.toml`.
            let text = if *name == "proj" { text.replacen("1\n", "1\nname = 'proj'\n", 1) } else { text };
            fs::write(self.root.join(path), text).unwrap();
        }
    }

    pub(super) fn text(&self, pattern: &Pattern) -> String {
        let base = match pattern.anchor {
            Anchor::Tree => format!("{}/t", self.root.display()),
            Anchor::Home => "~".to_owned(),
            Anchor::Project => "{project}".to_owned(),
            Anchor::Tmp => "{tmp}".to_owned(),
            Anchor::Anywhere => "**".to_owned(),
            Anchor::Dev => "/dev".to_owned(),
            Anchor::Root => return "/".to_owned(),
        };
        let parts = pattern.parts.iter().map(|part| match part {
            Part::Name(name) => (*name).to_owned(),
            Part::Deep => "**".to_owned(),
            Part::Any => "*".to_owned(),
            Part::One => "?".to_owned(),
            Part::Begins(with) => format!("{with}*"),
            Part::Ends(with) => format!("*{with}"),
            Part::Either(one, other) => format!("{{{one},{other}}}"),
            Part::NotA => "[!a]".to_owned(),
        });
        let whole = parts.fold(base, |path, part| format!("{path}/{part}"));
        format!("{whole}{}", pattern.tail)
    }

    pub(super) fn load(&self) -> Result<Loaded, PolicyError> {
        let context = Context {
            project: self.root.join("t/b"),
            project_given: true,
            home: self.root.join("t/a"),
            tmp: self.bases(Anchor::Tmp),
            runtime: "/run/user/1".into(),
            state: self.root.join("state"),
            repositories: super::repositories::Repositories::default(),
            etc: self.root.join("etc"),
        };
        let policies =
            ["first.toml", "second.toml"].map(|name| self.root.join(name).to_str().unwrap().to_owned());
        load(&Sources { policies: policies.into(), command_name: "x".into(), context, mode_override: None })
    }
}

pub(super) fn create(path: &Path) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path).map(|_| ())
}
