//! What is around the sandbox: devices, govsandbox's own files; and races for a moment's gap.

use std::{
    fs, io,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    attempt::{Attempt, BY_KERNEL, Class, Step, Told, by_call},
    sys::{c, call, errno, open, read, text},
};

pub(crate) fn attempts() -> Vec<Attempt> {
    devices().into_iter().chain(own_files()).chain(races()).collect()
}

/// Devices that lead to everything, and may be opened by uid 0 without any capability.
fn devices() -> Vec<Attempt> {
    const OPEN: Told = Told::Event { kind: "file.open", rule: "", about: "{path}" };
    let files: [(&str, &str, &'static str, &'static str); 10] = [
        ("mem", "/dev/mem", "the machine's memory", "mem(4)"),
        ("port", "/dev/port", "the machine's ports", "mem(4)"),
        ("kmsg", "/dev/kmsg", "the kernel's log", "kmsg"),
        ("kvm", "/dev/kvm", "the hypervisor", "KVM"),
        ("fuse", "/dev/fuse", "file systems of one's own", "fuse(4)"),
        ("loop-control", "/dev/loop-control", "loop devices", "loop(4)"),
        ("mapper", "/dev/mapper/control", "the device mapper", "dmsetup(8)"),
        ("tun", "/dev/net/tun", "network devices of one's own", "tuntap"),
        ("vhost", "/dev/vhost-net", "the kernel's virtio back end", "vhost"),
        ("snapshot", "/dev/snapshot", "an image of the memory", "hibernation"),
    ];
    let mut all: Vec<Attempt> = files
        .into_iter()
        .map(|(name, path, what, source)| {
            Attempt::new(format!("devices-{name}"), Class::Devices, what, source)
                .control_by_root()
                .where_there()
                .where_not_supported()
                .staged(move |stage| stage.say("path", path))
                .acts(move |_| open(path, libc::O_RDWR).map(|_| String::new()))
                .refused(&[libc::EPERM, libc::EACCES, libc::EROFS, libc::ENODEV])
                .told(OPEN)
        })
        .collect();
    all.push(
        Attempt::new("devices-disk", Class::Devices, "a disk with every file on it", "CVE-2024-23651's kin")
            .control_by_root()
            .where_there()
            .where_forbidden()
            .staged(|stage| {
                let disk = ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0"];
                let there = disk.iter().find(|path| std::path::Path::new(path).exists());
                stage.say("path", there.unwrap_or(&"/dev/no-disk"));
            })
            .acts(|at| open(at.said("path")?, libc::O_RDONLY).map(|_| String::new()))
            .refused(&[libc::EPERM, libc::EACCES])
            .told(OPEN),
    );
    all.push(
        Attempt::new("devices-mknod", Class::Devices, "a device node of one's own", "mknod(2)")
            .control_by_root()
            .acts(|at| {
                let path = c(at.path("disk"));
                let (mode, device) = (libc::S_IFBLK | 0o600, libc::makedev(7, 0));
                call!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), mode, device)?;
                Ok(String::new())
            })
            .told(BY_KERNEL),
    );
    all
}

fn own_files() -> Vec<Attempt> {
    let new =
        |name: &str, what| Attempt::new(format!("own-{name}"), Class::OwnFiles, what, "DESIGN, guarantee 5");
    const OPEN: Told = Told::Event { kind: "file.open", rule: "", about: "{path}" };
    let files: [(&str, &'static str, &'static str); 3] = [
        ("policy", "the policy of the run", "policies/test.toml"),
        ("log-folder", "a file beside the log", "log/mine"),
        ("log-lock", "the lock beside the log", "log/0.jsonl.lock"),
    ];
    let mut all: Vec<Attempt> = files
        .into_iter()
        .map(|(name, what, path)| {
            new(name, what)
                .control_by_root()
                .staged(move |stage| {
                    stage.say("path", stage.outside.join("..").canonicalize().unwrap().join(path).display())
                })
                .acts(|at| open(at.said("path")?, libc::O_WRONLY | libc::O_CREAT).map(|_| String::new()))
                .refused(&[libc::EPERM, libc::EACCES, libc::EROFS])
                .told(OPEN)
        })
        .collect();
    for (name, what, path) in [
        ("turns", "the lock beside the log, to keep it: nothing would be recorded", "log/0.jsonl.lock"),
        (
            "starts",
            "the lock of the kernel programs, to keep it: nothing would start",
            "/run/govsandbox/bpf.lock",
        ),
    ] {
        all.push(
            new(name, what)
                .control_by_root()
                .staged(move |stage| {
                    let bed = stage.outside.join("..").canonicalize().unwrap();
                    // The one beside the log comes with the run.
                    drop(govsandbox::sys::lock_file::open(&bed.join(path)).unwrap());
                    stage.say("path", bed.join(path).display());
                })
                .acts(|at| open(at.said("path")?, libc::O_RDONLY).map(|_| String::new()))
                .refused(&[libc::EACCES])
                .told(BY_KERNEL),
        );
    }
    let binary = crate::bed::binary().display().to_string();
    all.push(
        new("binary", "govsandbox itself")
            .control_by_root()
            .staged(move |stage| stage.say("path", &binary))
            .acts(|at| {
                // The mode that it has: what counts is that it may be set.
                let path = at.said("path")?;
                let mode = fs::metadata(&path)?.permissions();
                fs::set_permissions(&path, mode).map(|()| String::new())
            })
            .refused(&[libc::EPERM, libc::EACCES, libc::EROFS])
            .told(Told::Event { kind: "file.change", rule: "", about: "{path}" }),
    );
    for (name, what, folder) in
        [("pins", "the pinned programs", "/sys/fs/bpf"), ("cgroups", "the control groups", "/sys/fs/cgroup")]
    {
        all.push(
            new(name, what)
                .control_by_root()
                .staged(move |stage| {
                    let path = std::path::Path::new(folder);
                    let unified = path.join("unified");
                    stage.say("path", if unified.exists() { unified } else { path.to_owned() }.display());
                })
                .acts(|at| {
                    let path = std::path::Path::new(&at.said("path")?).join("escape-attempt");
                    fs::create_dir(&path)?;
                    fs::remove_dir(&path)?;
                    Ok(String::new())
                })
                .refused(&[libc::EPERM, libc::EACCES, libc::EROFS])
                .told(Told::Event { kind: "file.change", rule: "", about: "escape-attempt" }),
        );
    }
    all.push(
        new("bpf", "the maps of the programs, by their numbers")
            .control_by_root()
            .acts(|_| {
                // BPF_MAP_GET_NEXT_ID
                let attributes = [0_u32; 32];
                call!(libc::SYS_bpf, 12, attributes.as_ptr(), 128).map(|_| String::new())
            })
            .told(by_call("\"action\":\"bpf\"")),
    );
    all
}

/// How long a race is run.
fn race_time() -> Duration {
    Duration::from_millis(if crate::bed::is_emulated() { 1500 } else { 700 })
}

/// Swaps names in one thread while another tries; the first success counts.
fn race(
    swap: impl Fn() + Send + 'static,
    attempt: impl Fn() -> io::Result<String>,
    canary: &str,
) -> io::Result<String> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let swapper = std::thread::spawn(move || {
        while !STOP.load(Ordering::Relaxed) {
            swap();
        }
    });
    let (begin, mut refused) = (Instant::now(), None);
    let found = loop {
        match attempt() {
            Ok(text) if text.contains(canary) => break Ok(text),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                refused = Some(error);
            }
            Ok(_) | Err(_) => {}
        }
        // Where nothing is refused it only takes longer, on a processor that others use too.
        let at_most = if refused.is_some() { race_time() } else { 6 * race_time() };
        if begin.elapsed() > at_most {
            break Err(refused.unwrap_or_else(|| errno(libc::ETIMEDOUT)));
        }
    };
    STOP.store(true, Ordering::Relaxed);
    let _ = swapper.join();
    found
}

fn races() -> Vec<Attempt> {
    let new = |name: &str, what, source| Attempt::new(format!("races-{name}"), Class::Races, what, source);
    let rules: [(&str, Step); 2] =
        [("", |attempt| attempt.secret("secret")), ("-pattern", Attempt::secret_by_pattern)];
    let mut all = Vec::new();
    for (suffix, rule) in rules {
        all.push(
            rule(new(&format!("symlink{suffix}"), "a symlink that points to and fro", "CVE-2021-30465"))
                .staged(|stage| drop(stage.file("plain", "plain")))
                .reads(|at| {
                    let secret = at.secret().to_owned();
                    let swap = move || {
                        for target in [secret.as_path(), std::path::Path::new("plain")] {
                            let _ = fs::remove_file("swapped");
                            let _ = symlink(target, "swapped");
                        }
                    };
                    race(swap, || read("swapped"), &format!("CANARY-{}", at.name))
                }),
        );
        all.push(
            rule(new(
                &format!("folder{suffix}"),
                "a symlinked folder that points to and fro",
                "CVE-2021-30465",
            ))
            .staged(|stage| {
                for name in ["other/secret", "other/sealed.pem"] {
                    stage.file(name, "plain");
                }
            })
            .reads(|at| {
                let (folder, name) = (at.folder.clone(), at.secret().file_name().unwrap().to_owned());
                let swap = move || {
                    for target in [folder.as_path(), std::path::Path::new("other")] {
                        let _ = fs::remove_file("swapped");
                        let _ = symlink(target, "swapped");
                    }
                };
                let path = std::path::Path::new("swapped").join(name);
                race(swap, || read(&path), &format!("CANARY-{}", at.name))
            }),
        );
        all.push(
            rule(new(
                &format!("rename-neighbour{suffix}"),
                "folders beside it renamed while it is opened",
                "rename(2)",
            ))
            .staged(|stage| {
                stage.dir("one/two");
                stage.dir("three");
            })
            .reads(|at| {
                let swap = || {
                    let _ = fs::rename("one/two", "three/two");
                    let _ = fs::rename("three/two", "one/two");
                };
                let name = at.secret().file_name().unwrap().to_owned();
                let path = std::path::Path::new("one/../three/../one/..").join(name);
                race(swap, || read(&path), &format!("CANARY-{}", at.name))
            }),
        );
    }
    all.push(
        new("exchange-into-pattern", "a plain file given a denied name again and again", "renameat2(2)")
            .deny("**/sealed.pem")
            .canary("plain")
            .reads(|at| {
                let swap = || {
                    let _ = fs::rename("plain", "sealed.pem");
                    let _ = fs::rename("sealed.pem", "plain");
                };
                // What stands under the denied name is never read by it.
                race(swap, || read("sealed.pem"), &format!("CANARY-{}", at.name))
            }),
    );
    all.push(
        new("ancestors", "a denied folder reached while its neighbours are exchanged", "renameat2(2)")
            .deny("vault")
            .canary("vault/deep/secret")
            .staged(|stage| drop(stage.file("other/deep/secret", "plain")))
            .reads(|at| {
                let swap = || {
                    let _ = fs::rename("other/deep", "other/deeper");
                    let _ = fs::rename("other/deeper", "other/deep");
                };
                race(
                    swap,
                    || text(open("vault/deep/secret", libc::O_RDONLY)?),
                    &format!("CANARY-{}", at.name),
                )
            }),
    );
    // What a race comes to is not twice the same: it may never meet its moment.
    let told = Told::Nothing("a race may never have met its moment");
    let lost = [libc::EPERM, libc::EACCES, libc::ETIMEDOUT];
    all.into_iter().map(|attempt| attempt.refused(&lost).told(told.clone())).collect()
}
