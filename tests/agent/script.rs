//! The same script bare and in the sandbox: what the agent does, what the model is told, what the log says.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use serde_json::json;

use crate::{
    bed::{
        Event, Run, TestBed, backend,
        model::{Block, Model, Told, Turn},
        net::{Listener, private_network},
        procs,
    },
    claude,
};

const SECRET: &str = "sekrit-52f1";

fn bash(command: &str) -> Turn {
    vec![Block::Tool("Bash", json!({ "command": command, "description": "a step" }))]
}

/// What the model asks for, turn by turn. The numbers are those of [`Told`].
fn turns(project: &Path, open: u16, closed: u16) -> Vec<Turn> {
    let connect =
        |port| bash(&format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo hello >&3 && echo connected"));
    vec![
        // 0: a child, its child, and one in a session of its own.
        bash(
            "sh -c 'echo child; sh -c \"echo grandchild; true\"; true'; setsid -w sh -c 'echo detached; true'",
        ),
        // 1, 2
        bash("cat README.md"),
        bash("cat .env"),
        // 3, 4: within the agent's own process.
        vec![Block::Tool("Read", json!({ "file_path": project.join(".env") }))],
        vec![Block::Tool(
            "Write",
            json!({ "file_path": project.join("made.txt"), "content": "made by the agent\n" }),
        )],
        // 5, 6
        connect(open),
        connect(closed),
        vec![Block::Text("Done.".to_owned())],
    ]
}

struct World {
    bed: TestBed,
    model: Model,
    open: Listener,
    closed: Listener,
}

impl World {
    fn new(name: &str) -> Self {
        private_network(&[]);
        let bed = TestBed::new(name);
        bed.file("README.md", "# A project\nthe readme's text\n");
        bed.file(".env", format!("TOKEN={SECRET}\n"));
        let (open, closed) = (Listener::tcp("127.0.0.1"), Listener::tcp("127.0.0.1"));
        let turns = turns(&bed.project(), open.address.port(), closed.address.port());
        let model = Model::serve(TcpListener::bind("127.0.0.1:0").unwrap(), turns).unwrap();
        Self { bed, model, open, closed }
    }
}

#[track_caller]
fn seven(told: Vec<Told>) -> [Told; 7] {
    told.try_into().unwrap_or_else(|told: Vec<Told>| panic!("{} results: {told:?}", told.len()))
}

/// Positive control: without the sandbox every step of the script succeeds, and the secret reaches the model.
#[test]
fn bare_the_agent_reads_the_secret_and_both_connections_arrive() {
    let world = World::new("agent-bare");
    let mut process = world.bed.bare_command(claude::command(&claude::program(&world.bed)));
    claude::surroundings(&mut process, world.model.address);
    let child =
        process.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let patience = Duration::from_secs(if crate::bed::is_emulated() { 540 } else { 120 });
    let output = procs::wait_with_output(child, patience);
    assert!(output.status.success(), "{output:?}");
    let [tree, readme, cat, read, write, open, closed] = seven(world.model.told());
    assert_eq!(tree.content.trim(), "child\ngrandchild\ndetached", "{tree:?}");
    assert!(readme.content.contains("the readme's text"), "{readme:?}");
    assert!(cat.content.contains(SECRET) && read.content.contains(SECRET), "{cat:?} {read:?}");
    assert!(!write.is_error && world.bed.project().join("made.txt").exists(), "{write:?}");
    assert!(
        open.content.contains("connected") && closed.content.contains("connected"),
        "{open:?} {closed:?}"
    );
    assert_eq!([world.open.arrived(1), world.closed.arrived(1)], [1, 1]);
    assert!(world.model.heard(SECRET));
}

#[test]
fn under_the_claude_profile_the_agent_works_and_is_refused_what_the_rules_name() {
    let world = World::new("agent-held");
    // The shipped profile, and the host's own say about this network.
    let session = world.bed.policy(
        "session",
        &format!(
            "[network]\nallow = [\"localhost\"]\ndeny = [\"127.0.0.1:{}\"]\n",
            world.closed.address.port()
        ),
    );
    let command = claude::command(&claude::program(&world.bed));
    let mut start = world.bed.start(&[Path::new("claude"), &session], command);
    claude::surroundings(&mut start.process, world.model.address);
    let run = start.finish();
    assert_eq!(run.status.code(), Some(0), "{run}");
    let [tree, readme, cat, read, write, open, closed] = seven(world.model.told());

    // What the model was told.
    assert_eq!(tree.content.trim(), "child\ngrandchild\ndetached", "{tree:?}");
    assert!(readme.content.contains("the readme's text"), "{readme:?}");
    for refused in [&cat, &read] {
        assert!(refused.is_error, "{refused:?}");
        assert!(
            ["ermission denied", "not permitted", "EACCES", "EPERM"]
                .iter()
                .any(|text| refused.content.contains(text)),
            "{refused:?}"
        );
    }
    assert!(!write.is_error, "{write:?}");
    assert_eq!(fs::read_to_string(world.bed.project().join("made.txt")).unwrap(), "made by the agent\n");
    assert!(open.content.contains("connected") && !open.is_error, "{open:?}");
    assert!(closed.is_error && !closed.content.contains("connected"), "{closed:?}");
    assert_eq!([world.open.arrived(1), world.closed.arrived(0)], [1, 0], "{run}");
    assert!(!world.model.heard(SECRET), "the secret left the sandbox");
    assert!(!run.out().contains(SECRET), "{run}");

    tree_is_told(&run);
    files_are_told(&run, &world.bed);
    connections_are_told(&run, &world);
}

/// The tool's processes hang below the agent, each by the pid of its parent.
fn tree_is_told(run: &Run) {
    let start = run.log.of("session.start")[0];
    assert_eq!(start.object("backend"), backend());
    let agent = run.log.of("process.exec")[0];
    assert!(agent.process("exe").ends_with("/bin/claude"), "{agent:?}");
    let one = |argv: &[&str]| -> Event {
        let execs = run.log.execs(argv);
        assert_eq!(execs.len(), 1, "{argv:?}: {run}");
        execs[0].clone()
    };
    let child = one(&["sh", "-c", "echo child; sh -c \"echo grandchild; true\"; true"]);
    let grandchild = one(&["sh", "-c", "echo grandchild; true"]);
    let detached = one(&["sh", "-c", "echo detached; true"]);
    let cat = one(&["cat", "README.md"]);
    assert_eq!(grandchild.ppid(), child.pid());
    let tool = run.log.of("process.exec").into_iter().find(|event| event.pid() == child.ppid()).unwrap();
    assert!(tool.argv()[0].ends_with("bash"), "{tool:?}");
    assert_eq!(tool.ppid(), agent.pid());
    for event in [&child, &grandchild, &detached, &cat] {
        assert!(run.log.descends(event.pid(), agent.pid()), "{event:?}");
    }
}

fn files_are_told(run: &Run, bed: &TestBed) {
    let (readme, env) = (bed.project().join("README.md"), bed.project().join(".env"));
    let by_cat = |event: &&&Event| event.process("exe").ends_with("/cat");
    let read = run.log.about("file.open", &readme);
    assert!(read.iter().any(|event| by_cat(&event) && event.text("outcome") == "allowed"), "{read:?}");
    let denied = run.log.denied("file.open", &env);
    // Around its tools the agent looks into the project by itself too, so there are more.
    assert_eq!(denied.iter().filter(by_cat).count(), 1, "{run}");
    let agent = run.log.of("process.exec")[0].pid();
    assert!(denied.iter().any(|event| event.pid() == agent), "the Read tool is the agent itself: {run}");
    for event in &denied {
        let rule = event.rule().unwrap();
        assert!(rule.contains("/filesystem.deny/"), "{event:?}");
        assert_eq!(event.0["rule"]["layer"], "builtin", "{event:?}");
    }
    let opened = run.log.about("file.open", &env);
    // A handle that only names the file (O_PATH) shows nothing of what is in it.
    let names_only = |event: &Event| event.object("flags").contains("O_PATH");
    assert!(opened.iter().all(|event| event.text("outcome") == "denied" || names_only(event)), "{opened:?}");
}

fn connections_are_told(run: &Run, world: &World) {
    let to = |listener: &Listener| {
        let port = listener.address.port();
        let events = run.log.of("net.connect");
        events.into_iter().filter(|event| event.0["object"]["port"] == port).cloned().collect::<Vec<Event>>()
    };
    let (open, closed) = (to(&world.open), to(&world.closed));
    assert_eq!((open.len(), closed.len()), (1, 1), "{run}");
    assert_eq!((open[0].text("outcome"), open[0].object("address")), ("allowed", "127.0.0.1"));
    assert_eq!((closed[0].text("outcome"), closed[0].rule()), ("denied", Some("session/network.deny/0")));
    assert!(open[0].process("exe").ends_with("/bash"), "{:?}", open[0]);
    assert_eq!(run.log.all_denied("net.connect").len(), 1, "{run}");
}
