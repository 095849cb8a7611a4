//! Who gives verdicts on files: chosen by trying, the strongest first.

mod agent;
mod checks;
pub mod fanotify;
pub mod grounds;
pub mod guarantee;
mod links;
pub mod lsm;
pub mod machine;
pub mod perform;
pub mod programs;
pub mod unload;

use std::fmt;

use crate::{
    bpf::{
        load::{LoadError, Loaded},
        preemption::Preemption,
    },
    policy::compile::Require,
};

/// A backend of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BPF LSM programs.
    Lsm,
    /// Fanotify permission events, mounts and seccomp.
    Fanotify,
}

/// What this machine gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backend.
    pub kind: Kind,
    /// Better ones, and why they are not had.
    pub not_had: Vec<(Kind, String)>,
}

/// No backend will do.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ChoiceError {
    /// None works.
    #[error("no backend works on this machine: {}", reasons(.0))]
    #[diagnostic(help("`govsandbox doctor` says what is missing and how to mend it"))]
    None(Vec<(Kind, String)>),
    /// One works and is not enough.
    #[error("the policy requires verdicts made in the kernel; this machine has only `{}`: {}", .choice.kind, reasons(&.choice.not_had))]
    #[diagnostic(help("boot with `bpf` in the kernel's lsm= list, or accept `require = \"root\"`"))]
    TooWeak {
        /// What there is.
        choice: Choice,
    },
    /// What was found can't be remembered.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Load(#[from] LoadError),
}

impl Kind {
    /// As in events and in `doctor`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::Fanotify => "fanotify",
        }
    }

    /// The strictest `require` that it meets.
    #[must_use]
    pub fn meets(self) -> Require {
        match self {
            Self::Lsm => Require::Kernel,
            Self::Fanotify => Require::Root,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Tries the backends; what works is remembered beside the loaded programs.
///
/// # Errors
/// [`ChoiceError`] with the reason for each.
pub fn choose(loaded: &Loaded, require: Require) -> Result<Choice, ChoiceError> {
    let mut not_had = Vec::new();
    for kind in [Kind::Lsm, Kind::Fanotify] {
        let unfit = match kind {
            Kind::Lsm => Preemption::now().breaks_storage(),
            Kind::Fanotify => None,
        };
        if let Some(reason) = unfit {
            not_had.push((kind, reason));
            continue;
        }
        let fact = format!("works_{kind}");
        if !loaded.remembers(&fact) {
            if let Err(reason) = try_out(kind, loaded)? {
                not_had.push((kind, reason));
                continue;
            }
            loaded.remember(&fact)?;
        }
        let choice = Choice { kind, not_had };
        return if kind.meets() < require { Err(ChoiceError::TooWeak { choice }) } else { Ok(choice) };
    }
    Err(ChoiceError::None(not_had))
}

/// Why a backend does not work here; that it could not be tried is an error, and no reason to take a weaker one.
fn try_out(kind: Kind, loaded: &Loaded) -> Result<Result<(), String>, LoadError> {
    Ok(match kind {
        Kind::Lsm => match lsm::probe(loaded) {
            Err(lsm::ProbeError::Busy(error)) => return Err(error.into()),
            tried => tried.map_err(|error| error.to_string()),
        },
        Kind::Fanotify => fanotify::probe().map_err(|error| error.to_string()),
    })
}

fn reasons(not_had: &[(Kind, String)]) -> String {
    let reasons: Vec<String> = not_had.iter().map(|(kind, reason)| format!("`{kind}`: {reason}")).collect();
    reasons.join("; ")
}
