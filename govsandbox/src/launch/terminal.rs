//! The terminal and signals: the command shares the supervisor's process group and session, so that a shell's job
//! control sees both as one.

use std::{fs::File, io};

use rustix::{
    process::{Pid, Signal},
    termios::{tcgetpgrp, tcsetpgrp},
};

use crate::sys::{
    process_group,
    signal::{self, Mask, SignalStream},
};

/// Sent to the supervisor by a process, these are handed on to the command. From the terminal they reach it by
/// themselves.
const FORWARDED: [i32; 8] = [
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGTSTP,
];

/// Signals of the supervisor while a command runs.
#[derive(Debug)]
pub(super) struct Signals {
    stream: SignalStream,
    /// The mask as the caller had it; the command gets it back.
    pub(super) mask: Mask,
}

impl Signals {
    /// Takes them over for this thread and those that it creates from now on.
    pub(super) fn take() -> io::Result<Self> {
        // A parent that ignores SIGCHLD would have the kernel throw exit statuses away.
        signal::set_default(libc::SIGCHLD)?;
        let mask = signal::block(&FORWARDED)?;
        // Giving the terminal back happens from the background, and what the command does there stops the whole group, but
        // not who guards it. A log that reaches RLIMIT_FSIZE is a full disk (EFBIG) and no reason to die.
        signal::block(&[libc::SIGTTIN, libc::SIGTTOU, libc::SIGXFSZ])?;
        Ok(Self { stream: SignalStream::new(&FORWARDED)?, mask })
    }

    pub(super) fn stream(&self) -> &SignalStream {
        &self.stream
    }
}

/// The signal to hand on, if this one is to be. What the terminal sends reaches the command itself, for it shares this
/// process group; but a hang-up goes to the session's leader alone (drivers/tty/tty_jobctrl.c), which this may be.
pub(super) fn to_forward(arrived: signal::Arrived) -> Option<Signal> {
    if !arrived.from_process && arrived.number != libc::SIGHUP {
        return None;
    }
    Some(match arrived.number {
        libc::SIGTERM => Signal::TERM,
        libc::SIGHUP => Signal::HUP,
        libc::SIGINT => Signal::INT,
        libc::SIGQUIT => Signal::QUIT,
        libc::SIGUSR1 => Signal::USR1,
        libc::SIGUSR2 => Signal::USR2,
        libc::SIGCONT => Signal::CONT,
        libc::SIGTSTP => Signal::TSTP,
        _ => return None,
    })
}

/// The controlling terminal, if this process group had it at the start.
#[derive(Debug)]
pub(super) struct Terminal(Option<(File, Pid)>);

impl Terminal {
    pub(super) fn remember() -> Self {
        let Some(group) = process_group::own() else { return Self(None) };
        let opened = File::options().read(true).write(true).open("/dev/tty").ok();
        Self(opened.filter(|terminal| tcgetpgrp(terminal) == Ok(group)).map(|terminal| (terminal, group)))
    }

    /// Gives it back to our process group: a shell inside makes its own the foreground one and, in its pid namespace,
    /// has no number for ours to give it back to.
    pub(super) fn take_back(&self) {
        if let Some((terminal, group)) = &self.0 {
            // A terminal that hung up meanwhile needs no owner.
            tcsetpgrp(terminal, *group).ok();
        }
    }
}
