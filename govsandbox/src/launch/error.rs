//! Why a command was not started: which step failed, on what, why, and what to do.

use std::{fmt, io};

use crate::diagnostic::Status;

/// A step of the launch, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Tie the init's life to the supervisor's.
    Bind = 1,
    /// Make the mount namespace private.
    Propagation = 2,
    /// Mount `/proc` of the pid namespace.
    Proc = 3,
    /// Make control file systems read-only.
    ReadOnly = 4,
    /// Bind a path over itself.
    Pin = 5,
    /// Put a fanotify mark.
    Mark = 6,
    /// Enter the working directory.
    WorkingDirectory = 7,
    /// Open a file on descriptor 0–2 anew.
    Stdio = 8,
    /// Fork the command.
    Fork = 9,
    /// Drop user, groups and capabilities.
    Privilege = 10,
    /// Landlock.
    Landlock = 11,
    /// seccomp.
    Seccomp = 12,
    /// Close inherited descriptors.
    Descriptors = 13,
    /// `execve(2)`.
    Exec = 14,
    /// Enter the groups of cgroup v1 that bound the sandbox.
    Limits = 15,
    /// Start the performer.
    Performer = 16,
    /// Mount the message queues of the IPC namespace, and shared memory.
    Queues = 17,
    /// Close devices.
    Devices = 18,
    /// Enter the network namespace.
    Network = 19,
    /// Lay something over what nobody inside opens.
    Cover = 20,
}

impl Stage {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Bind,
            2 => Self::Propagation,
            3 => Self::Proc,
            4 => Self::ReadOnly,
            5 => Self::Pin,
            6 => Self::Mark,
            7 => Self::WorkingDirectory,
            8 => Self::Stdio,
            9 => Self::Fork,
            10 => Self::Privilege,
            11 => Self::Landlock,
            12 => Self::Seccomp,
            13 => Self::Descriptors,
            14 => Self::Exec,
            15 => Self::Limits,
            16 => Self::Performer,
            17 => Self::Queues,
            18 => Self::Devices,
            19 => Self::Network,
            20 => Self::Cover,
            _ => return None,
        })
    }

    fn words(self) -> &'static str {
        match self {
            Self::Bind => "tie the sandbox to its supervisor",
            Self::Propagation => "make the mount namespace private",
            Self::Proc => "mount /proc of the pid namespace",
            Self::ReadOnly => "make the file system read-only inside",
            Self::Pin => "bind the path over itself",
            Self::Mark => "mark the path for verdicts on opens",
            Self::WorkingDirectory => "enter the working directory inside",
            Self::Stdio => "open the redirected file inside",
            Self::Fork => "create the command's process",
            Self::Privilege => "drop privileges",
            Self::Landlock => "apply Landlock",
            Self::Seccomp => "apply the seccomp filter",
            Self::Descriptors => "close inherited descriptors",
            Self::Exec => "execute",
            Self::Limits => "enter the cgroup that bounds the sandbox",
            Self::Performer => "start the process that performs calls",
            Self::Queues => "mount message queues or shared memory of the sandbox's own",
            Self::Devices => "close the devices of the machine inside",
            Self::Network => "enter the network of the sandbox's own",
            Self::Cover => "cover what nobody inside may open",
        }
    }

    fn help(self) -> Option<&'static str> {
        match self {
            Self::Landlock => Some(
                "Landlock with ABI 2 or later is needed: Linux 5.19, `landlock` in the kernel's `lsm=` list",
            ),
            Self::Mark => Some("the kernel needs CONFIG_FANOTIFY_ACCESS_PERMISSIONS"),
            Self::WorkingDirectory => Some("start from a folder that is reachable by its path"),
            Self::Stdio => {
                Some("redirect to a file that the policy allows, or through a pipe: `| cat > FILE`")
            }
            Self::Proc
            | Self::Propagation
            | Self::ReadOnly
            | Self::Pin
            | Self::Queues
            | Self::Devices
            | Self::Cover => {
                Some("mounting needs CAP_SYS_ADMIN: run as root, outside of an unprivileged container")
            }
            Self::Bind
            | Self::Fork
            | Self::Privilege
            | Self::Seccomp
            | Self::Descriptors
            | Self::Exec
            | Self::Limits
            | Self::Network
            | Self::Performer => None,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.words())
    }
}

/// What a process of the sandbox reports when a step fails before exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub stage: Stage,
    /// Why, as an errno.
    pub errno: i32,
    /// On what: a path, a syscall. May be empty.
    pub object: String,
}

impl Failure {
    pub(super) fn new(stage: Stage, object: impl Into<String>, source: &io::Error) -> Self {
        Self { stage, errno: source.raw_os_error().unwrap_or(libc::EIO), object: object.into() }
    }
}

/// Why the command was not started, or could not be watched any more.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the supervisor's own.
    #[error("cannot {action} {object}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// Why not.
        source: io::Error,
        /// What to do.
        help: Option<&'static str>,
    },
    /// A step inside the sandbox.
    #[error("cannot {stage}{}{object}", if object.is_empty() { "" } else { ": " })]
    Inside {
        /// Which.
        stage: Stage,
        /// On what.
        object: String,
        /// Why not.
        source: io::Error,
    },
    /// Descriptor 0, 1 or 2 is something that would lead out of the sandbox.
    #[error("descriptor {number} is {kind}, which is not handed to a sandbox")]
    Descriptor {
        /// 0–2.
        number: i32,
        /// In words.
        kind: String,
    },
    /// There is no such program.
    #[error("`{program}` is not found")]
    NotFound {
        /// As given.
        program: String,
    },
    /// The program can't be executed.
    #[error("`{program}` cannot be executed")]
    NotExecutable {
        /// As given.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The processes of the sandbox ended before the command was started.
    #[error("the sandbox ended while it was being set up")]
    Vanished,
    /// The user that the command should run as is not known.
    #[error("there is no user `{0}`")]
    NoUser(String),
    /// The guardian is gone; the tree was killed.
    #[error("the guardian process ended, so the command was killed")]
    GuardianLost,
}

impl LaunchError {
    pub(super) fn system(
        action: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::System { action, object: object.into(), source: source.into(), help: None }
    }

    pub(super) fn with_help(self, text: &'static str) -> Self {
        match self {
            Self::System { action, object, source, .. } => {
                Self::System { action, object, source, help: Some(text) }
            }
            other => other,
        }
    }

    pub(super) fn from_failure(failure: Failure) -> Self {
        let source = io::Error::from_raw_os_error(failure.errno);
        match (failure.stage, failure.errno) {
            (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => Self::NotFound { program: failure.object },
            (Stage::Exec, _) => Self::NotExecutable { program: failure.object, source },
            (stage, _) => Self::Inside { stage, object: failure.object, source },
        }
    }

    /// The exit status that tells of it.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::NotFound { .. } => Status::NotFound,
            Self::NotExecutable { .. } => Status::NotExecutable,
            Self::System { .. }
            | Self::Inside { .. }
            | Self::Descriptor { .. }
            | Self::Vanished
            | Self::NoUser(_)
            | Self::GuardianLost => Status::Failure,
        }
    }

    fn help_text(&self) -> Option<&'static str> {
        match self {
            Self::System { help, .. } => *help,
            Self::Inside { stage, .. } => stage.help(),
            Self::Descriptor { .. } => Some("redirect it: `< /dev/null`, or through a pipe"),
            Self::NotFound { .. } => Some("the command is searched for in PATH as the sandbox has it"),
            Self::NotExecutable { .. } => {
                Some("it must be executable for the user that it runs as, and not denied")
            }
            Self::NoUser(_) => Some("give a login name or a number that the system's user database knows"),
            Self::Vanished | Self::GuardianLost => None,
        }
    }
}

impl miette::Diagnostic for LaunchError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help_text().map(|text| Box::new(text) as Box<dyn fmt::Display>)
    }
}
