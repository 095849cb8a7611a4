//! What the service takes from itself before it reads a byte that the sandbox wrote: every file, every privilege, and all
//! system calls that it does not need.

use std::{collections::BTreeMap, io};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope,
};
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::sys;

/// Two sockets for each connection and a pipe for each direction that waits, those for lookups, and some.
const OPEN_FILES_WANTED: u64 = 72 * 1024;
/// Memory that it may ask for; more is a leak or an attack.
const DATA_BYTES_MAX: u64 = 512 << 20;

/// Gives up all but one user and group, which nobody else has.
pub(super) fn become_nobody(uid: u32, gid: u32) -> io::Result<()> {
    sys::open_files::raise(OPEN_FILES_WANTED); // with fewer there are fewer connections
    limit(Resource::Data, DATA_BYTES_MAX)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    set_thread_groups(&[])?;
    let gid = Gid::from_raw(gid);
    set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// No file can be opened, changed or executed, no TCP port bound, nobody outside signalled: a domain without a rule.
pub(super) fn deny_files() -> io::Result<()> {
    let abi = ABI::from(sys::landlock::abi()?);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .map_err(io::Error::other)?;
    if !AccessNet::from_all(abi).is_empty() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp).map_err(io::Error::other)?;
    }
    if !Scope::from_all(abi).is_empty() {
        ruleset = ruleset.scope(Scope::from_all(abi)).map_err(io::Error::other)?;
    }
    let status = ruleset.create().and_then(|it| it.restrict_self()).map_err(io::Error::other)?;
    match status.ruleset {
        landlock::RulesetStatus::NotEnforced => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        _ => Ok(()),
    }
}

/// EPERM to every system call but those that serving takes. Applies to the calling thread, the only one there is.
pub(super) fn deny_calls() -> io::Result<()> {
    seccompiler::apply_filter(&program()?).map_err(|error| match error {
        seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
        other => io::Error::other(other),
    })
}

/// Whatever their arguments: none of them opens a file, makes a process or changes one.
const CALLS: &[i64] = &[
    // Sockets that it has, and those that it makes.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Bytes, by way of pipes.
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_splice,
    libc::SYS_write,
    libc::SYS_writev,
    // Waiting.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    // Memory, randomness, ending. `fstat` is what reading a file to its end asks for first.
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_getrandom,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
];

/// Older forms, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const CALLS_HERE: &[i64] = &[libc::SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const CALLS_HERE: &[i64] = &[];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// `SOCK_TYPE_MASK` of include/linux/net.h: the rest are flags.
const SOCKET_KIND: u64 = 0xf;

fn program() -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().chain(CALLS_HERE).map(|number| (*number, Vec::new())).collect();
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(number, vec![rule([has_none_of(2, libc::PROT_EXEC)?])?]);
    }
    // `set_nonblocking` of the standard library.
    rules.insert(libc::SYS_ioctl, vec![rule([is(1, libc::FIONBIO)?])?]);
    let mut sockets = Vec::new();
    for domain in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let of_kind = SeccompCmpOp::MaskedEq(SOCKET_KIND);
            sockets.push(rule([
                is(0, domain as u64)?,
                condition(1, of_kind, u64::from(kind.cast_unsigned()))?,
            ])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, ARCHITECTURE);
    filter.and_then(TryInto::try_into).map_err(io::Error::other)
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions.into()).map_err(io::Error::other)
}

fn condition(index: u8, operation: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operation, value).map_err(io::Error::other)
}

fn is(index: u8, value: u64) -> io::Result<SeccompCondition> {
    condition(index, SeccompCmpOp::Eq, value)
}

fn has_none_of(index: u8, bits: i32) -> io::Result<SeccompCondition> {
    condition(index, SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned())), 0)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::ErrorKind,
        net::{TcpListener, UdpSocket},
        process::Command,
    };

    use rustix::process::{Pid, test_kill_process};

    use super::*;

    /// What is tried, and whether it came out as it must.
    type Attempt = (&'static str, fn() -> bool);

    /// Confines a thread of its own, which then tries; filters and domains are a thread's.
    fn confined<T: Send + 'static>(confine: fn() -> io::Result<()>, attempt: fn() -> T) -> T {
        let work = move || {
            set_no_new_privs(true).unwrap();
            confine().unwrap();
            attempt()
        };
        std::thread::spawn(work).join().unwrap()
    }

    fn is_refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }

    #[test]
    fn the_filter_leaves_no_way_to_a_file_a_process_or_another_kind_of_socket() {
        let attempts: [Attempt; 9] = [
            ("open", || is_refused(File::open("/etc/hosts"))),
            ("create", || is_refused(File::create("/tmp/egress-attempt"))),
            ("exec", || is_refused(Command::new("/bin/true").status())),
            ("unix socket", || is_refused(std::os::unix::net::UnixDatagram::unbound())),
            ("listen", || is_refused(TcpListener::bind("127.0.0.1:0"))),
            ("memfd", || {
                is_refused(
                    rustix::fs::memfd_create(c"x", rustix::fs::MemfdFlags::CLOEXEC).map_err(Into::into),
                )
            }),
            ("uid", || is_refused(set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(Into::into))),
            ("signal", || is_refused(test_kill_process(Pid::INIT).map_err(Into::into))),
            ("connect and send", || {
                !is_refused(UdpSocket::bind("127.0.0.1:0").and_then(|it| it.connect("127.0.0.1:9")))
            }),
        ];
        for (what, attempt) in attempts {
            assert!(confined(deny_calls, attempt), "{what}");
        }
        // Positive control: they are refused by the filter alone.
        assert!(File::open("/etc/hosts").is_ok() && Command::new("/bin/true").status().is_ok());
    }

    #[test]
    fn the_domain_by_itself_leaves_no_file_open() {
        let attempts: [Attempt; 4] = [
            ("open", || is_refused(File::open("/etc/hosts"))),
            ("list", || is_refused(std::fs::read_dir("/etc"))),
            ("create", || is_refused(File::create("/tmp/egress-attempt"))),
            ("exec", || is_refused(Command::new("/bin/true").status())),
        ];
        for (what, attempt) in attempts {
            assert!(confined(deny_files, attempt), "{what}");
        }
    }
}
