//! What is executed, as the verdict thread judges it: by path and by inode. What depends on arguments is decided in the
//! kernel at the end of exec, as is everything whose open nobody asks about.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::{fd::BorrowedFd, unix::fs::FileExt as _},
};

use govsandbox_ebpf::{
    abi::{
        event::ARGV_BYTES_MAX,
        exec::{ExecHits, ExecTable},
    },
    decide::{
        Decision,
        exec::{Fired, decide_call, decide_program, scan},
    },
};

use super::{content::Contents, rules::without_deleted, syscall};

/// Words of argv that are told at most.
const WORDS_MAX: u64 = 256;

/// The exec rules of one sandbox.
#[derive(Debug)]
pub(super) struct ProgramRules {
    pub(super) table: Box<ExecTable>,
    /// Files and folders that existed at the start, by `st_dev` and inode.
    pub(super) inodes: HashMap<(u64, u64), ExecHits>,
    /// Files whose content is held.
    pub(super) contents: Contents,
    /// `false`: hooks in the kernel decide by path and inode; here only content counts.
    pub(super) by_path: bool,
}

/// A verdict on a program, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) decision: Decision,
    /// The kernel comes to the same by the program's path, at the end of exec.
    pub(super) is_seen_later: bool,
    /// Nothing but its name, or its content, can change the verdict.
    pub(super) is_lasting: bool,
}

/// What a refused exec was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Words of argv, each ended by a NUL.
    pub argv: Vec<u8>,
    /// `true`: there is more.
    pub is_cut: bool,
}

impl ProgramRules {
    /// Judges the file at `path`.
    pub(super) fn judge(&self, path: &[u8], file: &File, object: (u64, u64)) -> Judged {
        if !self.by_path {
            let decision = self.contents.decide(file);
            return Judged { decision, is_seen_later: false, is_lasting: false };
        }
        let names = &self.table.names;
        let named =
            scan(names, path).or(without_deleted(path).map_or(ExecHits::NONE, |path| scan(names, path)));
        let hits = named.or(self.inodes.get(&object).copied().unwrap_or(ExecHits::NONE));
        let is_script = is_script(file);
        let decide = |hits| match is_script {
            // Of a script nobody sees the path again.
            true => decide_script(&self.table, hits),
            false => decide_program(&self.table, hits),
        };
        let mut decision = decide(hits);
        if !decision.allow && decision.rule == 0 && is_loader(path) {
            // It may be wanted for a program that is allowed. On its own it is no such program, and is killed.
            decision = Decision::ALLOW;
        }
        let is_seen_later = !is_script && !decide(named).allow;
        if decision.allow {
            decision = self.contents.decide(file);
        }
        let is_lasting = !is_script && self.contents.is_empty();
        Judged { decision, is_seen_later, is_lasting }
    }
}

/// A rule with arguments denies later; one that allows could only be known to hold then.
fn decide_script(table: &ExecTable, hits: ExecHits) -> Decision {
    decide_call(table, hits, Fired::default())
}

/// `ld-linux-x86-64.so.2`, `ld-musl-x86_64.so.1`, `ld.so`.
fn is_loader(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(b"ld") && name.windows(3).any(|part| part == b".so")
}

fn is_script(file: &File) -> bool {
    let mut start = [0; 2];
    file.read_at(&mut start, 0).is_ok_and(|read| read == 2) && start == *b"#!"
}

/// The argv that a thread which waits in execve(2) asked for. Others can change its memory: it is for the log alone.
pub(super) fn call(tid: i32) -> Call {
    let mut call = Call { argv: Vec::new(), is_cut: true };
    let Some(argv) = syscall::argv_address(tid) else { return call };
    if read_argv(tid, argv, &mut call).is_err() {
        call.is_cut = true;
    }
    call
}

fn read_argv(tid: i32, argv: u64, call: &mut Call) -> io::Result<()> {
    let mut memory = File::open(format!("/proc/{tid}/mem"))?;
    for word in 0..WORDS_MAX {
        let mut address = [0; 8];
        memory.seek(SeekFrom::Start(argv.wrapping_add(word * 8)))?;
        memory.read_exact(&mut address)?;
        let address = u64::from_ne_bytes(address);
        if address == 0 {
            call.is_cut = false;
            return Ok(());
        }
        memory.seek(SeekFrom::Start(address))?;
        let mut byte = [1];
        while byte != [0] {
            if call.argv.len() >= ARGV_BYTES_MAX {
                return Ok(());
            }
            memory.read_exact(&mut byte)?;
            call.argv.extend(byte);
        }
    }
    Ok(())
}

/// The object of an event as a file that can be read: it was opened for us.
pub(super) fn file_of(object: BorrowedFd<'_>) -> io::Result<File> {
    Ok(fs::File::from(object.try_clone_to_owned()?))
}
