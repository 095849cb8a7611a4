//! Other system calls that open, and other ways that data takes.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{PermissionsExt, symlink},
    },
    path::Path,
};

use crate::{
    attempt::{Attempt, BY_KERNEL, Class, Inside, MISSING, Step, Told, by_call},
    stage::Stage,
    sys::{c, call, errno, forked, open, owned, read, text},
};

fn call_of(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("calls-{name}"), Class::Calls, what, source)
}

fn data(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("data-{name}"), Class::Data, what, source)
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let rules: [(&str, Step); 2] =
        [("", |attempt| attempt.secret("secret")), ("-pattern", Attempt::secret_by_pattern)];
    let mut all = Vec::new();
    for (suffix, rule) in rules {
        all.extend(opens().into_iter().map(|(name, what, source, run)| {
            let attempt = rule(call_of(&format!("{name}{suffix}"), what, source)).reads(run);
            let attempt = attempt.refused_as_change();
            // On a read-only mount it ends before anyone is asked; the descriptor is nothing to look up afterwards.
            if name == "path-then-read" { attempt.fanotify_told(BY_DESCRIPTOR) } else { attempt }
        }));
    }
    all.extend(calls());
    all.extend(data_routes());
    all
}

const BY_DESCRIPTOR: Told = Told::Event { kind: "file.open", rule: "", about: "/proc/self/fd/" };

type Read = fn(&Inside) -> io::Result<String>;

fn opens() -> Vec<(&'static str, &'static str, &'static str, Read)> {
    vec![
        ("open", "open by its own number", "open(2)", |at| {
            let path = c(at.secret());
            text(owned(call!(libc::SYS_open, path.as_ptr(), libc::O_RDONLY)?))
        }),
        ("openat-folder", "openat below an O_PATH descriptor", "openat(2)", |at| {
            let folder = open(&at.folder, libc::O_PATH)?;
            let name = c(at.secret().file_name().unwrap());
            text(owned(call!(libc::SYS_openat, folder.as_raw_fd(), name.as_ptr(), libc::O_RDONLY)?))
        }),
        ("read-write", "an open for reading and writing", "open(2)", |at| {
            text(open(at.secret(), libc::O_RDWR)?)
        }),
        ("access-mode-3", "an open with the access mode 3", "open(2), ioctl only", |at| {
            let file = open(at.secret(), 3)?;
            text(open(format!("/proc/self/fd/{}", file.as_raw_fd()), libc::O_RDONLY)?)
        }),
        (
            "path-then-read",
            "an O_PATH descriptor, opened by /proc/self/fd for reading and writing",
            "open(2)",
            |at| {
                let file = open(at.secret(), libc::O_PATH)?;
                text(open(format!("/proc/self/fd/{}", file.as_raw_fd()), libc::O_RDWR)?)
            },
        ),
        ("create-flag", "an open with O_CREAT of what is there", "open(2)", |at| {
            text(open(at.secret(), libc::O_RDONLY | libc::O_CREAT)?)
        }),
        ("nonblock-direct", "an open with O_NONBLOCK, O_SYNC and O_LARGEFILE", "open(2)", |at| {
            text(open(at.secret(), libc::O_NONBLOCK | libc::O_SYNC | libc::O_NOCTTY | 0o100_000)?)
        }),
        ("thread", "an open in a second thread", "clone(2)", |at| {
            let path = at.secret().to_owned();
            std::thread::spawn(move || read(path)).join().unwrap()
        }),
        (
            "orphan",
            "an open in a process of a new session whose parent is gone",
            "setsid(2), fork(2)",
            |at| {
                let path = at.secret().to_owned();
                let told = crate::bed::sys::in_orphan(|| match read(path) {
                    Ok(text) => format!("+{text}"),
                    Err(error) => error.raw_os_error().unwrap_or(0).to_string(),
                })?;
                told.strip_prefix('+').map(str::to_owned).ok_or_else(|| errno(told.parse().unwrap_or(0)))
            },
        ),
        (
            "vfork-table",
            "an open in a task that shares the table of descriptors",
            "clone(2), CLONE_FILES",
            |at| {
                let path = c(at.secret());
                let (mut pipe, writer) = io::pipe()?;
                let flags = (libc::CLONE_FILES | libc::SIGCHLD) as u64;
                let child = call!(libc::SYS_clone, flags, 0, 0, 0, 0)?;
                if child == 0 {
                    let number = match call!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY)
                    {
                        Ok(file) => file as i32,
                        Err(error) => -error.raw_os_error().unwrap_or(0),
                    };
                    let bytes = number.to_ne_bytes();
                    let _ = call!(libc::SYS_write, writer.as_raw_fd(), bytes.as_ptr(), 4);
                    let _ = call!(libc::SYS_exit_group, 0);
                }
                let mut bytes = [0; 4];
                io::Read::read_exact(&mut pipe, &mut bytes)?;
                match i32::from_ne_bytes(bytes) {
                    number if number < 0 => Err(errno(-number)),
                    number => text(owned(i64::from(number))),
                }
            },
        ),
    ]
}

fn calls() -> Vec<Attempt> {
    vec![
        call_of("openat2", "openat2", "openat2(2)")
            .secret("secret")
            .reads(|at| {
                let (path, how) = (c(at.secret()), [0_u64; 3]);
                text(owned(call!(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), 24)?))
            })
            .fanotify_refused(&[libc::ENOSYS])
            .fanotify_told(MISSING),
        call_of("openat2-in-root", "openat2 with RESOLVE_IN_ROOT below a descriptor", "openat2(2)")
            .secret_by_pattern()
            .reads(|at| {
                let folder = open(&at.folder, libc::O_PATH)?;
                let (path, how) = (c("/sealed.pem"), [0_u64, 0, 0x10]);
                text(owned(call!(libc::SYS_openat2, folder.as_raw_fd(), path.as_ptr(), how.as_ptr(), 24)?))
            })
            .fanotify_refused(&[libc::ENOSYS])
            .fanotify_told(MISSING),
        call_of("handle", "open_by_handle_at", "open_by_handle_at(2)")
            .secret("secret")
            .control_by_root()
            .reads(|at| {
                let (path, mut handle, mut mount) = (c(at.secret()), [0_u32; 40], 0_i32);
                handle[0] = 128;
                let (cwd, to) = (libc::AT_FDCWD, handle.as_mut_ptr());
                call!(libc::SYS_name_to_handle_at, cwd, path.as_ptr(), to, &raw mut mount, 0)?;
                let folder = open(&at.folder, libc::O_RDONLY)?;
                text(owned(call!(libc::SYS_open_by_handle_at, folder.as_raw_fd(), to, libc::O_RDONLY)?))
            })
            .where_not_supported()
            .told(by_call("\"action\":\"open_by_handle_at\"")),
        call_of("execveat", "execveat of a denied program by its descriptor", "execveat(2)")
            .deny("program")
            .staged(|stage| drop(stage.script("program", fs::read("/bin/true").unwrap())))
            .acts(|at| {
                let file = open(at.path("program"), libc::O_PATH)?;
                executes(file.as_raw_fd(), "")
            }),
        call_of("execve", "execve of a denied program", "execve(2)")
            .deny("program")
            .staged(|stage| drop(stage.script("program", "#!/bin/sh\nexit 0\n")))
            .acts(|at| executes(libc::AT_FDCWD, at.path("program").to_str().unwrap())),
        call_of("chroot", "a chroot to get other names", "chroot(2)")
            .control_by_root()
            .secret_by_pattern()
            .reads(|at| {
                let folder = c(&at.folder);
                call!(libc::SYS_chroot, folder.as_ptr())?;
                read("/sealed.pem")
            })
            .told(by_call("\"action\":\"chroot\"")),
        call_of("bind-mount", "a bind mount to get other names", "mount(2)")
            .control_by_root()
            .secret_by_pattern()
            .staged(|stage| drop(stage.file("plain", "")))
            .reads(|at| {
                let (from, to) = (c(at.secret()), c(at.path("plain")));
                call!(libc::SYS_mount, from.as_ptr(), to.as_ptr(), 0, libc::MS_BIND, 0)?;
                let found = read("plain");
                call!(libc::SYS_umount2, to.as_ptr(), libc::MNT_DETACH)?;
                found
            })
            .told(by_call("\"action\":\"mount\"")),
        call_of("open-tree", "a mount tree cloned", "open_tree(2)")
            .control_by_root()
            .secret_by_pattern()
            .reads(|at| {
                let folder = c(&at.folder);
                let tree = owned(call!(libc::SYS_open_tree, libc::AT_FDCWD, folder.as_ptr(), 1)?);
                let name = c("sealed.pem");
                text(owned(call!(libc::SYS_openat, tree.as_raw_fd(), name.as_ptr(), libc::O_RDONLY)?))
            })
            .told(by_call("\"action\":\"open_tree\"")),
        call_of("user-namespace", "a user namespace, where mounts may be made", "user_namespaces(7)")
            .control_by_root()
            .acts(|_| {
                let status = forked(|| {
                    let done = call!(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
                    // SAFETY: ends this process at once.
                    unsafe { libc::_exit(done.map_or_else(|error| error.raw_os_error().unwrap_or(1), |_| 0)) }
                })?;
                if status == 0 { Ok(String::new()) } else { Err(errno(status >> 8)) }
            })
            .told(by_call("\"action\":\"unshare\"")),
        call_of("bind-mount-outside", "a bind mount made outside before the run", "mount(8)")
            .secret("vault/secret")
            .staged(|stage| bound(stage, "vault", "door"))
            .reads(|_| read("door/secret")),
        call_of("bind-mount-outside-pattern", "a bind mount of what a pattern names, made outside", "mount(8)")
            .deny("**/bound-vault/*.key")
            .canary("bound-vault/a.key")
            .staged(|stage| bound(stage, "bound-vault", "door"))
            .reads(|_| read("door/a.key"))
            .lsm_not_held(
                "A pattern is matched on the path by which a file is reached: a bind mount made outside gives another"
            ),
    ]
}

/// A bind mount that goes with the stage.
struct Bound(std::path::PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn bound(stage: &mut Stage, from: &str, to: &str) {
    let (from, to) = (stage.path(from), stage.dir(to));
    rustix::mount::mount_bind(&from, &to).unwrap();
    stage.keep(Bound(to));
}

fn executes(folder: i32, path: &str) -> io::Result<String> {
    let (path, arguments) = (c(path), [c"program".as_ptr(), std::ptr::null()]);
    let empty = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let status = forked(|| {
        let done = call!(libc::SYS_execveat, folder, path.as_ptr(), arguments.as_ptr(), 0, empty);
        let code = done.map_or_else(|error| error.raw_os_error().unwrap_or(1), |_| 0);
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(100 + code) }
    })?;
    match status >> 8 {
        0 => Ok(String::new()),
        code => Err(errno(code - 100)),
    }
}

fn data_routes() -> Vec<Attempt> {
    let source = |at: &Inside| open(at.secret(), libc::O_RDONLY);
    vec![
        data("mmap", "a mapping", "mmap(2)").secret("secret").reads(move |at| {
            let file = source(at)?;
            let place =
                call!(libc::SYS_mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)?;
            // SAFETY: a page that is mapped; the canary lies at its beginning.
            let bytes = unsafe { std::slice::from_raw_parts(place as *const u8, 64) };
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }),
        data("sendfile", "sendfile into a file", "sendfile(2)").secret("secret").reads(move |at| {
            let (from, to) = (source(at)?, open("copy", libc::O_RDWR | libc::O_CREAT)?);
            call!(libc::SYS_sendfile, to.as_raw_fd(), from.as_raw_fd(), 0, 4096)?;
            read("copy")
        }),
        data("copy-file-range", "copy_file_range into a file", "copy_file_range(2)").secret("secret").reads(
            move |at| {
                let (from, to) = (source(at)?, open("copy", libc::O_RDWR | libc::O_CREAT)?);
                call!(libc::SYS_copy_file_range, from.as_raw_fd(), 0, to.as_raw_fd(), 0, 4096, 0)?;
                read("copy")
            },
        ),
        data("splice", "splice through a pipe", "splice(2)").secret("secret").reads(move |at| {
            let from = source(at)?;
            let (reader, writer) = io::pipe()?;
            call!(libc::SYS_splice, from.as_raw_fd(), 0, writer.as_raw_fd(), 0, 4096, 0)?;
            drop(writer);
            text(OwnedFd::from(reader))
        }),
        data("copy-program", "a program that copies", "cp(1)").secret("secret").reads(|at| {
            let output = std::process::Command::new("cp").arg(at.secret()).arg("copy").output()?;
            if output.status.success() { read("copy") } else { Err(errno(libc::EPERM)) }
        }),
        data("descriptor-of-child", "a descriptor that a child opened, by SCM_RIGHTS", "unix(7)")
            .secret("secret")
            .reads(|at| {
                let (mine, other) = std::os::unix::net::UnixStream::pair()?;
                let status = forked(|| {
                    let code = match read(at.secret()) {
                        Ok(text) => {
                            let _ = io::Write::write_all(&mut &other, text.as_bytes());
                            0
                        }
                        Err(error) => error.raw_os_error().unwrap_or(1),
                    };
                    // SAFETY: ends this process at once.
                    unsafe { libc::_exit(code) }
                })?;
                drop(other);
                if status == 0 { text(OwnedFd::from(mine)) } else { Err(errno(status >> 8)) }
            }),
        data(
            "mapping-before-rename",
            "a shared mapping, written after its file took a protected name",
            "mmap(2)",
        )
        .protect("later")
        .changes_new("later", |_| {
            fs::write("mine", "innocent")?;
            let file = open("mine", libc::O_RDWR)?;
            let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            let place = call!(libc::SYS_mmap, 0, 4096, access, shared, file.as_raw_fd(), 0)?;
            fs::rename("mine", "later")?;
            // SAFETY: a page that is mapped and writable.
            unsafe { (place as *mut u8).write(b'X') };
            Ok(())
        }),
        data("protected-mmap", "a protected file by a shared mapping", "mmap(2)").keeps("kept").changes(
            |at| {
                let file = open(at.kept(), libc::O_RDWR)?;
                let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
                let place = call!(libc::SYS_mmap, 0, 4096, access, shared, file.as_raw_fd(), 0)?;
                // SAFETY: a page that is mapped and writable.
                unsafe { (place as *mut u8).write(b'X') };
                call!(libc::SYS_msync, place, 4096, libc::MS_SYNC).map(drop)
            },
        ),
        data("protected-mprotect", "a mapping for reading, made writable", "mprotect(2)")
            .keeps("kept")
            .control_by_root()
            .changes(|at| {
                let file = open(at.kept(), libc::O_RDWR).or_else(|_| open(at.kept(), libc::O_RDONLY))?;
                let place =
                    call!(libc::SYS_mmap, 0, 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)?;
                call!(libc::SYS_mprotect, place, 4096, libc::PROT_READ | libc::PROT_WRITE)?;
                // SAFETY: a page that is mapped and writable.
                unsafe { (place as *mut u8).write(b'X') };
                call!(libc::SYS_msync, place, 4096, libc::MS_SYNC).map(drop)
            }),
        data("protected-truncate", "a protected file cut", "truncate(2)").keeps("kept").changes(|at| {
            let path = c(at.kept());
            call!(libc::SYS_truncate, path.as_ptr(), 2).map(drop)
        }),
        data("protected-open-truncate", "a protected file cut by an open for reading", "open(2), O_TRUNC")
            .keeps("kept")
            .changes(|at| open(at.kept(), libc::O_RDONLY | libc::O_TRUNC).map(drop)),
        data("protected-append", "a protected file added to", "open(2), O_APPEND").keeps("kept").changes(
            |at| {
                let file = open(at.kept(), libc::O_WRONLY | libc::O_APPEND)?;
                call!(libc::SYS_write, file.as_raw_fd(), c"mine".as_ptr(), 4).map(drop)
            },
        ),
        data("protected-fallocate", "a hole punched into a protected file", "fallocate(2)")
            .keeps("kept")
            .changes(|at| {
                let file = open(at.kept(), libc::O_RDWR)?;
                call!(libc::SYS_fallocate, file.as_raw_fd(), 3, 0, 4).map(drop)
            }),
        data("protected-copy-range", "copy_file_range into a protected file", "copy_file_range(2)")
            .keeps("kept")
            .changes(|at| {
                fs::write("mine", "mine")?;
                let (from, to) = (open("mine", libc::O_RDONLY)?, open(at.kept(), libc::O_WRONLY)?);
                call!(libc::SYS_copy_file_range, from.as_raw_fd(), 0, to.as_raw_fd(), 0, 4, 0).map(drop)
            }),
        data("core-dump", "a core dump into a protected folder", "core(5)")
            .protect("kept")
            .guards("kept")
            .staged(|stage| drop(stage.dir("kept")))
            .changes(|at| {
                // What the kernel would write at a crash is opened as the process itself.
                std::env::set_current_dir(at.path("kept"))?;
                fs::write("core", "mine")
            }),
        data("memory-of-child", "what a child has read, out of its memory", "process_vm_readv(2)")
            .secret("secret")
            .reads(|at| {
                let page = call!(
                    libc::SYS_mmap,
                    0,
                    4096,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                    -1,
                    0
                )? as *mut u8;
                let status = forked(|| {
                    let code = match read(at.secret()) {
                        Ok(text) => {
                            // SAFETY: the page has room for a canary.
                            unsafe { page.copy_from(text.as_ptr(), text.len()) };
                            0
                        }
                        Err(error) => error.raw_os_error().unwrap_or(1),
                    };
                    // SAFETY: ends this process at once.
                    unsafe { libc::_exit(code) }
                })?;
                if status != 0 {
                    return Err(errno(status >> 8));
                }
                // SAFETY: the page is mapped, and the child has ended.
                Ok(String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(page, 64) }).into_owned())
            }),
        data("setuid-copy", "a copy of a denied program with the setuid bit", "chmod(2)")
            .deny("program")
            .staged(|stage| drop(stage.script("program", "#!/bin/sh\nexit 0\n")))
            .acts(|at| {
                fs::copy(at.path("program"), "copy")?;
                fs::set_permissions("copy", fs::Permissions::from_mode(0o4755))?;
                Ok(String::new())
            }),
        data("script-interpreter", "a denied script as the argument of its interpreter", "execve(2)")
            .deny("script")
            .staged(|stage| drop(stage.script("script", "exit 0\n")))
            .acts(|at| {
                let status = std::process::Command::new("/bin/sh").arg(at.path("script")).status()?;
                if status.success() { Ok(String::new()) } else { Err(errno(libc::EPERM)) }
            }),
        data("loader", "a denied program by the dynamic loader", "ld.so(8)")
            .deny("program")
            .staged(|stage| {
                fs::copy("/bin/true", stage.path("program")).unwrap();
                fs::set_permissions(stage.path("program"), fs::Permissions::from_mode(0o755)).unwrap();
            })
            .acts(|at| {
                let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
                let loader =
                    loader.iter().find(|path| Path::new(path).exists()).ok_or_else(|| errno(libc::ENOENT))?;
                let status = std::process::Command::new(loader).arg(at.path("program")).output()?.status;
                if status.success() { Ok(String::new()) } else { Err(errno(libc::EPERM)) }
            }),
        data("preload", "a denied library preloaded", "ld.so(8), LD_PRELOAD")
            .deny("library.so")
            .staged(|stage| {
                let found = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"];
                let found = found.iter().find(|path| Path::new(path).exists()).unwrap();
                fs::copy(found, stage.path("library.so")).unwrap();
                fs::set_permissions(stage.path("library.so"), fs::Permissions::from_mode(0o755)).unwrap();
            })
            .acts(|at| {
                let output = std::process::Command::new("/bin/cat")
                    .arg("/proc/self/maps")
                    .env("LD_PRELOAD", at.path("library.so"))
                    .output()?;
                let maps = String::from_utf8_lossy(&output.stdout).into_owned();
                if maps.contains("library.so") { Ok(maps) } else { Err(errno(libc::EPERM)) }
            }),
        data("symlink-in-archive", "an archive that leads out by a symlink", "CVE-2001-1267's kin")
            .keeps("kept/file")
            .changes(|at| {
                symlink(at.path("kept"), "extracted")?;
                fs::write("extracted/file", "mine")
            }),
        data("fd-of-deleted", "a file removed by its name and read by its descriptor", "unlink(2)")
            .secret("secret")
            .reads(|at| {
                let file = open(at.secret(), libc::O_PATH)?;
                let _ = fs::remove_file(at.secret());
                text(open(format!("/proc/self/fd/{}", file.as_raw_fd()), libc::O_RDONLY)?)
            }),
        data("kernel-copy", "the kernel's memory as a file", "proc(5), kcore")
            .control_by_root()
            .acts(|_| open("/proc/kcore", libc::O_RDONLY).map(|_| String::new()))
            .where_there()
            .told(BY_KERNEL),
    ]
}
