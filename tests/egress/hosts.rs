//! Names of the host's hosts file, which programs know without asking anybody.

use std::{fs, path::Path, time::Duration};

use hickory_proto::rr::RecordType;
use rustix::process::Signal;

use crate::{
    asked,
    bed::{
        lines,
        procs::{self, until, wait_with_output},
        sh, sys,
    },
    run::World,
    stage::{Stage, WEB_SERVER, WEB_SERVER6},
};

const PATIENCE: Duration = Duration::from_secs(60);
const CURL: &str = "curl --silent --globoff --insecure --noproxy '*' --max-time 30";

/// A hosts file of the calling thread's own, and what it starts.
fn file(world: &World, content: &str) -> std::path::PathBuf {
    let file = world.folder().join("hosts");
    fs::write(&file, content).unwrap();
    sys::replace_for_thread(&file, Path::new("/etc/hosts")).unwrap();
    file
}

#[test]
fn a_name_of_the_hosts_file_is_reached_from_the_start_and_from_when_it_comes_until_it_goes() {
    let world = World::new("egress-hosts");
    let first = format!(
        "127.0.0.1 localhost\n{WEB_SERVER} Filed.test\n{WEB_SERVER6} outside.test\n{WEB_SERVER6} denied.test\n"
    );
    let hosts = file(&world, &first);
    let tries = [
        "getent ahosts filed.test | head -n 1 | cut -d ' ' -f 1".to_owned(),
        format!("{CURL} https://filed.test/; echo"),
        format!("{CURL} https://outside.test/; echo"),
        format!("{CURL} https://denied.test/; echo"),
    ]
    .join("\n");
    let bare = world.bed.bare(sh(&tries));
    assert_eq!(lines(&bare.stdout), [WEB_SERVER, "www.test", "www.test", "www.test"], "{bare:?}");

    let policy = world.bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\", \"/dev/null\"]\n\
         [network]\nallow = [\"filed.test:443\", \"later.test:443\", \"*.test:22\"]\ndeny = [\"denied.test\"]\n",
    );
    let later = format!("{CURL} --resolve 'later.test:443:[{WEB_SERVER6}]' https://later.test/");
    let script = format!(
        "{tries}\n{later}; echo $?; touch one\n\
         until getent hosts later.test >/dev/null; do sleep 0.05; done\n\
         until {later}; do sleep 0.1; done; echo; touch two\n\
         while {later} >/dev/null; do sleep 0.1; done; echo gone\n\
         {CURL} https://filed.test/; echo\n"
    );
    let mut start = world.bed.start(&[&policy], sh(script));
    let child = start.spawn();
    let is_there = |name: &str| until(PATIENCE, || world.bed.project().join(name).exists());
    assert!(is_there("one"));
    fs::write(&hosts, format!("{first}{WEB_SERVER6} later.test\n")).unwrap();
    assert!(is_there("two"));
    fs::write(&hosts, &first).unwrap();
    let run = start.read(wait_with_output(child, PATIENCE));
    let expected = [WEB_SERVER, "www.test", "", "", "7", "www.test", "gone", "www.test"];
    assert_eq!(lines(&run.stdout), expected, "{run}");
    let asked = run.log.of("dns.query");
    assert!(asked.iter().all(|query| query.object("name") != "filed.test"), "it was to be known so: {run}");
    let closed = run.log.of("net.close");
    assert!(closed.iter().any(|it| it.object("name") == "filed.test"), "{run}");
}

#[test]
fn who_may_write_the_hosts_file_leads_no_allowed_name_anywhere() {
    let world = World::new("egress-hosts-written");
    let hosts = file(&world, &format!("{WEB_SERVER} filed.test\n"));
    let body = "version = 1\nname = \"test\"\n[filesystem]\nwrite = [\"/etc/hosts\", \"/dev/null\"]\n\
                [network]\nallow = [\"filed.test:443\", \"mine.test:443\"]\n";
    let policy = world.bed.raw_policy("test", body);
    // For longer than the supervisor takes to see a change.
    let script = format!(
        "{CURL} https://filed.test/; echo\n\
         echo '{WEB_SERVER6} filed.test mine.test' > /etc/hosts; getent hosts mine.test | cut -d ' ' -f 1\n\
         for round in $(seq 30); do {CURL} https://mine.test/ && echo reached; sleep 0.1; done\n\
         {CURL} --resolve 'filed.test:443:{WEB_SERVER}' https://filed.test/; echo\n"
    );
    let mut start = world.bed.start(&[&policy], sh(script)).by_root();
    let child = start.spawn();
    let run = start.read(wait_with_output(child, PATIENCE));
    assert!(fs::read_to_string(&hosts).unwrap().contains("mine.test"), "it was to be written: {run}");
    assert_eq!(lines(&run.stdout), ["www.test", WEB_SERVER6, "www.test"], "{run}");
}

#[test]
fn who_is_asked_about_an_address_sees_its_name_and_one_answer_is_for_both() {
    let world = World::new("egress-hosts-asked");
    file(&world, &format!("{WEB_SERVER6} filed.test\n"));
    let policy = world.bed.policy(
        "test",
        "[network]\nallow = []\n[[rule]]\nid = \"unknown-hosts\"\nmatch = { network = \"*\" }\neffect = \"ask\"\n",
    );
    // The C library reads the file first; asked for DNS alone it does not.
    let script = format!(
        "(getent -s dns ahosts filed.test | head -n 1 | cut -d ' ' -f 1) &\necho \"$({CURL} https://filed.test/)\"\nwait\n"
    );
    let mut start = world.bed.start(&[&policy], sh(script));
    let child = start.spawn();
    let mut name = None;
    let both = || {
        let waiting = asked::waiting();
        let of = |host: &str| waiting.iter().find(|it| it["host"] == host).cloned();
        name = of("filed.test");
        let address = of(WEB_SERVER6);
        assert!(address.iter().all(|it| it["names"] == serde_json::json!(["filed.test"])), "{address:?}");
        name.is_some() && address.is_some()
    };
    assert!(until(PATIENCE, both), "both wait");
    let said = asked::govsandbox(&["approve", &asked::id(&name.unwrap())]);
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let run = start.read(wait_with_output(child, PATIENCE));
    let mut out = lines(&run.stdout);
    out.sort();
    assert_eq!(out, [WEB_SERVER6, "www.test"], "{run}");
    let approvals = run.log.of("approval");
    assert_eq!(approvals.len(), 2, "{run}");
    assert!(approvals.iter().all(|it| it.text("action") == "approve"), "{run}");
}

#[test]
fn files_that_the_sandbox_could_write_are_read_once() {
    let (followed, kept) = {
        let other = std::thread::spawn(Stage::unfollowed);
        (Stage::new(), other.join().unwrap())
    };
    let said = |stage: &Stage| stage.broker.with(|state| state.hosts.clone());
    let (first, second) = ("192.0.2.80 filed.test\n", "192.0.2.81 filed.test later.test\n");
    assert_eq!((said(&followed), said(&kept)), (vec![first.to_owned()], vec![first.to_owned()]));
    for stage in [&kept, &followed] {
        fs::write(stage.folder.path().join("hosts"), second).unwrap();
    }
    followed.broker.until("the change", |state| (state.hosts == [first, second]).then_some(()));
    procs::signal(kept.pid(), Signal::KILL);
    kept.broker.until("its end", |state| (!state.ended.is_empty()).then_some(()));
    kept.broker.until("its start", |state| (state.hosts.len() == 2).then_some(()));
    assert_eq!(said(&kept), [first, first]);
}

#[test]
fn a_name_without_room_for_its_address_is_no_missing_one() {
    let stage = Stage::new();
    stage.broker.with(|state| state.full = true);
    let reply = stage.ask("filed.test.", RecordType::A);
    assert_eq!(reply.metadata.response_code, hickory_proto::op::ResponseCode::ServFail);
    let query = stage.broker.query("filed.test");
    assert_eq!(query.outcome, govsandbox::egress::channel::Outcome::RefusedRoom);
    assert_eq!(query.withheld, [WEB_SERVER.parse::<std::net::IpAddr>().unwrap()]);
}
