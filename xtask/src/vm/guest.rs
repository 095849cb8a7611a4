//! One run of a guest: its script, its initramfs, the servers of its file systems, QEMU itself, and its output.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Machine;
use super::initramfs::Archive;
use super::kernel::Kernel;
use crate::install_tools;
use crate::process::{self, quote};

/// Where a copy of the guest's output goes.
pub(crate) type Sink = Box<dyn Write + Send>;

/// Exit status when the time limit was reached, as coreutils' `timeout` has it.
pub(crate) const TIMED_OUT: u8 = 124;
/// Exit status when the machine, not the command, failed.
pub(crate) const FAILED: u8 = 125;

/// Variables that come along, and beginnings of names that do.
const PASSED_NAMES: [&str; 6] = ["PATH", "HOME", "USER", "TERM", "LANG", "CI"];
const PASSED_PREFIXES: [&str; 6] = ["CARGO", "RUST", "GOV", "INSTA_", "PROPTEST_", "NO_COLOR"];

const INIT: &[u8] = include_bytes!("init.sh");
const CONSOLE_LINES_SHOWN: usize = 15;
const POLL: Duration = Duration::from_millis(20);

/// The machine ended before its command began: emulated kernels panic now and then while they boot.
#[derive(Debug)]
pub(crate) struct NotBooted(String);

impl std::fmt::Display for NotBooted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "the guest did not boot\n{}", self.0)
    }
}

impl std::error::Error for NotBooted {}

pub(super) fn run(
    machine: &Machine,
    kernel: &Kernel,
    command: &[String],
    stdout: Sink,
    stderr: Sink,
) -> Result<u8> {
    let work = tempfile::Builder::new().prefix("govsandbox-vm.").tempdir()?;
    let work = work.path();
    let script = work.join("script");
    fs::write(&script, guest_script(machine, command)?)?;
    fs::write(work.join("initramfs"), initramfs(machine, kernel, &script)?)?;

    let channels = [("stdout", stdout), ("stderr", stderr)];
    let copies = channels.map(|(name, sink)| copy_from_guest(&work.join(name), sink));
    let (status_at, status_of_guest) = collect_from_guest(&work.join("status"))?;
    let _servers = file_servers(machine, work)?;
    let mut qemu = Process::start(&mut qemu(machine, kernel, work)?, &work.join("qemu.log"))?;
    let ended = qemu.wait(machine.timeout)?;
    drop(qemu);

    // QEMU is gone, so each copy ends with what is still in its socket; without a guest nothing ever connected.
    for (copy, name) in copies.into_iter().zip(["stdout", "stderr"]) {
        wake(&work.join(name));
        copy?.join().map_err(|_| anyhow::anyhow!("the copy of the guest's {name} broke off"))??;
    }
    wake(&status_at);
    let said = status_of_guest.join().map_err(|_| anyhow::anyhow!("the guest's status got lost"))??;
    // `started`, then the command's status.
    if let Some(Ok(status)) = said.lines().nth(1).map(str::parse::<u8>) {
        return Ok(status);
    }
    if ended && said.is_empty() {
        return Err(anyhow::Error::new(NotBooted(logs(work))));
    }
    if ended {
        bail!("the guest ended without a status\n{}", logs(work));
    }
    eprintln!("vm: stopped after {} s", machine.timeout.as_secs());
    Ok(TIMED_OUT)
}

/// What process 1 of the guest does on its real root file system.
fn guest_script(machine: &Machine, command: &[String]) -> Result<String> {
    let mut script = String::new();
    // The three channels of the guest are ports of one virtio console, found by name.
    script.push_str(
        "port() { for p in /sys/class/virtio-ports/*; do [ \"$(cat \"$p/name\")\" = \"$1\" ] && echo \"/dev/${p##*/}\"; done; }\n",
    );
    // The command writes into pipes, as under any test harness: a port can be opened only once, so `/dev/stderr`
    // would not work on it.
    script.push_str("busybox mkfifo /run/out /run/err\n");
    script.push_str("busybox cat /run/out >\"$(port stdout)\" & out=$!\nbusybox cat /run/err >\"$(port stderr)\" & err=$!\n");
    script.push_str(
        "exec </dev/null >/run/out 2>/run/err 9>\"$(port status)\"\necho started >&9\nbusybox rm /run/out /run/err\n",
    );
    for (name, value) in passed_environment().chain(machine.environment.iter().cloned()) {
        script.push_str(&format!("export {name}={}\n", quote(&value)));
    }
    script.push_str(&format!("cd {}\n", quote(&folder(machine)?.to_string_lossy())));
    let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
    // Not as process 1, whose signals are ignored; in a session of its own, as any command that a service starts.
    script.push_str(&format!("busybox setsid /bin/sh -c 'exec \"$@\"' sh {} 9>&-\n", words.join(" ")));
    script.push_str("code=$?\nexec >/dev/null 2>&1\n");
    // What the command left behind may hold the pipes open for ever.
    script.push_str("{ busybox sleep 2; kill $out $err; } &\nwait $out $err\nbusybox sync\n");
    script.push_str("echo $code >&9\nbusybox poweroff -f\n");
    Ok(script)
}

/// Where the command is to run.
fn folder(machine: &Machine) -> Result<PathBuf> {
    match &machine.folder {
        Some(folder) => Ok(folder.clone()),
        None => Ok(env::current_dir()?),
    }
}

fn passed_environment() -> impl Iterator<Item = (String, String)> {
    let passes = |name: &str| {
        PASSED_NAMES.contains(&name) || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let valid = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let text = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    text.filter(move |(name, _)| passes(name) && valid(name))
}

fn initramfs(machine: &Machine, kernel: &Kernel, script: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "proc", "sys", "dev", "host", "layer", "new", "modules"] {
        archive.folder(folder);
    }
    let busybox = process::find("busybox").context("busybox is missing")?;
    archive.file("bin/busybox", &fs::read(busybox)?);
    archive.file("init", INIT);
    let mut order = String::new();
    for module in &kernel.boot_modules {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        archive.file(&format!("modules/{name}"), &fs::read(module)?);
        order.push_str(&format!("{name}\n"));
    }
    archive.file("modules/order", order.as_bytes());
    let settings = format!(
        "MODULES={}\nSCRIPT={}\nFOLDER={}\nOUT={}\n",
        quote(&kernel.modules.to_string_lossy()),
        quote(&script.to_string_lossy()),
        quote(&folder(machine)?.to_string_lossy()),
        if machine.out.is_some() { "yes" } else { "" },
    );
    archive.file("settings", settings.as_bytes());
    Ok(archive.finish())
}

/// Starts the servers of the guest's file systems and waits for their sockets.
fn file_servers(machine: &Machine, work: &Path) -> Result<Vec<Process>> {
    let mut shares = vec![("host", Path::new("/").to_path_buf(), "always")];
    if let Some(out) = &machine.out {
        shares.push((
            "out",
            out.canonicalize().with_context(|| format!("no folder {}", out.display()))?,
            "none",
        ));
    }
    let virtiofsd = install_tools::virtiofsd()?;
    let mut servers = Vec::new();
    for (tag, source, cache) in shares {
        let socket = work.join(tag);
        let mut command = Command::new(&virtiofsd);
        command.arg(format!("--socket-path={}", socket.display()));
        command.args(["-o", &format!("source={}", source.display())]);
        command.args(["-o", &format!("cache={cache}"), "-o", "sandbox=chroot"]);
        let mut server = Process::start(&mut command, &work.join(format!("{tag}.log")))?;
        let patience = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            if Instant::now() > patience || server.has_ended()? {
                bail!("virtiofsd does not serve {}\n{}", source.display(), logs(work));
            }
            thread::sleep(POLL);
        }
        servers.push(server);
    }
    Ok(servers)
}

fn qemu(machine: &Machine, kernel: &Kernel, work: &Path) -> Result<Command> {
    let mut command = Command::new("qemu-system-x86_64");
    match machine.icount {
        true => command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-smp", "1"]),
        false => command.args(["-accel", "tcg,thread=multi", "-smp", &machine.cpus.to_string()]),
    };
    let memory = machine.memory_mib;
    command.args(["-cpu", "max", "-m", &memory.to_string()]);
    command.args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")]);
    command.args(["-numa", "node,memdev=memory"]);
    let tags: &[&str] = if machine.out.is_some() { &["host", "out"] } else { &["host"] };
    for tag in tags {
        command.args(["-chardev", &format!("socket,id={tag},path={}", work.join(tag).display())]);
        command.args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag}")]);
    }
    command.args(["-device", "virtio-serial-pci"]);
    for name in ["stdout", "stderr", "status"] {
        command.args(["-chardev", &format!("socket,id={name},path={}", work.join(name).display())]);
        command.args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
    }
    command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults"]);
    command.args(["-serial", &format!("file:{}", work.join("console").display())]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(work.join("initramfs"));
    let arguments = format!("console=ttyS0 quiet panic=-1 rdinit=/init {}", machine.append);
    command.args(["-append", arguments.trim_end()]);
    Ok(command)
}

/// Copies what one channel of the guest says to `sink`, until the channel closes.
fn copy_from_guest(socket: &Path, mut sink: Sink) -> Result<JoinHandle<Result<()>>> {
    let listener = UnixListener::bind(socket)?;
    Ok(thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = stream.read(&mut buffer)?;
            let Some(said) = buffer.get(..count).filter(|said| !said.is_empty()) else { return Ok(()) };
            // A reader that went away (`| head`) must not end the guest half-way.
            drop(sink.write_all(said).and_then(|()| sink.flush()));
        }
    }))
}

/// Collects what one channel of the guest says.
fn collect_from_guest(socket: &Path) -> Result<(std::path::PathBuf, JoinHandle<Result<String>>)> {
    let listener = UnixListener::bind(socket)?;
    let collected = thread::spawn(move || {
        let mut said = String::new();
        listener.accept()?.0.take(16).read_to_string(&mut said)?;
        Ok(said)
    });
    Ok((socket.to_path_buf(), collected))
}

/// Lets a thread that waits for a guest's connection go on, if none ever came.
fn wake(socket: &Path) {
    drop(std::os::unix::net::UnixStream::connect(socket));
}

/// The last lines of everything that QEMU, virtiofsd and the guest's kernel wrote.
fn logs(work: &Path) -> String {
    let mut text = String::new();
    for name in ["qemu.log", "host.log", "out.log", "console"] {
        let content = fs::read(work.join(name)).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<_> = content.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(CONSOLE_LINES_SHOWN)) {
            text.push_str(&format!("  {name}: {line}\n"));
        }
    }
    text
}

/// A process that never outlives this one, or this value.
struct Process {
    child: Child,
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        // util-linux' setpriv asks the kernel to kill the child when we die, however we do.
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        let log = File::create(log)?;
        tied.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = tied.spawn().with_context(|| format!("cannot start `{}`", process::describe(command)))?;
        Ok(Self { child })
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the end; false if the time was over first.
    fn wait(&mut self, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        while !self.has_ended()? {
            if Instant::now() > end {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_sets_variables_and_quotes_words() {
        let mut machine = Machine::new("6.12");
        machine.environment.push(("GOVSANDBOX_TEST_BACKEND".to_owned(), "l s m".to_owned()));
        machine.folder = Some("/some where".into());
        let script = guest_script(&machine, &["echo".to_owned(), "it's".to_owned()]).unwrap();
        assert!(script.contains("export GOVSANDBOX_TEST_BACKEND='l s m'\n"), "{script}");
        assert!(script.contains("cd '/some where'\n"), "{script}");
        assert!(script.contains(r"sh echo 'it'\''s'"), "{script}");
    }

    #[test]
    fn a_process_is_killed_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let mut process =
            Process::start(Command::new("sleep").arg("60"), &folder.path().join("log")).unwrap();
        assert!(!process.wait(Duration::from_millis(50)).unwrap());
        let pid = process.child.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
