//! Other names for what a rule names.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::{Path, PathBuf},
};

use crate::{
    attempt::{Attempt, Class, Goal, Inside, Step, Told},
    sys::{c, call, open, owned, read, text},
};

fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("names-{name}"), Class::Names, what, source)
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    for (suffix, rule) in
        [("", (|attempt| attempt.secret("secret")) as Step), ("-pattern", Attempt::secret_by_pattern)]
    {
        all.extend(spellings().into_iter().map(|(name, what, source, spell)| {
            rule(new(&format!("{name}{suffix}"), what, source)).reads(move |at| read(spell(at)?))
        }));
    }
    all.extend(links().into_iter().chain(renames()).map(|one| match one.goal {
        Goal::Read => one.refused_as_change(),
        _ => one,
    }));
    all.extend(odd());
    all
}

type Spelling = fn(&Inside) -> io::Result<PathBuf>;

/// Paths that lead to the same file.
fn spellings() -> Vec<(&'static str, &'static str, &'static str, Spelling)> {
    fn name(at: &Inside) -> &str {
        at.secret().file_name().unwrap().to_str().unwrap()
    }
    vec![
        ("plain", "the path itself", "open(2)", |at| Ok(at.secret().to_owned())),
        ("relative", "relative to the working directory", "path_resolution(7)", |at| Ok(name(at).into())),
        ("dot-dot", "by way of `..`", "path_resolution(7)", |at| {
            Ok(format!("../{}/./{}", at.name, name(at)).into())
        }),
        ("slashes", "with doubled slashes", "path_resolution(7)", |at| {
            Ok(at.secret().to_str().unwrap().replace('/', "//").into())
        }),
        ("dots", "with `/./` between all components", "path_resolution(7)", |at| {
            Ok(at.secret().to_str().unwrap().replace('/', "/./").into())
        }),
        ("symlink", "a symlink made during the run", "symlink(2)", |at| {
            symlink(at.secret(), at.path("link"))?;
            Ok(at.path("link"))
        }),
        ("symlink-relative", "a relative symlink", "symlink(2)", |at| {
            symlink(name(at), at.path("link"))?;
            Ok(at.path("link"))
        }),
        ("symlink-chain", "thirty symlinks in a row", "symlink(7)", |at| {
            symlink(at.secret(), at.path("link0"))?;
            for step in 1..30 {
                symlink(at.path(&format!("link{}", step - 1)), at.path(&format!("link{step}")))?;
            }
            Ok(at.path("link29"))
        }),
        ("symlink-folder", "a symlink to the folder", "symlink(7)", |at| {
            symlink(&at.folder, at.path("door"))?;
            Ok(at.path("door").join(name(at)))
        }),
        ("symlink-through-proc", "a symlink to /proc/self/cwd", "CVE-2021-30465", |at| {
            symlink("/proc/self/cwd", at.path("door"))?;
            Ok(at.path("door").join(name(at)))
        }),
        ("proc-self-root", "/proc/self/root", "proc(5)", |at| {
            Ok(Path::new("/proc/self/root").join(at.secret().strip_prefix("/").unwrap()))
        }),
        ("proc-self-root-twice", "/proc/self/root/proc/self/root", "proc(5)", |at| {
            Ok(Path::new("/proc/self/root/proc/thread-self/root")
                .join(at.secret().strip_prefix("/").unwrap()))
        }),
        ("proc-self-cwd", "/proc/self/cwd", "proc(5)", |at| Ok(Path::new("/proc/self/cwd").join(name(at)))),
        ("proc-parent-root", "the root of the parent process", "proc(5)", |at| {
            let parent = rustix::process::getppid().unwrap().as_raw_nonzero();
            Ok(Path::new(&format!("/proc/{parent}/root")).join(at.secret().strip_prefix("/").unwrap()))
        }),
        ("proc-task-cwd", "/proc/self/task/TID/cwd", "proc(5)", |at| {
            let tid = rustix::thread::gettid().as_raw_nonzero();
            Ok(Path::new(&format!("/proc/self/task/{tid}/cwd")).join(name(at)))
        }),
        ("proc-fd-folder", "a folder's descriptor under /proc/self/fd", "CVE-2024-21626", |at| {
            let folder = open(&at.folder, libc::O_RDONLY | libc::O_DIRECTORY)?;
            let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), name(at));
            std::mem::forget(folder);
            Ok(path.into())
        }),
        ("dev-fd-folder", "a folder's descriptor under /dev/fd", "CVE-2024-21626", |at| {
            let folder = open(&at.folder, libc::O_PATH)?;
            let path = format!("/dev/fd/{}/{}", folder.as_raw_fd(), name(at));
            std::mem::forget(folder);
            Ok(path.into())
        }),
        ("proc-fd-path", "an O_PATH descriptor opened again", "open(2)", |at| {
            let file = open(at.secret(), libc::O_PATH)?;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            std::mem::forget(file);
            Ok(path.into())
        }),
        ("proc-fd-path-nofollow", "an O_PATH descriptor of a symlink to it, opened again", "open(2)", |at| {
            symlink(at.secret(), at.path("link"))?;
            let link = open(at.path("link"), libc::O_PATH | libc::O_NOFOLLOW)?;
            let path = format!("/proc/self/fd/{}", link.as_raw_fd());
            std::mem::forget(link);
            // The link itself can't be opened: its target is taken by readlinkat.
            let target = fs::read_link(path)?;
            Ok(at.folder.join(target))
        }),
        ("chdir-into", "relative, from a folder entered by its descriptor", "fchdir(2)", |at| {
            let folder = open(&at.folder, libc::O_PATH | libc::O_DIRECTORY)?;
            std::env::set_current_dir("/")?;
            call!(libc::SYS_fchdir, folder.as_raw_fd())?;
            Ok(name(at).into())
        }),
        ("long-path", "a path of 4,000 bytes by `./`", "path_resolution(7)", |at| {
            let mut path = at.folder.to_str().unwrap().to_owned();
            while path.len() < 4000 {
                path.push_str("/.");
            }
            Ok(Path::new(&path).join(name(at)))
        }),
    ]
}

/// Hard links, and symlinks that a rule names.
fn links() -> Vec<Attempt> {
    let hard = |at: &Inside, name: &str| {
        fs::hard_link(at.secret(), at.path(name))?;
        read(at.path(name))
    };
    vec![
        new("hard-link-before", "a hard link older than the run", "link(2)")
            .secret("secret")
            .staged(|stage| stage.link("secret", "alias"))
            .reads(|_| read("alias")),
        new("hard-link-before-elsewhere", "a hard link in another folder, older than the run", "link(2)")
            .secret("vault/secret")
            .staged(|stage| {
                stage.dir("open");
                stage.link("vault/secret", "open/alias");
            })
            .reads(|_| read("open/alias")),
        new("hard-link", "a hard link made during the run", "link(2)")
            .secret("secret")
            .reads(move |at| hard(at, "alias")),
        new("hard-link-pattern", "a hard link of a file that a pattern names", "link(2)")
            .secret_by_pattern()
            .reads(move |at| hard(at, "alias")),
        new("hard-link-out-of-folder", "a hard link out of a denied folder", "link(2)")
            .deny("vault")
            .canary("vault/secret")
            .reads(move |at| hard(at, "alias")),
        new("hard-link-descriptor", "linkat of an O_PATH descriptor with AT_EMPTY_PATH", "linkat(2)")
            // Before, only CAP_DAC_READ_SEARCH could.
            .since(6, 10)
            .secret("secret")
            .reads(|at| {
                let file = open(at.secret(), libc::O_PATH)?;
                let to = c(at.path("alias"));
                call!(
                    libc::SYS_linkat,
                    file.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    to.as_ptr(),
                    libc::AT_EMPTY_PATH
                )?;
                read("alias")
            }),
        new("hard-link-proc-fd", "linkat of /proc/self/fd/N with AT_SYMLINK_FOLLOW", "linkat(2)")
            .secret("secret")
            .reads(|at| {
                let file = open(at.secret(), libc::O_PATH)?;
                let (from, to) = (c(format!("/proc/self/fd/{}", file.as_raw_fd())), c(at.path("alias")));
                let (cwd, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
                call!(libc::SYS_linkat, cwd, from.as_ptr(), cwd, to.as_ptr(), follow)?;
                read("alias")
            }),
        new("rule-on-symlink", "the target of a symlink that the rule names", "DESIGN 4.1")
            .deny("named")
            .canary("elsewhere/file")
            .staged(|stage| stage.symlink("named", "elsewhere/file"))
            .reads(|_| read("elsewhere/file")),
        new(
            "rule-on-symlinked-folder",
            "the target behind a symlinked folder that the rule names",
            "DESIGN 4.1",
        )
        .deny("door/file")
        .canary("elsewhere/file")
        .staged(|stage| stage.symlink("door", "elsewhere"))
        .reads(|_| read("elsewhere/file")),
    ]
}

/// Names that are given away.
fn renames() -> Vec<Attempt> {
    let moved = |from: &Path, to: &str| {
        fs::rename(from, to)?;
        read(to)
    };
    vec![
        new("rename", "the file under another name", "rename(2)")
            .secret("secret")
            .reads(move |at| moved(at.secret(), "plain")),
        new("rename-pattern", "a file that a pattern names under another name", "rename(2)")
            .secret_by_pattern()
            .reads(move |at| moved(at.secret(), "plain")),
        new("rename-parent", "the folder above under another name", "rename(2)")
            .secret("vault/secret")
            .reads(|_| {
                fs::rename("vault", "other")?;
                read("other/secret")
            }),
        new("rename-grandparent", "a folder two above under another name", "rename(2)")
            .secret("a/vault/secret")
            .reads(|_| {
                fs::rename("a", "b")?;
                read("b/vault/secret")
            }),
        new("rename-denied-folder", "a denied folder under another name", "rename(2)")
            .deny("vault")
            .canary("vault/deep/secret")
            .reads(|_| {
                fs::rename("vault", "other")?;
                read("other/deep/secret")
            }),
        new("rename-out-of-denied-folder", "a file out of a denied folder", "rename(2)")
            .deny("vault")
            .canary("vault/secret")
            .reads(move |at| moved(at.secret(), "plain")),
        new("rename-anchored-pattern", "a folder that an anchored pattern begins with", "rename(2)")
            .deny("vault/*.key")
            .canary("vault/a.key")
            .reads(|_| {
                fs::rename("vault", "other")?;
                read("other/a.key")
            })
            .lsm_told(Told::Event { kind: "file.change", rule: "", about: "{name}" }),
        new("exchange", "the file exchanged with another", "renameat2(2)").secret("secret").reads(|at| {
            fs::write("other", "other")?;
            exchange(at.secret(), &at.path("other"))?;
            read("other")
        }),
        new("exchange-folder", "the folder above exchanged with another", "renameat2(2)")
            .secret("vault/secret")
            .reads(|at| {
                fs::create_dir("other")?;
                exchange(&at.path("vault"), &at.path("other"))?;
                read("other/secret")
            }),
        new("exchange-from-other", "another file exchanged with it", "renameat2(2)").secret("secret").reads(
            |at| {
                fs::write("other", "other")?;
                exchange(&at.path("other"), at.secret())?;
                read("other")
            },
        ),
        new("exchange-pattern", "a file that a pattern names, exchanged", "renameat2(2)")
            .secret_by_pattern()
            .reads(|at| {
                fs::write("other", "other")?;
                exchange(&at.path("other"), at.secret())?;
                read("other")
            }),
        new("protected-rename", "a protected file away", "rename(2)")
            .keeps("kept")
            .changes(|_| fs::rename("kept", "away")),
        new("protected-rename-over", "another file over a protected one", "rename(2)").keeps("kept").changes(
            |_| {
                fs::write("new", "new")?;
                fs::rename("new", "kept")
            },
        ),
        new("protected-rename-over-pattern", "another file over one that a pattern protects", "rename(2)")
            .keeps_by_pattern()
            .changes(|at| {
                fs::write("new", "new")?;
                fs::rename("new", at.kept())
            }),
        new("protected-rename-parent", "the folder of a protected file", "rename(2)")
            .keeps("a/b/kept")
            .changes(|_| fs::rename("a/b", "a/c")),
        new("protected-rename-grandparent", "a folder above that of a protected file", "rename(2)")
            .keeps("a/b/kept")
            .changes(|_| fs::rename("a", "c")),
        new("protected-exchange", "a protected file exchanged", "renameat2(2)").keeps("kept").changes(|at| {
            fs::write("new", "new")?;
            exchange(&at.path("new"), at.kept())
        }),
        new("protected-exchange-parent", "the folder of a protected file exchanged", "renameat2(2)")
            .keeps("a/kept")
            .changes(|at| {
                fs::create_dir("b")?;
                fs::write("b/kept", "mine")?;
                exchange(&at.path("b"), &at.path("a"))
            }),
        new("protected-unlink", "a protected file removed", "unlink(2)")
            .keeps("kept")
            .changes(|_| fs::remove_file("kept")),
        new("protected-unlink-pattern", "a file that a pattern protects removed", "unlink(2)")
            .keeps_by_pattern()
            .changes(|at| fs::remove_file(at.kept())),
        new("protected-rmdir", "a protected folder removed", "rmdir(2)")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|_| fs::remove_dir("kept")),
        new("protected-hard-link", "a second name for a protected file, written by it", "link(2)")
            .keeps("kept")
            .changes(|_| {
                fs::hard_link("kept", "alias")?;
                fs::write("alias", "mine")
            }),
        new("protected-hard-link-pattern", "a second name for a file that a pattern protects", "link(2)")
            .keeps_by_pattern()
            .changes(|at| {
                fs::hard_link(at.kept(), "alias")?;
                fs::write("alias", "mine")
            }),
        new("protected-hard-link-before", "a protected file by a hard link older than the run", "link(2)")
            .keeps("kept")
            .staged(|stage| stage.link("kept", "alias"))
            .changes(|_| fs::write("alias", "mine")),
        new("protected-symlink", "a protected file by a symlink", "symlink(2)").keeps("kept").changes(|_| {
            symlink("kept", "link")?;
            fs::write("link", "mine")
        }),
        new("protected-named-link-replaced", "the symlink that a protect rule names, replaced", "DESIGN 4.1")
            .protect("named")
            .guards("named")
            .staged(|stage| {
                stage.file("target", "as it was");
                stage.symlink("named", "target");
            })
            .changes(|_| {
                fs::remove_file("named")?;
                fs::write("named", "mine")
            }),
        new(
            "protected-link-on-the-way",
            "a symlinked folder on the way to a protected path, replaced",
            "DESIGN 4.1",
        )
        .protect("door/kept")
        .guards("door")
        .staged(|stage| {
            stage.file("real/kept", "as it was");
            stage.symlink("door", "real");
        })
        .changes(|_| {
            fs::rename("door", "away")?;
            fs::create_dir("door")
        }),
    ]
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let (one, other) = (c(one), c(other));
    let cwd = libc::AT_FDCWD;
    call!(libc::SYS_renameat2, cwd, one.as_ptr(), cwd, other.as_ptr(), libc::RENAME_EXCHANGE).map(drop)
}

/// Depth, length, and bytes that are no text.
fn odd() -> Vec<Attempt> {
    let deep = |depth: usize| format!("{}secret", "d/".repeat(depth));
    vec![
        new("deep-40", "forty folders down", "the bound of path walks")
            .secret(&deep(40))
            .reads(|at| read(at.secret())),
        new("deep-denied-folder", "a hundred folders below a denied one", "the bound of path walks")
            .deny("d")
            .canary(&deep(100))
            .reads(|at| read(at.secret()))
            .lsm_told(Deepest::TOLD),
        new("deep-200-denied-folder", "two hundred folders below a denied one", "the bound of path walks")
            .deny("d")
            .canary(&deep(200))
            .reads(|at| read(at.secret()))
            .lsm_told(Deepest::TOLD),
        new("deep-200-pattern", "two hundred folders down, denied by a pattern", "the bound of path walks")
            .deny("**/names-deep.pem")
            .canary(&format!("{}names-deep.pem", "d/".repeat(200)))
            .reads(|at| read(at.secret()))
            .lsm_told(Deepest::TOLD),
        new("deep-relative", "a file so deep that its path has more than 4,096 bytes", "path_resolution(7)")
            .deny("**/names-very-deep.pem")
            .staged(|stage| drop(stage.dir("d")))
            .reads(|at| {
                std::env::set_current_dir("d")?;
                for _ in 0..24 {
                    let name = "e".repeat(200);
                    fs::create_dir(&name).or_else(|error| {
                        if error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error) }
                    })?;
                    std::env::set_current_dir(&name)?;
                }
                fs::write("names-very-deep.pem", format!("CANARY-{}", at.name))?;
                read("names-very-deep.pem")
            })
            .told(Told::Event { kind: "file.change", rule: "", about: "/d/eee" }),
        new("name-255", "a name of 255 bytes", "path_resolution(7)")
            .secret(&"n".repeat(255))
            .reads(|at| read(at.secret())),
        new("name-255-pattern", "a name of 255 bytes by a pattern", "path_resolution(7)")
            .deny(&format!("**/{}*", "p".repeat(200)))
            .canary(&"p".repeat(255))
            .reads(|at| read(at.secret())),
        new("name-space-newline", "a name with a newline and blanks", "proc(5)")
            .secret("a \n\t b")
            .reads(|at| read(at.secret())),
        new("name-glob-bytes", "a name made of `*`, `[` and `\\`", "glob(7)")
            .deny("\\*\\[x\\]\\\\")
            .canary("*[x]\\")
            .reads(|at| read(at.secret())),
        new("name-not-utf8", "a name that is not UTF-8, by a pattern", "path_resolution(7)")
            .deny("byte-?-end")
            .staged(|stage| {
                let path = stage.path("").join(std::ffi::OsStr::from_bytes(b"byte-\xff-end"));
                fs::write(&path, "CANARY-names-name-not-utf8").unwrap();
                stage.give(&path);
            })
            .reads(|at| read(at.folder.join(std::ffi::OsStr::from_bytes(b"byte-\xff-end")))),
        new("name-combining", "a decomposed name beside a composed one", "Unicode normalisation")
            .secret("caf\u{e9}")
            .reads(|at| read(at.secret())),
        new("name-deleted-suffix", "a denied file called `x (deleted)`", "proc(5)")
            .secret("x (deleted)")
            .reads(|at| read(at.secret())),
        new("dot-env", "`.env` made by others meanwhile in a folder of many", "glob(7)")
            .deny("**/.env-names")
            .canary("packages/a/.env-names")
            .reads(|at| read(at.secret())),
        new("brace-pattern", "each name of a brace", "glob(7)")
            .deny("**/names-{one,two}.{key,pem}")
            .canary("x/names-two.key")
            .reads(|at| read(at.secret())),
        new("class-pattern", "a class that is negated", "glob(7)")
            .deny("**/names-class-[!0-9]z")
            .canary("names-class-az")
            .reads(|at| read(at.secret())),
        new("listing", "the listing of a denied folder", "getdents(2)")
            .deny("vault")
            .canary("vault/secret")
            .reads(|at| {
                let names: Vec<_> = fs::read_dir("vault")?
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<Result<_, _>>()?;
                Ok(format!("CANARY-{} {names:?}", at.name))
            }),
        new("memory-file-of-name", "map_files of a mapped denied file", "proc(5)").secret("secret").reads(
            |at| {
                let file = open(at.secret(), libc::O_PATH)?;
                let _ = owned;
                text(open(format!("/proc/self/fd/{}", file.as_raw_fd()), libc::O_RDONLY | libc::O_NOATIME)?)
            },
        ),
    ]
}

struct Deepest;

impl Deepest {
    /// A path that can't be read whole is refused by no rule in particular.
    const TOLD: Told = Told::Event { kind: "file.open", rule: "", about: "/d/d/d/" };
}
