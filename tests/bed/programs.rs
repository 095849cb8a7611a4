//! What a worker does with programs: executes one while another thread rewrites its arguments, maps one as code.
#![expect(unsafe_code, reason = "raw system calls of the tests' own processes")]

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, IntoRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

/// Programs that are started in a race.
const RACES: usize = 100;
const PAGE_BYTES: usize = 4096;

/// The word that the other thread rewrites: four bytes and a NUL.
static WORD: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
static OVER: AtomicBool = AtomicBool::new(false);

/// Starts `program` with an argument that flips between `pull` and `push` meanwhile; says how often each was printed.
pub(crate) fn race(program: &Path) -> io::Result<String> {
    let (mut reader, writer) = io::pipe()?;
    let (pull, push) = (u32::from_ne_bytes(*b"pull"), u32::from_ne_bytes(*b"push"));
    WORD[0].store(pull, Ordering::Relaxed);
    let rewriter = std::thread::spawn(move || {
        while !OVER.load(Ordering::Relaxed) {
            WORD[0].store(push, Ordering::Relaxed);
            std::hint::spin_loop();
            WORD[0].store(pull, Ordering::Relaxed);
        }
    });
    let collector = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    let path = CString::new(program.as_os_str().as_bytes())?;
    let argv = [path.as_ptr().cast_mut(), WORD.as_ptr().cast_mut().cast(), ptr::null_mut()];
    let environment = [ptr::null_mut()];
    let output = writer.into_raw_fd();
    for _ in 0..RACES {
        // SAFETY: all pointers lead to what lives on; posix_spawn(3) shares this process's memory until the exec.
        unsafe {
            let mut actions = std::mem::zeroed();
            libc::posix_spawn_file_actions_init(&raw mut actions);
            libc::posix_spawn_file_actions_adddup2(&raw mut actions, output, 1);
            let mut child = 0;
            let started = libc::posix_spawn(
                &raw mut child,
                path.as_ptr(),
                &raw const actions,
                ptr::null(),
                argv.as_ptr(),
                environment.as_ptr(),
            );
            libc::posix_spawn_file_actions_destroy(&raw mut actions);
            if started == 0 {
                libc::waitpid(child, ptr::null_mut(), 0);
            }
        }
    }
    OVER.store(true, Ordering::Relaxed);
    // SAFETY: nobody else closes it.
    unsafe { libc::close(output) };
    let gone = || io::Error::other("a thread panicked");
    rewriter.join().map_err(|_| gone())?;
    let text = collector.join().map_err(|_| gone())??;
    let count = |word: &str| text.lines().filter(|line| *line == word).count();
    Ok(format!("{} {}", count("pull"), count("push")))
}

/// Executes a program by a descriptor that has no name (execveat(2) with `AT_EMPTY_PATH`); what it printed.
pub(crate) fn by_descriptor(path: &Path) -> io::Result<String> {
    let program = File::open(path)?;
    let name = CString::new(path.as_os_str().as_bytes())?;
    let argv = [name.as_ptr(), c"CANARY".as_ptr(), ptr::null()];
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the worker has one thread; the child calls nothing but system calls, on what lives on.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::dup2(writer.as_raw_fd(), 1);
            let number = program.as_raw_fd();
            let empty = c"".as_ptr();
            libc::syscall(
                libc::SYS_execveat,
                number,
                empty,
                argv.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(io::Error::last_os_error().raw_os_error().unwrap_or(255));
        }
    }
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let mut status = 0;
    // SAFETY: a child of this process.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    match libc::WEXITSTATUS(status) {
        0 => Ok(text),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Maps the first page of a file as code; or as data, and makes code of it then.
pub(crate) fn map(path: &Path, directly: bool) -> io::Result<String> {
    let file = File::open(path)?;
    let first = if directly { libc::PROT_READ | libc::PROT_EXEC } else { libc::PROT_READ };
    // SAFETY: a new mapping, which nothing refers to.
    unsafe {
        let page = libc::mmap(ptr::null_mut(), PAGE_BYTES, first, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let code = libc::PROT_READ | libc::PROT_EXEC;
        let changed = if directly { 0 } else { libc::mprotect(page, PAGE_BYTES, code) };
        let error = io::Error::last_os_error();
        libc::munmap(page, PAGE_BYTES);
        if changed < 0 { Err(error) } else { Ok(String::new()) }
    }
}
