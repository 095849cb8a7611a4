//! Programs that exec rules deny: other names for them, other ways to their code, other words for their arguments.

use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::Command,
};

use crate::attempt::{Attempt, Class, Inside, Told};

/// What each attempt finds in its folder is named so. The rules are about names, so that each folder has its own.
const RULES: &str = "[exec]\ndeny = [\"denied\", { command = \"picky\", args = [\"push\", \"**\"] }]\n";
const DENIED: Told = Told::Event { kind: "process.exec", rule: "test/exec.deny/0", about: "{name}/" };
const PICKY: Told = Told::Event { kind: "process.exec", rule: "test/exec.deny/1", about: "{name}/" };

/// An attempt that reaches its goal when the program has run.
fn new(
    name: &str,
    what: &'static str,
    source: &'static str,
    run: impl Fn(&Inside) -> io::Result<Command> + 'static,
) -> Attempt {
    Attempt::new(format!("exec-{name}"), Class::Exec, what, source)
        .policy(RULES)
        .staged(|stage| {
            let echo = std::fs::read("/bin/echo").unwrap();
            for name in ["denied", "picky"] {
                stage.script(name, &echo);
            }
            stage.link("denied", "linked");
            stage.symlink("symlink", "denied");
            stage.script("script-denied/denied", "#!/bin/sh\necho \"$@\"\n");
            stage.script("by-denied", format!("#!{} RAN\n", stage.path("denied").display()));
        })
        .acts(move |at| ran(run(at)?))
        .told(DENIED)
}

/// Ok if the program said what it was told to.
fn ran(mut command: Command) -> io::Result<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match (text.contains("RAN") || text.contains("push"), output.status.signal(), output.status.code()) {
        (true, _, _) => Ok(text),
        // Killed before its first instruction, 137 to a shell; 126 is EPERM to it and to env, 127 to the loader.
        (false, Some(libc::SIGKILL), _) | (false, _, Some(126 | 127 | 137)) => {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        }
        _ => Err(io::Error::other(format!("{output:?}"))),
    }
}

fn of(program: impl AsRef<Path>, words: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(words);
    command
}

fn loader() -> &'static str {
    let known = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    known.into_iter().find(|path| Path::new(path).exists()).unwrap_or("/lib/ld.so")
}

pub(crate) fn attempts() -> Vec<Attempt> {
    vec![
        new("plain", "the program by its path", "execve(2)", |at| Ok(of(at.path("denied"), &["RAN"]))),
        new("symlink", "a symlink with another name", "execve(2)", |at| Ok(of(at.path("symlink"), &["RAN"]))),
        new("argv0", "another argv[0]", "execve(2)", |at| {
            let mut command = of(at.path("denied"), &["RAN"]);
            command.arg0("allowed");
            Ok(command)
        }),
        new("shell", "a shell in between", "sh(1)", |at| {
            Ok(of("/bin/sh", &["-c", &format!("{} RAN", at.path("denied").display())]))
        }),
        new("env", "env in between", "env(1)", |at| {
            Ok(of("/usr/bin/env", &[&at.path("denied").display().to_string(), "RAN"]))
        }),
        new("script", "a script of that name", "execve(2)", |at| {
            Ok(of(at.path("script-denied/denied"), &["RAN"]))
        }),
        new("interpreter", "as the interpreter of a script", "execve(2), interpreter scripts", |at| {
            Ok(of(at.path("by-denied"), &[]))
        }),
        new("interpreter-argument", "the script as an argument of env's shebang", "env(1)", |at| {
            let script = at.path("nested");
            let line = format!("#!/usr/bin/env -S {} RAN\n", at.path("denied").display());
            std::fs::write(&script, line)?;
            std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            Ok(of("/bin/sh", &["-c", &script.display().to_string()]))
        }),
        new("loader", "the dynamic loader with the program as its argument", "ld.so(8)", |at| {
            Ok(of(loader(), &[&at.path("denied").display().to_string(), "RAN"]))
        }),
        new("own-loader", "a copy of the loader", "ld.so(8)", |at| {
            std::fs::copy(loader(), at.path("own"))?;
            Ok(of(
                "/bin/sh",
                &["-c", &format!("{} {} RAN", at.path("own").display(), at.path("denied").display())],
            ))
        }),
        new("link", "/proc/self/fd of an open descriptor", "proc(5)", |at| {
            let script = format!("exec 7<{}; /proc/self/fd/7 RAN", at.path("denied").display());
            Ok(of("/bin/sh", &["-c", &script]))
        }),
        new("renamed-folder", "the folder around it renamed", "rename(2)", |at| {
            std::fs::create_dir(at.path("a"))?;
            std::fs::rename(at.path("denied"), at.path("a/denied"))?;
            std::fs::rename(at.path("a"), at.path("b"))?;
            Ok(of(at.path("b/denied"), &["RAN"]))
        }),
        new("copy-of-the-name", "a copy of the same name elsewhere", "cp(1)", |at| {
            std::fs::create_dir(at.path("c"))?;
            std::fs::copy(at.path("denied"), at.path("c/denied"))?;
            Ok(of("/bin/sh", &["-c", &format!("{} RAN", at.path("c/denied").display())]))
        }),
        new("arguments", "the denied arguments", "execve(2)", |at| Ok(of(at.path("picky"), &["push", "x"])))
            .told(PICKY),
        new("arguments-by-shell", "the denied arguments, put together by a shell", "sh(1)", |at| {
            let script = format!("a=pu; b=sh; {} \"$a$b\"", at.path("picky").display());
            Ok(of("/bin/sh", &["-c", &script]))
        })
        .told(PICKY),
        new("arguments-by-loader", "the denied arguments behind the loader", "ld.so(8)", |at| {
            Ok(of(loader(), &[&at.path("picky").display().to_string(), "push"]))
        })
        .told(PICKY),
        new("another-name", "a copy under another name", "cp(1)", |at| {
            std::fs::copy(at.path("denied"), at.path("free"))?;
            Ok(of("/bin/sh", &["-c", &format!("{} RAN", at.path("free").display())]))
        })
        .not_held("A name is a name: a copy, or a file in memory, under another one is another program"),
    ]
}
