//! What an attempt is: one way to an object that a policy keeps, tried from inside.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{bed, stage::Stage};

/// Attempts are counted by what they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Names,
    Mounts,
    Calls,
    IoUring,
    Data,
    Descriptors,
    Metadata,
    Creation,
    Startup,
    Exec,
    Devices,
    Settings,
    Privileges,
    Processes,
    Egress,
    UnixSockets,
    Races,
    OwnFiles,
    FailClosed,
}

impl Class {
    pub(crate) const ALL: [Self; 19] = [
        Self::Names,
        Self::Mounts,
        Self::Calls,
        Self::IoUring,
        Self::Data,
        Self::Descriptors,
        Self::Metadata,
        Self::Creation,
        Self::Startup,
        Self::Exec,
        Self::Devices,
        Self::Settings,
        Self::Privileges,
        Self::Processes,
        Self::Egress,
        Self::UnixSockets,
        Self::Races,
        Self::OwnFiles,
        Self::FailClosed,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Names => "other names",
            Self::Mounts => "mounts and namespaces",
            Self::Calls => "other system calls",
            Self::IoUring => "io_uring",
            Self::Data => "ways of data",
            Self::Descriptors => "descriptors",
            Self::Metadata => "attributes",
            Self::Creation => "names that come later",
            Self::Startup => "code that runs outside later",
            Self::Exec => "execution",
            Self::Devices => "devices",
            Self::Settings => "kernel settings",
            Self::Privileges => "privileges",
            Self::Processes => "processes outside",
            Self::Egress => "egress",
            Self::UnixSockets => "unix sockets",
            Self::Races => "races",
            Self::OwnFiles => "govsandbox's own files",
            Self::FailClosed => "fail closed",
        }
    }
}

/// Who tries, and how the same is tried outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// As the same user, outside of any sandbox.
    Same,
    /// As root with all capabilities: the user could not do it without a sandbox either, and inside must not become able.
    Root,
}

/// What makes an attempt a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It brings the canary of a denied file.
    Read,
    /// A guarded object is another one afterwards.
    Change,
    /// It says so itself, and what the stage watches agrees.
    Act,
}

/// What the sandbox must answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// One of these errnos.
    Refused(Vec<i32>),
    /// It is not held on this backend: docs/security.md says so in these words, and the attempt proves it.
    NotHeld(&'static str),
}

/// What the log must tell of a refusal.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// A denied `file.open` or `file.change` by a rule that the attempt itself has in the policy, about its own folder.
    OwnRule,
    /// A denied event of this kind whose rule's id begins so; `about` stands in its text (`{name}`: the attempt's name,
    /// `{KEY}`: what the stage said under that key).
    Event { kind: &'static str, rule: &'static str, about: &'static str },
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// Answered as an older kernel would, so that programs use another call: no denial.
pub(crate) const MISSING: Told = Told::Nothing("answered as an older kernel would");
/// Seccomp answers, or a hook behind it.
pub(crate) const BY_SECCOMP: Told = by_call("\"action\":");

/// A refused call; `action` is what the event's text says of it: `"action":"mount"`.
pub(crate) const fn by_call(action: &'static str) -> Told {
    Told::Event { kind: "privilege.use", rule: "", about: action }
}
/// What the kernel refuses by itself is no denial.
pub(crate) const BY_KERNEL: Told = Told::Nothing("the kernel's own answer, as without a sandbox");

/// What a control gets whose object this kernel has not: ENOENT, ENOSYS, no such family, type or protocol of socket.
const ABSENT: [i32; 5] =
    [libc::ENOENT, libc::ENOSYS, libc::EAFNOSUPPORT, libc::ESOCKTNOSUPPORT, libc::EPROTONOSUPPORT];

/// EROFS, EBUSY and EXDEV come from a mount.
const CHANGE_ERRNOS: [i32; 5] = [libc::EPERM, libc::EACCES, libc::EROFS, libc::EBUSY, libc::EXDEV];

/// One of two backends' expectations.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) answer: Answer,
    pub(crate) told: Told,
}

/// Stands for the file outside of the write list among what is guarded.
pub(crate) const OUTSIDE: &str = "{outside}";

/// Where an attempt runs.
pub(crate) struct Inside {
    pub(crate) name: String,
    /// The attempt's own folder, in the project; also its working directory.
    pub(crate) folder: PathBuf,
    /// The first of its files with the canary, and the first that must stay.
    secret: PathBuf,
    kept: PathBuf,
}

impl Inside {
    pub(crate) fn of(attempt: &Attempt, project: &Path) -> Self {
        let folder = project.join(&attempt.name);
        let first = |names: &[String]| folder.join(names.first().map_or("", String::as_str));
        let (secret, kept) = (first(&attempt.secrets), first(&attempt.kept));
        Self { name: attempt.name.clone(), secret, kept, folder }
    }

    /// The file with the canary.
    pub(crate) fn secret(&self) -> &Path {
        &self.secret
    }

    /// The file that must stay as it is.
    pub(crate) fn kept(&self) -> &Path {
        &self.kept
    }

    /// A path in the attempt's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the stage said under that key.
    pub(crate) fn said(&self, key: &str) -> io::Result<String> {
        std::fs::read_to_string(self.folder.join(format!(".said-{key}")))
    }
}

pub(crate) type Run = Box<dyn Fn(&Inside) -> io::Result<String>>;

/// A step of an attempt's making.
pub(crate) type Step = fn(Attempt) -> Attempt;

pub(crate) struct Attempt {
    /// Unique; also the name of its folder.
    pub(crate) name: String,
    pub(crate) class: Class,
    pub(crate) what: &'static str,
    /// Where the idea is from: a man page, a CVE, another project's tests.
    pub(crate) source: &'static str,
    /// Further sections of the policy; attempts with the same text share a session.
    pub(crate) policy: &'static str,
    pub(crate) deny: Vec<String>,
    pub(crate) protect: Vec<String>,
    /// Files that hold the canary, files that must stay, and other paths that must not change.
    pub(crate) secrets: Vec<String>,
    pub(crate) kept: Vec<String>,
    pub(crate) guarded: Vec<String>,
    /// Names that nothing may come to have; an empty file there is nothing.
    pub(crate) names: Vec<String>,
    pub(crate) stage: Box<dyn Fn(&mut Stage)>,
    pub(crate) run: Run,
    pub(crate) goal: Goal,
    pub(crate) control: Control,
    /// The kernel that first has what the attempt needs; before, the control itself must fail.
    pub(crate) since: (u32, u32),
    /// Errnos of a control whose object not every kernel or file system has.
    pub(crate) absent: Vec<i32>,
    /// Started as a program of its own, whose arguments name the attempt: events are told apart by it.
    pub(crate) own_program: bool,
    pub(crate) lsm: Expected,
    pub(crate) fanotify: Expected,
}

impl Attempt {
    pub(crate) fn new(
        name: impl Into<String>,
        class: Class,
        what: &'static str,
        source: &'static str,
    ) -> Self {
        let expected = || Expected { answer: Answer::Refused(Vec::new()), told: Told::OwnRule };
        Self {
            name: name.into(),
            class,
            what,
            source,
            policy: "",
            deny: Vec::new(),
            protect: Vec::new(),
            secrets: Vec::new(),
            kept: Vec::new(),
            guarded: Vec::new(),
            names: Vec::new(),
            stage: Box::new(|_| {}),
            run: Box::new(|_| Ok(String::new())),
            goal: Goal::Act,
            control: Control::Same,
            since: (0, 0),
            absent: Vec::new(),
            own_program: false,
            lsm: expected(),
            fanotify: expected(),
        }
    }

    /// A file with the canary, and a rule that denies it. `name` is a path in the attempt's folder.
    pub(crate) fn secret(mut self, name: &str) -> Self {
        self.secrets.push(name.to_owned());
        self.deny(name)
    }

    /// A file, and a rule that protects it.
    pub(crate) fn keeps(mut self, name: &str) -> Self {
        self.kept.push(name.to_owned());
        self.protect(name)
    }

    /// A file with the canary, denied by a pattern.
    pub(crate) fn secret_by_pattern(self) -> Self {
        self.canary("sealed.pem").deny("**/sealed.pem")
    }

    /// A file, protected by a pattern.
    pub(crate) fn keeps_by_pattern(mut self) -> Self {
        self.kept.push("sealed.conf".to_owned());
        self.protect("**/sealed.conf")
    }

    /// A file with the canary, without a rule of its own.
    pub(crate) fn canary(mut self, name: &str) -> Self {
        self.secrets.push(name.to_owned());
        self
    }

    /// Denies a path in the attempt's folder; a pattern with `**/` or from `/` on is taken as it stands.
    pub(crate) fn deny(mut self, pattern: &str) -> Self {
        self.deny.push(pattern.to_owned());
        self
    }

    /// Protects, as [`Attempt::deny`].
    pub(crate) fn protect(mut self, pattern: &str) -> Self {
        self.protect.push(pattern.to_owned());
        self
    }

    /// A path that must be afterwards what it was before.
    pub(crate) fn guards(mut self, name: &str) -> Self {
        self.guarded.push(name.to_owned());
        self
    }

    /// The file outside of the write list ([`Stage::outside_file`]) must be afterwards what it was.
    pub(crate) fn guards_outside(self) -> Self {
        self.guards(OUTSIDE)
    }

    /// Further sections of the policy. Such attempts have sessions of their own: use few different texts.
    pub(crate) fn policy(mut self, text: &'static str) -> Self {
        self.policy = text;
        self
    }

    /// What is there before, made from outside.
    pub(crate) fn staged(mut self, stage: impl Fn(&mut Stage) + 'static) -> Self {
        self.stage = Box::new(stage);
        self
    }

    /// Tries to read the canary: gives what it read.
    pub(crate) fn reads(self, run: impl Fn(&Inside) -> io::Result<String> + 'static) -> Self {
        self.runs(Goal::Read, Box::new(run), &[libc::EPERM, libc::EACCES])
    }

    /// Tries to change what is guarded.
    pub(crate) fn changes(self, run: impl Fn(&Inside) -> io::Result<()> + 'static) -> Self {
        let run = move |inside: &Inside| run(inside).map(|()| String::new());
        self.runs(Goal::Change, Box::new(run), &CHANGE_ERRNOS)
    }

    /// Tries to make something of a path that is not there, or, made and empty, can't be filled.
    pub(crate) fn changes_new(self, name: &str, run: impl Fn(&Inside) -> io::Result<()> + 'static) -> Self {
        let mut attempt = self.changes(run);
        attempt.names.push(name.to_owned());
        attempt
    }

    /// Refused as a change is, by a mount too.
    pub(crate) fn refused_as_change(self) -> Self {
        self.refused(&CHANGE_ERRNOS)
    }

    /// Tries something else; an error is a refusal.
    pub(crate) fn acts(self, run: impl Fn(&Inside) -> io::Result<String> + 'static) -> Self {
        self.runs(Goal::Act, Box::new(run), &[libc::EPERM, libc::EACCES])
    }

    fn runs(mut self, goal: Goal, run: Run, errnos: &[i32]) -> Self {
        (self.goal, self.run) = (goal, run);
        self.refused(errnos)
    }

    /// The errnos that are a refusal, on both backends.
    pub(crate) fn refused(self, errnos: &[i32]) -> Self {
        self.lsm_refused(errnos).fanotify_refused(errnos)
    }

    pub(crate) fn lsm_refused(mut self, errnos: &[i32]) -> Self {
        self.lsm.answer = Answer::Refused(errnos.to_vec());
        self
    }

    pub(crate) fn fanotify_refused(mut self, errnos: &[i32]) -> Self {
        self.fanotify.answer = Answer::Refused(errnos.to_vec());
        self
    }

    /// What the log tells, on both backends.
    pub(crate) fn told(self, told: Told) -> Self {
        self.lsm_told(told.clone()).fanotify_told(told)
    }

    pub(crate) fn lsm_told(mut self, told: Told) -> Self {
        self.lsm.told = told;
        self
    }

    pub(crate) fn fanotify_told(mut self, told: Told) -> Self {
        self.fanotify.told = told;
        self
    }

    /// Not held there, as docs/security.md says in these words.
    pub(crate) fn fanotify_not_held(mut self, statement: &'static str) -> Self {
        self.fanotify.answer = Answer::NotHeld(statement);
        self
    }

    /// Likewise.
    pub(crate) fn lsm_not_held(mut self, statement: &'static str) -> Self {
        self.lsm.answer = Answer::NotHeld(statement);
        self
    }

    /// Not held on either backend.
    pub(crate) fn not_held(self, statement: &'static str) -> Self {
        self.lsm_not_held(statement).fanotify_not_held(statement)
    }

    /// The control runs as root with all capabilities.
    pub(crate) fn control_by_root(mut self) -> Self {
        self.control = Control::Root;
        self
    }

    pub(crate) fn since(mut self, major: u32, minor: u32) -> Self {
        self.since = (major, minor);
        self
    }

    /// Its object is not on every kernel.
    pub(crate) fn where_there(mut self) -> Self {
        self.absent.extend(ABSENT);
        self
    }

    /// Some machines keep it from everyone.
    pub(crate) fn where_forbidden(mut self) -> Self {
        self.absent.extend([libc::EPERM, libc::EACCES]);
        self
    }

    /// Its operation is not on every file system.
    pub(crate) fn where_not_supported(mut self) -> Self {
        self.absent.extend([libc::EOPNOTSUPP, libc::ENOTTY, libc::EINVAL, libc::ENODEV, libc::ENXIO]);
        self
    }

    pub(crate) fn own_program(mut self) -> Self {
        self.own_program = true;
        self
    }

    /// What this machine's backend must do.
    pub(crate) fn expected(&self) -> &Expected {
        if bed::backend() == "fanotify" { &self.fanotify } else { &self.lsm }
    }

    pub(crate) fn canary_text(&self) -> String {
        format!("CANARY-{}", self.name)
    }
}
