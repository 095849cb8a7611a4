//! `cargo xtask bench-worker OPERATION COUNT`: does one thing many times and prints how long that took.
//!
//! The time is taken inside, around the loop alone, so that the start of the process is not part of it.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::egress::HOST;

/// Repetitions before the clock starts: caches, verdicts that are given once, lazily bound symbols.
const WARM_UP_COUNT: u64 = 20;

/// Do one thing many times; what `cargo xtask bench` runs bare and sandboxed
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    #[arg(value_enum)]
    operation: Operation,
    count: u64,
    /// The file that `open` opens, or the program that `exec` starts
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Wait for the end of standard input before ending
    #[arg(long)]
    wait: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Operation {
    /// Open a file for reading and close it
    Open,
    /// Start the program given by --file and wait for its end
    Exec,
    /// Connect to a TCP listener of our own on 127.0.0.1 and close
    Connect,
    /// Look the bench's host up
    Lookup,
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exec => "exec",
            Self::Connect => "connect",
            Self::Lookup => "lookup",
        }
    }
}

/// Runs the task: prints the nanoseconds that `count` repetitions took.
pub(crate) fn run(args: &WorkerArgs) -> Result<()> {
    let took = match args.operation {
        Operation::Open => {
            timed(args.count, || black_box(File::open(&args.file)).map(drop).map_err(Into::into))?
        }
        Operation::Exec => timed(args.count, || {
            let status = Command::new(&args.file).stdin(Stdio::null()).status()?;
            if status.success() { Ok(()) } else { bail!("{} ended with {status}", args.file.display()) }
        })?,
        Operation::Connect => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            thread::spawn(move || listener.incoming().for_each(drop));
            timed(args.count, || TcpStream::connect(address).map(drop).map_err(Into::into))?
        }
        Operation::Lookup => {
            timed(args.count, || black_box((HOST, 443).to_socket_addrs()).map(drop).map_err(Into::into))?
        }
    };
    println!("{}", took.as_nanos());
    std::io::stdout().flush()?;
    if args.wait {
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// Time of `count` repetitions, as half the difference between three times as many and as many: what happens once
/// falls out.
fn timed(count: u64, mut operation: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut repeat = |count| {
        let start = Instant::now();
        (0..count).try_for_each(|_| operation())?;
        anyhow::Ok(start.elapsed())
    };
    repeat(WARM_UP_COUNT)?;
    let (once, thrice) = (repeat(count)?, repeat(3 * count)?);
    Ok(thrice.saturating_sub(once) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_once_is_not_part_of_the_time() {
        let mut calls = 0;
        let took = timed(5, || {
            calls += 1;
            if calls == WARM_UP_COUNT + 1 {
                thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        });
        assert_eq!(calls, WARM_UP_COUNT + 20);
        assert!(took.unwrap() < Duration::from_millis(200));
    }

    #[test]
    fn an_operation_that_fails_is_no_measurement() {
        assert!(timed(1, || bail!("refused")).is_err());
    }
}
