//! A terminal, and a program that has it as its own.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};

use super::procs;

/// The user's side of a terminal.
pub(crate) struct Pty {
    user: File,
    program: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Up to where the test has read it.
    seen: Mutex<usize>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Pty {
    /// A terminal of 24 lines and 80 columns.
    pub(crate) fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let program =
            rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
                .unwrap();
        let mut pty = Self {
            user: user.into(),
            program,
            screen: Arc::default(),
            seen: Mutex::default(),
            over: Arc::default(),
            reader: None,
        };
        pty.resize(24, 80);
        let (mut reader, screen, over) =
            (pty.user.try_clone().unwrap(), Arc::clone(&pty.screen), Arc::clone(&pty.over));
        pty.reader = Some(std::thread::spawn(move || {
            let (mut bytes, tick) = ([0; 4096], Timespec { tv_sec: 0, tv_nsec: 20_000_000 });
            while !over.load(Ordering::SeqCst) {
                if !matches!(poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&tick)), Ok(1..)) {
                    continue;
                }
                match reader.read(&mut bytes) {
                    Ok(count @ 1..) => screen.lock().unwrap().extend_from_slice(&bytes[..count]),
                    _ => break,
                }
            }
        }));
        pty
    }

    /// Its path.
    pub(crate) fn name(&self) -> String {
        ptsname(&self.user, Vec::new()).unwrap().into_string().unwrap()
    }

    /// The process group that has it.
    pub(crate) fn foreground(&self) -> Option<rustix::process::Pid> {
        tcgetpgrp(&self.user).ok()
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.user, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
            .unwrap();
    }

    /// Hands the terminal to a user, as a login does.
    pub(crate) fn give(&self, uid: u32) {
        rustix::fs::fchown(&self.program, Some(rustix::fs::Uid::from_raw(uid)), None).unwrap();
    }

    /// Starts a command in a session whose terminal this is.
    pub(crate) fn start(&self, command: &Command) -> Child {
        let mut words: Vec<OsString> = vec!["--ctty".into(), command.get_program().to_owned()];
        words.extend(command.get_args().map(OsString::from));
        let mut process = Command::new("setsid");
        process.args(words).env_clear();
        for (name, value) in command.get_envs() {
            process.env(name, value.unwrap_or_default());
        }
        if let Some(folder) = command.get_current_dir() {
            process.current_dir(folder);
        }
        let side = || self.program.try_clone().unwrap();
        process.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap()
    }

    /// The terminal is gone: window closed, connection lost.
    pub(crate) fn hang_up(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.reader.take().map(JoinHandle::join);
    }

    pub(crate) fn send(&self, keys: &str) {
        (&self.user).write_all(keys.as_bytes()).unwrap();
    }

    /// What the program has shown so far.
    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until a text was shown, after the one that was waited for last.
    #[track_caller]
    pub(crate) fn expect(&self, text: &str) {
        let mut from = self.seen.lock().unwrap();
        let find = |from: usize| {
            let screen = self.screen.lock().unwrap();
            screen[from..].windows(text.len()).position(|part| part == text.as_bytes())
        };
        let shown = procs::until(Duration::from_secs(20), || find(*from).is_some());
        assert!(shown, "`{text}` does not come; the screen: {}", self.screen());
        *from += find(*from).unwrap() + text.len();
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.stop();
    }
}
