//! Conversations that a worker has over inet sockets, told with the addresses that it sees.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::OnceLock,
    time::Duration,
};

use rustix::net::{AddressFamily, SendFlags, SocketType};

use super::{sending, sys};

const PATIENCE: Duration = Duration::from_secs(5);

/// The device that leads to a neighbour.
const CABLE: &str = "here";
static SERVER: OnceLock<UdpSocket> = OnceLock::new();

/// The steps of this file; `None`: it is none of them.
pub(crate) fn step(verb: &str, argument: &Path) -> Option<io::Result<String>> {
    let parse = || words(argument);
    Some(match verb {
        "talk" => parse().and_then(|to| talk(TcpStream::connect_timeout(&to[0], PATIENCE)?)),
        "talk-from" => parse().and_then(|way| talk(bound_stream(way[0], way[1])?)),
        "talk-again" => parse().and_then(|way| again(way[0], way[1])),
        "talk-own" => parse().and_then(|way| own_stream(way[0], way[1].ip())),
        "listen" => parse().and_then(|at| {
            let listener = TcpListener::bind(at[0])?;
            let address = listener.local_addr()?;
            // As long as the worker lives.
            std::mem::forget(listener);
            Ok(address.to_string())
        }),
        // listen(2) chooses a port of its own where bind(2) was not called.
        "listen-unbound" => parse().and_then(|at| {
            let socket = stream_socket(at[0])?;
            rustix::net::listen(&socket, 8)?;
            let listener = TcpListener::from(socket);
            let address = listener.local_addr()?;
            std::mem::forget(listener);
            Ok(address.to_string())
        }),
        "listen-udp" => parse().and_then(|at| {
            let socket = datagrams(at[0])?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(SERVER.get_or_init(|| socket)).map(|_| address.to_string())
        }),
        // How many datagrams came to that socket since it was asked last.
        "heard" => Ok(SERVER.get().map_or(0, |socket| {
            std::thread::sleep(Duration::from_millis(200));
            std::iter::from_fn(|| socket.recv_from(&mut [0; 8]).ok()).count()
        }))
        .map(|count| count.to_string()),
        // By that socket, to whom is named, or to whoever asks first.
        "say" => parse().and_then(|to| server()?.send_to(b"own", to[0]).map(|_| String::new())),
        "tie" => parse().and_then(|to| server()?.connect(to[0]).map(|()| String::new())),
        "answer" => server().and_then(answer),
        "say-to-all" => {
            parse().and_then(|to| sending::send_to_all(server()?, &to).map(|sent| sent.to_string()))
        }
        "say-in-segments" => {
            parse().and_then(|to| sending::in_segments(server()?, to[0]).map(|()| String::new()))
        }
        "say-in-parts" => {
            parse().and_then(|to| sending::in_parts(server()?, to[0], to[1]).map(|()| String::new()))
        }
        "say-to-many" => parse().and_then(|to| {
            server()?.set_broadcast(true)?;
            server()?.send_to(b"udp", to[0]).map(|_| String::new())
        }),
        "connect-with-options" => parse().and_then(|to| {
            let socket = stream_socket(to[0])?;
            sending::set_header_options(&socket, to[0])?;
            sending::set_patience(&socket, PATIENCE)?;
            rustix::net::connect(&socket, &to[0])?;
            Ok(String::new())
        }),
        "send-with-options" => parse().and_then(|to| {
            let socket = datagrams(unspecified(to[0]))?;
            sending::set_header_options(&socket, to[0])?;
            socket.send_to(b"udp", to[0]).map(|_| String::new())
        }),
        // From a port that it may share with others; nothing is left of it then.
        "ask-shared" => {
            parse().and_then(|way| sending::shared(way[0])?.send_to(b"udp", way[1]).map(|_| String::new()))
        }
        "ask" => parse().and_then(|to| ask(&datagrams(unspecified(to[0]))?, &to)),
        "ask-all" => parse().and_then(|to| ask(&datagrams("[::]:0".parse().unwrap())?, &to)),
        "ask-from" => parse().and_then(|way| ask(&datagrams(way[0])?, &way[1..])),
        "ask-connected" => parse().and_then(|to| ask_connected(to[0])),
        "ask-another" => parse().and_then(|way| ask_another(way[0], way[1])),
        "ask-own" => parse().and_then(|way| own_datagram(way[0], way[1].ip())),
        "ask-forged" => parse().and_then(|way| {
            let SocketAddr::V6(to) = way[1] else { return Err(io::Error::other("IPv6 only")) };
            sys::send_from(way[0].ip(), to).map(|()| String::new())
        }),
        "ping" => parse().and_then(|to| sys::ping(unspecified(to[0]), to[0]).map(|()| String::new())),
        "ping-from" => parse().and_then(|way| sys::ping(way[0], way[1]).map(|()| String::new())),
        "ask-by-device" => parse().and_then(|to| {
            let socket = datagrams(unspecified(to[0]))?;
            sys::bind_to_device(&socket, CABLE)?;
            ask(&socket, &to)
        }),
        "ask-then-device" => parse().and_then(|way| {
            let socket = datagrams(way[0])?;
            socket.connect(way[1])?;
            sys::bind_to_device(&socket, CABLE)?;
            socket.send(b"hello")?;
            heard(&socket)
        }),
        "send-many" => parse().and_then(|to| {
            let socket = datagrams(unspecified(to[0]))?;
            socket.connect(to[0])?;
            (0..50).try_for_each(|_| socket.send(b"udp").map(drop))?;
            Ok(String::new())
        }),
        "ping-passed" => sys::passed(argument)
            .and_then(|socket| sys::ping_by(&UdpSocket::from(socket), [8, 0]).map(|()| String::new())),
        "send-passed" => sys::passed(argument).and_then(|socket| {
            UdpSocket::from(socket).send(b"udp")?;
            Ok(String::new())
        }),
        // By a connection that is passed: at once, in two parts, and from a file. Then it is there for long enough that the
        // kernel sends what it has.
        "stream-passed" | "stream-passed-in-parts" | "stream-passed-from-file" => sys::passed(argument)
            .and_then(|socket| {
                match verb {
                    "stream-passed" => drop(rustix::io::write(&socket, b"tcp")?),
                    "stream-passed-in-parts" => drop(rustix::net::send(&socket, b"tcp", SendFlags::MORE)?),
                    _ => {
                        let file = std::fs::File::open("/proc/self/exe")?;
                        rustix::fs::sendfile(&socket, &file, None, 3)?;
                    }
                }
                std::thread::sleep(Duration::from_millis(600));
                Ok(String::new())
            }),
        "accept-passed" => sys::passed(argument).and_then(|socket| {
            let (mut stream, _) = TcpListener::from(socket).accept()?;
            stream.write_all(b"tcp").map(|()| String::new())
        }),
        "passed" => sys::passed(argument).map(|_| String::new()),
        "only-connect" => parse().and_then(|to| {
            let socket = datagrams(unspecified(to[0]))?;
            socket.connect(to[0])?;
            Ok(socket.peer_addr()?.to_string())
        }),
        _ => return None,
    })
}

fn words(argument: &Path) -> io::Result<Vec<SocketAddr>> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let text = argument.to_str().ok_or_else(invalid)?;
    text.split(',').map(|word| word.parse().map_err(|_| invalid())).collect()
}

fn unspecified(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap()
}

fn datagrams(from: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Says hello, and tells who it thinks is there and what that one says.
fn talk(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    stream.write_all(b"hello")?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(format!("{peer} {text}"))
}

fn stream_socket(address: SocketAddr) -> io::Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket(family, SocketType::STREAM, None)?)
}

fn bound_stream(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = stream_socket(from)?;
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}

/// One socket: connected to the first, taken off, connected to the second.
fn again(first: SocketAddr, second: SocketAddr) -> io::Result<String> {
    let socket = stream_socket(first)?;
    let _ = rustix::net::connect(&socket, &first);
    rustix::net::connect_unspec(&socket)?;
    rustix::net::connect(&socket, &second)?;
    talk(socket.into())
}

/// Listens on one address, and connects to another with that port.
fn own_stream(listen: SocketAddr, to: IpAddr) -> io::Result<String> {
    let listener = TcpListener::bind(listen)?;
    let to = SocketAddr::new(to, listener.local_addr()?.port());
    let server = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut text = [0; 5];
        stream.read_exact(&mut text)?;
        stream.write_all(b"own")
    });
    let said = talk(TcpStream::connect_timeout(&to, PATIENCE)?)?;
    server.join().map_err(|_| io::Error::other("panicked"))??;
    Ok(said.split_once(' ').map(|(_, text)| text.to_owned()).unwrap_or_default())
}

fn own_datagram(listen: SocketAddr, to: IpAddr) -> io::Result<String> {
    let server = datagrams(listen)?;
    let to = SocketAddr::new(to, server.local_addr()?.port());
    let client = datagrams(unspecified(to))?;
    client.connect(to)?;
    client.send(b"hello")?;
    let mut text = [0; 16];
    let (_, from) = server.recv_from(&mut text)?;
    server.send_to(b"own", from)?;
    let length = client.recv(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn server() -> io::Result<&'static UdpSocket> {
    SERVER.get().ok_or_else(|| io::Error::other("there is no server"))
}

/// Tells who asked.
fn answer(server: &UdpSocket) -> io::Result<String> {
    let (begin, mut text) = (std::time::Instant::now(), [0; 64]);
    loop {
        match server.recv_from(&mut text) {
            Ok((_, from)) => return server.send_to(b"own", from).map(|_| from.to_string()),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Asks each by one socket, then tells who answered what.
fn ask(socket: &UdpSocket, servers: &[SocketAddr]) -> io::Result<String> {
    for server in servers {
        socket.send_to(b"hello", server)?;
    }
    let mut told = Vec::new();
    for _ in servers {
        told.push(heard(socket)?);
    }
    told.sort();
    Ok(told.join(", "))
}

fn heard(socket: &UdpSocket) -> io::Result<String> {
    let mut text = [0; 256];
    let (length, from) = socket.recv_from(&mut text)?;
    Ok(format!("{from} {}", String::from_utf8_lossy(&text[..length])))
}

fn ask_connected(server: SocketAddr) -> io::Result<String> {
    let socket = datagrams(unspecified(server))?;
    socket.connect(server)?;
    socket.send(b"hello")?;
    Ok(format!("{} {}", socket.peer_addr()?, heard(&socket)?))
}

/// By a socket that is connected to the first: what it sends to the second names that one.
fn ask_another(first: SocketAddr, second: SocketAddr) -> io::Result<String> {
    let socket = datagrams(unspecified(first))?;
    socket.connect(first)?;
    socket.send_to(b"hello", second)?;
    // Whoever is connected hears from that one alone.
    socket.send(b"hello")?;
    heard(&socket)
}
