//! What a policy does on this machine that nobody can have meant: it locks the command out of what every program needs, or
//! names what can't be held as itself.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{
    Loaded, PolicyError,
    compile::{Mode, NetworkNamespace, Protocol},
    context::Context,
    effective::text,
    explain::{Act, Tables},
    merge::Entry,
    problem::Problem,
    rule::{
        egress::{EgressPattern, HostPattern},
        path::PathPattern,
    },
};
use crate::{id::RuleId, sys::file_system};

/// The loaders that programs for Linux name.
const LOADERS: [&str; 5] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux.so.2",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];
/// Bytes of a script that the kernel looks at for its interpreter (`BINPRM_BUF_SIZE`).
const SHEBANG_BYTES_MAX: u64 = 256;
/// Where programs are looked for when PATH says nothing.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// Nothing could run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{rule}` locks the command out: {}", told(without))]
#[diagnostic(
    code(policy::lockout),
    help("name the folders that hold what is to be kept, or let `filesystem.read` have these")
)]
pub struct Lockout {
    rule: String,
    without: Vec<(&'static str, PathBuf)>,
}

/// A good deal would not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{rule}` takes from the command what most programs need: {}", told(without))]
#[diagnostic(
    code(policy::needed),
    help("if that is meant, nothing is wrong; `policy explain PATH` tells of each")
)]
pub struct Needed {
    rule: String,
    without: Vec<(&'static str, PathBuf)>,
}

/// A rule about a file that may come back as another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{rule}` is about a file on {file_system}, where files do not stay the same inode")]
#[diagnostic(
    code(policy::unstable),
    help(
        "it is held by its path besides; under another path (a hard link, another mount, the server's own) it may be \
         reached. Keep what must not be read on a local file system"
    )
)]
pub struct Unstable {
    rule: String,
    file_system: &'static str,
}

/// A symlink in circles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{rule}` is a symlink that leads in circles, and holds nothing")]
#[diagnostic(code(policy::link_loop), help("mend the symlink, or name the file that is meant"))]
pub struct LinkLoop {
    rule: String,
}

/// A destination that no way leads to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`{rule}` has no effect in a network of the sandbox's own: {why}")]
#[diagnostic(code(policy::no_way), help("remove it, or `network.namespace = \"own\"`"))]
pub struct NoWay {
    rule: String,
    why: &'static str,
}

fn told(paths: &[(&str, PathBuf)]) -> String {
    let told: Vec<_> = paths.iter().map(|(what, path)| format!("{what} ({})", text(path))).collect();
    told.join(", ")
}

/// Errors and warnings, by the rules that they are about. `command`: what would run, by name or path; empty if that is
/// not known.
#[must_use]
pub fn find(loaded: &Loaded, context: &Context, command: &str) -> Vec<Problem> {
    let mut found = objects(loaded);
    if loaded.compiled.mode == Mode::Enforce {
        found.extend(no_ways(loaded));
        found.extend(lockouts(loaded, context, command));
    }
    found.sort_by_key(Problem::line_and_column);
    found
}

/// Whether anything at all could start. The rest `policy check` tells; a command that is itself denied is refused when it
/// is executed (126).
///
/// # Errors
/// The rules that lock everything out.
pub fn check_start(loaded: &Loaded, context: &Context) -> Result<(), PolicyError> {
    let errors: Vec<_> = find(loaded, context, "").into_iter().filter(|found| !found.is_warning()).collect();
    if errors.is_empty() { Ok(()) } else { Err(PolicyError::invalid(errors)) }
}

fn lockouts(loaded: &Loaded, context: &Context, command: &str) -> Vec<Problem> {
    let tables = Tables::new(&loaded.compiled, &loaded.automaton, &[]);
    let refused = |paths: Vec<(&'static str, PathBuf)>| {
        let mut by_rule: BTreeMap<RuleId, Vec<(&'static str, PathBuf)>> = BTreeMap::new();
        for (what, path) in paths.into_iter().filter(|(_, path)| path.exists()) {
            let verdict = tables.ask(&path, Act::Read).verdict;
            if let (false, Some(rule)) = (verdict.allowed, verdict.rule) {
                by_rule.entry(rule.id).or_default().push((what, path));
            }
        }
        by_rule
    };
    let essential = refused(essential(command));
    let useful = refused(useful(context));
    let mut found = Vec::new();
    for (id, without) in &essential {
        let Some((rule, entry)) = culprit(loaded, id) else { continue };
        let lockout = Lockout { rule, without: without.clone() };
        found.push(Problem::error(lockout, &entry.origin.source, entry.span.clone()));
    }
    for (id, without) in useful.into_iter().filter(|(id, _)| !essential.contains_key(id)) {
        let Some((rule, entry)) = culprit(loaded, &id) else { continue };
        found.push(Problem::warning(Needed { rule, without }, &entry.origin.source, entry.span.clone()));
    }
    found
}

/// The rule behind a refusal; where no entry of an allow-list had it, the first of the lists that should have.
fn culprit<'a>(loaded: &'a Loaded, id: &RuleId) -> Option<(String, &'a Entry<PathPattern>)> {
    let mut all = loaded.layered.policies.iter().flat_map(|(_, lists)| lists.paths());
    if let Some(entry) = all.find(|entry| entry.id == *id) {
        return Some((entry.rule.text().to_owned(), entry));
    }
    let reading = loaded.layered.policies.iter().filter_map(|(_, lists)| lists.read.as_ref());
    reading.flatten().next().map(|entry| (entry.key.to_owned(), entry))
}

/// Without these nothing starts.
fn essential(command: &str) -> Vec<(&'static str, PathBuf)> {
    let mut needed = Vec::new();
    for loader in LOADERS.map(Path::new) {
        needed.push(("the loader", loader.to_owned()));
        let library = fs::canonicalize(loader).ok().and_then(|real| Some(real.parent()?.join("libc.so.6")));
        needed.extend(library.map(|library| ("the C library", library)));
    }
    if let Some(program) = program(command) {
        needed.extend(interpreter(&program).map(|interpreter| ("the command's interpreter", interpreter)));
        needed.push(("the command itself", program));
    }
    needed
}

/// Without these much goes wrong.
fn useful(context: &Context) -> Vec<(&'static str, PathBuf)> {
    let mut needed = vec![
        ("the loader's cache", PathBuf::from("/etc/ld.so.cache")),
        ("the shell", PathBuf::from("/bin/sh")),
        ("the programs", PathBuf::from("/usr/bin")),
        ("names of users", PathBuf::from("/etc/passwd")),
        ("the home", context.home.clone()),
    ];
    if let Ok(project) = context.project() {
        needed.push(("the project", project.to_owned()));
    }
    needed.extend(context.tmp.iter().take(1).map(|tmp| ("temporary files", tmp.clone())));
    needed
}

/// The file that a command is.
fn program(command: &str) -> Option<PathBuf> {
    if command.is_empty() {
        return None;
    }
    if command.contains('/') {
        return std::path::absolute(command).ok();
    }
    let folders = env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
    env::split_paths(&folders).map(|folder| folder.join(command)).find(|path| path.is_file())
}

/// What a script is run by.
fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    fs::File::open(program).ok()?.take(SHEBANG_BYTES_MAX).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(word)))
}

/// Rules by the files that they find.
fn objects(loaded: &Loaded) -> Vec<Problem> {
    let all = loaded.layered.policies.iter().flat_map(|(_, lists)| lists.paths());
    let entries: BTreeMap<&RuleId, &Entry<PathPattern>> = all.map(|entry| (&entry.id, entry)).collect();
    let mut found = Vec::new();
    for literal in &loaded.compiled.paths.literals {
        let info = loaded.compiled.rule(literal.rule.0);
        let Some(entry) = info.and_then(|info| entries.get(&info.id)) else { continue };
        let rule = entry.rule.text().to_owned();
        let (source, span) = (&entry.origin.source, entry.span.clone());
        if is_loop(&literal.path) {
            found.push(Problem::warning(LinkLoop { rule }, source, span));
        } else if let Some(file_system) =
            file_system::unstable(&literal.path).filter(|_| !is_root_mount(&literal.path))
        {
            found.push(Problem::warning(Unstable { rule, file_system }, source, span));
        }
    }
    found
}

/// Egress rules that nothing comes of, since only the relay leads out.
fn no_ways(loaded: &Loaded) -> Vec<Problem> {
    if loaded.compiled.network_namespace == NetworkNamespace::Host {
        return Vec::new();
    }
    let lists = loaded.layered.policies.iter().filter_map(|(_, lists)| lists.network_allow.as_ref());
    let warning = |entry: &Entry<EgressPattern>| {
        let why = match (entry.rule.host(), entry.rule.protocol()) {
            (HostPattern::Localhost, _) => "services of the machine's loopback are not there",
            (_, Protocol::Udp) => "datagrams do not go through the relay",
            _ => return None,
        };
        let rule = entry.rule.text().to_owned();
        Some(Problem::warning(NoWay { rule, why }, &entry.origin.source, entry.span.clone()))
    };
    lists.flatten().filter_map(warning).collect()
}

fn is_loop(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.raw_os_error() == Some(libc::ELOOP))
}

/// A container's root is an overlay, and nothing in it reaches the layers by another path.
fn is_root_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    device(path).is_some() && device(path) == device(Path::new("/"))
}
