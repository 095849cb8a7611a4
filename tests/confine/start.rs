//! What keeps a command from starting, and what it is told.

use std::{fs, os::unix::net::UnixStream, path::PathBuf};

use crate::bed::{Bed, launch, run, supervise};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_command_that_is_not_there_is_127", a_command_that_is_not_there_is_127),
    ("a_command_that_cannot_be_executed_is_126", a_command_that_cannot_be_executed_is_126),
    ("folders_and_sockets_are_no_standard_input", folders_and_sockets_are_no_standard_input),
    ("a_redirected_file_keeps_its_place", a_redirected_file_keeps_its_place),
    ("a_missing_working_directory_is_125", a_missing_working_directory_is_125),
];

fn error_status(plan: &govsandbox::launch::LaunchPlan) -> (i32, String) {
    let outcome = supervise(|| {
        match govsandbox::launch::spawn(plan, |_| Ok(())).and_then(|prepared| prepared.release()) {
            Ok(_) => 0,
            Err(error) => {
                eprintln!("{error}");
                error.status() as i32
            }
        }
    })
    .finish();
    (outcome.status, outcome.stderr)
}

fn a_command_that_is_not_there_is_127() {
    let bed = Bed::new();
    let (status, text) = error_status(&bed.plan(&["no-such-command-x"]));
    assert_eq!((status, text.trim()), (127, "`no-such-command-x` is not found"));
    assert_eq!(error_status(&bed.plan(&["true"])).0, 0);
}

fn a_command_that_cannot_be_executed_is_126() {
    let bed = Bed::new();
    let file = bed.file("plain", "no program");
    let (status, text) = error_status(&bed.plan(&[file.to_str().unwrap()]));
    assert_eq!((status, text.contains("cannot be executed")), (126, true), "{text}");
}

fn folders_and_sockets_are_no_standard_input() {
    let bed = Bed::new();
    let plan = bed.plan(&["true"]);
    let with_stdin = |fd: &dyn std::os::fd::AsFd| {
        supervise(|| {
            rustix::stdio::dup2_stdin(fd.as_fd()).unwrap();
            launch(&plan)
        })
        .finish()
    };
    let folder = with_stdin(&fs::File::open("/").unwrap());
    assert_eq!((folder.status, folder.stderr.contains("a folder")), (125, true), "{folder:?}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = with_stdin(&listener);
    assert_eq!((socket.status, socket.stderr.contains("a socket")), (125, true), "{socket:?}");
    // Controls: a pair without a name, as CI runners give it, and a file.
    let (pair, _other) = UnixStream::pair().unwrap();
    assert_eq!(with_stdin(&pair).status, 0);
    assert_eq!(with_stdin(&fs::File::open("/etc/passwd").unwrap()).status, 0);
}

fn a_redirected_file_keeps_its_place() {
    let bed = Bed::new();
    let path = bed.file("out", "");
    let plan = bed.plan(&["sh", "-c", "echo inside"]);
    let outcome = supervise(|| {
        let file = fs::File::options().write(true).open(&path).unwrap();
        rustix::stdio::dup2_stdout(&file).unwrap();
        rustix::io::write(rustix::stdio::stdout(), b"before\n").unwrap();
        let status = launch(&plan);
        rustix::io::write(rustix::stdio::stdout(), b"after\n").unwrap();
        status
    })
    .finish();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before\ninside\nafter\n");
}

fn a_missing_working_directory_is_125() {
    let bed = Bed::new();
    let mut plan = bed.plan(&["true"]);
    assert_eq!(run(&plan).status, 0);
    plan.cwd = PathBuf::from("/no/such/folder");
    assert_eq!(run(&plan).status, 125);
}
