//! One direction of a connection: `splice(2)` from one socket to the other by way of a pipe. The bytes stay in the kernel.

use std::{io, os::fd::AsFd as _};

use rustix::{
    net::{Shutdown, shutdown},
    pipe::{SpliceFlags, splice},
};
use tokio::{io::Interest, net::TcpStream};

use super::pipes::{PIPE_BYTES, Pipe, Pipes};

/// Rounds before others have their turn.
const ROUNDS_MAX: u32 = 16;

/// Passes bytes on until the end of them, and the end too.
///
/// # Errors
/// Either side is reset or lost: so must be the other.
pub(super) async fn pass(from: &TcpStream, to: &TcpStream, pipes: &Pipes) -> io::Result<()> {
    loop {
        from.readable().await?;
        let pipe = pipes.take().await?;
        // A pipe that an error leaves filled is closed with what is in it.
        let end = drain(from, to, &pipe).await?;
        pipe.give_back();
        if end == End::Stream {
            return Ok(shutdown(to.as_fd(), Shutdown::Write)?);
        }
        tokio::task::yield_now().await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing more for now.
    Now,
    /// Nothing more.
    Stream,
}

/// Passes on what there is; the pipe is empty before and after.
async fn drain(from: &TcpStream, to: &TcpStream, pipe: &Pipe<'_>) -> io::Result<End> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    for _ in 0..ROUNDS_MAX {
        let fill = || Ok(splice(from.as_fd(), None, pipe.into(), None, PIPE_BYTES, flags)?);
        let mut left = match from.try_io(Interest::READABLE, fill) {
            Ok(0) => return Ok(End::Stream),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(End::Now),
            Err(error) => return Err(error),
        };
        while left > 0 {
            let empty = || Ok(splice(pipe.out(), None, to.as_fd(), None, left, flags)?);
            left -= to.async_io(Interest::WRITABLE, empty).await?;
        }
    }
    Ok(End::Now)
}
