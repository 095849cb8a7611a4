//! Inherited descriptors: what a caller left open is no way around the rules.

use std::process::Command;

use crate::bed::{Run, Start, TestBed, args, sh};

/// Runs it below a shell that first does something to its own descriptors.
fn with(bed: &TestBed, mut start: Start<'_>, redirections: &str) -> Run {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("exec \"$0\" \"$@\" {redirections}"));
    shell.arg(start.process.get_program()).args(start.process.get_args()).current_dir(bed.project());
    for (name, value) in start.process.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    start.process = shell;
    start.finish()
}

#[test]
fn descriptors_beyond_the_three_are_closed() {
    let bed = TestBed::new("fd-closed");
    let secret = bed.file("secret", "CANARY");
    let script =
        || sh("cat <&7; cat /proc/self/fd/7; cat /proc/self/fd/8/secret; ls /proc/self/fd | tr '\\n' ' '");
    let bare = Command::new("/bin/sh")
        .arg("-c")
        .arg("exec \"$0\" \"$@\" 7<secret 8<.")
        .args(script())
        .current_dir(bed.project())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&bare.stdout);
    assert!(told.starts_with("CANARYCANARYCANARY0 1 ") && told.ends_with("7 8 "), "{told}");
    let run = with(&bed, bed.start(&[&bed.deny(&["secret"])], script()), "7<secret 8<.");
    assert_eq!(run.out(), "0 1 2 3 ", "{run}");
    assert!(
        run.log.about("file.open", &secret).iter().all(|event| event.text("outcome") != "allowed"),
        "{run}"
    );
    // The shell that has no `secret` to name would do the same: nothing but the three is there.
    let run =
        with(&bed, bed.start(&[&bed.deny(&[])], sh("ls /proc/self/fd | tr '\\n' ' '")), "9</etc/passwd");
    assert_eq!(run.out(), "0 1 2 3 ", "{run}");
}

/// Output and errors in one file overwrote each other: each descriptor had been opened anew, with a position of its own.
#[test]
fn output_and_errors_in_one_file_stay_in_order() {
    let bed = TestBed::new("fd-twins");
    let script = "echo one; echo two >&2; sh -c 'echo three'; echo four >&2";
    let run = with(&bed, bed.start(&[&bed.deny(&[])], sh(script)), ">both 2>&1");
    let told = std::fs::read_to_string(bed.project().join("both")).unwrap();
    assert_eq!(told, "one\ntwo\nthree\nfour\n", "{run}");
}

/// As uid 0 the command changed the mode of the machine's `/dev/null` by the descriptor that the caller had opened.
#[test]
fn a_device_as_standard_stream_is_opened_anew() {
    let bed = TestBed::new("fd-device");
    // The mode that it has: what counts is that it may be set.
    let script = args!["python3", "-c", "import os; os.fchmod(0, os.stat(0).st_mode & 0o7777); print('set')"];
    let mut bare = bed.root_command(script.clone());
    let bare = bare.stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bare.stdout), "set\n", "{bare:?}");
    let run = with(&bed, bed.start(&[&bed.deny(&[])], script).by_root(), "</dev/null");
    assert!(run.out().is_empty() && run.err().contains("Read-only file system"), "{run}");
    let run =
        with(&bed, bed.start(&[&bed.deny(&[])], sh("cat; head -c3 <&0 | wc -c; echo read")), "</dev/null");
    assert_eq!(run.out(), "0\nread\n", "{run}");
}

#[test]
fn a_folder_as_standard_stream_is_refused() {
    let bed = TestBed::new("fd-folder");
    for redirection in ["<.", "<vault"] {
        bed.file("vault/secret", "CANARY");
        let run = with(
            &bed,
            bed.start(&[&bed.deny(&["vault"])], sh("touch started; cat /proc/self/fd/0/secret")),
            redirection,
        );
        assert_eq!((run.status.code(), run.out().as_str()), (Some(125), ""), "{redirection}: {run}");
        assert!(run.err().contains("folder") || run.err().contains("directory"), "{run}");
        assert!(!bed.project().join("started").exists(), "{run}");
    }
}

/// A file that the caller opened is the caller's gift; by its path it stays denied.
#[test]
fn a_file_as_standard_input_gives_its_content_and_no_way_to_others() {
    let bed = TestBed::new("fd-file");
    bed.file("input", "given");
    bed.file("secret", "CANARY");
    let script = sh("cat; cat /proc/self/fd/0/../secret; cat secret");
    let run = with(&bed, bed.start(&[&bed.deny(&["secret"])], script), "<input");
    assert_eq!(run.out(), "given", "{run}");
    // What it may not write stays unwritable through a descriptor for reading.
    let run = with(
        &bed,
        bed.start(&[&bed.deny(&[])], sh("echo x > /proc/self/fd/0; cat")),
        "<../policies/test.toml",
    );
    assert!(run.out().starts_with("version"), "{run}");
    assert!(
        std::fs::read_to_string(bed.root().join("policies/test.toml")).unwrap().starts_with("version"),
        "{run}"
    );
}

#[test]
fn a_denied_file_as_standard_input_is_refused_or_unread() {
    let bed = TestBed::new("fd-denied");
    bed.file("secret", "CANARY");
    let run = with(&bed, bed.start(&[&bed.deny(&["{project}/secret"])], args!["cat"]), "<secret");
    assert!(!run.out().contains("CANARY"), "{run}");
}
