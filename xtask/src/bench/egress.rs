//! What egress by name costs: lookups, connections and throughput, in a network of the bench's own with Knot and nginx;
//! beside it sandbox-runtime, whose proxies do the same, where its `srt` is installed.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{print_row, program};
use crate::{process, workspace};

pub(super) const HOST: &str = "www.bench.example";
const HERE: &str = "192.0.2.1";
const NAME_SERVER: &str = "192.0.2.53";
const WEB_SERVER: &str = "192.0.2.80";
/// Names besides in the policy of `10k`.
const MORE_NAMES: u32 = 9_999;
const LOOKUPS: u32 = 200;
const CONNECTIONS: u32 = 100;
const STREAM_MIB: u32 = 512;
const STREAMS: u32 = 64;
const STREAMS_MIB: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// How a client is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Bare,
    /// The address alone is checked, by the kernel.
    Address,
    /// The relay compares names.
    Relay,
    /// Likewise, under ten thousand names.
    Relay10k,
    /// sandbox-runtime.
    Proxied,
}

const WAYS: [(&str, Way); 5] = [
    ("bare", Way::Bare),
    ("address", Way::Address),
    ("relay", Way::Relay),
    ("relay-10k", Way::Relay10k),
    ("srt", Way::Proxied),
];

/// What is measured, and how: a number in nanoseconds, of which less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// getaddrinfo(3).
    Lookup,
    /// From the lookup to the first byte of the answer, over TLS; each a connection of its own.
    FirstByte,
    /// For each MiB, of one stream.
    Stream,
    /// For each MiB, of many at once.
    Streams,
}

const WHATS: [(&str, What); 4] = [
    ("lookup", What::Lookup),
    ("first byte", What::FirstByte),
    ("1 stream", What::Stream),
    ("64 streams", What::Streams),
];

/// Measures in a network namespace of its own.
pub(super) fn run(rounds: u32) -> Result<()> {
    let own = std::env::current_exe()?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private"]).arg(own);
    let rounds = rounds.to_string();
    process::run(command.args(["bench", "--here", "ns", "--only", "egress", "--rounds", &rounds]))
}

/// Measures here.
pub(super) fn measure(rounds: u32) -> Result<()> {
    let bed = Bed::new()?;
    let has_proxies = process::find("srt").is_some();
    if !has_proxies {
        println!(
            "sandbox-runtime is left out: its `srt` is not in PATH (npm install -g @anthropic-ai/sandbox-runtime)"
        );
    }
    for (what_name, what) in WHATS {
        let is_measured = |way| match way {
            // There are no lookups inside: its proxies look up.
            Way::Proxied => has_proxies && what != What::Lookup,
            _ => true,
        };
        let mut ways: Vec<_> =
            WAYS.into_iter().filter(|(_, way)| is_measured(*way)).map(|way| (way, Vec::new())).collect();
        for round in 0..rounds as usize {
            let turn = round % ways.len();
            let (first, last) = ways.split_at_mut(turn);
            for ((name, way), numbers) in last.iter_mut().chain(first) {
                numbers.push(bed.number(what, *way).with_context(|| format!("{what_name}, {name}"))?);
            }
        }
        let bare = ways.first().map(|(_, numbers)| numbers.clone());
        for ((name, way), numbers) in &ways {
            print_row(what_name, name, numbers, bare.as_deref().filter(|_| *way != Way::Bare));
        }
    }
    Ok(())
}

/// A child that ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by itself if this fails.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Another machine, joined by a cable: proxies lead to no address of their own.
struct Elsewhere(Server);

impl Elsewhere {
    fn new() -> Result<Self> {
        let holder = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn()?;
        let elsewhere = Self(Server(holder));
        let pid = elsewhere.pid();
        let own = fs::read_link("/proc/self/ns/net")?;
        let is_elsewhere = || fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|its| its != own);
        wait_for(is_elsewhere, "unshare(1) does not")?;
        let ip = |words: &str| process::run(Command::new("ip").args(words.split(' ')));
        ip("link set lo up")?;
        ip(&format!("link add here type veth peer name there netns {pid}"))?;
        ip(&format!("addr add {HERE}/24 dev here"))?;
        ip("link set here up")?;
        for words in [
            format!("addr add {NAME_SERVER}/24 dev there"),
            format!("addr add {WEB_SERVER}/24 dev there"),
            "link set there up".to_owned(),
        ] {
            process::run(elsewhere.command("ip").args(words.split(' ')))?;
        }
        Ok(elsewhere)
    }

    fn pid(&self) -> String {
        self.0.0.id().to_string()
    }

    /// A command there.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid(), program]);
        command
    }
}

struct Bed {
    folder: tempfile::TempDir,
    _servers: [Server; 2],
    _elsewhere: Elsewhere,
}

impl Bed {
    fn new() -> Result<Self> {
        // Not in memory: a sandbox may have a /dev/shm of its own. What is served is cached.
        let folder = tempfile::Builder::new().prefix("bench.").tempdir_in(workspace::target()?)?;
        let there = folder.path();
        fs::set_permissions(there, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let elsewhere = Elsewhere::new()?;
        let resolv_conf = there.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {NAME_SERVER}\n"))?;
        let own =
            fs::canonicalize("/etc/resolv.conf").context("there is no /etc/resolv.conf to stand before")?;
        process::run(Command::new("mount").arg("--bind").args([&resolv_conf, &own]))?;
        let policies = [("address", "address", 0), ("relay", "sni", 0), ("relay-10k", "sni", MORE_NAMES)];
        for (name, verify, more) in policies {
            fs::write(there.join(format!("{name}.toml")), policy(name, verify, more))?;
        }
        fs::write(
            there.join("srt.json"),
            format!(
                "{{\"network\":{{\"allowedDomains\":[\"{HOST}\"],\"deniedDomains\":[]}},\
                 \"filesystem\":{{\"denyRead\":[],\"allowWrite\":[],\"denyWrite\":[]}}}}"
            ),
        )?;
        let servers = [knot(&elsewhere, there)?, nginx(&elsewhere, there)?];
        Ok(Self { folder, _servers: servers, _elsewhere: elsewhere })
    }

    fn number(&self, what: What, way: Way) -> Result<f64> {
        let ca = self.folder.path().join("bench.pem");
        let curl = |rest: String| format!("curl -sS --fail --cacert {} -o /dev/null {rest}", ca.display());
        let said = match what {
            What::Lookup => {
                let worker = program("xtask")?;
                self.said(
                    way,
                    &format!("{} bench-worker lookup {LOOKUPS} --file /dev/null", worker.display()),
                )?
            }
            What::FirstByte => self.said(
                way,
                &curl(format!(
                    "-H 'Connection: close' -w '%{{time_starttransfer}}\\n' 'https://{HOST}/?[1-{CONNECTIONS}]'"
                )),
            )?,
            What::Stream => {
                self.said(way, &curl(format!("-w '%{{time_total}}\\n' http://{HOST}/{STREAM_MIB}")))?
            }
            What::Streams => self.said(
                way,
                &format!(
                    "begin=$(date +%s%N); {}; echo $(($(date +%s%N) - begin))",
                    curl(format!(
                        "--parallel --parallel-immediate --parallel-max {STREAMS} 'http://{HOST}/{STREAMS_MIB}?[1-{STREAMS}]'"
                    ))
                ),
            )?,
        };
        let mut numbers = said.split_whitespace().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
        numbers.sort_by(f64::total_cmp);
        let middle = *numbers.get(numbers.len() / 2).context("it said nothing")?;
        Ok(match what {
            What::Lookup => middle / f64::from(LOOKUPS),
            What::FirstByte => middle * 1e9,
            What::Stream => middle * 1e9 / f64::from(STREAM_MIB),
            What::Streams => middle / f64::from(STREAMS * STREAMS_MIB),
        })
    }

    /// What a script prints.
    fn said(&self, way: Way, script: &str) -> Result<String> {
        let there = self.folder.path();
        let mut command = match way {
            Way::Bare => Command::new("sh"),
            Way::Proxied => {
                let mut command = Command::new("srt");
                command.arg("--settings").arg(there.join("srt.json")).args(["--", "sh"]);
                command
            }
            Way::Address | Way::Relay | Way::Relay10k => {
                let (name, _) =
                    WAYS.into_iter().find(|(_, it)| *it == way).context("a way without a name")?;
                let mut command = Command::new(program("govsandbox")?);
                command.args(["run", "--quiet", "--policy"]).arg(there.join(format!("{name}.toml")));
                command.arg("--audit-log").arg(there.join(format!("{name}.jsonl"))).args(["--", "sh"]);
                command
            }
        };
        process::read(command.args(["-c", script]).current_dir(there))
    }
}

fn policy(name: &str, verify: &str, more: u32) -> String {
    let more: String = (0..more).map(|number| format!(", \"host-{number}.bench.example:80,443\"")).collect();
    format!(
        "version = 1\nname = \"bench-{name}\"\n[network]\nallow = [\"{HOST}:80,443\"{more}]\nverify = \"{verify}\"\n\
         [trace]\nopens = \"denied\"\n"
    )
}

fn knot(elsewhere: &Elsewhere, there: &Path) -> Result<Server> {
    let zone = format!(
        "$ORIGIN bench.example.\n$TTL 300\n@ SOA ns hostmaster 1 3600 900 604800 300\n@ NS ns\n\
         ns A {NAME_SERVER}\nwww A {WEB_SERVER}\n"
    );
    fs::write(there.join("bench.zone"), zone)?;
    fs::create_dir(there.join("db"))?;
    let folder = there.display();
    let config = format!(
        "server:\n  rundir: {folder}\n  pidfile: {folder}/knot.pid\n  listen: {NAME_SERVER}@53\n\
         database:\n  storage: {folder}/db\nlog:\n  - target: stderr\n    any: error\n\
         zone:\n  - domain: bench.example.\n    file: {folder}/bench.zone\n    zonefile-sync: -1\n    journal-content: none\n"
    );
    fs::write(there.join("knot.conf"), config)?;
    let mut command = elsewhere.command("/usr/sbin/knotd");
    let server = Server(command.arg("-c").arg(there.join("knot.conf")).stdout(Stdio::null()).spawn()?);
    wait_for(|| (HOST, 80).to_socket_addrs().is_ok(), "knotd does not answer")?;
    Ok(server)
}

fn nginx(elsewhere: &Elsewhere, there: &Path) -> Result<Server> {
    let (key, certificate) = (there.join("bench.key"), there.join("bench.pem"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args([
            "-days",
            "30",
            "-subj",
            &format!("/CN={HOST}"),
            "-addext",
            &format!("subjectAltName=DNS:{HOST}"),
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    process::read(make.stderr(Stdio::null()))?;
    let www = there.join("www");
    fs::create_dir(&www)?;
    for mib in [STREAM_MIB, STREAMS_MIB] {
        // Sparse: zeros without memory.
        fs::File::create(www.join(mib.to_string()))?.set_len(u64::from(mib) << 20)?;
    }
    let folder = there.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind}; "))
        .concat();
    let config = format!(
        "daemon off; master_process off; user root; pid {folder}/nginx.pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\nhttp {{ access_log off; sendfile on; {temporary}\n\
         server {{ listen {WEB_SERVER}:80; listen {WEB_SERVER}:443 ssl; server_name {HOST}; root {folder}/www;\
         ssl_certificate {}; ssl_certificate_key {}; location = / {{ return 200 hello; }} }} }}\n",
        certificate.display(),
        key.display()
    );
    fs::write(there.join("nginx.conf"), config)?;
    let mut command = elsewhere.command("/usr/sbin/nginx");
    command.args(["-e", "stderr", "-p"]).arg(there).arg("-c").arg(there.join("nginx.conf"));
    let server = Server(command.spawn()?);
    wait_for(|| TcpStream::connect((WEB_SERVER, 443)).is_ok(), "nginx does not listen")?;
    Ok(server)
}

fn wait_for(is_so: impl Fn() -> bool, otherwise: &'static str) -> Result<()> {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > PATIENCE {
            bail!(otherwise);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_ten_thousand_names_has_them() {
        let policy = policy("relay-10k", "sni", MORE_NAMES);
        assert_eq!(policy.matches(".bench.example:80,443").count(), 10_000);
        assert!(policy.contains("verify = \"sni\""));
    }
}
