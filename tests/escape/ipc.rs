//! Objects of processes outside that have keys and names of their own instead of paths: System V's shared memory,
//! semaphores and message queues, POSIX message queues.

use std::{io, os::fd::AsRawFd, path::PathBuf, process::Command};

use crate::{
    attempt::{Attempt, BY_KERNEL, Class, Inside, Told},
    stage::Stage,
    sys::{c, call, owned},
};

/// An attempt that finds nothing: the sandbox has an IPC namespace of its own.
fn new(
    name: &str,
    what: &'static str,
    source: &'static str,
    stage: impl Fn(&mut Stage) + 'static,
    act: impl Fn(&Inside) -> io::Result<String> + 'static,
) -> Attempt {
    Attempt::new(format!("ipc-{name}"), Class::Processes, what, source)
        .staged(stage)
        .acts(act)
        .refused(&[libc::ENOENT])
        .told(Told::Nothing("there is no such object inside"))
}

/// One of System V's objects, made outside and open to everybody.
struct Shared {
    control: i64,
    id: i64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The fourth argument is looked at by no IPC_RMID.
        let _ = match self.control {
            libc::SYS_semctl => call!(self.control, self.id, 0, libc::IPC_RMID, 0),
            _ => call!(self.control, self.id, libc::IPC_RMID, 0),
        };
    }
}

/// Unlike that of the same attempt by another user, or in a corpus that runs beside.
fn key(stage: &Stage) -> i64 {
    i64::from(std::process::id()) << 8 | i64::from(stage.uid & 0xff)
}

fn system_v(
    name: &str,
    what: &'static str,
    source: &'static str,
    (get, control): (i64, i64),
    size: i64,
) -> Attempt {
    let stage = move |stage: &mut Stage| {
        let key = key(stage);
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o666;
        let id = match get {
            libc::SYS_msgget => call!(get, key, flags),
            _ => call!(get, key, size, flags),
        };
        stage.say("key", key);
        stage.keep(Shared { control, id: id.unwrap() });
    };
    new(name, what, source, stage, move |at| {
        let key: i64 = at.said("key")?.parse().map_err(io::Error::other)?;
        let found = match get {
            libc::SYS_msgget => call!(get, key, 0),
            _ => call!(get, key, size, 0),
        };
        found.map(|_| String::new())
    })
}

/// A POSIX message queue, made outside and open to everybody.
struct Queue(String);

impl Queue {
    fn create(name: &str) -> Self {
        let path = c(name);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        let queue = call!(libc::SYS_mq_open, path.as_ptr(), flags, 0o666, 0).map(owned).unwrap();
        // umask(2) took some of them away.
        rustix::fs::fchmod(&queue, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
        Self(name.to_owned())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let path = c(&self.0);
        let _ = call!(libc::SYS_mq_unlink, path.as_ptr());
    }
}

/// A segment as shm_open(3) makes it.
struct Segment(PathBuf);

impl Drop for Segment {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn segment(stage: &mut Stage) {
    let path = PathBuf::from(format!("/dev/shm/govsandbox-test.{}.{}", std::process::id(), stage.uid));
    std::fs::write(&path, "of others").unwrap();
    stage.give(&path);
    stage.say("segment", path.display());
    stage.keep(Segment(path));
}

/// A file system of the machine's, mounted once more.
struct Mounted(PathBuf);

impl Mounted {
    fn at(point: PathBuf, kind: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-n", "-t", kind, "none"]).arg(&point).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(point))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-n", "-l"]).arg(&self.0).status();
    }
}

fn queue(stage: &mut Stage) {
    let name = format!("govsandbox-test-{}", stage.folder.display()).replace('/', "-");
    let name = name[name.len().saturating_sub(200)..].to_owned();
    stage.keep(Queue::create(&name));
    stage.say("queue", name);
}

/// A message put into a queue that `descriptor` is.
fn send(queue: io::Result<i64>) -> io::Result<String> {
    let queue = queue.map(owned)?;
    let text = b"from inside";
    call!(libc::SYS_mq_timedsend, queue.as_raw_fd(), text.as_ptr(), text.len(), 0, 0).map(|_| String::new())
}

/// The queues of the machine as files, and one of them.
fn queue_files(stage: &mut Stage) {
    let point = stage.dir("queues");
    stage.keep(Mounted::at(point, "mqueue").unwrap());
    queue(stage);
}

/// What the kernel tells uid 0 of everybody, or lets it change, by file systems without a capability of their own.
fn telling() -> Vec<Attempt> {
    let kinds: [(&'static str, &'static str, &'static str, &'static str); 4] = [
        ("tracefs", "trace_clock", "traces of all processes", "CVE-2020-27825's kin"),
        ("debugfs", ".", "what drivers show to who mends them", "debugfs"),
        ("bpf", ".", "pinned programs and maps", "bpf(2)"),
        ("proc", "1/comm", "all processes, by a `/proc` for a chroot", "proc(5)"),
    ];
    let of_kind = |(kind, file, what, source): (&'static str, &'static str, &'static str, &'static str)| {
        Attempt::new(format!("telling-{kind}"), Class::Processes, what, source)
            .control_by_root()
            .where_there()
            .staged(move |stage| {
                // A kernel without it mounts nothing, and the control finds no file.
                let point = stage.dir("mounted");
                match Mounted::at(point.clone(), kind) {
                    Some(mounted) => stage.keep(mounted),
                    None => std::fs::remove_dir(point).unwrap(),
                }
            })
            .acts(move |at| {
                let path = at.path("mounted").join(file);
                let flags = if file == "." { libc::O_DIRECTORY } else { 0 };
                crate::sys::open(path, libc::O_RDONLY | flags).map(|_| String::new())
            })
            .refused(&[libc::EACCES])
            .told(BY_KERNEL)
    };
    kinds.map(of_kind).into()
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let all = vec![
        system_v("shm", "shared memory", "shmget(2)", (libc::SYS_shmget, libc::SYS_shmctl), 4096),
        system_v("sem", "a semaphore", "semget(2)", (libc::SYS_semget, libc::SYS_semctl), 1),
        system_v("msg", "a message queue", "msgget(2)", (libc::SYS_msgget, libc::SYS_msgctl), 0),
        new("shm-file", "shared memory by its file", "shm_open(3)", segment, |at| {
            crate::sys::open(at.said("segment")?, libc::O_RDWR).map(|_| String::new())
        }),
        new("mq", "a message into a named queue", "mq_open(3)", queue, |at| {
            let name = c(at.said("queue")?);
            send(call!(libc::SYS_mq_open, name.as_ptr(), libc::O_WRONLY, 0, 0))
        }),
        new("mq-file", "a message into a queue by its file", "mq_overview(7)", queue_files, |at| {
            let path = c(at.path("queues").join(at.said("queue")?));
            send(call!(libc::SYS_open, path.as_ptr(), libc::O_WRONLY, 0))
        }),
    ];
    all.into_iter().chain(telling()).collect()
}
