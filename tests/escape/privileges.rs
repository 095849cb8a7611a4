//! What acts on the machine, and on the terminal's user.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use crate::{
    attempt::{Attempt, BY_SECCOMP, Class, MISSING, Told},
    sys::{c, call, errno, open, owned, text},
};

/// A system call with arguments that ask for nothing, and the errno that says the kernel got as far as to look at them.
type Idle = (&'static str, i64, [i64; 5], i32, &'static str);

/// What root gets that errno for, and no other.
const IDLE: [Idle; 14] = [
    ("bpf-command", libc::SYS_bpf, [9999, 0, 0, 0, 0], libc::EINVAL, "bpf(2)"),
    ("init-module", libc::SYS_init_module, [0, 0, 0, 0, 0], libc::ENOEXEC, "init_module(2)"),
    ("finit-module", libc::SYS_finit_module, [-1, 0, 0, 0, 0], libc::EFAULT, "init_module(2)"),
    ("delete-module", libc::SYS_delete_module, [0, 0, 0, 0, 0], libc::EFAULT, "delete_module(2)"),
    ("kexec", libc::SYS_kexec_load, [0, 99, 0, 0, 0], libc::EINVAL, "kexec_load(2)"),
    ("kexec-file", libc::SYS_kexec_file_load, [-1, -1, 0, 0, 99], libc::EINVAL, "kexec_load(2)"),
    ("acct", libc::SYS_acct, [1, 0, 0, 0, 0], libc::EFAULT, "acct(2)"),
    ("swapon", libc::SYS_swapon, [1, 0, 0, 0, 0], libc::EFAULT, "swapon(2)"),
    ("hostname", libc::SYS_sethostname, [1, 1, 0, 0, 0], libc::EFAULT, "sethostname(2)"),
    ("domain", libc::SYS_setdomainname, [1, 1, 0, 0, 0], libc::EFAULT, "setdomainname(2)"),
    ("clock", libc::SYS_clock_settime, [0, 1, 0, 0, 0], libc::EFAULT, "clock_settime(2)"),
    ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0], libc::EINVAL, "reboot(2)"),
    ("quota", libc::SYS_quotactl, [0, 0, 0, 0, 0], libc::ENODEV, "quotactl(2)"),
    ("request-key", libc::SYS_request_key, [1, 1, 0, 0, 0], libc::EFAULT, "request_key(2)"),
];

/// `struct bpf_attr` for a map of one entry.
const ARRAY_OF_ONE: [u32; 18] = [2, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `struct perf_event_attr` of the oldest size: a software counter of this process, user space alone.
const CPU_CLOCK: [u64; 8] = [1 | 64 << 32, 0, 0, 0, 0, 1 << 5, 0, 0];

fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("privileges-{name}"), Class::Privileges, what, source).told(BY_SECCOMP)
}

/// That errno says that the kernel looked at what the caller wants.
pub(super) fn past(answer: io::Result<i64>, reached: &[i32]) -> io::Result<String> {
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|errno| reached.contains(&errno)) => Ok(String::new()),
        other => other.map(|_| String::new()),
    }
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let idle = IDLE.into_iter().map(|(name, number, words, reached, source)| {
        let [a, b, c, d, e] = words;
        new(name, "a call for those who own the machine", source)
            .control_by_root()
            .where_there()
            .acts(move |_| past(call!(number, a, b, c, d, e), &[reached, libc::EBADF, libc::EFAULT]))
    });
    idle.chain(machine()).chain(memory()).chain(terminal()).collect()
}

fn machine() -> Vec<Attempt> {
    vec![
        new("bpf-map", "a BPF map", "bpf(2)").control_by_root().acts(|_| {
            let made = call!(libc::SYS_bpf, 0, ARRAY_OF_ONE.as_ptr(), size_of_val(&ARRAY_OF_ONE));
            made.map(|map| drop(owned(map))).map(|()| String::new())
        }),
        new("perf", "a counter of the own process", "perf_event_open(2)").control_by_root().acts(|_| {
            let made = call!(libc::SYS_perf_event_open, CPU_CLOCK.as_ptr(), 0, -1, -1, 0);
            made.map(|counter| drop(owned(counter))).map(|()| String::new())
        }),
        new("keyring", "the session's keyring", "keyctl(2)")
            .where_there()
            .acts(|_| call!(libc::SYS_keyctl, 0, -3, 1).map(|_| String::new())),
        new("key", "a key that outlives the process", "add_key(2)").where_there().acts(|_| {
            let (kind, name) = (c("user"), c("escape"));
            call!(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), c"x".as_ptr(), 1, -2)
                .map(|_| String::new())
        }),
        new("syslog", "the kernel's log", "syslog(2)")
            .control_by_root()
            .where_there()
            .acts(|_| call!(libc::SYS_syslog, 10, 0, 0).map(|_| String::new())),
        new("file-handle", "a file by its handle, past every folder above", "CAP_DAC_READ_SEARCH, shocker.c")
            .secret("secret")
            .control_by_root()
            .where_there()
            .reads(|at| {
                // struct file_handle: its size, its kind, the bytes.
                let (mut handle, mut mount) = (
                    [
                        128_u32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                        0, 0, 0, 0, 0, 0, 0, 0,
                    ],
                    0_i32,
                );
                let (path, here) = (c(at.secret()), open(".", libc::O_RDONLY)?);
                let named = call!(
                    libc::SYS_name_to_handle_at,
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    handle.as_mut_ptr(),
                    &raw mut mount,
                    0
                );
                match named {
                    // A file system without handles.
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        return Err(errno(libc::ENOENT));
                    }
                    other => other?,
                };
                text(owned(call!(libc::SYS_open_by_handle_at, here.as_raw_fd(), handle.as_mut_ptr(), 0)?))
            }),
        new("architecture", "a system call of 32-bit programs", "seccomp filters by number")
            .acts(|_| crate::bed::sys::call_of_32_bits(&[20]))
            .refused(&[libc::ENOSYS])
            .told(Told::Event { kind: "privilege.use", rule: "builtin/architecture", about: "another" }),
        new("clone3", "a namespace by flags in memory", "clone3(2)")
            .control_by_root()
            .acts(|_| {
                // struct clone_args: CLONE_NEWUTS, and SIGCHLD as its fifth word.
                let arguments = [0x0400_0000_u64, 0, 0, 0, 17, 0, 0, 0];
                match call!(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments))? {
                    // SAFETY: the child ends at once.
                    0 => unsafe { libc::_exit(0) },
                    child => call!(libc::SYS_wait4, child, 0, 0, 0).map(|_| String::new()),
                }
            })
            .refused(&[libc::ENOSYS])
            .told(MISSING),
    ]
}

fn memory() -> Vec<Attempt> {
    vec![
        new("personality", "mappings that are executable unasked", "personality(2)")
            .acts(|_| call!(libc::SYS_personality, 0x0040_0000).map(|_| String::new())),
        new("page-zero", "a mapping at address 0", "personality(2), MMAP_PAGE_ZERO")
            .acts(|_| call!(libc::SYS_personality, 0xbad_0010_0000_u64).map(|_| String::new())),
        new("descriptors", "the table of segments", "modify_ldt(2)").where_there().acts(|_| {
            let mut table = [0_u8; 64];
            call!(libc::SYS_modify_ldt, 0, table.as_mut_ptr(), 64).map(|_| String::new())
        }),
        new("ports", "the ports of devices", "iopl(2)")
            .control_by_root()
            .where_there()
            .acts(|_| call!(libc::SYS_iopl, 3).map(|_| String::new())),
        new("port", "one port", "ioperm(2)")
            .control_by_root()
            .where_there()
            .acts(|_| call!(libc::SYS_ioperm, 0x80, 1, 1).map(|_| String::new())),
        new("userfaultfd", "page faults, to win races", "userfaultfd(2)")
            .control_by_root()
            .where_there()
            .acts(|_| call!(libc::SYS_userfaultfd, 0).map(|made| drop(owned(made))).map(|()| String::new())),
        new("userfaultfd-device", "page faults, by the device's command", "userfaultfd(2), /dev/userfaultfd")
            .acts(|_| past(call!(libc::SYS_ioctl, 0, 0xaa00, 0), &[libc::ENOTTY, libc::EINVAL])),
    ]
}

/// A terminal of the attempt's own: what is refused here is refused on every terminal.
fn pty() -> io::Result<OwnedFd> {
    let name = c("/dev/ptmx");
    let number = call!(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY)?;
    Ok(owned(number))
}

fn terminal() -> Vec<Attempt> {
    const COMMANDS: [(&str, &str, u64, &str); 10] = [
        ("type", "typing into the terminal", 0x5412, "TIOCSTI, CVE-2017-5226"),
        ("type-high", "the same with other bits above", 0xdead_0000_5412, "TIOCSTI, CVE-2019-10063"),
        ("paste", "pasting into a virtual console", 0x541c, "TIOCLINUX, CVE-2023-28100"),
        ("paste-high", "the same with other bits above", 0x1_0000_541c, "TIOCLINUX"),
        ("exclusive", "the terminal for oneself, after the run too", 0x540c, "TIOCEXCL"),
        ("discipline", "a line discipline", 0x5423, "TIOCSETD, CVE-2017-2636"),
        ("keys", "another meaning of a key", 0x4b47, "KDSKBENT"),
        ("key-text", "text behind a function key", 0x4b49, "KDSKBSENT"),
        ("switch", "another console", 0x5606, "VT_ACTIVATE"),
        ("lock", "the console locked", 0x560b, "VT_LOCKSWITCH"),
    ];
    COMMANDS
        .into_iter()
        .map(|(name, what, command, source)| {
            Attempt::new(format!("terminal-{name}"), Class::Privileges, what, source)
                .control_by_root()
                .acts(move |_| {
                    let terminal = File::from(pty()?);
                    let byte = 0_u64;
                    let answer = call!(libc::SYS_ioctl, terminal.as_raw_fd(), command, &raw const byte);
                    // A pty has no keys and no consoles; the kernel got that far.
                    past(answer, &[libc::ENOTTY, libc::EINVAL, libc::EIO])
                })
                .told(Told::Event { kind: "privilege.use", rule: "builtin/terminal", about: "command" })
        })
        .collect()
}
