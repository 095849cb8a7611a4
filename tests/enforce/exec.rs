//! Execs: what the log tells of each, and that a denied file is not run.

use std::fs;

use crate::bed::{DENIED, TestBed, args, sh};

#[test]
fn an_exec_event_has_path_arguments_folder_user_and_parent() {
    let bed = TestBed::new("exec-event");
    bed.folder("sub");
    let run = bed.run(&bed.deny(&[]), sh("cd sub && cat /dev/null 'two words' 2>/dev/null; true"));
    assert_eq!(run.status.code(), Some(0), "{run}");
    let shells = run.log.execs(&["/bin/sh", "-c", "cd sub && cat /dev/null 'two words' 2>/dev/null; true"]);
    let cats = run.log.execs(&["cat", "/dev/null", "two words"]);
    assert_eq!((shells.len(), cats.len()), (1, 1), "{run} {:?}", run.log.of("process.exec"));
    let (shell, cat) = (shells[0], cats[0]);
    assert_eq!(cat.object("path"), "/usr/bin/cat");
    assert_eq!(cat.process("exe"), "/usr/bin/cat");
    assert_eq!(cat.process("cwd"), bed.project().join("sub").to_str().unwrap());
    assert_eq!(cat.0["process"]["uid"], bed.uid());
    assert_eq!(cat.ppid(), shell.pid(), "{cat:?} {shell:?}");
    assert_ne!(cat.pid(), shell.pid());
    assert_eq!(shell.process("cwd"), bed.project().to_str().unwrap());
    let session = run.log.of("session.start")[0];
    assert_eq!(cat.0["sandbox_id"], session.0["sandbox_id"]);
    assert!(cat.0["sandbox_id"].as_u64().unwrap() > 0);
    assert!(cat.0["object"]["ino"].as_u64().unwrap() > 0);
    assert_eq!(
        cat.0["process"]["start_ns"],
        run.log.of("process.exit").iter().find(|exit| exit.pid() == cat.pid()).unwrap().0["process"]["start_ns"]
    );
    assert_eq!(cat.0["process"].get("argv_truncated"), None);
    assert_eq!((cat.text("outcome"), cat.text("action")), ("allowed", "exec"));
}

#[test]
fn pids_are_those_that_the_supervisor_sees() {
    let bed = TestBed::new("exec-pid");
    let mut start = bed.start(&[&bed.deny(&[])], sh("touch up; while [ ! -e go ]; do sleep 0.01; done"));
    let child = start.spawn();
    assert!(crate::bed::procs::until(crate::bed::patience(), || bed.project().join("up").exists()));
    let seen = crate::bed::procs::of_user(bed.uid());
    bed.file("go", "");
    let run = start.read(child.wait_with_output().unwrap());
    let exec = run.log.of("process.exec")[0].pid();
    assert!(seen.iter().any(|process| u64::from(process.pid) == exec), "{exec} is not in {seen:?}: {run}");
}

#[test]
fn long_arguments_are_cut_and_said_to_be() {
    let bed = TestBed::new("exec-argv");
    let long = "x".repeat(100_000);
    let run = bed.run(&bed.deny(&[]), args!["/bin/true", "first", &long, "last"]);
    assert_eq!(run.status.code(), Some(0), "{run}");
    let execs = run.log.of("process.exec");
    assert_eq!(execs.len(), 1, "{execs:?}");
    let event = execs[0];
    assert_eq!(event.0["process"]["argv_truncated"], true, "{}", event.0["process"]["exe"]);
    let argv = event.argv();
    assert_eq!(argv[..2], ["/bin/true", "first"]);
    let kept: usize = argv.iter().map(|word| word.len() + 1).sum();
    assert!(
        argv[2].bytes().all(|byte| byte == b'x') && (4000..=4097).contains(&kept),
        "{kept} bytes are kept"
    );
}

#[test]
fn arguments_stay_out_of_the_log_where_the_policy_says_so() {
    let bed = TestBed::new("exec-noargs");
    let policy = bed.policy("test", "[filesystem]\nwrite = []\n[trace]\nargs = false\n");
    let run = bed.run(&policy, args!["/bin/echo", "CANARY-91"]);
    assert_eq!(run.out(), "CANARY-91\n", "{run}");
    let execs = run.log.of("process.exec");
    assert_eq!(execs.len(), 1, "{run}");
    assert!(!execs[0].0["process"].to_string().contains("CANARY-91"), "{:?}", execs[0]);
}

#[test]
fn a_denied_program_is_not_run() {
    let bed = TestBed::new("exec-denied");
    let tool = bed.script("tool", fs::read("/bin/echo").unwrap());
    let policy = bed.deny(&["{project}/tool"]);
    let script = || sh("./tool CANARY; echo $?; /bin/echo public");
    assert_eq!(bed.bare(script()).stdout, b"CANARY\n0\npublic\n");
    let run = bed.run(&policy, script());
    assert_eq!(run.out(), "126\npublic\n", "{run}");
    let denied = [run.log.denied("file.open", &tool), run.log.denied("process.exec", &tool)].concat();
    assert!(!denied.is_empty(), "{run}");
    assert!(denied.iter().all(|event| event.rule() == Some("test/filesystem.deny/0")), "{run}");
    assert!(denied.iter().all(|event| DENIED.contains(&event.text("errno"))), "{run}");
    // As the command itself: 126, and nothing of it ran.
    assert_eq!(bed.bare(args![&tool, "CANARY"]).stdout, b"CANARY\n");
    let run = bed.run(&policy, args![&tool, "CANARY"]);
    assert_eq!((run.status.code(), run.out().as_str()), (Some(126), ""), "{run}");
}

#[test]
fn the_loader_does_not_run_a_denied_program_either() {
    let bed = TestBed::new("exec-loader");
    let tool = bed.script("tool", fs::read("/bin/echo").unwrap());
    let script = || {
        sh("$(ls /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 2>/dev/null | head -1) ./tool CANARY")
    };
    assert_eq!(bed.bare(script()).stdout, b"CANARY\n");
    let run = bed.run(&bed.deny(&["{project}/tool"]), script());
    assert_eq!(run.out(), "", "{run}");
    run.assert_denied_once("file.open", &tool, "test/filesystem.deny/0");
}

#[test]
fn a_script_is_judged_and_told_as_itself() {
    let bed = TestBed::new("exec-script");
    for name in ["denied.sh", "free.sh"] {
        bed.script(name, "#!/bin/sh\necho CANARY\n");
    }
    let script = || sh("./denied.sh; echo $?; ./free.sh");
    assert_eq!(bed.bare(script()).stdout, b"CANARY\n0\nCANARY\n");
    let run = bed.run(&bed.deny(&["denied.sh"]), script());
    assert_eq!(run.out(), "126\nCANARY\n", "{run}");
    let execs = run.log.of("process.exec");
    let told = execs.iter().any(|event| event.argv().iter().any(|word| word.ends_with("free.sh")));
    assert!(told, "{execs:?}");
}
