//! Names that come into being during the run: what is denied or protected there is so from the first moment.

use std::{fs, io, os::unix::fs::symlink};

use crate::{
    attempt::{Attempt, Class, Told},
    sys::{c, call, open, read},
};

fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("creation-{name}"), Class::Creation, what, source)
}

/// A symlink in the place of a folder.
const IN_PLACE: Told = Told::Event { kind: "file.change", rule: "builtin/symlink-in-place", about: "{name}" };
/// A folder that would carry others to where other rules hold.
const SHIFTED: Told = Told::Event { kind: "file.change", rule: "", about: "{name}" };

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut all = vec![
        new("open", "a protected file that is not there yet", "open(2), O_CREAT")
            .protect("later")
            .changes_new("later", |_| fs::write("later", "mine")),
        new("open-pattern", "a file that a pattern protects", "open(2), O_CREAT")
            .protect("**/sealed.conf")
            .changes_new("sealed.conf", |_| fs::write("sealed.conf", "mine")),
        new("open-below", "a file below a folder that is not there yet", "open(2), O_CREAT")
            .protect("not/yet/file")
            .changes_new("not/yet/file", |_| {
                fs::create_dir_all("not/yet")?;
                fs::write("not/yet/file", "mine")
            }),
        new("creat", "the same by creat", "creat(2)").protect("later").changes_new("later", |_| {
            let path = c("later");
            call!(libc::SYS_creat, path.as_ptr(), 0o644).map(drop)?;
            fs::write("later", "mine")
        }),
        new("read-denied", "a denied name that is made, filled and read", "open(2)").deny("later").reads(
            |at| {
                fs::write("later", format!("CANARY-{}", at.name))?;
                read("later")
            },
        ),
        new("fifo", "a FIFO at a denied name", "mkfifo(3)").deny("later").changes_new("later", |_| {
            let path = c("later");
            call!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), libc::S_IFIFO | 0o644, 0).map(drop)
        }),
        new("mkdir", "a folder at a protected name", "mkdir(2)")
            .protect("later")
            .changes_new("later", |_| fs::create_dir("later")),
        new("symlink", "a symlink at a protected name", "symlink(2)").protect("later").changes_new(
            "later",
            |_| {
                fs::write("mine", "mine")?;
                symlink("mine", "later")
            },
        ),
        new("link", "a hard link at a protected name", "link(2)").protect("later").changes_new(
            "later",
            |_| {
                fs::write("mine", "mine")?;
                fs::hard_link("mine", "later")
            },
        ),
        new("rename", "another file renamed to a protected name", "rename(2)").protect("later").changes_new(
            "later",
            |_| {
                fs::write("mine", "mine")?;
                fs::rename("mine", "later")
            },
        ),
        new("tmpfile", "an unnamed file linked to a protected name", "open(2), O_TMPFILE")
            .protect("later")
            .changes_new("later", |at| {
                use std::os::fd::AsRawFd;
                let file = open(&at.folder, libc::O_TMPFILE | libc::O_WRONLY)?;
                let (from, to) = (c(format!("/proc/self/fd/{}", file.as_raw_fd())), c("later"));
                let (cwd, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
                call!(libc::SYS_write, file.as_raw_fd(), c"mine".as_ptr(), 4)?;
                call!(libc::SYS_linkat, cwd, from.as_ptr(), cwd, to.as_ptr(), follow).map(drop)
            })
            .where_not_supported(),
        new("rename-folder-into", "a folder prepared elsewhere, renamed above a protected name", "rename(2)")
            .protect("conf/settings")
            .changes_new("conf/settings", |_| {
                fs::create_dir("mine")?;
                fs::write("mine/settings", "mine")?;
                fs::rename("mine", "conf")
            })
            .lsm_told(SHIFTED),
        new(
            "rename-folder-into-pattern",
            "a folder prepared elsewhere, renamed to where a pattern is about",
            "rename(2)",
        )
        .protect("**/hold/inner-*.conf")
        .changes_new("hold", |_| {
            fs::create_dir("mine")?;
            fs::write("mine/inner-1.conf", "mine")?;
            fs::rename("mine", "hold")
        })
        .lsm_told(SHIFTED),
        new(
            "symlink-folder-pattern",
            "a symlink to a folder, where a pattern is about what lies in it",
            "symlink(2)",
        )
        .protect("**/hold/inner-*.conf")
        .changes_new("hold", |_| {
            fs::create_dir("mine")?;
            fs::write("mine/inner-1.conf", "mine")?;
            symlink("mine", "hold")
        })
        .told(IN_PLACE),
        new(
            "rename-symlink-pattern",
            "a symlink to a folder, renamed to where a pattern is about",
            "rename(2)",
        )
        .protect("**/hold/inner-*.conf")
        .changes_new("hold", |_| {
            fs::create_dir("mine")?;
            fs::write("mine/inner-1.conf", "mine")?;
            symlink("mine", "elsewhere")?;
            fs::rename("elsewhere", "hold")
        })
        .told(IN_PLACE),
        new("link-symlink-pattern", "a second name for a symlink, where a pattern is about", "link(2)")
            .protect("**/hold/inner-*.conf")
            .changes_new("hold", |_| {
                fs::create_dir("mine")?;
                fs::write("mine/inner-1.conf", "mine")?;
                symlink("mine", "elsewhere")?;
                fs::hard_link("elsewhere", "hold")
            })
            .told(IN_PLACE),
        new("exchange-folder-pattern", "two folders exchanged, one where a pattern is about", "renameat2(2)")
            .protect("**/hold/inner-*.conf")
            .guards("hold")
            .staged(|stage| drop(stage.file("hold/inner-1.conf", "as it was")))
            .changes(|_| {
                fs::create_dir("mine")?;
                fs::write("mine/inner-1.conf", "mine")?;
                exchange("mine", "hold")
            })
            .lsm_told(SHIFTED)
            .fanotify_told(SHIFTED),
        new("dangling", "through a dangling symlink older than the run", "open(2), O_CREAT")
            .protect("later")
            .staged(|stage| stage.symlink("door", "later"))
            .changes_new("later", |_| fs::write("door", "mine")),
        new("dangling-denied", "a denied name made through a dangling symlink", "open(2), O_CREAT")
            .deny("later")
            .staged(|stage| stage.symlink("door", "later"))
            .reads(|at| {
                fs::write("door", format!("CANARY-{}", at.name))?;
                read("door")
            }),
        new("protected-folder-mkdir", "a folder in a protected folder", "mkdir(2)")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|_| fs::create_dir("kept/new")),
        new("protected-folder-rename-into", "a file renamed into a protected folder", "rename(2)")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|_| {
                fs::write("mine", "mine")?;
                fs::rename("mine", "kept/mine")
            }),
        new("protected-folder-link-into", "a hard link into a protected folder", "link(2)")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|_| {
                fs::write("mine", "mine")?;
                fs::hard_link("mine", "kept/mine")
            }),
        new("protected-folder-mknod", "a FIFO in a protected folder", "mknod(2)")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|_| {
                let path = c("kept/fifo");
                call!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), libc::S_IFIFO | 0o644, 0).map(drop)
            }),
        new("protected-folder-socket", "a socket in a protected folder", "unix(7)")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|_| std::os::unix::net::UnixListener::bind("kept/socket").map(drop))
            .fanotify_told(crate::attempt::BY_KERNEL),
    ];
    all.extend(outside());
    all.extend(symlinks());
    all
}

/// Symlinks that lead elsewhere in the place of what a rule names from above.
fn symlinks() -> Vec<Attempt> {
    let mine = || {
        fs::create_dir("mine")?;
        fs::write("mine/file", "mine")
    };
    vec![
        new("symlink-anchored", "a symlink above a protected path that is not there yet", "symlink(2)")
            .protect("not/yet/file")
            .changes_new("not", move |_| {
                fs::create_dir_all("mine/yet")?;
                fs::write("mine/yet/file", "mine")?;
                symlink("mine", "not")
            })
            .told(IN_PLACE),
        new("symlink-denied", "a symlink above a denied pattern, to be filled by others", "symlink(2)")
            .deny("**/hold-*/key")
            .changes_new("hold-1", move |_| mine().and_then(|()| symlink("mine", "hold-1")))
            .told(IN_PLACE),
        new("exchange-symlink", "a symlink exchanged with the folder", "renameat2(2)")
            .protect("**/hold/inner-*.conf")
            .guards("hold")
            .staged(|stage| drop(stage.dir("hold")))
            .changes(move |_| {
                mine()?;
                symlink("mine", "link")?;
                exchange("link", "hold")
            })
            .lsm_told(SHIFTED)
            .fanotify_told(IN_PLACE),
        new("exchange-symlink-back", "the folder exchanged with a symlink", "renameat2(2)")
            .protect("**/hold/inner-*.conf")
            .guards("hold")
            .staged(|stage| drop(stage.dir("hold")))
            .changes(move |_| {
                mine()?;
                symlink("mine", "link")?;
                exchange("hold", "link")
            })
            .lsm_told(SHIFTED)
            .fanotify_told(IN_PLACE),
        new(
            "symlink-carried",
            "a symlink in a folder that is renamed to where a pattern is about",
            "rename(2)",
        )
        .protect("**/hold/below/*.conf")
        .changes_new("hold", move |_| {
            mine()?;
            fs::create_dir("carrier")?;
            symlink("../mine", "carrier/below")?;
            fs::rename("carrier", "hold")
        })
        .lsm_told(SHIFTED)
        .fanotify_told(IN_PLACE),
        new("symlink-dirfd", "a symlink by its folder's descriptor", "symlinkat(2)")
            .protect("**/hold/inner-*.conf")
            .changes_new("sub/hold", move |at| {
                use std::os::fd::AsRawFd;
                mine()?;
                fs::create_dir("sub")?;
                let folder = open(at.path("sub"), libc::O_PATH)?;
                let (text, name) = (c("../mine"), c("hold"));
                call!(libc::SYS_symlinkat, text.as_ptr(), folder.as_raw_fd(), name.as_ptr()).map(drop)
            })
            .told(IN_PLACE),
        new("link-on-the-way", "a link that a link on the way leads through, replaced", "path_resolution(7)")
            .protect("conf/kept")
            .guards("store")
            .staged(|stage| {
                stage.file("real/kept", "as it was");
                stage.symlink("store", "real");
                stage.symlink("conf", "store");
            })
            .changes(move |_| {
                mine()?;
                fs::remove_file("store")?;
                symlink("mine", "store")
            }),
        new("folder-of-a-link", "the folder that a link on the way lies in, replaced", "path_resolution(7)")
            .protect("above/conf/kept")
            .guards("above")
            .staged(|stage| {
                stage.file("real/kept", "as it was");
                stage.dir("above");
                stage.symlink("above/conf", "../real");
            })
            .changes(move |_| {
                fs::rename("above", "away")?;
                fs::create_dir_all("above/conf")?;
                fs::write("above/conf/kept", "mine")
            }),
        new("link-to-missing", "a link on the way to a path that is not there yet, replaced", "symlink(2)")
            .protect("conf/later")
            .guards("conf")
            .staged(|stage| {
                stage.dir("real");
                stage.symlink("conf", "real");
            })
            .changes(move |_| {
                mine()?;
                fs::remove_file("conf")?;
                symlink("mine", "conf")
            }),
        new("dangling-rule", "what a protected dangling symlink leads to, made", "open(2), O_CREAT")
            .protect("door")
            .staged(|stage| stage.symlink("door", "later"))
            .changes_new("later", |_| fs::write("later", "mine")),
    ]
}

fn exchange(one: &str, other: &str) -> io::Result<()> {
    let (one, other, cwd) = (c(one), c(other), libc::AT_FDCWD);
    call!(libc::SYS_renameat2, cwd, one.as_ptr(), cwd, other.as_ptr(), libc::RENAME_EXCHANGE).map(drop)
}

/// Outside of the write list nothing is made, removed or cut.
fn outside() -> Vec<Attempt> {
    type Change = fn(&std::path::Path) -> io::Result<()>;
    let changes: [(&str, &'static str, &'static str, &'static str, Change); 6] = [
        ("write", "a file opened for writing", "open(2)", "file.open", |path| fs::write(path, "mine")),
        ("truncate", "a file cut by its name", "truncate(2); Landlock before ABI 3", "file.change", |path| {
            let path = c(path);
            call!(libc::SYS_truncate, path.as_ptr(), 0).map(drop)
        }),
        (
            "open-truncate",
            "a file cut by an open for reading",
            "open(2), O_RDONLY|O_TRUNC",
            "file.open",
            |path| open(path, libc::O_RDONLY | libc::O_TRUNC).map(drop),
        ),
        ("unlink", "a file removed", "unlink(2)", "file.change", |path| fs::remove_file(path)),
        ("rename", "a file renamed", "rename(2)", "file.change", |path| {
            fs::rename(path, path.with_extension("away"))
        }),
        ("replace", "a file replaced by a rename from inside", "rename(2)", "file.change", |path| {
            fs::write("mine", "mine")?;
            fs::rename("mine", path)
        }),
    ];
    let attempt =
        |(name, what, source, kind, change): (&str, &'static str, &'static str, &'static str, Change)| {
            new(&format!("outside-{name}"), what, source)
                .staged(|stage| drop(stage.outside_file("file", "as it was")))
                .guards_outside()
                .changes(move |at| change(std::path::Path::new(&at.said("outside")?)))
                .told(Told::Event { kind, rule: "default/filesystem.write", about: "{outside}" })
        };
    changes.into_iter().map(attempt).collect()
}
