//! Machines that lack something: said in words, and never an unprotected start.

use std::process::Command;

use crate::bed::{Run, Start, TestBed, sh};

/// Starts it by a script of root's that changes the surroundings first, in a mount namespace of its own.
fn after(bed: &TestBed, mut start: Start<'_>, preparation: &str) -> Run {
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "/bin/sh", "-c"]).arg(format!("set -e; {preparation}"));
    shell.arg(start.process.get_program()).args(start.process.get_args()).current_dir(bed.project());
    for (name, value) in start.process.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    start.process = shell;
    start.finish()
}

#[track_caller]
fn refused(bed: &TestBed, preparation: &str, words: &[&str]) {
    bed.file("secret", "CANARY");
    let start = bed.start(&[&bed.deny(&["secret"])], sh("touch started; cat secret"));
    let run = after(bed, start, preparation);
    assert_eq!((run.status.code(), run.out().as_str()), (Some(125), ""), "{run}");
    for word in words {
        assert!(run.err().contains(word), "`{word}` is not said: {run}");
    }
    assert!(run.err().contains("help:"), "what to do is not said: {run}");
    assert!(!bed.project().join("started").exists(), "it started: {run}");
}

/// Positive control for the others: the same detour, nothing taken away.
#[test]
fn a_mount_namespace_of_the_callers_own_is_no_obstacle() {
    let bed = TestBed::new("machine-plain");
    bed.file("secret", "CANARY");
    let start = bed.start(&[&bed.deny(&["secret"])], sh("cat secret || echo works"));
    let run = after(&bed, start, "exec \"$0\" \"$@\"");
    assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "works\n"), "{run}");
}

#[test]
fn bpffs_is_mounted_where_it_is_missing() {
    let bed = TestBed::new("machine-bpffs");
    bed.file("secret", "CANARY");
    let start = bed.start(&[&bed.deny(&["secret"])], sh("cat secret || echo works"));
    let run = after(&bed, start, "umount /sys/fs/bpf 2>/dev/null || true; exec \"$0\" \"$@\"");
    assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "works\n"), "{run}");
}

#[test]
fn a_kernel_without_btf() {
    let bed = TestBed::new("machine-btf");
    let hidden =
        "umount /sys/fs/bpf 2>/dev/null || true; mount -t tmpfs none /sys/kernel/btf; exec \"$0\" \"$@\"";
    refused(&bed, hidden, &["BTF"]);
}

/// Root in a container: uid 0, and none of what the layers need.
#[test]
fn root_that_may_not_load_programs() {
    let bed = TestBed::new("machine-caps");
    let fewer =
        "exec setpriv --bounding-set=-bpf,-sys_admin,-perfmon,-net_admin --inh-caps=-all \"$0\" \"$@\"";
    refused(&bed, fewer, &[]);
}
