//! `audit tail`

use std::{io::Write, thread, time::Duration};

use super::{
    AuditError,
    location::LogArg,
    output::{Format, complain, stdout_layout},
};
use crate::{
    audit::read::{Entry, Follower, LogReader, ReadError},
    diagnostic::Status,
    report::{json, line},
};

/// Between two looks at a log that does not grow.
const PAUSE: Duration = Duration::from_millis(100);

/// Print the last events, and with --follow those that come
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 printed, 1 the log is empty, 2 usage, 125 the log cannot be read.")]
pub(super) struct TailArgs {
    /// Print new events as they come, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many events to begin with
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20)]
    lines: usize,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    log: LogArg,
}

impl TailArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<Status, AuditError> {
        let mut reader = if self.follow {
            self.wait_for_log()?
        } else {
            LogReader::open_at_last(&self.log.find()?, self.lines)?
        };
        let mut count = 0_u64;
        while let Some(entry) = reader.next_entry()? {
            self.print(out, &reader, &entry)?;
            count += 1;
        }
        if !self.follow {
            return Ok(if count > 0 || self.lines == 0 { Status::Success } else { Status::No });
        }
        let mut follower = Follower::new(reader);
        loop {
            out.flush()?;
            while let Some(entry) = follower.poll()? {
                self.print(out, follower.reader(), &entry)?;
            }
            out.flush()?;
            thread::sleep(PAUSE);
        }
    }

    fn wait_for_log(&self) -> Result<LogReader, AuditError> {
        let path = self.log.find_or_first()?;
        let mut has_told = false;
        loop {
            match LogReader::open_at_last(&path, self.lines) {
                Err(ReadError::Missing(_)) => {
                    if !std::mem::replace(&mut has_told, true) {
                        eprintln!("govsandbox: waiting for audit log {}", path.display());
                    }
                    thread::sleep(PAUSE);
                }
                result => return Ok(result?),
            }
        }
    }

    fn print(&self, out: &mut dyn Write, reader: &LogReader, entry: &Entry) -> Result<(), AuditError> {
        complain(entry, reader.path());
        let Ok(record) = &entry.record else { return Ok(()) };
        match self.format {
            Format::Json => json::write_entry(out, entry)?,
            // The terminal may change its width meanwhile.
            Format::Text => line::write_line(out, record, &stdout_layout())?,
        }
        Ok(())
    }
}
