//! `process.namespaces = "allow"`: the command brings a sandbox of its own, here the real bubblewrap, and in it every other
//! limit holds whatever is mounted where.

use std::{ffi::OsString, fs, os::unix::fs::MetadataExt, path::Path, path::PathBuf, process::Command};

use crate::bed::{
    Run, TestBed, args, backend, lines,
    net::{Listener, private_network},
    sh,
    unix::Daemon,
};

const ALLOWED: &str = "[process]\nnamespaces = \"allow\"\n";
const CANARY: &str = "CANARY-7f3a";
/// Status of a run that did not start.
const REFUSED_START: i32 = 125;

/// A policy that lets the project be written and the command bring a sandbox; `rules` are lines of `[filesystem]`, `more`
/// other sections.
fn policy(bed: &TestBed, rules: &str, more: &str) -> PathBuf {
    bed.policy("test", &format!("[filesystem]\nwrite = [\"{{project}}\"]\n{rules}\n{ALLOWED}{more}\n"))
}

/// Bubblewrap with everything of its own and the project writable; `options` come before the script.
fn bubble(bed: &TestBed, options: Vec<OsString>, script: impl AsRef<std::ffi::OsStr>) -> Vec<OsString> {
    let project = bed.project();
    let own = args!["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"];
    let inside = args!["--bind", &project, &project, "--chdir", &project];
    [own, inside, options, sh(script)].concat()
}

/// Both times the output, one line for each try: outside of any sandbox, and inside. `None` where the backend refuses to
/// start, which is held to here.
#[track_caller]
fn both(bed: &TestBed, policy: &Path, command: Vec<OsString>) -> Option<(Vec<String>, Vec<String>, Run)> {
    if backend() != "lsm" {
        let run = bed.run(policy, command);
        assert_eq!((run.status.code(), run.out().as_str()), (Some(REFUSED_START), ""), "{run}");
        assert!(run.err().contains("cannot be held by the backend `fanotify`"), "{run}");
        assert!(run.err().contains("lsm=") && run.err().contains("agent's own sandbox off"), "{run}");
        return None;
    }
    let bare = bed.bare(command.clone());
    assert!(bare.status.success(), "{bare:?}");
    let run = bed.run(policy, command);
    assert!(run.status.success(), "{run}");
    Some((lines(&bare.stdout), lines(&run.stdout), run))
}

/// Shell functions for scripts: `see FILE` tells what it reads, `try COMMAND…` whether it went well.
const TRY: &str = "see() { cat \"$1\" 2>/dev/null || echo refused; }
                   add() { if (echo changed >>\"$1\") 2>/dev/null; then echo done; else echo refused; fi; }
                   try() { if \"$@\" >/dev/null 2>&1; then echo done; else echo refused; fi; }\n";

#[test]
fn bubblewrap_works_inside_and_not_without_the_key() {
    let bed = TestBed::new("ns-works");
    bed.file("public", "public\n");
    let script = "cat public; echo made >new; cat new; mkdir a; mv a b; rmdir b; echo own >/tmp/own; cat /tmp/own; \
                  echo x >/dev/null && ls /proc | head -1; bwrap --ro-bind / / --unshare-user cat public";
    let command = || bubble(&bed, args!["--unshare-all"], script);
    let expected = ["public", "made", "own", "1", "public"];
    let Some((bare, inside, run)) = both(&bed, &policy(&bed, "", ""), command()) else { return };
    assert_eq!(
        (bare, inside),
        (expected.map(str::to_owned).to_vec(), expected.map(str::to_owned).to_vec()),
        "{run}"
    );
    assert!(run.log.events.iter().all(|event| event.text("outcome") != "denied"), "{run}");
    let without = bed.run(&bed.deny(&[]), command());
    assert!(!without.status.success() && without.out().is_empty(), "{without}");
}

#[test]
fn a_socket_of_others_is_reached_by_no_mount_unless_it_is_named_where_it_lies() {
    let bed = TestBed::new("ns-unix");
    let daemon = Daemon::new("stream", bed.outside().join("daemon"));
    let words = bed.worker(args!["unix", "stream:/tmp/alias/daemon", "unix-own", "stream:/tmp/own"]);
    let script = words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let command = || bubble(&bed, args!["--bind", bed.outside(), "/tmp/alias"], &script);
    let listed = "[network]\nunix = [\"/tmp/alias/daemon\"]";
    let Some((bare, inside, run)) = both(&bed, &policy(&bed, "", listed), command()) else { return };
    assert_eq!(bare, ["ok hello", "ok own"]);
    assert_eq!(inside, ["EPERM", "ok own"], "{run}");
    let denied = run.log.denied("net.connect", Path::new(&daemon.at));
    assert_eq!((denied.len(), denied[0].rule()), (1, Some("default/network.unix")), "{run}");
    let listed = format!("[network]\nunix = [\"{}\"]", daemon.at);
    let Some((_, inside, run)) = both(&bed, &policy(&bed, "", &listed), command()) else { return };
    assert_eq!(inside, ["ok hello", "ok own"], "{run}");
}

#[test]
fn what_is_denied_is_read_nowhere() {
    let bed = TestBed::new("ns-read");
    let secret = bed.file("secret", format!("{CANARY}\n"));
    let (env, deep) =
        (bed.file("conf/.env", format!("{CANARY}\n")), bed.file("vault/deep/key", format!("{CANARY}\n")));
    let anchored = bed.file("app/conf/a.key", format!("{CANARY}\n"));
    bed.file("app/conf/a.pub", "public\n");
    let rules = "deny = [\"{project}/secret\", \"**/.env\", \"**/vault/**\", \"{project}/app/*/*.key\"]";
    let project = bed.project();
    let options = args![
        "--bind",
        &secret,
        "/tmp/file",
        "--bind",
        &project,
        "/tmp/project",
        "--ro-bind",
        &env,
        "/tmp/env",
        "--bind",
        project.join("vault/deep"),
        "/tmp/deep",
        "--bind",
        project.join("app/conf"),
        "/tmp/conf",
        // Its own folder hidden, and there again by another name.
        "--tmpfs",
        project.join("vault"),
        "--bind",
        project.join("vault"),
        project.join("app/other")
    ];
    let ways = "see secret; see app/other/deep/key; see /tmp/file; see /tmp/project/secret; see /tmp/env; see /tmp/project/conf/.env
        see /tmp/deep/key; see /tmp/project/vault/deep/key; see /tmp/conf/a.key; see /proc/self/root/tmp/conf/a.key
        cd /tmp/conf; see a.key; cd /; see tmp/project/app/conf/a.key; see /tmp/conf/a.pub
        exec 3</tmp/conf; see /proc/self/fd/3/a.key
        bwrap --bind /tmp/conf / --proc /proc --dev /dev --ro-bind /bin /bin --ro-bind /lib /lib --ro-bind /lib64 /lib64 \
          --ro-bind /usr /usr /bin/cat /a.key 2>/dev/null || echo refused";
    let command = bubble(&bed, options, format!("{TRY}{ways}"));
    let Some((bare, inside, run)) = both(&bed, &policy(&bed, rules, ""), command) else { return };
    assert_eq!(bare.iter().filter(|line| *line == CANARY).count(), 14, "{bare:?}");
    let expected: Vec<_> = bare.iter().map(|line| if line == CANARY { "refused" } else { line }).collect();
    assert_eq!(inside, expected, "{run}");
    // Whatever the way, events name the file by its place on the machine.
    for (path, rule) in [(&secret, 0), (&env, 1), (&deep, 2), (&anchored, 3)] {
        let denied = run.log.denied("file.open", path);
        assert!(!denied.is_empty(), "{}: {run}", path.display());
        let rule = format!("test/filesystem.deny/{rule}");
        assert!(denied.iter().all(|event| event.rule() == Some(&rule)), "{run}");
    }
}

#[test]
fn what_is_protected_and_what_lies_outside_of_the_write_list_stays() {
    let bed = TestBed::new("ns-write");
    let guarded = || {
        [
            bed.file("kept", "kept\n"),
            bed.file("conf/locked", "kept\n"),
            bed.file(bed.outside().join("file"), "kept\n"),
            bed.file("held/below/file", "kept\n"),
        ]
    };
    let files = guarded();
    let rules = "protect = [\"{project}/kept\", \"**/locked\", \"{project}/held/below/file\"]";
    let (project, outside) = (bed.project(), bed.outside());
    let (conf, over) = (project.join("conf"), project.join("over"));
    let places = [
        (&project, Path::new("/tmp/p")),
        (&outside, Path::new("/tmp/o")),
        (&files[0], Path::new("/tmp/f")),
        (&conf, Path::new("/tmp/c")),
        (&outside, &over),
    ];
    let options: Vec<_> = places.iter().flat_map(|(from, to)| args!["--bind", from, to]).collect();
    bed.folder("over");
    bed.folder("evil");
    let ways = "for file in kept /tmp/f /tmp/c/locked /tmp/o/file over/file; do
          add $file; try truncate -s 0 $file; try chmod 600 $file; try touch -d 2001-01-01 $file
        done
        for file in /tmp/p/kept /tmp/c/locked /tmp/o/file; do
          try ln $file ${file%/*}/other; try mv $file ${file%/*}/moved; try rm -f $file
        done
        add @/file; try mkdir /tmp/o/new; try mv /tmp/p/held/below /tmp/p/held/gone; try mv /tmp/p/held /tmp/p/gone
        add evil/locked; echo x >evil/free; try mv evil/free evil/locked";
    let script = format!("{TRY}{}", ways.replace('@', outside.to_str().unwrap()));
    let command = || bubble(&bed, options.clone(), &script);
    let before = files.clone().map(|file| (fs::read(&file).unwrap(), times(&file)));
    if backend() == "lsm" {
        let run = bed.run(&policy(&bed, rules, ""), command());
        assert!(run.status.success(), "{run}");
        let answers = lines(&run.stdout);
        assert_eq!(answers.len(), 35, "{run}");
        assert!(answers.iter().all(|answer| answer == "refused"), "{answers:?}: {run}");
        assert_eq!(files.clone().map(|file| (fs::read(&file).unwrap(), times(&file))), before, "{run}");
        assert!(!outside.join("new").exists() && project.join("held/below").exists(), "{run}");
        assert!(!run.log.denied("file.change", &files[1]).is_empty(), "{run}");
        // Positive control: outside of the sandbox the same succeeds, until the files are gone.
        let bare = lines(&bed.bare(command()).stdout);
        assert!(bare.iter().filter(|answer| *answer == "done").count() > 30, "{bare:?}");
        assert_ne!(files.map(|file| fs::read(&file).unwrap_or_default()), before.map(|(content, _)| content));
    } else {
        both(&bed, &policy(&bed, rules, ""), command());
    }
}

fn times(file: &Path) -> (i64, u32) {
    let found = fs::metadata(file).unwrap();
    (found.mtime(), found.mode())
}

#[test]
fn what_lies_outside_of_the_read_list_is_not_read_by_another_path() {
    let bed = TestBed::new("ns-list");
    let secret = bed.file(bed.outside().join("secret"), format!("{CANARY}\n"));
    bed.file("public", "public\n");
    let readable = "read = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/etc\", \"/proc\"]";
    let options =
        args!["--ro-bind", bed.outside(), "/tmp/o", "--ro-bind", &secret, bed.project().join("public")];
    let ways = "see /tmp/o/secret; see public; ls /tmp/o 2>/dev/null || echo refused; echo own >/tmp/own; see /tmp/own";
    let command = bubble(&bed, options, format!("{TRY}{ways}"));
    let Some((bare, inside, run)) = both(&bed, &policy(&bed, readable, ""), command) else { return };
    assert_eq!(bare, [CANARY, CANARY, "secret", "own"]);
    assert_eq!(inside, ["refused", "refused", "refused", "own"], "{run}");
    let denied = run.log.denied("file.open", &secret);
    assert!(!denied.is_empty(), "{run}");
    assert!(denied.iter().all(|event| event.rule() == Some("default/filesystem.read")), "{run}");
}

#[test]
fn programs_are_what_they_are_on_the_machine() {
    let bed = TestBed::new("ns-exec");
    let project = bed.project();
    bed.folder("bin");
    let echo = |name: &str| bed.script(name, fs::read("/bin/echo").unwrap());
    let (denied, one) = (echo("bin/tool"), echo("bin/one"));
    echo("bin/other");
    let rules = "[exec]\ndeny = [\"tool*\", { command = \"one\", args = [\"CANARY\"] }]\n";
    let free = project.join("bin/free");
    echo("bin/free");
    let options = args!["--ro-bind", &denied, "/tmp/free", "--ro-bind", &one, &free];
    let ways = "/tmp/free CANARY 2>/dev/null || echo refused
        cp bin/other bin/tool2; bwrap --ro-bind / / --ro-bind bin/tool2 /usr/bin/true /usr/bin/true CANARY 2>/dev/null \
          || echo refused
        bin/one free 2>/dev/null || echo refused; (bin/one CANARY) 2>/dev/null || echo refused
        bin/free free 2>/dev/null || echo refused; (bin/free CANARY) 2>/dev/null || echo refused";
    let command = bubble(&bed, options, ways);
    let Some((bare, inside, run)) = both(&bed, &policy(&bed, "", rules), command) else { return };
    assert_eq!(bare, ["CANARY", "CANARY", "free", "CANARY", "free", "CANARY"]);
    assert_eq!(inside, ["refused", "refused", "free", "refused", "free", "refused"], "{run}");
    // What ran is told by its place on the machine, whatever it is mounted over.
    let over = bubble(&bed, args!["--ro-bind", &one, "/usr/bin/true"], "/usr/bin/true over");
    let run = bed.run(&policy(&bed, "", ""), over);
    let told = run.log.execs(&["/usr/bin/true", "over"]);
    let path = one.display().to_string();
    assert_eq!((run.out().as_str(), told[0].object("path")), ("over\n", path.as_str()), "{run}");
}

#[test]
fn nothing_else_is_mounted_and_no_device_is_opened() {
    let bed = TestBed::new("ns-mounts");
    bed.folder("at");
    bed.folder("low");
    let node = bed.outside().join("node");
    let made = Command::new("mknod").args(["-m", "666"]).arg(&node).args(["c", "1", "3"]).status().unwrap();
    assert!(made.success());
    bed.file(bed.outside().join("file"), "");
    let inner = format!(
        "{TRY}try mount -t tmpfs none at; try mount -t overlay -o lowerdir=low:bin none at; try mount -t ramfs none at
         try mount -t sysfs none at; try mount -t cgroup2 none at; try mount -t proc none at
         try sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'; try sh -c 'echo 1 >at/sys/net/ipv4/ip_forward'
         try sh -c 'echo 300 >at/self/oom_score_adj'; try dd if={0} count=0; try dd of={0} count=0 </dev/null
         mount --bind {1} low; try mount -o remount,bind,rw low; try chmod 700 low/file; try umount low",
        node.display(),
        bed.outside().display()
    );
    bed.folder("bin");
    let command = args!["unshare", "-UrmpfinC", "--propagation", "unchanged", "/bin/sh", "-c", inner];
    let Some((bare, inside, run)) = both(&bed, &policy(&bed, "", ""), command) else { return };
    assert!(bare.iter().all(|answer| answer == "done"), "{bare:?}");
    let expected = [
        "done", "refused", "refused", "refused", "refused", "done", "refused", "refused", "done", "refused",
        "refused", "refused", "refused", "done",
    ];
    assert_eq!(inside, expected, "{run}");
    let told = run.log.all_denied("privilege.use");
    assert!(told.iter().any(|event| event.text("action") == "sb_mount"), "{run}");
    assert!(told.iter().all(|event| event.rule() == Some("default/process.namespaces")), "{run}");
}

#[test]
fn egress_is_judged_in_every_namespace() {
    private_network(&["10.77.0.1/32", "10.77.0.9/32"]);
    let bed = TestBed::new("ns-net");
    let (open, closed) = (Listener::tcp("10.77.0.1"), Listener::tcp("10.77.0.9"));
    let network = format!("[network]\nallow = [\"10.77.0.1:{}\"]\n", open.address.port());
    let worker =
        bed.worker(args!["connect", open.address.to_string(), "connect", closed.address.to_string()]);
    let inside = |options: Vec<OsString>| {
        let bubble =
            args!["bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-user"];
        [bubble, options, worker.clone()].concat()
    };
    let Some((bare, answers, run)) = both(&bed, &policy(&bed, "", &network), inside(args!["--unshare-pid"]))
    else {
        return;
    };
    assert_eq!(
        (bare, answers),
        (vec!["ok".to_owned(); 2], vec!["ok".to_owned(), "EPERM".to_owned()]),
        "{run}"
    );
    assert_eq!((open.arrived(2), closed.arrived(1)), (2, 1), "{run}");
    // A network of its own has no way out.
    let (_, answers) = (
        bed.bare(inside(args!["--unshare-net"])),
        bed.run(&policy(&bed, "", &network), inside(args!["--unshare-net"])),
    );
    assert!(lines(&answers.stdout).iter().all(|answer| answer != "ok"), "{answers}");
    assert_eq!((open.arrived(2), closed.arrived(1)), (2, 1), "{answers}");
}

#[test]
fn capabilities_of_a_user_namespace_open_nothing() {
    let bed = TestBed::new("ns-caps");
    // By their numbers: a raw socket, a packet socket, another program's name (PR_SET_MM), mounts by descriptor, a key.
    let calls = [
        (format!("{},2,3,1", libc::SYS_socket), "EPERM"),
        (format!("{},17,3,0", libc::SYS_socket), "EAFNOSUPPORT"),
        (format!("{},35,13,0,0,0", libc::SYS_prctl), "EPERM"),
        (format!("{},0,0", libc::SYS_fsopen), "ENOSYS"),
        (format!("{},-1,0,1", libc::SYS_open_tree), "ENOSYS"),
        (format!("{},-1,0,-1,0,0", libc::SYS_move_mount), "ENOSYS"),
        (format!("{},-1,0,0,0,0", libc::SYS_mount_setattr), "ENOSYS"),
        (format!("{},0,0", libc::SYS_clone3), "ENOSYS"),
        (format!("{},0,0,0,0,0", libc::SYS_keyctl), "EPERM"),
        (format!("{},0,0,0,0,0", libc::SYS_bpf), "EPERM"),
    ];
    let steps = calls.iter().flat_map(|(call, _)| args!["call", call]).collect();
    let command = [args!["unshare", "-Urmpfin", "--propagation", "unchanged"], bed.worker(steps)].concat();
    let Some((bare, answers, run)) = both(&bed, &policy(&bed, "", ""), command) else { return };
    let expected: Vec<_> = calls.iter().map(|(_, errno)| *errno).collect();
    assert_eq!(answers, expected, "{run}");
    for (at, errno) in expected.iter().enumerate().filter(|(_, errno)| **errno != "EPERM") {
        assert_ne!(bare[at], *errno, "{bare:?}");
    }
    assert_eq!(&bare[..2], ["ok", "ok"], "raw sockets are had in a network of its own: {bare:?}");
}

#[test]
fn what_cannot_be_held_with_it_is_refused_at_the_start() {
    let bed = TestBed::new("ns-refused");
    let refused = |run: &Run, words: &str| {
        assert_eq!((run.status.code(), run.out().as_str()), (Some(REFUSED_START), ""), "{run}");
        assert!(run.err().contains(words) && run.err().contains("help"), "{words}: {run}");
    };
    let policy = policy(&bed, "deny = [\"{project}/once/*/key\"]", "");
    if backend() != "lsm" {
        return refused(&bed.run(&policy, sh("echo up")), "cannot be held by the backend `fanotify`");
    }
    assert_eq!(bed.run(&policy, sh("echo up")).out(), "up\n");
    refused(&bed.start(&[&policy], sh("echo up")).by_root().finish(), "cannot be held for uid 0");
    let content = bed.policy(
        "content",
        &format!("{ALLOWED}[exec]\ndeny = [{{ command = \"/bin/ls\", match = \"content\" }}]\n"),
    );
    refused(&bed.run(&content, sh("echo up")), "`match = \"content\"` cannot be held");
    let allow = bed.policy("allow", &format!("{ALLOWED}[exec]\nallow = [\"/usr/**\"]\n"));
    refused(&bed.run(&allow, sh("echo up")), "`exec.allow` cannot be held");
    // A folder that two mounts show: the pattern means files of one of both.
    let (once, twice) = (bed.folder("once/sub"), bed.folder("twice"));
    let bind = |from: &Path, to: &Path| format!("mount --bind {} {}", from.display(), to.display());
    let run = bed.start(&[&policy], sh("echo up")).after_in_own_mounts(&bind(&once, &twice)).finish();
    refused(&run, "are the same folder, mounted twice");
    // Where it means none, or the same, nobody minds.
    let other = bed.folder("other");
    let run = bed.start(&[&policy], sh("echo up")).after_in_own_mounts(&bind(&other, &twice)).finish();
    assert_eq!(run.out(), "up\n", "{run}");
}
