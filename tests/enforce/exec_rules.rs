//! Exec rules: by path, by name, by arguments, by content, as a list of what may run at all; and the ways around them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::bed::{DENIED, Run, TestBed, args, backend, sh, toml_string};

/// Status of a shell for a command that it found and could not execute; and for one that was killed.
const NOT_EXECUTED: &str = "126";
const KILLED: &str = "137";
const DENY: &str = "test/exec.deny/0";

/// A policy with these lines under `[exec]`; the project may be written.
fn policy(bed: &TestBed, exec: &str) -> std::path::PathBuf {
    bed.policy("test", &format!("[filesystem]\nwrite = [\"{{project}}\"]\n[exec]\n{exec}\n"))
}

/// A copy of echo in the project: it says what it was given, if it runs.
fn echo(bed: &TestBed, name: &str) -> std::path::PathBuf {
    bed.folder(Path::new(name).parent().unwrap());
    bed.script(name, fs::read("/bin/echo").unwrap())
}

/// Holds that there is a refusal of this program by this rule, and tells how it was called.
#[track_caller]
fn assert_refused(run: &Run, path: &Path, rule: &str, argv: &[&str]) {
    let events = run.log.denied("process.exec", path);
    assert!(!events.is_empty(), "no refusal of {}: {run}", path.display());
    for event in &events {
        assert_eq!(event.rule(), Some(rule), "{run}");
    }
    assert!(events.iter().any(|event| event.argv() == argv), "none with {argv:?}: {run}");
}

#[track_caller]
fn assert_errno(run: &Run, path: &Path) {
    for event in run.log.denied("process.exec", path) {
        assert!(DENIED.contains(&event.text("errno")), "{run}");
    }
}

#[test]
fn a_denied_name_does_not_run_by_any_way_to_it() {
    let bed = TestBed::new("rule-name");
    let tool = echo(&bed, "tool");
    let free = echo(&bed, "free");
    let script = || {
        sh("./tool CANARY; echo $?; sh -c './tool CANARY'; echo $?; /usr/bin/env ./tool CANARY; echo $?; \
            PATH=. tool CANARY; echo $?; ln -sf tool link; ./link CANARY; echo $?; ./free free")
    };
    let bare = bed.bare(script());
    assert_eq!(String::from_utf8_lossy(&bare.stdout).matches("CANARY").count(), 5, "{bare:?}");
    let run = bed.run(&policy(&bed, "deny = ['tool']"), script());
    assert_eq!(run.out(), format!("{0}\n{0}\n{0}\n{0}\n{0}\nfree\n", NOT_EXECUTED), "{run}");
    assert_refused(&run, &tool, DENY, &["./tool", "CANARY"]);
    assert_refused(&run, &tool, DENY, &["./link", "CANARY"]);
    assert_errno(&run, &tool);
    assert!(run.log.denied("process.exec", &free).is_empty(), "{run}");
    // As the command itself.
    let run = bed.run(&policy(&bed, "deny = ['tool']"), args![&tool, "CANARY"]);
    assert_eq!((run.status.code(), run.out().as_str()), (Some(126), ""), "{run}");
    assert_refused(&run, &tool, DENY, &[tool.to_str().unwrap(), "CANARY"]);
}

#[test]
fn a_denied_path_is_held_under_its_other_names() {
    let bed = TestBed::new("rule-path");
    let tool = echo(&bed, "bin/tool");
    fs::hard_link(&tool, bed.project().join("linked")).unwrap();
    echo(&bed, "other/tool");
    let deny = policy(&bed, "deny = ['{project}/bin/tool']");
    let script = || sh("bin/tool CANARY; echo $?; ./linked CANARY; echo $?; other/tool other");
    let bare = bed.bare(script());
    assert_eq!(String::from_utf8_lossy(&bare.stdout).matches("CANARY").count(), 2, "{bare:?}");
    let run = bed.run(&deny, script());
    assert_eq!(run.out(), "126\n126\nother\n", "{run}");
    assert_refused(&run, &tool, DENY, &["bin/tool", "CANARY"]);
    assert_refused(&run, &bed.project().join("linked"), DENY, &["./linked", "CANARY"]);
}

#[test]
fn a_denied_folder_covers_what_is_below_and_what_comes_later() {
    let bed = TestBed::new("rule-folder");
    echo(&bed, "tools/deep/tool");
    echo(&bed, "free");
    let script = || sh("tools/deep/tool CANARY; echo $?; cp free tools/later; tools/later CANARY; echo $?");
    assert_eq!(bed.bare(script()).stdout, b"CANARY\n0\nCANARY\n0\n");
    fs::remove_file(bed.project().join("tools/later")).unwrap();
    let run = bed.run(&policy(&bed, "deny = ['{project}/tools']"), script());
    assert_eq!(run.out(), "126\n126\n", "{run}");
}

#[test]
fn a_loader_does_not_bring_a_denied_program_in() {
    let bed = TestBed::new("rule-loader");
    echo(&bed, "tool");
    let script = || {
        sh("ld=$(ls /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 2>/dev/null | head -1)\n\
            $ld ./tool CANARY 2>/dev/null; [ $? -ne 0 ] && echo refused\n\
            cp $ld ownloader; ./ownloader ./tool CANARY 2>/dev/null; [ $? -ne 0 ] && echo refused\n\
            cp tool sub/tool; $ld sub/tool CANARY 2>/dev/null; [ $? -ne 0 ] && echo refused; cat tool >/dev/null && echo read")
    };
    bed.folder("sub");
    assert_eq!(bed.bare(script()).stdout, b"CANARY\nCANARY\nCANARY\nread\n");
    for deny in [
        "deny = ['tool']",
        "deny = ['{project}/tool', '{project}/sub']",
        "deny = [{ command = 'tool', args = ['x'] }]",
    ] {
        let run = bed.run(&policy(&bed, deny), script());
        assert_eq!(run.out(), "refused\nrefused\nrefused\nread\n", "{deny}: {run}");
        let refused = run.log.all_denied("process.exec");
        assert!(refused.len() >= 3, "{deny}: {run}");
        assert!(
            refused.iter().all(|event| event.rule().is_some_and(|rule| rule.starts_with("test/exec.deny/"))),
            "{run}"
        );
    }
}

#[test]
fn descriptors_lead_to_the_same_program() {
    let bed = TestBed::new("rule-fd");
    let tool = echo(&bed, "tool");
    let by_link = || sh("exec 7<tool; /proc/self/fd/7 CANARY; echo $?");
    let by_call = || args!["exec-descriptor", &tool];
    assert_eq!(bed.bare(by_link()).stdout, b"CANARY\n0\n");
    assert_eq!(bed.bare_steps(by_call()), ["ok CANARY"]);
    let deny = policy(&bed, "deny = ['tool']");
    let run = bed.run(&deny, by_link());
    assert_eq!(run.out(), "126\n", "{run}");
    assert_refused(&run, &tool, DENY, &["/proc/self/fd/7", "CANARY"]);
    let (run, lines) = bed.run_steps(&deny, by_call());
    assert!(DENIED.contains(&lines[0].as_str()), "{lines:?}: {run}");
    assert_refused(&run, &tool, DENY, &[tool.to_str().unwrap(), "CANARY"]);
}

#[test]
fn a_script_is_judged_as_itself_and_as_its_interpreter() {
    let bed = TestBed::new("rule-script");
    echo(&bed, "interpreter");
    let shebang = format!("#!{}/interpreter\n", bed.project().display());
    let (by_denied, denied) =
        (bed.script("by-denied", shebang), bed.script("denied", "#!/bin/sh\necho CANARY\n"));
    bed.script("free", "#!/bin/sh\necho free\n");
    let script = || sh("./by-denied; echo $?; ./denied; echo $?; ./free");
    assert_eq!(bed.bare(script()).stdout, b"./by-denied\n0\nCANARY\n0\nfree\n");
    let run = bed.run(&policy(&bed, "deny = ['interpreter', 'denied']"), script());
    assert_eq!(run.out(), "126\n126\nfree\n", "{run}");
    assert_refused(&run, &bed.project().join("interpreter"), DENY, &["./by-denied"]);
    assert_refused(&run, &denied, "test/exec.deny/1", &["./denied"]);
    assert!(run.log.denied("process.exec", &by_denied).is_empty(), "{run}");
}

#[test]
fn a_program_that_becomes_a_script_is_judged_anew() {
    let bed = TestBed::new("rule-becomes");
    echo(&bed, "free");
    let script = || {
        sh("cp free other; ./other warm; ./other warm; printf '#!/bin/sh\\necho CANARY\\n' > other; \
            mv other evil; ./evil; echo $?")
    };
    assert_eq!(bed.bare(script()).stdout, b"warm\nwarm\nCANARY\n0\n");
    fs::remove_file(bed.project().join("evil")).unwrap();
    let run = bed.run(&policy(&bed, "deny = ['evil']"), script());
    assert_eq!(run.out(), "warm\nwarm\n126\n", "{run}");
    assert_refused(&run, &bed.project().join("evil"), DENY, &["./evil"]);
}

#[test]
fn arguments_are_denied_after_options_and_end_the_process() {
    let bed = TestBed::new("rule-args");
    let git = echo(&bed, "git");
    std::os::unix::fs::symlink("git", bed.project().join("git-push")).unwrap();
    let deny = policy(&bed, "deny = [{ command = 'git', args = ['push', '**'] }]");
    for words in ["push origin", "-C /srv --no-pager push", "-c a=b push"] {
        let script = || sh(format!("./git {words}; echo $?; env ./git {words}; echo $?"));
        assert!(String::from_utf8_lossy(&bed.bare(script()).stdout).contains("push"), "{words}");
        let run = bed.run(&deny, script());
        assert_eq!(run.out(), format!("{KILLED}\n{KILLED}\n"), "{words}: {run}");
        let mut argv = vec!["./git"];
        argv.extend(words.split(' '));
        assert_refused(&run, &git, DENY, &argv);
        for event in run.log.denied("process.exec", &git) {
            assert_eq!(
                (event.0["errno"].as_str(), event.0["object"]["signal"].as_i64()),
                (None, Some(9)),
                "{run}"
            );
            let end = run.log.of("process.exit").into_iter().find(|end| end.pid() == event.pid()).unwrap();
            assert_eq!(end.0["object"]["signal"], 9, "{run}");
        }
    }
    assert_eq!(bed.bare(args![bed.project().join("git-push"), "origin"]).stdout, b"origin\n");
    let run = bed.run(&deny, sh("./git-push origin; echo $?; ./git stash push; ./git -C push status; ./git"));
    assert_eq!(run.out(), "137\nstash push\n-C push status\n\n", "{run}");
}

#[test]
fn arguments_that_are_too_long_to_be_read_whole_are_refused_to_such_commands_alone() {
    let bed = TestBed::new("rule-long");
    for name in ["git", "free"] {
        echo(&bed, name);
    }
    let script = || {
        sh(
            "long=$(head -c 70000 /dev/zero | tr '\\0' x); ./git $long $long | wc -c; ./free $long $long | wc -c; ./git $long | wc -c",
        )
    };
    assert_eq!(bed.bare(script()).stdout, b"140002\n140002\n70001\n");
    let run = bed.run(&policy(&bed, "deny = [{ command = 'git', args = ['push', '**'] }]"), script());
    assert_eq!(run.out(), "0\n140002\n70001\n", "{run}");
    assert_eq!(run.log.denied("process.exec", &bed.project().join("git")).len(), 1, "{run}");
}

#[test]
fn the_arguments_of_a_script_are_its_own() {
    let bed = TestBed::new("rule-script-args");
    let deploy = bed.script("deploy", "#!/bin/sh\necho \"$@\"\n");
    let script = || sh("./deploy prod CANARY; echo $?; ./deploy test");
    assert_eq!(bed.bare(script()).stdout, b"prod CANARY\n0\ntest\n");
    let run = bed.run(&policy(&bed, "deny = [{ command = 'deploy', args = ['prod', '**'] }]"), script());
    assert_eq!(run.out(), "137\ntest\n", "{run}");
    assert!(!run.log.all_denied("process.exec").is_empty(), "{run} {}", deploy.display());
}

#[test]
fn a_thread_that_rewrites_the_arguments_gains_nothing() {
    let bed = TestBed::new("rule-race");
    let racer = echo(&bed, "racer");
    let steps = || args!["race", &racer];
    let (pull, push) = counts(&bed.bare_steps(steps())[0]);
    assert!(pull > 0 && push > 0, "the race is none: {pull} times `pull`, {push} times `push`");
    let (run, lines) =
        bed.run_steps(&policy(&bed, "deny = [{ command = 'racer', args = ['push', '**'] }]"), steps());
    let (pull, push) = counts(&lines[0]);
    assert_eq!(push, 0, "`push` ran {push} times: {run}");
    let refused = run.log.denied("process.exec", &racer).len();
    assert!(pull > 0 && refused > 0, "{pull} ran, {refused} were refused: {run}");
}

fn counts(line: &str) -> (usize, usize) {
    let numbers: Vec<usize> =
        line.trim_start_matches("ok ").split(' ').map(|word| word.parse().unwrap()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn with_an_allow_list_nothing_else_runs() {
    let bed = TestBed::new("rule-allow");
    for name in ["tool", "other"] {
        echo(&bed, name);
    }
    let allow =
        policy(&bed, "allow = ['sh', 'tool', { command = 'git', args = ['status'] }]\ndeny = ['other']");
    let script = || {
        sh("./tool one; ./other two; echo $?; /usr/bin/env ./tool three; echo $?; cp /dev/null x; echo $?; \
            $(ls /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 2>/dev/null | head -1) ./other four; echo end")
    };
    let bare = String::from_utf8_lossy(&bed.bare(script()).stdout).into_owned();
    assert!(["one", "two", "three", "four"].iter().all(|word| bare.contains(word)), "{bare}");
    let run = bed.run(&allow, script());
    assert_eq!(run.out(), "one\n126\n126\n126\nend\n", "{run}");
    let env = run.log.denied("process.exec", Path::new("/usr/bin/env"));
    assert_eq!(
        env.iter().map(|event| event.rule()).collect::<Vec<_>>(),
        [Some("default/exec.allow")],
        "{run}"
    );
}

#[test]
fn a_loader_alone_is_no_way_around_an_allow_list() {
    let bed = TestBed::new("rule-allow-loader");
    echo(&bed, "other");
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap();
    let script = || sh(format!("{loader} ./other CANARY; echo $?"));
    assert_eq!(bed.bare(script()).stdout, b"CANARY\n0\n");
    let run = bed.run(&policy(&bed, "allow = ['sh']"), script());
    assert!(run.out() == "126\n" || run.out() == "137\n", "{run}");
    let refused = run.log.all_denied("process.exec");
    assert!(refused.iter().any(|event| event.rule() == Some("default/exec.allow")), "{run}");
}

#[test]
fn a_program_in_memory_alone_is_not_on_any_list() {
    let bed = TestBed::new("rule-memfd");
    echo(&bed, "tool");
    // memfd_create(2), the copy, and an exec by another descriptor: the one that can write is closed first.
    let through = || {
        args![
            "/usr/bin/perl",
            "-e",
            "$^F = 99; $n = qq(tool\\0); $m = syscall(319, $n, 0); open(F, q(<), q(tool)); binmode F; local $/; $b = <F>; \
            syscall(1, $m, $b, length $b); open(R, q(<), qq(/proc/self/fd/$m)); $r = fileno R; syscall(3, $m); \
            exec { qq(/proc/self/fd/$r) } q(tool), q(CANARY); print q(refused), qq(\\n)"
        ]
    };
    assert_eq!(bed.bare(through()).stdout, b"CANARY\n");
    let run = bed.run(&policy(&bed, "allow = ['perl']"), through());
    assert!(!run.out().contains("CANARY"), "{run}");
    let refused = run.log.all_denied("process.exec");
    assert!(refused.iter().any(|event| event.rule() == Some("default/exec.allow")), "{run}");
    // By a rule on content: what can't be asked for its content is refused.
    let run = bed.run(&policy(&bed, "deny = [{ command = '{project}/tool', match = 'content' }]"), through());
    assert!(!run.out().contains("CANARY"), "{run}");
    assert!(run.log.all_denied("process.exec").iter().any(|event| event.rule() == Some(DENY)), "{run}");
}

#[test]
fn a_copy_is_another_program_unless_its_content_is_held() {
    let bed = TestBed::new("rule-content");
    let tool = echo(&bed, "tool");
    let script = || {
        sh(
            "cp tool copy; ./copy CANARY; echo $?; cp tool changed; printf x >> changed; ./changed changed; cat copy >/dev/null && echo read",
        )
    };
    assert_eq!(bed.bare(script()).stdout, b"CANARY\n0\nchanged\nread\n");
    fs::remove_file(bed.project().join("copy")).unwrap();
    fs::remove_file(bed.project().join("changed")).unwrap();
    // Not promised: by name alone a copy runs.
    let run = bed.run(&policy(&bed, "deny = ['tool']"), script());
    assert_eq!(run.out(), "CANARY\n0\nchanged\nread\n", "{run}");
    // Promised; a copy that differs in one byte is not.
    let run = bed.run(&policy(&bed, "deny = [{ command = '{project}/tool', match = 'content' }]"), script());
    assert_eq!(run.out(), "126\nchanged\nread\n", "{run}");
    assert_refused(&run, &bed.project().join("copy"), DENY, &["./copy", "CANARY"]);
    assert!(tool.exists());
}

#[test]
fn a_multi_call_binary_is_what_it_is_called() {
    let bed = TestBed::new("rule-busybox");
    let script = || {
        sh(
            "busybox echo one; ln -s /usr/bin/busybox echo; ./echo two; echo $?; busybox cat /dev/null; echo $?; \
             bash -c 'exec -a -echo busybox three'; bash -c 'exec -a -busybox busybox echo four'; \
             $(ls /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 2>/dev/null | head -1) /usr/bin/busybox echo five",
        )
    };
    let bare = bed.bare(script());
    assert_eq!(bare.stdout, b"one\ntwo\n0\n0\nthree\nfour\nfive\n", "{bare:?}");
    fs::remove_file(bed.project().join("echo")).unwrap();
    let run = bed.run(&policy(&bed, "deny = ['echo']"), script());
    assert_eq!(run.out(), "137\n0\n", "{run}");
    let refused = run.log.denied("process.exec", Path::new("/usr/bin/busybox"));
    assert_eq!(refused.len(), 5, "{run}");
    // Where no name is denied a loader may load it.
    let run = bed.run(&policy(&bed, "deny = ['/usr/bin/env']"), script());
    assert!(run.out().ends_with("five\n"), "{run}");
}

#[test]
fn in_audit_mode_a_refusal_is_told_once_and_nothing_is_refused() {
    let bed = TestBed::new("rule-audit");
    let (tool, git) = (echo(&bed, "tool"), echo(&bed, "git"));
    let script = bed.script("script", "#!/bin/sh\necho script\n");
    let deny = "deny = ['tool', 'script', { command = 'git', args = ['push'] }]";
    let body =
        format!("mode = \"audit\"\n[filesystem]\nwrite = [{}]\n[exec]\n{deny}\n", toml_string("{project}"));
    let run = bed.run(&bed.policy("test", &body), sh("./tool a; ./git push; ./script"));
    assert_eq!(run.out(), "a\npush\nscript\n", "{run}");
    let told = |rule: &str| {
        let would =
            run.log.of("process.exec").into_iter().filter(|event| event.text("outcome") == "would_deny");
        would.filter(|event| event.rule() == Some(rule)).count()
    };
    let counts = [0, 1, 2].map(|index| told(&format!("test/exec.deny/{index}")));
    assert_eq!(counts, [1, 1, 1], "{} {} {}: {run}", tool.display(), git.display(), script.display());
}

#[test]
fn reading_and_mapping_a_denied_program_as_code_differ() {
    let bed = TestBed::new("rule-mprotect");
    echo(&bed, "tool");
    let steps = || args!["read-start", "tool", "map-code", "tool", "protect-code", "tool"];
    assert_eq!(bed.bare_steps(steps()), ["ok", "ok", "ok"]);
    let (run, lines) = bed.run_steps(&policy(&bed, "deny = ['{project}/tool']"), steps());
    assert!(
        lines[0] == "ok" && lines[1..].iter().all(|line| DENIED.contains(&line.as_str())),
        "{lines:?}: {run}"
    );
    if backend() == "lsm" {
        assert_eq!(run.log.denied("process.exec", &bed.project().join("tool")).len(), 2, "{run}");
    }
}

#[test]
fn a_setuid_program_is_a_program() {
    let bed = TestBed::new("rule-setuid");
    let tool = echo(&bed, "tool");
    fs::set_permissions(&tool, PermissionsExt::from_mode(0o4755)).unwrap();
    assert_eq!(bed.bare(args![&tool, "CANARY"]).stdout, b"CANARY\n");
    let run = bed.run(&policy(&bed, "deny = ['tool']"), args![&tool, "CANARY"]);
    assert_eq!((run.status.code(), run.out().as_str()), (Some(126), ""), "{run}");
}

#[test]
fn what_fanotify_does_not_hold_is_what_is_said_and_lsm_holds_it() {
    let bed = TestBed::new("rule-not-held");
    let tool = echo(&bed, "bin/tool");
    fs::hard_link(&tool, bed.project().join("linked")).unwrap();
    echo(&bed, "named");
    bed.script("deploy", "#!/bin/sh -e\necho \"$@\"\n");
    let loaded = || {
        sh(
            "$(ls /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 2>/dev/null | head -1) ./linked CANARY 2>/dev/null",
        )
    };
    let steps = || args!["protect-code", "named"];
    let called = || sh("./deploy prod; true");
    assert_eq!(bed.bare(loaded()).stdout, b"CANARY\n");
    assert_eq!(bed.bare_steps(steps()), ["ok"]);
    assert_eq!(bed.bare(called()).stdout, b"prod\n");
    let deny = "deny = ['{project}/bin/tool', 'named', { command = 'deploy', args = ['prod'] }]";
    let deny = policy(&bed, deny);
    let (load, call) = (bed.run(&deny, loaded()), bed.run(&deny, called()));
    let (protect, lines) = bed.run_steps(&deny, steps());
    let is_held = [load.out().is_empty(), DENIED.contains(&lines[0].as_str()), call.out().is_empty()];
    assert_eq!(is_held, [backend() == "lsm"; 3], "{load} {protect} {call}");
    let start = load.log.of("session.start")[0].0["object"]["not_held"].to_string();
    for said in ["another hard link of a program", "mprotect(2) is not judged", "the arguments of a script"] {
        assert_eq!(start.contains(said), backend() == "fanotify", "{said}: {start}");
    }
}
