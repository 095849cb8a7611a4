//! The log of a process that wants to look like another, and of one that wants to fool who reads it.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt as _, path::PathBuf, process::Command};

use crate::bed::{DENIED, Run, TestBed, args, backend, binary, pty::Pty, sh};

const CANARY: &str = "CANARY-honest";

/// A process that is called something else: by its own name, by `argv[0]`, by what `ps` shows, by a program that is gone.
#[test]
fn a_disguise_is_seen_through() {
    let bed = TestBed::new("honest-disguise");
    let secrets: Vec<PathBuf> =
        ["renamed", "argv", "gone", "copy"].map(|name| bed.file(format!("vault/{name}"), CANARY)).to_vec();
    let script = || {
        sh("perl -e '$0 = \"sshd: innocent\"; open(F, \"<\", \"vault/renamed\") and print <F>'; \
            bash -c 'exec -a /usr/sbin/cron cat vault/argv'; \
            cp /bin/cat ./gone-cat; ./gone-cat pipe vault/gone & exec 3> pipe; \
            rm gone-cat; echo go >&3; exec 3>&-; wait; \
            cp /bin/cat '[kworker]'; './[kworker]' vault/copy; true")
    };
    let prepare = || {
        let _ = fs::remove_file(bed.project().join("pipe"));
        let made = Command::new("mkfifo").arg(bed.project().join("pipe")).status().unwrap();
        assert!(made.success());
        bed.give(&bed.project().join("pipe"));
    };
    prepare();
    let bare = bed.bare(script());
    assert_eq!(String::from_utf8_lossy(&bare.stdout).matches(CANARY).count(), secrets.len(), "{bare:?}");
    prepare();
    let run = bed.run(&bed.deny(&["{project}/vault"]), script());
    assert!(!run.out().contains(CANARY), "{run}");
    let seen = |place: usize| {
        run.assert_denied_once("file.open", &secrets[place], "test/filesystem.deny/0");
        let event = run.log.denied("file.open", &secrets[place])[0].clone();
        (event.process("exe").to_owned(), event.argv().join(" "))
    };
    let (exe, argv) = seen(0);
    assert!(exe.contains("perl") && argv.starts_with("perl -e"), "{exe} {argv}");
    let (exe, argv) = seen(1);
    assert!(exe.ends_with("/cat") && argv == "/usr/sbin/cron vault/argv", "{exe} {argv}");
    let project = bed.project();
    let project = project.to_str().unwrap();
    assert_eq!(seen(2), (format!("{project}/gone-cat"), "./gone-cat pipe vault/gone".to_owned()));
    assert_eq!(seen(3).0, format!("{project}/[kworker]"));
}

/// An exec by a thread that is not the first one takes over the process's number; vfork lends the parent's memory.
#[test]
fn events_name_the_process_whichever_thread_acts() {
    let bed = TestBed::new("honest-threads");
    let [exec, vfork, thread] =
        ["exec", "vfork", "thread"].map(|name| bed.file(format!("vault/{name}"), CANARY));
    let steps = || args!["spawn", "read", &vfork, "thread", "read", &thread, "thread-exec", &exec];
    let bare = bed.bare_steps(steps());
    assert_eq!(bare, [format!("ok {CANARY}"), format!("ok {CANARY}"), CANARY.to_owned()]);
    let run = bed.run(&bed.deny(&["{project}/vault"]), bed.worker(steps()));
    assert!(!run.out().contains(CANARY), "{run}");
    for secret in [&exec, &vfork, &thread] {
        run.assert_denied_once("file.open", secret, "test/filesystem.deny/0");
    }
    let first = run.log.of("process.exec")[0].pid();
    let event = |path| run.log.denied("file.open", path)[0].clone();
    let (exec, vfork, thread) = (event(&exec), event(&vfork), event(&thread));
    // The process goes on under its number as another program; its one thread is the first again.
    assert_eq!((exec.pid(), exec.0["process"]["tid"].as_u64()), (first, Some(first)), "{exec:?}");
    assert!(exec.process("exe").ends_with("/cat"), "{exec:?}");
    assert_eq!(thread.pid(), first);
    assert_ne!(thread.0["process"]["tid"].as_u64(), Some(first), "{thread:?}");
    assert_eq!(vfork.ppid(), first, "{vfork:?}");
    let starts: Vec<_> =
        [&exec, &thread].iter().map(|event| event.0["process"]["start_ns"].clone()).collect();
    assert_eq!(starts[0], starts[1]);
    assert_ne!(starts[0], vfork.0["process"]["start_ns"]);
    assert_ne!(exec.text("span_id"), vfork.text("span_id"));
}

/// Numbers are given anew: five hundred short processes with a secret each are five hundred subjects.
#[test]
fn short_processes_are_told_apart() {
    let bed = TestBed::new("honest-short");
    bed.file("secret", CANARY);
    let run = bed.run(
        &bed.deny(&["secret"]),
        sh("n=0; while [ $n -lt 100 ]; do cat secret x$n 2>/dev/null; n=$((n+1)); done"),
    );
    let denied = run.log.denied("file.open", &bed.project().join("secret"));
    assert_eq!(denied.len(), 100, "{run}");
    for (number, event) in denied.iter().enumerate() {
        assert_eq!(event.argv(), ["cat", "secret", &format!("x{number}")], "{event:?}");
    }
    let mut spans: Vec<_> = denied.iter().map(|event| event.text("span_id")).collect();
    spans.dedup();
    assert_eq!(spans.len(), 100);
}

/// Deeper than the kernel programs look, longer than a path can be: refused, or read and told, never lost.
#[test]
fn paths_beyond_every_bound_are_held_and_told() {
    let bed = TestBed::new("honest-deep");
    for (levels, name) in [(70, "d"), (140, "d"), (30, "long")] {
        let name = if name == "long" { "n".repeat(180) } else { name.to_owned() };
        for root in ["vault", "free"] {
            // Made and reached step by step: the whole is longer than PATH_MAX.
            let make = format!(
                "cd {root}{levels} && i=0; while [ $i -lt {levels} ]; do mkdir {name} && cd -P {name} || exit 1; \
                 i=$((i+1)); done; echo {CANARY} > secret"
            );
            bed.folder(format!("{root}{levels}"));
            assert!(bed.bare(args!["/bin/bash", "-c", make]).status.success());
        }
        let read = |root: &str| {
            args![
                "/bin/bash",
                "-c",
                format!(
                    "cd {root}{levels} && i=0; while [ $i -lt {levels} ]; do cd -P {name} 2>/dev/null || break; \
                     i=$((i+1)); done; cat secret"
                )
            ]
        };
        let bare = bed.bare(read("vault"));
        assert!(String::from_utf8_lossy(&bare.stdout).contains(CANARY), "{bare:?}");
        let policy = bed.deny(&[&format!("{{project}}/vault{levels}"), "**/nowhere.pem"]);
        let run = bed.run(&policy, read("vault"));
        assert!(!run.out().contains(CANARY), "{levels}: {run}");
        assert!(!run.log.all_denied("file.open").is_empty(), "{levels}: it is not told: {run}");
        let run = bed.run(&policy, read("free"));
        let denied = run.log.all_denied("file.open");
        // What can't be read whole is refused.
        assert_eq!(run.out().contains(CANARY), denied.is_empty(), "{levels}: {run}");
        if let Some(event) = denied.first() {
            assert_eq!(event.rule(), Some("builtin/path-unreadable"), "{levels} on {}: {run}", backend());
        }
    }
}

#[test]
fn a_huge_command_line_is_cut_and_the_line_stays_bounded() {
    let bed = TestBed::new("honest-argv");
    let script = "many=$(seq 1 5000); /bin/true $many; big=$(printf '%0100000d' 0); \
                  /bin/true $big $big $big $big $big $big $big $big $big $big $big $big $big $big $big $big; echo $?";
    let run = bed.run(&bed.deny(&[]), args!["/bin/bash", "-c", script]);
    assert_eq!(run.out(), "0\n", "{run}");
    let execs: Vec<_> = run
        .log
        .of("process.exec")
        .into_iter()
        .filter(|event| event.argv().first() == Some(&"/bin/true"))
        .collect();
    assert_eq!(execs.len(), 2, "{execs:?}");
    for exec in &execs {
        assert_eq!(exec.0["process"]["argv_truncated"], true);
        assert!(exec.0.to_string().len() < 1 << 20);
    }
    assert_eq!(&execs[0].argv()[1..4], ["1", "2", "3"]);
}

/// Names that steer terminals, that look like others, that look like the log itself.
fn misleading() -> Vec<OsString> {
    let names: [&[u8]; 12] = [
        b"new\nline",
        b"\x1b[2J\x1b]0;title\x07\x1b[31mred",
        b"c1\xc2\x9b31m",
        b"\xff\xfe\x1b[0m",
        "right\u{202e}txt.exe".as_bytes(),
        "isolate\u{2066}x\u{2069}".as_bytes(),
        "zero\u{200b}width\u{feff}\u{fe0f}".as_bytes(),
        "line\u{2028}separator".as_bytes(),
        "tag\u{e0041}".as_bytes(),
        b"\",\"outcome\":\"allowed\",\"rule\":null,\"x\":\"",
        b"\\u001b[0m\\x1b",
        b"test%filesystem.deny%0\r\x08\x08",
    ];
    names.iter().map(|name| OsString::from_vec(name.to_vec())).collect()
}

/// Whatever a name is made of, no byte of it steers the terminal of who reads the log.
#[test]
fn nothing_that_steers_reaches_a_terminal() {
    let bed = TestBed::new("honest-terminal");
    let files: Vec<PathBuf> =
        misleading().into_iter().map(|name| bed.file(PathBuf::from("vault").join(name), CANARY)).collect();
    let steps = || files.iter().flat_map(|path| args!["read", path]).collect::<Vec<_>>();
    assert!(bed.bare_steps(steps()).iter().all(|answer| answer.starts_with("ok")));
    let mut words = bed.worker(steps());
    // Arguments of its own, which execs tell too.
    words.extend(misleading());
    let mut start = bed.start(&[&bed.deny(&["{project}/vault"])], words);
    let child = start.spawn();
    let run: Run =
        start.read(crate::bed::procs::wait_with_output(child, std::time::Duration::from_secs(120)));
    for path in &files {
        let denied = run.log.denied("file.open", path);
        assert_eq!(denied.len(), 1, "{path:?}: {run}");
        assert_eq!(denied[0].rule(), Some("test/filesystem.deny/0"), "{path:?}");
    }
    let log = start.log().to_owned();
    for words in [
        args!["audit", "show", "--log", &log],
        args!["audit", "show", "--details", "--log", &log],
        args!["audit", "show", "--format", "json", "--log", &log],
        args!["audit", "tail", "--log", &log],
        args!["audit", "stats", "--log", &log],
    ] {
        let pty = Pty::new();
        pty.resize(24, 4000);
        let mut command = Command::new(binary());
        command.args(&words).env("NO_COLOR", "1").env("TERM", "xterm").env("LANG", "C.UTF-8");
        let mut child = pty.start(&command);
        assert!(child.wait().unwrap().success(), "{words:?}");
        let shown = || pty.screen();
        assert!(
            crate::bed::procs::until(std::time::Duration::from_secs(10), || shown().len() > 500),
            "{words:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
        let text = shown();
        let bad: Vec<char> = text
            .chars()
            .filter(|character| {
                !matches!(character, '\r' | '\n') && govsandbox::event::text::misleads(*character)
            })
            .collect();
        assert!(bad.is_empty(), "{words:?} shows {bad:?}: {text:?}");
        // A terminal is given CR LF by its own driver; a CR of a name would stand alone.
        assert!(!text.replace("\r\n", "").contains('\r'), "{words:?}: {text:?}");
        assert!(text.contains("vault") || words.contains(&"stats".into()), "{words:?}: {text}");
    }
    assert!(DENIED.contains(&run.log.denied("file.open", &files[0])[0].text("errno")));
}
