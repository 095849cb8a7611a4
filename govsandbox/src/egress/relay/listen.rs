//! Waiting for the first words, which stay in the socket: the kernel has the memory for them, and passes them on later.

use std::{cell::RefCell, io, os::fd::AsFd as _, time::Duration};

use rustix::net::{RecvFlags, recv};
use tokio::{io::Interest, net::TcpStream, time::timeout};

use super::hello::{self, Hello, Port};

/// On a port for TLS and HTTP, until all of the first words are there; on others from their beginning on.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is looked at: the longest ClientHello in records of a usual size. More records, with less in each, are no hello.
const LOOK_BYTES_MAX: usize = 80 * 1024;
/// Looks at what comes in pieces, and the pause between them from then on: each look begins at the first byte.
const LOOKS_AT_ONCE: u32 = 16;
const PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    /// One for all: a look is over before another begins.
    static LOOK: RefCell<Vec<u8>> = RefCell::new(vec![0; LOOK_BYTES_MAX]);
}

/// What the client says first.
///
/// # Errors
/// `TimedOut`: not enough, for too long. `UnexpectedEof`: it closed before. What the socket says.
pub(super) async fn first_words(client: &TcpStream, port: Port) -> io::Result<Hello> {
    let mut seen = 0;
    if port == Port::Other {
        // A client may leave the first words to the server, for as long as both like.
        if let Some(hello) = look(client, &mut seen).await? {
            return Ok(hello);
        }
    }
    let words = async {
        let mut looks = 0;
        loop {
            if let Some(hello) = look(client, &mut seen).await? {
                return Ok(hello);
            }
            looks += 1;
            if looks > LOOKS_AT_ONCE {
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    timeout(PATIENCE, words).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Looks when there is more than what was seen.
async fn look(client: &TcpStream, seen: &mut usize) -> io::Result<Option<Hello>> {
    let peek = || {
        LOOK.with_borrow_mut(|buffer| {
            let (_, bytes) =
                recv(client.as_fd(), buffer.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            if bytes > 0 && bytes <= *seen {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let hello = hello::read(buffer.get(..bytes).unwrap_or_default());
            let is_full = bytes == buffer.len();
            Ok((bytes, hello.or(is_full.then_some(Hello::Malformed))))
        })
    };
    let (bytes, hello) = client.async_io(Interest::READABLE, peek).await?;
    if bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    *seen = bytes;
    Ok(hello)
}
