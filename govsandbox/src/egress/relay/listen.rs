//! Waiting for the first words, which stay in the socket meanwhile: the kernel has the memory for them, and passes them on.

use std::{cell::RefCell, io, os::fd::AsFd as _, time::Duration};

use rustix::net::{RecvFlags, recv};
use tokio::{io::Interest, net::TcpStream, time::timeout};

use super::hello::{self, Hello, Port};

/// On a port for TLS and HTTP, until all of the first words are there; on others from their beginning on.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where anything may be spoken: a client that says nothing more for so long waits for an answer.
const PAUSE_OF_SPEECH: Duration = Duration::from_millis(20);
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
        if let Some(hello) = told(look(client, &[], &mut seen).await?) {
            return Ok(hello);
        }
    }
    let words = async {
        let mut looks = 0;
        loop {
            if let Some(hello) = told(look(client, &[], &mut seen).await?) {
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

/// What a client has said that may speak anything.
pub(super) enum Words {
    /// Enough to tell.
    Told(Hello),
    /// It may become a request, and the client waits. All of it that was not passed on before.
    Undecided(Vec<u8>),
}

/// What the client says first, or has said when it pauses. `passed`: what of it has told nothing and was passed on.
///
/// # Errors
/// As [`first_words`].
pub(super) async fn words_or_pause(client: &TcpStream, passed: &[u8]) -> io::Result<Words> {
    let mut seen = 0;
    let mut found = look(client, passed, &mut seen).await?;
    let words = async {
        let mut looks = 0;
        loop {
            looks += 1;
            if looks > LOOKS_AT_ONCE {
                tokio::time::sleep(PAUSE).await;
            }
            match found {
                Look::Told(hello) => return Ok(Words::Told(hello)),
                Look::Ended => return undecided(client, passed, seen).map(|it| it.unwrap_or(HALF)),
                Look::More => {}
            }
            found = match timeout(PAUSE_OF_SPEECH, look(client, passed, &mut seen)).await {
                Ok(found) => found?,
                Err(_) => match undecided(client, passed, seen)? {
                    Some(words) => return Ok(words),
                    None => Look::More,
                },
            };
        }
    };
    timeout(PATIENCE, words).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// There is no more of it.
const HALF: Words = Words::Told(Hello::Malformed);

/// So many bytes that were seen already; `None`: nothing but their rest is waited for.
fn undecided(client: &TcpStream, passed: &[u8], seen: usize) -> io::Result<Option<Words>> {
    let mut said = vec![0; seen];
    let (_, length) = recv(client.as_fd(), said.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    said.truncate(length);
    Ok((!hello::is_half(&[passed, &said].concat())).then_some(Words::Undecided(said)))
}

/// What a look finds.
enum Look {
    /// Enough to tell.
    Told(Hello),
    /// More is to come.
    More,
    /// Not enough, and the client has closed its half.
    Ended,
}

fn told(look: Look) -> Option<Hello> {
    match look {
        Look::Told(hello) => Some(hello),
        Look::More => None,
        Look::Ended => Some(Hello::Malformed),
    }
}

/// Looks when there is more than what was seen. `passed` comes before it.
async fn look(client: &TcpStream, passed: &[u8], seen: &mut usize) -> io::Result<Look> {
    loop {
        // Before the look: what comes with the close is seen by it.
        let is_closed = client.ready(Interest::READABLE).await?.is_read_closed();
        match client.try_io(Interest::READABLE, || peek(client, passed, *seen)) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((bytes, hello)) => {
                *seen = bytes;
                return Ok(hello.map_or(Look::More, Look::Told));
            }
            // It stays readable while nothing more comes.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_closed => return Ok(Look::Ended),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// How much there is, and what it tells. `WouldBlock`: nothing that was not seen.
fn peek(client: &TcpStream, passed: &[u8], seen: usize) -> io::Result<(usize, Option<Hello>)> {
    LOOK.with_borrow_mut(|buffer| {
        let (before, rest) = buffer.split_at_mut(passed.len());
        before.copy_from_slice(passed);
        let (_, bytes) = recv(client.as_fd(), &mut *rest, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        if bytes > 0 && bytes <= seen {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let is_full = bytes == rest.len();
        let hello = hello::read(buffer.get(..passed.len() + bytes).unwrap_or_default());
        Ok((bytes, hello.or(is_full.then_some(Hello::Malformed))))
    })
}
