//! The kernel programs' own diagnostics (`aya-log`), bridged to `tracing`; off unless asked for.

use aya::programs::loaded_programs;
use aya_log::EbpfLogger;

use super::load::{self, LoadError, Loaded};

/// Reads what the programs log and hands it to the `log` crate, from where it goes to `tracing`.
pub struct KernelLog(EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    /// `None`: the programs were loaded without their messages (`GOVSANDBOX_BPF_LOG`).
    ///
    /// # Errors
    /// When the pinned buffer can't be opened.
    pub fn open(loaded: &Loaded) -> Result<Option<Self>, LoadError> {
        if load::log_level() == 0 {
            return Ok(None);
        }
        let buffer = loaded.map("AYA_LOGS")?;
        let Ok(info) = buffer.info() else { return Ok(None) };
        // The reader finds its buffer through a program that writes to it.
        let writer = loaded_programs()
            .flatten()
            .find(|program| program.map_ids().ok().flatten().is_some_and(|maps| maps.contains(&info.id())));
        let logger = writer.and_then(|program| EbpfLogger::init_from_id(program.id()).ok());
        Ok(logger.map(Self))
    }

    /// Passes on what has come since.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
