//! `process.namespaces = "allow"`: a command that brings a sandbox of its own.

use govsandbox_ebpf::abi::{
    ground::{Ground, Lists},
    rule::{Automaton, SandboxConfig},
};

use crate::{
    backend::{
        Kind,
        grounds::{self, GroundError},
        programs::Programs,
    },
    bpf::tag::Held,
    launch::{privilege::Identity, seccomp},
    policy::compile::{Compiled, Namespaces},
};

/// What can't be held together with it.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(super) enum NamespacesError {
    #[error("`process.namespaces = \"allow\"` cannot be held by the backend `{0}`")]
    #[diagnostic(help(
        "boot with `bpf` in the kernel's lsm= list (`govsandbox doctor` says how), or leave the key out and switch the \
         agent's own sandbox off: this one holds every process that it starts"
    ))]
    Backend(Kind),
    #[error("`process.namespaces = \"allow\"` cannot be held for uid 0")]
    #[diagnostic(help(
        "start through sudo as the user it should run as, or name one (--user NAME); or leave the key out"
    ))]
    Root,
    #[error("`match = \"content\"` cannot be held together with `process.namespaces = \"allow\"`")]
    #[diagnostic(help("name the programs by path or by name, or leave `process.namespaces` out"))]
    Content,
    #[error("`exec.allow` cannot be held together with `process.namespaces = \"allow\"`")]
    #[diagnostic(help(
        "on a file system that the command mounts itself a program can lie at any path: name in `exec.deny` what must \
         not run, or leave `process.namespaces` out"
    ))]
    ExecAllow,
}

/// What there is of it in the kernel.
pub(super) struct Open {
    pub(super) held: Vec<Held>,
    lists: Lists,
    proc: Ground,
}

pub(super) fn are_allowed(compiled: &Compiled) -> bool {
    compiled.namespaces == Namespaces::Allow
}

/// For the seccomp filter.
pub(super) fn filtered(compiled: &Compiled) -> seccomp::Namespaces {
    match compiled.namespaces {
        Namespaces::Allow => seccomp::Namespaces::Allow,
        Namespaces::Deny => seccomp::Namespaces::Deny,
    }
}

/// Refuses what can't be held, before anything is created.
pub(super) fn check(
    compiled: &Compiled,
    kind: Kind,
    identity: &Identity,
    programs: Option<&Programs>,
) -> Result<(), NamespacesError> {
    if !are_allowed(compiled) {
        return Ok(());
    }
    if kind != Kind::Lsm {
        return Err(NamespacesError::Backend(kind));
    }
    if identity.uid == 0 {
        return Err(NamespacesError::Root);
    }
    if programs.is_some_and(|programs| !programs.by_content.is_empty()) {
        return Err(NamespacesError::Content);
    }
    if programs.is_some_and(|programs| programs.table.required != 0) {
        return Err(NamespacesError::ExecAllow);
    }
    Ok(())
}

/// Looks at the machine's mounts where the policy allows more of them; `automaton` and `programs` are the rules by name.
/// `None`: it does not.
pub(super) fn open(
    compiled: &Compiled,
    automaton: &Automaton,
    programs: Option<&Programs>,
) -> Result<Option<Open>, GroundError> {
    if !are_allowed(compiled) {
        return Ok(None);
    }
    let exec = programs.map(|programs| &*programs.table);
    let found = grounds::find(&compiled.paths.allow, automaton, exec)?;
    Ok(Some(Open { held: found.held, lists: found.lists, proc: found.proc }))
}

/// What the hooks are told of it: how the sandbox is run, and what is known of `proc`.
pub(super) fn told(open: Option<&Open>, config: SandboxConfig) -> (SandboxConfig, Option<Ground>) {
    match open {
        Some(open) => (SandboxConfig { namespaces: 1, lists: open.lists, ..config }, Some(open.proc)),
        None => (config, None),
    }
}
