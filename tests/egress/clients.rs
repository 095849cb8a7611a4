//! Clients that people use, and that know of no service: each brings its own resolver, TLS and habits.

use std::{ffi::OsString, path::Path, process::Command};

use crate::{
    bed::{Run, args, lines},
    run::World,
};

/// Fills the folder that nginx serves: a repository for git, a registry each for npm, pip and cargo, all plain files.
const SITE: &str = r#"
export HOME="$PWD" GIT_CONFIG_GLOBAL=/dev/null
printf '{"name":"parcel","version":"1.0.0","main":"index.js"}' > package.json
echo 'module.exports = "npm has it"' > index.js
npm pack --silent > /dev/null
mkdir npm && mv parcel-1.0.0.tgz npm/
printf '{"name":"parcel","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"parcel","version":"1.0.0",
    "dist":{"tarball":"https://www.test/npm/parcel-1.0.0.tgz"}}}}' > npm/parcel

mkdir -p simple/parcel
echo '<a href="parcel-1.0.0-py3-none-any.whl">parcel-1.0.0-py3-none-any.whl</a>' > simple/parcel/index.html
python3 - <<'PY'
import zipfile
with zipfile.ZipFile("simple/parcel/parcel-1.0.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("parcel.py", "says = 'pip has it'\n")
    wheel.writestr("parcel-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0.0\n")
    wheel.writestr("parcel-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("parcel-1.0.0.dist-info/RECORD", "")
PY

mkdir -p parcel-1.0.0/src index/pa/rc crates
printf '[package]\nname = "parcel"\nversion = "1.0.0"\nedition = "2021"\n' > parcel-1.0.0/Cargo.toml
touch parcel-1.0.0/src/lib.rs
tar czf crates/parcel.crate parcel-1.0.0
sum=$(sha256sum crates/parcel.crate | cut -d ' ' -f 1)
printf '{"name":"parcel","vers":"1.0.0","deps":[],"cksum":"%s","features":{},"yanked":false}\n' "$sum" > index/pa/rc/parcel
printf '{"dl":"https://www.test/crates/{crate}.crate"}' > index/config.json

git init -q repository && cd repository
echo 'git has it' > README
git add README && git -c user.name=t -c user.email=t@example.org commit -qm first
cd .. && git clone -q --bare repository repository.git
git -C repository.git update-server-info
chmod -R a+rX .
"#;

/// What is done before, away from the network.
const READY: &str = r#"
mkdir home work && cd work
mkdir node crate crate/src
printf '{"name":"user","version":"1.0.0"}' > node/package.json
printf '[package]\nname = "user"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\nparcel = { version = "1", registry = "test" }\n' \
    > crate/Cargo.toml
touch crate/src/lib.rs
python3 -m venv venv
chown -R 0:0 ..
"#;

/// A line for each client, and what it prints where it reaches what it wants.
const CLIENTS: [(&str, &str); 8] = [
    ("curl -sS --cacert $CA https://www.test/ && echo", "www.test"),
    (
        "git -c http.sslCAInfo=$CA clone -q https://www.test/repository.git && cat repository/README",
        "git has it",
    ),
    (
        "cd node && npm install --silent --no-audit --no-update-notifier --fetch-retries 0 --cafile $CA --registry https://www.test/npm/ parcel > /dev/null && node -p 'require(\"parcel\")'",
        "npm has it",
    ),
    (
        "venv/bin/pip -q --disable-pip-version-check --no-cache-dir --retries 0 --cert $CA install --index-url https://www.test/simple/ parcel && \
         venv/bin/python -c 'import parcel; print(parcel.says)'",
        "pip has it",
    ),
    (
        "cd crate && $CARGO fetch --quiet && basename $CARGO_HOME/registry/cache/*/parcel-*.crate",
        "parcel-1.0.0.crate",
    ),
    (
        "NODE_EXTRA_CA_CERTS=$CA node -e 'fetch(\"https://www.test/\").then(r => r.text()).then(t => console.log(t))'",
        "www.test",
    ),
    (
        "SSL_CERT_FILE=$CA python3 -c 'import urllib.request as r; print(r.urlopen(\"https://www.test/\").read().decode())'",
        "www.test",
    ),
    (
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(\"www.test:80\") or exit 1; print $s \"GET / HTTP/1.0\\r\\nHost: www.test\\r\\n\\r\\n\"; \
      @l = <$s>; print $l[-1], \"\\n\"'",
        "www.test",
    ),
];

fn script() -> OsString {
    let lines = CLIENTS.iter().map(|(line, _)| format!("timeout 60 sh -c {} || echo failed\n", quoted(line)));
    lines.collect::<String>().into()
}

fn quoted(line: &str) -> String {
    format!("'{}'", line.replace('\'', r"'\''"))
}

/// The clients' surroundings. cargo is called as itself: rustup's stand-in looks for its own files in a home.
fn surroundings(process: &mut Command, world: &World, home: &Path) {
    let certificate = world.folder().join("www.test.pem");
    process
        .env("CA", &certificate)
        .env("CARGO", env!("CARGO"))
        .env("CARGO_HOME", home.join("work/cargo"))
        .env("CARGO_HTTP_CAINFO", &certificate)
        .env("CARGO_NET_RETRY", "0")
        .env("CARGO_REGISTRIES_TEST_INDEX", "sparse+https://www.test/index/")
        .env("HOME", home.join("home"))
        .current_dir(home.join("work"));
}

/// A folder in the project where nothing is yet.
fn fresh(world: &World, name: &str) -> std::path::PathBuf {
    let home = world.bed.folder(name);
    let mut ready = world.bed.root_command(args!["sh", "-ec", READY]);
    assert!(ready.current_dir(&home).status().unwrap().success());
    home
}

#[test]
fn clients_that_people_use_reach_allowed_names_and_no_others() {
    let world = World::new("egress-clients");
    let mut site = world.bed.root_command(args!["sh", "-ec", SITE]);
    assert!(site.current_dir(world.folder().join("www")).status().unwrap().success());
    let home = fresh(&world, "bare");
    let mut bare = world.bed.root_command(args!["sh", "-c", script()]);
    surroundings(&mut bare, &world, &home);
    let bare = bare.output().unwrap();
    let all = CLIENTS.map(|(_, says)| says);
    assert_eq!(lines(&bare.stdout), all, "positive control: {}", String::from_utf8_lossy(&bare.stderr));

    // As root, which owns the cargo that builds these tests.
    let run = |name: &str, network: &str| -> Run {
        let home = fresh(&world, name);
        let policy = world.policy(&format!("{network}\n[filesystem]\nwrite = [\"{{project}}\", \"~\"]"));
        let mut start = world.bed.start(&[&policy], args!["sh", "-c", script()]).by_root();
        surroundings(&mut start.process, &world, &home);
        start.finish()
    };
    let allowed = run("allowed", "allow = [\"*.test:80,443\"]\nnamespace = \"own\"");
    assert_eq!(lines(&allowed.stdout), all, "{allowed}");
    let closed = allowed.log.of("net.close");
    let to_site = closed.iter().filter(|it| it.object("name") == "www.test");
    assert!(to_site.count() >= CLIENTS.len(), "{allowed}");
    assert!(allowed.log.all_denied("net.connect").is_empty(), "{allowed}");

    let denied = run("denied", "allow = [\"other.test:80,443\"]");
    assert_eq!(lines(&denied.stdout), CLIENTS.map(|_| "failed"), "{denied}");
    let queries = denied.log.of("dns.query");
    assert!(queries.iter().all(|it| it.text("outcome") == "denied"), "{denied}");
    let programs = ["curl", "git-remote-https", "node", "python", "cargo", "perl"];
    for program in programs {
        assert!(queries.iter().any(|it| it.process("exe").contains(program)), "{program}: {denied}");
    }
}
