//! What a test's own program does in the sandbox: the test executable started again, as a list of steps.
//!
//! `worker @worker read FILE rename A B …` prints one line for each step: `ok`, with what was read, or the errno's name.
//! `worker @worker serve` takes its steps from standard input, one a line, words divided by tabs.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions, Permissions},
    io::{self, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{programs, sys, unix, wire};

/// First argument of a worker.
pub(crate) const MARK: &str = "@worker";

/// Runs all steps; a failed one is told and does not end the worker.
pub(crate) fn main(words: &[OsString]) -> ExitCode {
    let mut words = words.iter();
    while let Some(verb) = words.next() {
        if verb == "serve" {
            io::stdin().lines().map_while(Result::ok).for_each(|line| serve(&line));
            continue;
        }
        let mut next = || words.next().map(OsString::as_os_str).unwrap_or_default();
        let verb = verb.to_str().unwrap_or_default();
        let answer = match verb {
            "thread" | "orphan" | "spawn" => {
                let (inner, argument) = (next().to_owned(), next().to_owned());
                wrapped(verb, &inner, &argument)
            }
            "thread-exec" => {
                let file = next().to_owned();
                // It does not come back: the process is another program from then on.
                let _ = io::stdout().flush();
                let exec = std::thread::spawn(move || {
                    std::os::unix::process::CommandExt::exec(Command::new("cat").arg(file))
                });
                exec.join().map_or_else(|_| "panicked".to_owned(), |error| errno_name(&error))
            }
            "rename" | "link" | "symlink" => {
                let (from, to) = (next(), next());
                told(two(verb, Path::new(from), Path::new(to)))
            }
            "opens" => {
                let (processes, each, files) = (number(next()), number(next()), next().to_owned());
                told(opens(processes, each, Path::new(&files)))
            }
            "writes" => {
                let (count, file) = (number(next()), next().to_owned());
                let refused = |_: &usize| OpenOptions::new().append(true).open(&file).is_err();
                told(Ok((0..count).filter(refused).count().to_string()))
            }
            "forks" | "threads" | "allocate" => {
                let count = number(next());
                told(Ok(match verb {
                    "forks" => sys::forks(count).to_string(),
                    "threads" => threads(count).to_string(),
                    _ => std::hint::black_box(vec![1_u8; count << 20]).len().to_string(),
                }))
            }
            _ => told(step(verb, Path::new(next()))),
        };
        println!("{answer}");
    }
    ExitCode::SUCCESS
}

/// One step of a worker that is told while it runs. `noise FILE` opens it over and over until the worker ends.
fn serve(line: &str) {
    let words: Vec<OsString> = line.split('\t').map(OsString::from).collect();
    match words.as_slice() {
        [verb, file] if verb == "noise" => {
            let file = file.clone();
            std::thread::spawn(move || {
                loop {
                    drop(fs::File::open(&file));
                    // Each refusal is a record that someone has to write.
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
            println!("ok");
        }
        words => drop(main(words)),
    }
}

fn number(word: &std::ffi::OsStr) -> usize {
    word.to_str().and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn told(result: io::Result<String>) -> String {
    match result {
        Ok(content) if content.is_empty() => "ok".to_owned(),
        Ok(content) => format!("ok {}", content.trim_end()),
        Err(error) => errno_name(&error),
    }
}

/// A step somewhere else than in the worker's first thread.
fn wrapped(place: &str, verb: &OsString, argument: &OsString) -> String {
    let run = {
        let (verb, argument) = (verb.to_string_lossy().into_owned(), argument.clone());
        move || told(step(&verb, Path::new(&argument)))
    };
    match place {
        "thread" => std::thread::spawn(run).join().unwrap_or_else(|_| "panicked".to_owned()),
        "orphan" => sys::in_orphan(run).unwrap_or_else(|error| errno_name(&error)),
        // std starts it by vfork and exec.
        _ => match Command::new("/proc/self/exe").arg(MARK).arg(verb).arg(argument).output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            Err(error) => errno_name(&error),
        },
    }
}

fn two(verb: &str, from: &Path, to: &Path) -> io::Result<String> {
    match verb {
        "rename" => fs::rename(from, to)?,
        "link" => fs::hard_link(from, to)?,
        _ => std::os::unix::fs::symlink(from, to)?,
    }
    Ok(String::new())
}

fn step(verb: &str, path: &Path) -> io::Result<String> {
    if let Some(answer) = wire::step(verb, path).or_else(|| unix::step(verb, path)) {
        return answer;
    }
    match verb {
        "read" => return content(&mut fs::File::open(path)?),
        "list" => {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            return Ok(names.join(","));
        }
        "read-start" => {
            let mut start = [0; 4];
            fs::File::open(path)?.read_exact(&mut start)?;
        }
        "exec-descriptor" => return programs::by_descriptor(path),
        "map-code" => return programs::map(path, true),
        "protect-code" => return programs::map(path, false),
        "race" => return programs::race(path),
        "stat" => return fs::metadata(path).map(|_| String::new()),
        "cd" => std::env::set_current_dir(path)?,
        "write" => OpenOptions::new().write(true).open(path)?.write_all(b"written")?,
        "append" => OpenOptions::new().append(true).open(path)?.write_all(b"more")?,
        "create" => OpenOptions::new().write(true).create_new(true).open(path)?.write_all(b"made")?,
        "truncate" => {
            // truncate(2) itself: an open with O_TRUNC is another hook.
            sys::truncate(path)?;
        }
        "open-truncate" => drop(OpenOptions::new().write(true).truncate(true).open(path)?),
        "unlink" => fs::remove_file(path)?,
        "mkdir" => fs::create_dir(path)?,
        "rmdir" => fs::remove_dir(path)?,
        "chmod" => fs::set_permissions(path, Permissions::from_mode(0o600))?,
        "fchmod" => fs::File::open(path)?.set_permissions(Permissions::from_mode(0o600))?,
        "set-times" => fs::File::open(path)?.set_modified(std::time::UNIX_EPOCH)?,
        "set-flags" => sys::set_flags(path)?,
        "set-acl" => sys::set_acl(path)?,
        "setxattr" => sys::set_xattr(path)?,
        "o-path" => {
            let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            return content(&mut fs::File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))?);
        }
        "openat2" => {
            let handle = rustix::fs::openat2(
                CWD,
                path,
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::empty(),
            )?;
            return content(&mut fs::File::from(handle));
        }
        "call" => return sys::call(&numbers(path)?),
        "call-of-32-bits" => return sys::call_of_32_bits(&numbers(path)?),
        "io-uring-socket" => return sys::socket_by_io_uring(&numbers(path)?),
        "io-uring" => return content(&mut fs::File::from(sys::open_by_io_uring(path)?)),
        "exec" => {
            let output = Command::new(path).output()?;
            return Ok(format!("{} {}", output.status, String::from_utf8_lossy(&output.stdout)));
        }
        "connect" => {
            TcpStream::connect_timeout(&address(path)?, Duration::from_secs(5))?.write_all(b"tcp")?;
        }
        "fast-open" => match address(path)? {
            SocketAddr::V4(to) => sys::connect_by_sending(to)?,
            SocketAddr::V6(_) => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        },
        "send-to" => {
            let (socket, to) = datagram(path)?;
            socket.send_to(b"udp", to)?;
        }
        "connect-udp" => {
            let (socket, to) = datagram(path)?;
            socket.connect(to)?;
            socket.send(b"udp")?;
        }
        "send-marked" => {
            let (socket, to) = datagram(path)?;
            socket.connect(to)?;
            let mark = if to.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            sys::send_with(&socket, None, mark, &2_i32.to_ne_bytes())?;
        }
        "send-routed" => {
            let (socket, to) = datagram(path)?;
            let SocketAddr::V6(to) = to else { return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)) };
            // RFC 6275, 6.4.1: of type 2, and whither it goes on.
            let mut route = vec![0, 2, 2, 1, 0, 0, 0, 0];
            route.extend(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1).octets());
            sys::send_with(&socket, Some(to), (libc::IPPROTO_IPV6, libc::IPV6_RTHDR), &route)?;
        }
        _ => return Err(io::Error::from_raw_os_error(libc::ENOTSUP)),
    }
    Ok(String::new())
}

fn content(file: &mut fs::File) -> io::Result<String> {
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text)?;
    Ok(text)
}

/// `321,0x5,-1` as words.
fn numbers(path: &Path) -> io::Result<Vec<i64>> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(u64::cast_signed),
        None => word.parse().ok(),
    };
    path.to_str().ok_or_else(invalid)?.split(',').map(|word| number(word).ok_or_else(invalid)).collect()
}

fn address(path: &Path) -> io::Result<SocketAddr> {
    path.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

fn datagram(path: &Path) -> io::Result<(UdpSocket, SocketAddr)> {
    let to = address(path)?;
    Ok((UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?, to))
}

/// How many threads of so many could be had at once.
fn threads(count: usize) -> usize {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let start = |_| {
        let wait = std::sync::Arc::clone(&wait);
        std::thread::Builder::new().spawn(move || drop(wait.lock().map(|wait| wait.recv()))).ok()
    };
    let started: Vec<_> = (0..count).map_while(start).collect();
    drop(end);
    started.into_iter().filter_map(|thread| thread.join().ok()).count()
}

/// Opens the files of a folder in turn: `processes` at once, `each` opens a process. Tells the failures.
fn opens(processes: usize, each: usize, folder: &Path) -> io::Result<String> {
    let mut files: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let (mut reader, writer) = io::pipe()?;
    sys::in_processes(processes, |_| {
        let failed = (0..each).filter(|place| fs::File::open(&files[place % files.len()]).is_err()).count();
        let _ = (&writer).write_all(format!("{failed}\n").as_bytes());
    })?;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| line.parse::<usize>().ok()).sum::<usize>().to_string())
}

/// `EACCES` and the like; the number where a test is not about it.
fn errno_name(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(libc::EACCES) => "EACCES",
        Some(libc::EPERM) => "EPERM",
        Some(libc::EROFS) => "EROFS",
        Some(libc::EBUSY) => "EBUSY",
        Some(libc::EXDEV) => "EXDEV",
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::ENOSYS) => "ENOSYS",
        Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT",
        Some(libc::EEXIST) => "EEXIST",
        Some(libc::ECONNREFUSED) => "ECONNREFUSED",
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH",
        Some(libc::ENETUNREACH) => "ENETUNREACH",
        _ => return error.to_string(),
    };
    name.to_owned()
}
