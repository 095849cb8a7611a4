//! Servers behind the service: Knot for DNS, nginx for TLS and HTTP, and some of the test's own that misbehave.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RecordType},
};

use crate::{
    bed::procs,
    stage::{NAME_SERVER, Stage, WEB_SERVER, WEB_SERVER6},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A zone `test` with one of each case.
const ZONE: &str = "\
$ORIGIN test.
$TTL 120
@ SOA ns hostmaster 1 3600 900 604800 300
@ NS ns
ns A 192.0.2.53
www 77 A 192.0.2.80
www 78 AAAA 2001:db8::80
far AAAA 2001:db8:ffff::1
alias CNAME www
chain CNAME alias
denied A 192.0.2.80
cloak CNAME denied
private A 10.1.2.3
mixed A 10.1.2.3
mixed A 192.0.2.80
meta A 169.254.169.254
*.wide A 192.0.2.80
ring CNAME ring2
ring2 CNAME ring
outward CNAME www.elsewhere.
hidden HTTPS 1 . alpn=h2 ipv4hint=192.0.2.80 ech=AEX+DQBBAAAAAAAAAAAA ipv6hint=2001:db8::80
words TXT \"some text\"
_sip._tcp SRV 1 2 5060 www
";

/// A child that ends with this value.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Knot with the zone, at [`NAME_SERVER`].
pub(crate) fn knot(folder: &Path) -> Server {
    let many: String = (0..300).map(|it| format!("many A 198.51.{}.{}\n", it / 250, it % 250 + 1)).collect();
    fs::write(folder.join("test.zone"), format!("{ZONE}{many}")).unwrap();
    let agents = "$ORIGIN anthropic.com.\n$TTL 120\n@ SOA ns hostmaster 1 3600 900 604800 300\n@ NS ns\nns A 192.0.2.53\napi A 192.0.2.80\n";
    fs::write(folder.join("anthropic.zone"), agents).unwrap();
    fs::create_dir(folder.join("db")).unwrap();
    let there = folder.display();
    let config = format!(
        "server:\n  rundir: {there}\n  pidfile: {there}/knot.pid\n  listen: {NAME_SERVER}@53\n\
         database:\n  storage: {there}/db\n\
         log:\n  - target: stderr\n    any: error\n\
         zone:\n  - domain: test.\n    file: {there}/test.zone\n    zonefile-sync: -1\n    journal-content: none\n\
         \x20 - domain: anthropic.com.\n    file: {there}/anthropic.zone\n    zonefile-sync: -1\n    journal-content: none\n"
    );
    fs::write(folder.join("knot.conf"), config).unwrap();
    let server = Command::new("/usr/sbin/knotd")
        .arg("-c")
        .arg(folder.join("knot.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("`knotd` is missing: install knot");
    let server = Server(server);
    let here = UdpSocket::bind((NAME_SERVER, 0)).unwrap();
    here.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let is_up = || {
        here.send_to(&query("www.test.", RecordType::A), (NAME_SERVER, 53)).unwrap();
        here.recv(&mut [0; 512]).is_ok()
    };
    assert!(procs::until(PATIENCE, is_up), "knotd does not answer");
    server
}

/// Where `api.anthropic.com` is served from, if anybody does.
pub(crate) const MODEL_SERVER: &str = "192.0.2.80:8000";

/// nginx at [`WEB_SERVER`] and [`WEB_SERVER6`]: `www.test` and `other.test` on one address, told apart by name, with a
/// certificate each. They answer with their own name.
pub(crate) fn nginx(folder: &Path) -> Server {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let there = folder.display();
    let mut hosts = String::new();
    for name in ["www.test", "other.test", "api.anthropic.com"] {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args([
                "-days",
                "30",
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                &format!("subjectAltName=DNS:{name}"),
            ])
            .arg("-keyout")
            .arg(folder.join(format!("{name}.key")))
            .arg("-out")
            .arg(folder.join(format!("{name}.pem")))
            .output()
            .expect("`openssl` is missing: install openssl");
        assert!(made.status.success(), "{made:?}");
        let root = match name {
            "api.anthropic.com" => format!(
                "location / {{ proxy_pass http://{MODEL_SERVER}; proxy_http_version 1.1; proxy_buffering off; }}"
            ),
            _ => format!("root {there}/www; location = / {{ return 200 '{name}'; }}"),
        };
        for address in [WEB_SERVER.to_owned(), format!("[{WEB_SERVER6}]")] {
            hosts += &format!(
                "server {{ listen {address}:80; listen {address}:443 ssl; listen {address}:8443 ssl; server_name {name};\
                 ssl_certificate {there}/{name}.pem; ssl_certificate_key {there}/{name}.key; {root} }}\n"
            );
        }
    }
    fs::create_dir(folder.join("www")).unwrap();
    let config = format!(
        "daemon off; master_process off; user root; pid {there}/nginx.pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; ssl_protocols TLSv1.2 TLSv1.3; client_max_body_size 0; client_body_temp_path {there}/body; proxy_temp_path {there}/proxy;\
         fastcgi_temp_path {there}/fastcgi; uwsgi_temp_path {there}/uwsgi; scgi_temp_path {there}/scgi;\n{hosts}}}\n"
    );
    fs::write(folder.join("nginx.conf"), config).unwrap();
    let server = Command::new("/usr/sbin/nginx")
        .args(["-e", "stderr", "-p"])
        .arg(folder)
        .arg("-c")
        .arg(folder.join("nginx.conf"))
        .stdin(Stdio::null())
        .spawn()
        .expect("`nginx` is missing: install nginx");
    let server = Server(server);
    assert!(
        procs::until(PATIENCE, || TcpStream::connect((WEB_SERVER, 443)).is_ok()),
        "nginx does not listen"
    );
    server
}

/// A query as a stub resolver sends it.
pub(crate) fn query(name: &str, kind: RecordType) -> Vec<u8> {
    message(name, kind).to_vec().unwrap()
}

pub(crate) fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4321;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// A server of the test's own that replies as `reply` says, and remembers what it was asked.
pub(crate) struct FakeDns {
    pub(crate) asked: Arc<Mutex<Vec<Message>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDns {
    pub(crate) fn new(mut reply: impl FnMut(&Message) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (asked, stop) = (Arc::<Mutex<Vec<Message>>>::default(), Arc::<AtomicBool>::default());
        let (seen, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
                let message = Message::from_vec(&buffer[..bytes]).unwrap();
                let reply = reply(&message);
                seen.lock().unwrap().push(message); // before anybody can have the reply
                if let Some(reply) = reply {
                    socket.send_to(&reply, from).unwrap();
                }
            }
        });
        Self { asked, stop, thread: Some(thread) }
    }
}

impl Drop for FakeDns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A client's socket that takes datagrams from the server it asks alone, as a resolver's does.
pub(crate) fn udp(to: SocketAddr) -> UdpSocket {
    let local: SocketAddr = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    socket
}

impl Stage {
    /// The reply over UDP to a query for the server that has that alias.
    #[track_caller]
    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.exchange(&query(name, kind)).expect("no reply")
    }

    /// The reply over UDP to a packet; `None`: there is none for a while.
    pub(crate) fn exchange(&self, packet: &[u8]) -> Option<Message> {
        let socket = udp(SocketAddr::from(([127, 83, 1, 7], self.ports.dns4_udp)));
        socket.send(packet).unwrap();
        let mut buffer = [0; 65536];
        let bytes = socket.recv(&mut buffer).ok()?;
        Some(Message::from_vec(&buffer[..bytes]).unwrap())
    }

    /// The reply over TCP.
    pub(crate) fn ask_over_tcp(&self, name: &str, kind: RecordType) -> Message {
        let packet = query(name, kind);
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.dns4_tcp)).unwrap();
        let length = u16::try_from(packet.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes(), packet.as_slice()].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        Message::from_vec(&reply).unwrap()
    }
}
