//! What a waiting open is for, by the system call that its thread is in: fanotify does not say.

use std::{fs, thread, time::Duration};

/// A thread that has just asked is on its way to sleep: looked at that often, with this between.
const LOOKS_MAX: u32 = 200;
const BETWEEN: Duration = Duration::from_micros(50);

/// What an open is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reading.
    Read,
    /// Writing or truncating, or it can't be told.
    Write,
    /// `execve(2)`.
    Execute,
}

/// Tells it by the registers of the thread.
pub(super) fn purpose(tid: i32) -> Purpose {
    registers(tid).map_or(Purpose::Write, |line| parse(&line))
}

/// Where the argv of a thread lies that is in execve(2).
pub(super) fn argv_address(tid: i32) -> Option<u64> {
    let line = registers(tid)?;
    let mut fields = line.split_ascii_whitespace();
    let place = match fields.next()?.parse::<i64>().ok()? {
        libc::SYS_execve => 1,
        libc::SYS_execveat => 2,
        _ => return None,
    };
    u64::from_str_radix(fields.nth(place)?.strip_prefix("0x")?, 16).ok()
}

/// Asks `/proc/TID/syscall`: the registers of a thread that waits in the kernel, which nobody can change meanwhile.
fn registers(tid: i32) -> Option<String> {
    for _ in 0..LOOKS_MAX {
        match fs::read_to_string(format!("/proc/{tid}/syscall")) {
            Ok(line) if line.starts_with("running") => thread::sleep(BETWEEN),
            Ok(line) => return Some(line),
            Err(_) => break,
        }
    }
    None
}

/// `NUMBER ARG0 … ARG5 SP PC`, arguments in hex. Of `openat2` the flags lie in memory; like every other call that may
/// open a file it counts as a write.
fn parse(line: &str) -> Purpose {
    let mut fields = line.split_ascii_whitespace();
    let number = fields.next().and_then(|field| field.parse::<i64>().ok());
    let mut argument = |index: usize| {
        let field = fields.nth(index)?.strip_prefix("0x")?;
        u64::from_str_radix(field, 16).ok()
    };
    let flags = match number {
        Some(libc::SYS_execve | libc::SYS_execveat) => return Purpose::Execute,
        Some(libc::SYS_openat) => argument(2),
        #[cfg(target_arch = "x86_64")]
        Some(libc::SYS_open) => argument(1),
        _ => None,
    };
    // The kernel takes them as an `int`.
    let Some(flags) = flags.map(|flags| (flags & 0xffff_ffff) as u32) else { return Purpose::Write };
    let changes = (libc::O_ACCMODE | libc::O_TRUNC).cast_unsigned();
    if flags & changes == libc::O_RDONLY.cast_unsigned() { Purpose::Read } else { Purpose::Write }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openat(flags: i32) -> Purpose {
        parse(&format!("{} 0xffffff9c 0x7ffe 0x{flags:x} 0x1b6 0x0 0x0 0x7ffd 0x7f01\n", libc::SYS_openat))
    }

    #[test]
    fn the_flags_tell_reading_from_writing() {
        assert_eq!(openat(libc::O_RDONLY | libc::O_CLOEXEC), Purpose::Read);
        assert_eq!(openat(libc::O_RDONLY | libc::O_CREAT), Purpose::Read);
        assert_eq!(openat(libc::O_WRONLY), Purpose::Write);
        assert_eq!(openat(libc::O_RDWR), Purpose::Write);
        assert_eq!(openat(libc::O_RDONLY | libc::O_TRUNC), Purpose::Write);
        assert_eq!(openat(libc::O_ACCMODE), Purpose::Write);
    }

    #[test]
    fn what_can_not_be_told_is_a_write() {
        for line in ["", "running", "-1 0x0 0x0", &format!("{} 0x1 0x2 0x3", libc::SYS_openat2), "257"] {
            assert_eq!(parse(line), Purpose::Write, "{line}");
        }
    }

    #[test]
    fn an_exec_is_no_write() {
        assert_eq!(parse(&format!("{} 0x1 0x2 0x3 0x0 0x0 0x0 0x1 0x2", libc::SYS_execve)), Purpose::Execute);
    }
}
