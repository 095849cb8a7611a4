//! Syscalls that failed, and refusals of a verdict thread.

use std::{fs, os::unix::fs::symlink};

use govsandbox_ebpf::abi::event::FLAG_TARGET_AS_GIVEN;

use super::*;

/// `/app/sub/`, `/app/.git/hooks/`, `/home/u/.ssh/id`.
fn bed() -> tempfile::TempDir {
    let bed = tempfile::tempdir().unwrap();
    for folder in ["app/sub", "app/.git/hooks", "home/u/.ssh", "etc"] {
        fs::create_dir_all(bed.path().join(folder)).unwrap();
    }
    for file in ["home/u/.ssh/id", "etc/hosts", "app/file"] {
        fs::write(bed.path().join(file), "").unwrap();
    }
    bed
}

fn open(flags: i32, errno: i32) -> EventRecord {
    let action = if flags & libc::O_ACCMODE == libc::O_RDONLY { Did::Read } else { Did::Write };
    let record = head(RecordKind::Open, action, RecordOutcome::Failed);
    EventRecord {
        flags: FLAG_PATH_AS_GIVEN,
        errno: errno.cast_unsigned(),
        value: u64::from(flags.cast_unsigned()),
        ..record
    }
}

fn change(action: Did, errno: i32) -> EventRecord {
    let record = head(RecordKind::Change, action, RecordOutcome::Failed);
    let two = matches!(action, Did::Rename | Did::Link);
    let flags = FLAG_PATH_AS_GIVEN | if two { FLAG_TARGET_AS_GIVEN } else { 0 };
    EventRecord { flags, errno: errno.cast_unsigned(), ..record }
}

#[test]
fn a_failure_behind_which_a_rule_stands_is_a_denial_and_another_is_not() {
    let bed = bed();
    symlink("/home/u", bed.path().join("app/home")).unwrap();
    let (read, write, create) = (libc::O_RDONLY, libc::O_WRONLY, libc::O_CREAT);
    let cases = [
        (read, libc::EACCES, "/home/u/.ssh/id", "/home/u/.ssh/id", Some("t/filesystem.deny/0")),
        (read, libc::EACCES, "../home/u/.ssh", "/home/u/.ssh", Some("t/filesystem.deny/0")),
        (read, libc::EACCES, "home/.ssh/id", "/home/u/.ssh/id", Some("t/filesystem.deny/0")),
        (read, libc::EPERM, "sub/new.pem", "/app/sub/new.pem", Some("t/filesystem.deny/1")),
        (write, libc::EROFS, ".git/hooks/x", "/app/.git/hooks/x", Some("t/filesystem.protect/0")),
        (write, libc::EACCES, "/etc/hosts", "/etc/hosts", Some("default/filesystem.write")),
        (create, libc::EACCES, "/etc/new", "/etc/new", Some("default/filesystem.write")),
        (read, libc::EACCES, "/etc/hosts", "/etc/hosts", None),
        (create, libc::EACCES, "/etc/hosts", "/etc/hosts", None),
        (read, libc::EACCES, ".git/hooks/x", "/app/.git/hooks/x", None),
        (write, libc::EACCES, "sub/x", "/app/sub/x", None),
    ];
    for (flags, errno, given, found, expected) in cases {
        let mut decoder = decoder_at(bed.path(), true);
        let event = only(&mut decoder, &bytes(open(flags, errno), given, "/app", ""));
        assert_eq!((path(&event).as_str(), rule(&event)), (found, expected), "{given}");
        assert_eq!(event.errno, Some(errno));
        assert_eq!(event.outcome, if expected.is_some() { Outcome::Denied } else { Outcome::Failed });
    }
    let mut decoder = decoder_at(bed.path(), false);
    let event = only(&mut decoder, &bytes(open(read, libc::EACCES), "/home/u/.ssh/id", "/app", ""));
    assert_eq!(event.outcome, Outcome::WouldDeny);
}

#[test]
fn a_link_at_the_end_is_followed_only_where_the_syscall_does() {
    let bed = bed();
    symlink("/home/u/.ssh/id", bed.path().join("app/key")).unwrap();
    let deny = Some("t/filesystem.deny/0");
    for (record, given, found, expected) in [
        (open(libc::O_RDONLY, libc::EACCES), "key", "/home/u/.ssh/id", deny),
        (open(libc::O_RDONLY | libc::O_NOFOLLOW, libc::EACCES), "key", "/app/key", None),
        (open(libc::O_WRONLY | libc::O_CREAT, libc::EACCES), "key", "/home/u/.ssh/id", deny),
        (open(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, libc::EACCES), "key", "/app/key", None),
        (change(Did::Chmod, libc::EPERM), "key", "/home/u/.ssh/id", deny),
        (change(Did::Unlink, libc::EACCES), "key", "/app/key", None),
        (change(Did::Unlink, libc::EACCES), "key/", "/app/key", None),
        (change(Did::Rename, libc::EACCES), "key", "/app/key", None),
    ] {
        let event = only(&mut decoder_at(bed.path(), true), &bytes(record, given, "/app", ""));
        assert_eq!((path(&event).as_str(), rule(&event)), (found, expected));
    }
}

#[test]
fn both_names_of_a_rename_are_found_and_weighed() {
    let bed = bed();
    for (action, given, new, expected) in [
        (Did::Rename, "file", ".git/hooks/pre-commit", Some("t/filesystem.protect/0")),
        (Did::Rename, ".git/hooks/x", "file", Some("t/filesystem.protect/0")),
        (Did::Rename, "/etc/hosts", "/home/u/.ssh/x", Some("t/filesystem.deny/0")),
        (Did::Link, "/home/u/.ssh/id", "sub/id", Some("t/filesystem.deny/0")),
        (Did::Rename, "file", "/etc/file", Some("default/filesystem.write")),
        (Did::Rename, "file", "sub/file", None),
    ] {
        let record = change(action, libc::EPERM);
        let event = only(&mut decoder_at(bed.path(), true), &bytes(record, given, "/app", new));
        assert_eq!(rule(&event), expected, "{given} {new}");
        let absolute =
            |name: &str| if name.starts_with('/') { name.to_owned() } else { format!("/app/{name}") };
        assert_eq!((path(&event), target(&event)), (absolute(given), absolute(new)));
    }
}

#[test]
fn a_mount_that_holds_a_rule_is_that_rule() {
    let bed = bed();
    let protect = Some("t/filesystem.protect/0");
    for (action, errno, given, new, expected) in [
        (Did::Rename, libc::EBUSY, ".git", "g2", protect),
        (Did::Unlink, libc::EBUSY, ".git", "", protect),
        (Did::Link, libc::EXDEV, "file", ".git/file", protect),
        (Did::Rename, libc::EXDEV, ".git/config", "config", protect),
        (Did::Rename, libc::EXDEV, ".git/a", ".git/b", None),
        (Did::Rename, libc::EXDEV, "file", "sub/file", None),
        (Did::Unlink, libc::EBUSY, "sub", "", None),
        (Did::Rename, libc::EPERM, ".git", "g2", None),
    ] {
        let event =
            only(&mut decoder_at(bed.path(), true), &bytes(change(action, errno), given, "/app", new));
        assert_eq!(rule(&event), expected, "{given} {new}");
    }
}

#[test]
fn a_writable_folder_can_not_itself_be_moved_out_of_one_that_is_not() {
    let bed = bed();
    for (action, given, new, expected) in [
        (Did::Unlink, "/app", "", Some("default/filesystem.write")),
        (Did::Rename, "/app", "/app/sub/x", Some("default/filesystem.write")),
        (Did::Unlink, "/app/sub", "", None),
    ] {
        let record = change(action, libc::EACCES);
        let event = only(&mut decoder_at(bed.path(), true), &bytes(record, given, "/app", new));
        assert_eq!(rule(&event), expected, "{given}");
    }
}

#[test]
fn a_verdict_threads_refusal_is_told_once_and_the_next_failure_again() {
    let bed = bed();
    let mut decoder = decoder_at(bed.path(), true);
    exec(&mut decoder, "/bin/cat", "cat\0");
    let refused = EventRecord {
        start_boot_ns: 0,
        ppid: 0,
        uid: 0,
        errno: 1,
        rule: DENY.0,
        ..head(RecordKind::Open, Did::Read, RecordOutcome::Denied)
    };
    let event = decoder.refusal(&refused, b"/home/u/.ssh/id", b"", b"");
    assert_eq!((rule(&event), event.outcome), (Some("t/filesystem.deny/0"), Outcome::Denied));
    let process = event.process.unwrap();
    assert_eq!((process.ppid, process.uid, process.start_ns), (PARENT, 1000, 900));
    assert_eq!(process.exe, Some("/bin/cat".into()));

    let exit = bytes(open(libc::O_RDONLY, libc::EPERM), "../home/u/.ssh/id", "/app", "");
    let other_thread = EventRecord { tid: 9, ..open(libc::O_RDONLY, libc::EPERM) };
    let other_thread = bytes(other_thread, "/home/u/.ssh/id", "/app", "");
    assert!(decoder.record(&other_thread).unwrap().is_some());
    assert_eq!(decoder.record(&exit), Ok(None));
    assert!(decoder.record(&exit).unwrap().is_some());
}

#[test]
fn a_failure_that_is_not_the_refused_open_is_told() {
    let bed = bed();
    let refused = EventRecord { rule: DENY.0, ..head(RecordKind::Open, Did::Read, RecordOutcome::Denied) };
    let before = EventRecord { time_boot_ns: NOW_NS - 1, ..open(libc::O_RDONLY, libc::EPERM) };
    for (outcome, exit, name) in [
        (RecordOutcome::Denied, open(libc::O_RDONLY, libc::EACCES), "/home/u/.ssh/id"),
        (RecordOutcome::Denied, open(libc::O_RDONLY, libc::EPERM), "/home/u/.ssh/other"),
        (RecordOutcome::Denied, before, "/home/u/.ssh/id"),
        (RecordOutcome::WouldDeny, open(libc::O_RDONLY, libc::EPERM), "/home/u/.ssh/id"),
    ] {
        let mut decoder = decoder_at(bed.path(), true);
        decoder.refusal(&EventRecord { outcome: outcome as u8, ..refused }, b"/home/u/.ssh/id", b"", b"");
        assert!(decoder.record(&bytes(exit, name, "/app", "")).unwrap().is_some(), "{name}");
    }
}
