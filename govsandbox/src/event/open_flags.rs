//! Flags of `open(2)` by name.

/// Names by bits of this architecture, those of several bits before their parts (`include/uapi/asm-generic/fcntl.h`).
const NAMES: [(i32, &str); 16] = [
    (libc::O_CREAT, "O_CREAT"),
    (libc::O_EXCL, "O_EXCL"),
    (libc::O_NOCTTY, "O_NOCTTY"),
    (libc::O_TRUNC, "O_TRUNC"),
    (libc::O_APPEND, "O_APPEND"),
    (libc::O_NONBLOCK, "O_NONBLOCK"),
    (libc::O_TMPFILE, "O_TMPFILE"),
    (libc::O_DIRECTORY, "O_DIRECTORY"),
    (libc::O_NOFOLLOW, "O_NOFOLLOW"),
    (libc::O_CLOEXEC, "O_CLOEXEC"),
    (libc::O_SYNC, "O_SYNC"),
    (libc::O_DSYNC, "O_DSYNC"),
    (libc::O_ASYNC, "O_ASYNC"),
    (libc::O_DIRECT, "O_DIRECT"),
    (libc::O_NOATIME, "O_NOATIME"),
    (libc::O_PATH, "O_PATH"),
];

/// What the kernel sets in every open of a 64-bit program (`force_o_largefile`): no wish of the program.
#[cfg(target_arch = "aarch64")]
const LARGE_FILE: u64 = 0o400_000;
#[cfg(not(target_arch = "aarch64"))]
const LARGE_FILE: u64 = 0o100_000;

const ACCESS: u64 = 3;

/// Is this flag, whole, among the flags?
pub(super) fn has(flags: u64, flag: i32) -> bool {
    let bits = bits(flag);
    flags & bits == bits
}

/// `O_RDONLY|O_CLOEXEC`; bits without a name as one hexadecimal number at the end.
pub(super) fn names(flags: u64) -> String {
    let mut names = String::with_capacity(48);
    names.push_str(match flags & ACCESS {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    });
    let mut rest = flags & !ACCESS & !LARGE_FILE;
    for (flag, name) in NAMES {
        if has(rest, flag) {
            rest &= !bits(flag);
            names.push('|');
            names.push_str(name);
        }
    }
    if rest != 0 {
        names.push_str(&format!("|{rest:#x}"));
    }
    names
}

fn bits(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_in_the_man_page() {
        for (flags, expected) in [
            (libc::O_RDONLY, "O_RDONLY"),
            (libc::O_RDONLY | libc::O_CLOEXEC, "O_RDONLY|O_CLOEXEC"),
            (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, "O_WRONLY|O_CREAT|O_TRUNC"),
            (libc::O_RDWR | libc::O_APPEND, "O_RDWR|O_APPEND"),
            (libc::O_RDWR | libc::O_TMPFILE, "O_RDWR|O_TMPFILE"),
            (libc::O_DIRECTORY | libc::O_NOFOLLOW, "O_RDONLY|O_DIRECTORY|O_NOFOLLOW"),
            (libc::O_WRONLY | libc::O_SYNC, "O_WRONLY|O_SYNC"),
            (libc::O_WRONLY | libc::O_DSYNC, "O_WRONLY|O_DSYNC"),
            (libc::O_PATH | libc::O_CLOEXEC, "O_RDONLY|O_CLOEXEC|O_PATH"),
        ] {
            assert_eq!(names(u64::from(flags.cast_unsigned())), expected);
        }
    }

    #[test]
    fn what_has_no_name_is_a_number_and_the_kernels_own_flag_is_left_out() {
        assert_eq!(names(LARGE_FILE | 1 << 40), "O_RDONLY|0x10000000000");
        assert_eq!(names(3), "O_ACCMODE");
    }
}
