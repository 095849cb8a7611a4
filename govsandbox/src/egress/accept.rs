//! Accepting connections for as long as the service lives.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};

/// After an error that will go by itself: no descriptor or no memory is left.
const PAUSE: Duration = Duration::from_millis(50);

/// The next connection.
///
/// # Errors
/// The listener itself is broken.
pub(super) async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept().await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => match error.raw_os_error() {
                Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) => {
                    return Err(error);
                }
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    tokio::time::sleep(PAUSE).await
                }
                // One of the connection, which is gone (accept(2)).
                _ => {}
            },
        }
    }
}
