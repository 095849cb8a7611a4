//! The service as a process: what it may do, and what becomes of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use hickory_proto::rr::RecordType;

use crate::{
    bed::{self, procs},
    servers::knot,
    stage::{Stage, WEB_SERVER},
};

#[test]
fn it_has_no_privilege_no_file_and_no_way_to_get_one() {
    let stage = Stage::new();
    let pid = stage.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
    };
    let uid = stage.uid.to_string();
    for ids in ["Uid", "Gid"] {
        assert!(field(ids).split_whitespace().all(|it| it == uid), "{ids}: {}", field(ids));
    }
    assert_eq!(field("Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (field("NoNewPrivs").as_str(), field("Seccomp").as_str(), field("Threads").as_str()),
        ("1", "2", "1")
    );
    // Sockets, what tokio waits with, and nothing that has content.
    for link in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(link.unwrap().path()).unwrap();
        let target = target.to_string_lossy();
        let harmless = ["socket:", "anon_inode:", "pipe:", "/dev/null"];
        assert!(harmless.iter().any(|it| target.starts_with(it)), "it holds {target}");
    }
    let nothing = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(nothing, "");
    // Nobody of the same user could look into it: it is not dumpable.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/environ")).unwrap());
    assert_eq!(owner, 0);
}

#[test]
fn one_that_dies_is_started_again_on_the_same_ports() {
    let stage = Stage::new();
    let _knot = knot(stage.folder.path());
    assert_eq!(stage.ask("www.test.", RecordType::A).answers.len(), 1);
    let before = stage.pid();
    procs::signal(before, rustix::process::Signal::KILL);
    let why = stage.broker.until("its end", |state| state.ended.first().cloned());
    assert_eq!(why, "ended by signal 9");
    // A query that comes meanwhile waits in the socket.
    assert_eq!(stage.ask("www.test.", RecordType::A).answers.len(), 1);
    assert_ne!(stage.pid(), before);
}

#[test]
fn connections_through_one_that_dies_are_reset_and_new_ones_wait() {
    let stage = Stage::new();
    let listener = std::net::TcpListener::bind((WEB_SERVER, 0)).unwrap();
    let relay = stage.lead(WEB_SERVER, listener.local_addr().unwrap().port());
    let mut client = TcpStream::connect(relay).unwrap();
    client.write_all(b"\0by address").unwrap();
    let mut server = listener.accept().unwrap().0;
    server.read_exact(&mut [0; 11]).unwrap();
    procs::signal(stage.pid(), rustix::process::Signal::KILL);
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)), "it goes on");
    let mut next = TcpStream::connect(relay).unwrap();
    next.write_all(b"\0by address").unwrap();
    listener.accept().unwrap().0.read_exact(&mut [0; 11]).unwrap();
}

#[test]
fn it_ends_with_its_supervisor() {
    let mut stage = Stage::new();
    let pidfd = procs::pidfd(stage.pid());
    stage.stop();
    assert!(procs::gone(&pidfd, Duration::from_secs(10)), "it is still there");
}

#[test]
fn started_by_anybody_else_it_does_nothing() {
    for input in [Stdio::null(), Stdio::piped()] {
        let output = Command::new(bed::binary()).arg("egress-service").stdin(input).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("egress service"), "{output:?}");
    }
}
