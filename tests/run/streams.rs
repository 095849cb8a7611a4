//! Standard input and output: passed through as they are, by the megabyte.

use std::{
    fs::File,
    io::Write,
    process::{Command, Stdio},
};

use crate::bed::{TestBed, args, sh};

#[test]
fn pipes_carry_every_byte_both_ways() {
    let bed = TestBed::new("streams-pipe");
    let mut start = bed.start(&[&bed.deny(&[])], args!["cat"]);
    let mut child =
        start.process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> =
        (0..16 << 20).map(|place: u32| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&bytes).unwrap();
            drop(stdin);
        });
        child.wait_with_output().unwrap()
    });
    assert!(output.stdout == bytes, "{} of {} bytes, or others", output.stdout.len(), bytes.len());
    let run = start.read(output);
    assert_eq!((run.status.code(), run.err().as_str()), (Some(0), ""), "{run}");
}

#[test]
fn standard_error_is_its_own_stream() {
    let bed = TestBed::new("streams-stderr");
    let run = bed.run(&bed.deny(&[]), sh("echo out; echo err >&2"));
    assert_eq!((run.out().as_str(), run.err().as_str()), ("out\n", "err\n"), "{run}");
}

/// `govsandbox run … yes | head -1`: the reader goes, the command gets SIGPIPE, the run ends.
#[test]
fn a_pipeline_ends_when_its_reader_goes() {
    let bed = TestBed::new("streams-head");
    let mut start = bed.start(&[&bed.deny(&[])], args!["yes"]);
    let mut first = start.process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let head = Command::new("head").arg("-1").stdin(first.stdout.take().unwrap()).output().unwrap();
    assert_eq!(head.stdout, b"y\n");
    let output = crate::bed::procs::wait_with_output(first, std::time::Duration::from_secs(20));
    let run = start.read(output);
    // `yes` dies by SIGPIPE or says that it can't write.
    assert!([141, 1].contains(&run.shell_status()), "{run}");
}

#[test]
fn files_as_standard_streams_work() {
    let bed = TestBed::new("streams-files");
    let input = bed.file("input", "from a file\n");
    let output = bed.file("output", "");
    let mut start = bed.start(&[&bed.deny(&[])], args!["cat"]);
    start
        .process
        .stdin(File::open(input).unwrap())
        .stdout(File::create(&output).unwrap())
        .stderr(Stdio::piped());
    let finished = start.process.spawn().unwrap().wait_with_output().unwrap();
    let run = start.read(finished);
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert_eq!(std::fs::read_to_string(output).unwrap(), "from a file\n", "{run}");
}

#[test]
fn closed_standard_streams_do_not_stop_a_run() {
    let bed = TestBed::new("streams-closed");
    let start = bed.start(&[&bed.deny(&[])], sh("echo made > made"));
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"])
        .arg(start.process.get_program())
        .args(start.process.get_args());
    for (name, value) in start.process.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let output = shell.current_dir(bed.project()).output().unwrap();
    let run = start.read(output);
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert!(bed.project().join("made").exists(), "{run}");
}

/// `govsandbox run … 2>&1 | head`: what can't be told changes no status.
#[test]
fn a_closed_standard_error_keeps_the_commands_status() {
    let bed = TestBed::new("streams-broken");
    let secret = bed.file("secret", "x");
    let mut start = bed.start(&[&bed.deny(&["secret"])], sh("cat secret; exit 7"));
    let mut child = start.process.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let run = start.read(child.wait_with_output().unwrap());
    assert_eq!(run.status.code(), Some(7), "{run}");
    run.assert_denied_once("file.open", &secret, "test/filesystem.deny/0");
}
