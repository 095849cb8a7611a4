//! The end of `govsandbox approve` and `refuse`.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::{Decision, Id, PACKET_BYTES_MAX, Reply, Request, Waiting};
use crate::sys::packet;

/// A supervisor that answers later is stopped or starved.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run did not answer.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ClientError {
    /// The sockets are out of reach.
    #[error("cannot look for runs that ask, in {path}")]
    #[diagnostic(help("only root may see and decide: sudo govsandbox approve"))]
    OutOfReach {
        /// Their folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It refuses to say.
    #[error("sandbox {sandbox} does not take this from you")]
    #[diagnostic(help("only root may decide, and nobody from within a sandbox"))]
    NotYours {
        /// Which.
        sandbox: u32,
    },
    /// It is there and says nothing.
    #[error("sandbox {sandbox} does not answer")]
    #[diagnostic(help("its supervisor is stopped, or does too much; try again"))]
    NoAnswer {
        /// Which.
        sandbox: u32,
        /// Why.
        source: io::Error,
    },
}

/// What waits in all runs, the oldest of each first, and which runs did not say.
///
/// # Errors
/// The sockets are out of reach.
pub fn waiting(folder: &Path) -> Result<(Vec<Waiting>, Vec<ClientError>), ClientError> {
    let out_of_reach = |source| ClientError::OutOfReach { path: folder.display().to_string(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(out_of_reach(error)),
    };
    let mut sandboxes = Vec::new();
    for entry in entries {
        let name = entry.map_err(out_of_reach)?.file_name();
        sandboxes.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    sandboxes.sort_unstable();
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for sandbox in sandboxes {
        match ask(folder, sandbox, &Request::List) {
            Ok(Some(Reply::Waiting(waiting))) => found.extend(waiting),
            Ok(_) => {}
            Err(error @ ClientError::NoAnswer { .. }) => silent.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((found, silent))
}

/// Answers a question; `None`: it does not wait any more, or never did.
///
/// # Errors
/// The run is out of reach or did not answer.
pub fn decide(folder: &Path, id: Id, decision: Decision) -> Result<Option<Waiting>, ClientError> {
    match ask(folder, id.sandbox, &Request::Decide(id.number, decision))? {
        Some(Reply::Decided(decided)) => Ok(decided),
        _ => Ok(None),
    }
}

/// `None`: there is no such run, or it has ended.
fn ask(folder: &Path, sandbox: u32, request: &Request) -> Result<Option<Reply>, ClientError> {
    let path = folder.join(sandbox.to_string());
    let to_run = || -> Result<OwnedFd, Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, direction, Some(PATIENCE))?;
        }
        connect(&socket, &SocketAddrUnix::new(&path)?)?;
        Ok(socket)
    };
    let socket = match to_run() {
        Ok(socket) => socket,
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None), // of a supervisor that was killed
        Err(errno) => {
            return Err(ClientError::OutOfReach { path: path.display().to_string(), source: errno.into() });
        }
    };
    let no_answer = |source| ClientError::NoAnswer { sandbox, source };
    let exchange = || -> io::Result<_> {
        packet::send(socket.as_fd(), &serde_json::to_vec(request)?, None)?;
        packet::receive(socket.as_fd(), PACKET_BYTES_MAX)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    };
    let (text, _) = match exchange() {
        // It has ended meanwhile.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            return Ok(None);
        }
        exchanged => exchanged.map_err(no_answer)?,
    };
    match serde_json::from_slice(&text).map_err(|error| no_answer(error.into()))? {
        Reply::NotYours => Err(ClientError::NotYours { sandbox }),
        reply => Ok(Some(reply)),
    }
}
