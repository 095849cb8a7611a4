//! Unix sockets: own ones work, those of the outside are reached where the policy names them.

use std::path::{Path, PathBuf};

use crate::bed::{Event, Run, TestBed, args, unix::Daemon};

const REFUSED: [&str; 2] = ["EPERM", "EACCES"];
const DEFAULT: &str = "default/network.unix";

fn policy(bed: &TestBed, network: &str) -> PathBuf {
    bed.policy("test", &format!("[filesystem]\nwrite = [\"{{project}}\"]\n[network]\n{network}\n"))
}

/// Names of this test alone: abstract ones are the machine's.
fn name(bed: &TestBed, name: &str) -> String {
    format!("@govsandbox-test/{}/{name}", bed.uid())
}

fn is_refused(answer: &str) -> bool {
    REFUSED.contains(&answer)
}

/// Refusals of a socket.
fn denied<'run>(run: &'run Run, at: &str) -> Vec<&'run Event> {
    let kinds = ["net.connect", "net.send"].into_iter().flat_map(|kind| run.log.all_denied(kind));
    kinds.filter(|event| event.object("path") == at).collect()
}

/// `unix KIND:ADDRESS`, one step each.
fn steps(ways: &[String]) -> Vec<std::ffi::OsString> {
    ways.iter().flat_map(|way| args!["unix", way]).collect()
}

#[test]
fn sockets_of_daemons_outside_are_refused_by_path_unless_they_are_named() {
    let bed = TestBed::new("unix-path");
    let at = |name: &str| bed.outside().join(name);
    let (stream, packets, datagrams) = (
        Daemon::new("stream", at("stream")),
        Daemon::new("seqpacket", at("packets")),
        Daemon::new("dgram", at("datagrams")),
    );
    std::os::unix::fs::symlink(&stream.at, bed.project().join("link")).unwrap();
    let ways = [
        format!("stream:{}", stream.at),
        format!("stream:!{}", stream.at),
        "stream:../outside/stream".to_owned(),
        "stream:link".to_owned(),
        "stream:/proc/self/cwd/../outside/stream".to_owned(),
        format!("stream:/proc/self/root{}", stream.at),
        format!("seqpacket:{}", packets.at),
        format!("dgram:{}", datagrams.at),
        format!("sendto:{}", datagrams.at),
        format!("sendmsg:{}", datagrams.at),
    ];
    let all = |answers: &[String]| {
        let streams = answers[..7].iter().all(|answer| answer == "ok hello");
        streams && answers[7..].iter().all(|answer| answer == "ok")
    };
    let bare = bed.bare_steps(steps(&ways));
    assert!(all(&bare), "{bare:?}");
    let arrived = || [stream.arrived(6), packets.arrived(1), datagrams.arrived(3)];
    assert_eq!(arrived(), [6, 1, 3]);
    let network = "unix = [\"/nowhere\", \"@x\"]";
    let (run, answers) = bed.run_steps(&policy(&bed, network), steps(&ways));
    assert!(answers.iter().all(|answer| is_refused(answer)), "{answers:?}: {run}");
    assert_eq!(arrived(), [6, 1, 3], "{run}");
    for (daemon, count) in [(&stream, 6), (&packets, 1), (&datagrams, 3)] {
        let events = denied(&run, &daemon.at);
        assert!(events.len() == count, "{}: {run}", daemon.at);
        assert!(events.iter().all(|event| event.rule() == Some(DEFAULT)), "{run}");
        assert!(events.iter().all(|event| event.object("family") == "unix"), "{run}");
        assert!(events.iter().all(|event| is_refused(event.text("errno"))), "{run}");
    }
    // By a path, by a pattern.
    for named in [stream.at.as_str(), "**/outside/[s]*"] {
        let (run, answers) =
            bed.run_steps(&policy(&bed, &format!("unix = [\"{named}\"]")), steps(&ways[..6]));
        assert_eq!(answers, ["ok hello"; 6], "{run}");
        let told = run.log.of("net.connect");
        assert_eq!(told.len(), 6, "{run}");
        assert!(told.iter().all(|event| event.rule() == Some("test/network.unix/0")), "{run}");
        assert!(told.iter().all(|event| event.object("path") == stream.at), "{run}");
        assert!(told.iter().all(|event| event.object("protocol") == "stream"), "{run}");
    }
    // What denies files denies sockets.
    let both = bed.policy(
        "both",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"**/outside/stream\"]\n[network]\nunix = [\"**/outside/**\"]\n",
    );
    let (run, answers) = bed.run_steps(&both, steps(&[ways[0].clone(), ways[6].clone(), ways[7].clone()]));
    assert!(is_refused(&answers[0]), "{answers:?}: {run}");
    assert_eq!(answers[1..], ["ok hello", "ok"], "{run}");
    assert_eq!(denied(&run, &stream.at)[0].rule(), Some("both/filesystem.deny/0"), "{run}");
}

/// An agent renamed the socket of the user's ssh-agent to the place of one that may be reached.
#[test]
fn a_socket_of_others_that_is_moved_to_a_listed_place_is_not_reached() {
    let bed = TestBed::new("unix-moved");
    let folder = bed.folder("agent");
    let daemon = Daemon::new("stream", folder.join("agent.1"));
    let listed = bed.project().join("listed");
    let (way, in_folder) = (format!("stream:{}", listed.display()), "stream:below/agent.1");
    let back = |from: &Path, to: &Path| std::fs::rename(from, to).unwrap();
    let steps = |verb: &str| args![verb, &daemon.at, &listed, "unix", &way];
    assert_eq!(bed.bare_steps(steps("rename")), ["ok", "ok hello"]);
    back(&listed, Path::new(&daemon.at));
    let named = policy(&bed, "unix = [\"{project}/listed\", \"{project}/below/**\"]");
    let (run, answers) = bed.run_steps(&named, steps("rename"));
    assert!(is_refused(&answers[1]) || answers[1] == "ENOENT", "{answers:?}: {run}");
    if listed.exists() {
        back(&listed, Path::new(&daemon.at));
    }
    let below = bed.project().join("below");
    let (run, answers) = bed.run_steps(&named, args!["rename", &folder, &below, "unix", in_folder]);
    assert!(is_refused(&answers[1]) || answers[1] == "ENOENT", "{answers:?}: {run}");
    if below.exists() {
        back(&below, &folder);
    }
    assert_eq!(daemon.arrived(1), 1);
    // One that was bound there is reached, by a relative name too; and an own one goes where it likes.
    let there = Daemon::new("stream", &listed);
    let (run, answers) = bed.run_steps(
        &named,
        args![
            "unix",
            &way,
            "unix-own",
            "stream:own",
            "unix-serve",
            "stream:mine",
            "rename",
            "mine",
            "below-it"
        ],
    );
    assert_eq!(answers[0], "ok hello", "{run}");
    assert_eq!(answers[2..], ["ok", "ok"], "{run}");
    drop(there);
}

#[test]
fn abstract_sockets_of_the_outside_are_refused_unless_they_are_named_in_full() {
    let bed = TestBed::new("unix-abstract");
    let (stream, datagrams) =
        (Daemon::new("stream", name(&bed, "stream")), Daemon::new("dgram", name(&bed, "datagrams")));
    let ways = [format!("stream:{}", stream.at), format!("dgram:{}", datagrams.at)];
    assert_eq!(bed.bare_steps(steps(&ways)), ["ok hello", "ok"]);
    assert_eq!([&stream, &datagrams].map(|daemon| daemon.arrived(1)), [1, 1]);
    let half = stream.at.strip_suffix("m").unwrap();
    let network = format!("unix = [\"{half}\", \"{}m\"]", stream.at);
    let (run, answers) = bed.run_steps(&policy(&bed, &network), steps(&ways));
    assert!(answers.iter().all(|answer| is_refused(answer)), "{answers:?}: {run}");
    assert_eq!([&stream, &datagrams].map(|daemon| daemon.arrived(1)), [1, 1], "{run}");
    for daemon in [&stream, &datagrams] {
        let events = denied(&run, &daemon.at);
        assert!(!events.is_empty() && events.iter().all(|event| event.rule() == Some(DEFAULT)), "{run}");
    }
    let named = policy(&bed, &format!("unix = [\"{}\", \"{}\"]", stream.at, datagrams.at));
    let (run, answers) = bed.run_steps(&named, steps(&ways));
    assert_eq!(answers, ["ok hello", "ok"], "{run}");
    let told = run.log.of("net.connect");
    assert_eq!(told[0].object("path"), stream.at, "{run}");
    assert_eq!(told[0].rule(), Some("test/network.unix/0"), "{run}");
}

#[test]
fn own_sockets_work_in_every_way() {
    let bed = TestBed::new("unix-own");
    let project = bed.project();
    let long = "x".repeat(107 - project.as_os_str().len() - 1);
    let mut ways = Vec::new();
    for kind in ["stream", "seqpacket", "dgram"] {
        ways.push(format!("{kind}:{}/own-{kind}", project.display()));
        ways.push(format!("{kind}:relative-{kind}"));
        ways.push(format!("{kind}:{}", name(&bed, kind)));
    }
    ways.push(format!("stream:{}/{long}", project.display()));
    ways.push(format!("stream:!{}/{long}y", project.display()));
    let steps = || -> Vec<_> { ways.iter().flat_map(|way| args!["unix-own", way]).collect() };
    assert_eq!(bed.bare_steps(steps()), vec!["ok own"; ways.len()]);
    for entry in std::fs::read_dir(&project).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = []"), steps());
    assert_eq!(answers, vec!["ok own"; ways.len()], "{run}");
    for kind in ["net.connect", "net.send"] {
        assert!(run.log.all_denied(kind).is_empty(), "{run}");
    }
    // Another sandbox is the outside: what the first left was bound, and is there no more.
    let mut server = crate::stale::Inside::start_with(&bed, &policy(&bed, "allow = []"));
    let theirs = project.join("theirs");
    let abstractly = name(&bed, "theirs");
    assert_eq!(
        server.step(&["unix-serve".as_ref(), Path::new(&format!("stream:{}", theirs.display()))]),
        "ok"
    );
    assert_eq!(server.step(&["unix-serve".as_ref(), Path::new(&format!("stream:{abstractly}"))]), "ok");
    let (run, answers) = bed.run_steps(
        &policy(&bed, "allow = []"),
        args!["unix", format!("stream:{}", theirs.display()), "unix", format!("stream:{abstractly}")],
    );
    assert!(answers.iter().all(|answer| is_refused(answer)), "{answers:?}: {run}");
    server.end();
}

#[test]
fn an_own_server_sees_the_user_its_name_and_a_full_backlog() {
    let bed = TestBed::new("unix-seen");
    let project = bed.project();
    let steps = || {
        args![
            "unix-peer",
            format!(":{}/peer", project.display()),
            "unix-name",
            format!(":{}/name", project.display()),
            "unix-name",
            ":name-2",
            "unix-backlog",
            format!(":{}/full", project.display())
        ]
    };
    let expected = [
        format!("ok {0} {0}", bed.uid()),
        format!("ok {}/name", project.display()),
        "ok name-2".to_owned(),
        format!("{} {} own 0", libc::EAGAIN, libc::EAGAIN),
    ];
    let expected = expected.map(|text| if text.starts_with("ok") { text } else { format!("ok {text}") });
    assert_eq!(bed.bare_steps(steps()), expected);
    for name in ["peer", "name", "name-2", "full", "full-2"] {
        std::fs::remove_file(project.join(name)).unwrap();
    }
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = []"), steps());
    assert_eq!(answers, expected, "{run}");
}

#[test]
fn swapping_names_and_descriptors_while_connecting_gains_nothing() {
    let bed = TestBed::new("unix-race");
    let daemon = Daemon::new("stream", bed.outside().join("daemon"));
    let steps = || args!["unix-race", format!(":{},{}", bed.project().display(), daemon.at)];
    let bare = bed.bare_steps(steps());
    assert!(bare[0].starts_with("ok reached") && bare[0] != "ok reached 0", "{bare:?}");
    for name in ["own", "here", "there", "link", "link.spare"] {
        std::fs::remove_file(bed.project().join(name)).ok();
    }
    let before = daemon.arrived(0);
    let (run, answers) = bed.run_steps(&policy(&bed, "allow = []"), steps());
    assert_eq!(answers, ["ok reached 0"], "{:?}", run.stderr);
    assert_eq!(daemon.arrived(before), before);
}

#[test]
fn in_audit_mode_what_would_be_refused_is_told_and_goes_on() {
    let bed = TestBed::new("unix-audit");
    let daemon = Daemon::new("stream", bed.outside().join("daemon"));
    let audit = bed.policy("test", "mode = \"audit\"\n[network]\nallow = []\n");
    let (run, answers) = bed.run_steps(
        &audit,
        args![
            "unix",
            format!("stream:{}", daemon.at),
            "unix-own",
            format!("stream:{}/own", bed.project().display())
        ],
    );
    assert_eq!(answers, ["ok hello", "ok own"], "{run}");
    let told = run.log.of("net.connect");
    assert_eq!(told.len(), 1, "{run}");
    assert_eq!((told[0].text("outcome"), told[0].rule()), ("would_deny", Some(DEFAULT)), "{run}");
    assert_eq!(told[0].object("path"), daemon.at, "{run}");
}
