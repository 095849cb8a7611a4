//! A run from policy to the last event: the one place that joins all stages.

mod addresses;
mod broker;
mod filter;
mod held;
mod hosts;
mod landlock;
mod limits;
mod lookups;
mod namespaces;
mod observe;
mod programs;
mod promises;
mod proxy;
mod questions;
mod redirected;
mod resolve;
mod review;
mod service;
mod session;
mod spoken;
mod stand_ins;
mod summary;

use std::{collections::BTreeMap, ffi::OsString, io, path::PathBuf, sync::Arc, time::Duration};

use self::{
    broker::Egress,
    observe::{Command, Observed, Observer},
    resolve::Resolver,
    review::Review,
    session::Session,
};
use crate::{
    audit::{
        self,
        log::{AuditLog, Ownership},
        recorder::{Recorder, RecorderOptions},
    },
    backend::{
        self, Kind, fanotify, lsm,
        perform::{KEYED, KeyPerformer, PERFORMED, PathPerformer, Reports},
        programs::Programs,
    },
    bpf::{
        egress::NetworkRules,
        fill::{Contents, Sandbox},
        load::{self, Loaded},
        log::KernelLog,
    },
    diagnostic::{Status, tell},
    fault::{self, Step},
    launch::{
        self, LaunchError, LaunchPlan,
        mount::MountPlan,
        performer::Performer,
        plan::CgroupPlan,
        privilege::{Identity, Origin},
        seccomp::{self, SeccompPlan},
    },
    policy::{
        self, Context, Sources, User,
        compile::{Compiled, Mode, PathTable, RootPolicy},
    },
};
use govsandbox_ebpf::abi::{egress::ALLOW, rule::SandboxConfig};

/// How long the start waits for the addresses of names that are denied; what comes later counts from then on.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// `govsandbox run` as asked for.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// `-p`.
    pub policies: Vec<String>,
    /// `--project`.
    pub project: Option<PathBuf>,
    /// `--mode`.
    pub mode: Option<Mode>,
    /// `--audit-log`.
    pub audit_log: Option<PathBuf>,
    /// `--tag`.
    pub tags: BTreeMap<String, String>,
    /// `--user`.
    pub user: Option<String>,
    /// `--quiet`.
    pub quiet: bool,
    /// The command and its arguments, at least one.
    pub command: Vec<OsString>,
}

/// What only the supervisor can find wrong.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum RunError {
    #[error("`run` needs root to set up the kernel's limits")]
    #[diagnostic(help("sudo govsandbox run … (the command itself runs as you, without any privilege)"))]
    NotRoot,
    #[error("the command would run as root, and the policy says `process.root = \"refuse\"`")]
    #[diagnostic(help("start through sudo as the user it should run as, or name one: --user NAME"))]
    RootRefused,
    #[error("descriptor {number} is {path}, which the policy does not let the command {verb}")]
    #[diagnostic(help(
        "redirect to a file that the policy allows, or through a pipe: `cat FILE | govsandbox run …`"
    ))]
    Redirected { number: i32, path: String, verb: &'static str },
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

fn step(step: Step) -> Result<(), RunError> {
    fault::at(step).map_err(system("go on"))
}

/// Runs the command in a sandbox; its status, or one of [`Status`].
///
/// # Errors
/// When the sandbox can't be set up: the command was not started.
pub fn run(options: &RunOptions) -> miette::Result<u8> {
    if !rustix::process::geteuid().is_root() {
        return Err(RunError::NotRoot.into());
    }
    crate::sys::open_files::raise(backend::lsm::OPEN_FILES_USUAL);
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let identity = Identity::resolve(options.user.as_deref(), &env)?;
    let cwd = std::env::current_dir().map_err(system("tell the working directory"))?;
    let (policy, automaton) = load_policy(options, &identity)?;
    if identity.uid == 0 {
        if policy.compiled.root == RootPolicy::Refuse {
            return Err(RunError::RootRefused.into());
        }
        if identity.origin == Origin::PlainRoot && !options.quiet {
            tell("warning: the command runs as uid 0 without any capability; --user NAME names another");
        }
    }
    let log = open_log(&policy.compiled, &identity)?;
    step(Step::Log)?;
    // Mounts it where the system has not; the programs are attached there.
    launch::cgroup::root()?;
    step(Step::CgroupRoot)?;
    let loaded = load::load()?;
    step(Step::Programs)?;
    if loaded.mounted_bpffs && !options.quiet {
        tell(&format!("bpffs was not mounted; it is now, at {}", crate::bpf::mount::BPFFS));
    }
    let choice = backend::choose(&loaded, policy.compiled.require)?;
    step(Step::Backend)?;
    let start = Start { options, identity, cwd, env, policy, automaton, loaded, kind: choice.kind };
    start.run(log)
}

/// The policy of a run with govsandbox's own files in it.
struct Policy {
    compiled: Compiled,
    /// What must not be changed from inside.
    own_files: Vec<PathBuf>,
    review: Review,
}

fn load_policy(options: &RunOptions, identity: &Identity) -> miette::Result<(Policy, PathTable)> {
    let user = User {
        uid: identity.uid,
        gid: identity.gid,
        name: identity.name.clone(),
        home_passwd: identity.home.clone(),
    };
    let command = options.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let sources = Sources {
        policies: options.policies.clone(),
        command_name: command,
        context: Context::discover(&user, options.project.as_deref())?,
        mode_override: options.mode,
    };
    let review = Review::begin(sources.context.project().ok(), &sources.context.home);
    let loaded = policy::load(&sources)?;
    policy::pitfalls::check_start(&loaded, &sources.context)?;
    if !options.quiet {
        for warning in loaded.warnings {
            crate::diagnostic::report(&warning.into());
        }
    }
    let mut compiled = loaded.compiled;
    if let Some(path) = &options.audit_log {
        compiled.audit_log = std::path::absolute(path).map_err(system("tell the audit log's folder"))?;
    }
    let mut own_files = loaded.files;
    own_files.push(compiled.audit_log.clone());
    compiled.paths.literals.extend(service::own_folder(&compiled)?);
    own_files.push(std::env::current_exe().map_err(system("tell where govsandbox itself lies"))?);
    Ok((Policy { compiled, own_files, review }, loaded.automaton))
}

/// Where the sandbox can write.
fn writable(compiled: &Compiled) -> Vec<PathBuf> {
    match compiled.mode {
        // Without Landlock only owner and mode bits count.
        Mode::Audit => Vec::new(),
        Mode::Enforce => compiled
            .paths
            .allow
            .iter()
            .flat_map(|lists| &lists.write)
            .map(|entry| entry.path.clone())
            .collect(),
    }
}

/// Opens the log where the sandbox can't write.
fn open_log(compiled: &Compiled, identity: &Identity) -> miette::Result<AuditLog> {
    let writable = writable(compiled);
    let subject = audit::Subject { uid: identity.uid, gids: &identity.groups, writable: &writable };
    audit::check_location(&compiled.audit_log, &subject)?;
    Ok(AuditLog::open(&compiled.audit_log, Some(Ownership { uid: 0, gid: identity.gid }))?)
}

/// Everything that is decided before anything is created.
struct Start<'a> {
    options: &'a RunOptions,
    identity: Identity,
    cwd: PathBuf,
    env: Vec<(OsString, OsString)>,
    policy: Policy,
    automaton: PathTable,
    loaded: Loaded,
    kind: Kind,
}

/// What the backend needs in the kernel, around the child and beside it.
struct Layers {
    kernel: lsm::Prepared,
    open: Option<namespaces::Open>,
    mounts: MountPlan,
    fanotify: Option<(launch::plan::FanotifyPlan, Arc<fanotify::PathRules>)>,
    seccomp: SeccompPlan,
    programs: Option<Programs>,
    /// On `lsm`, where a policy leaves keys of a config open.
    keyed: Option<KeyPerformer>,
    not_held: Vec<String>,
}

impl Start<'_> {
    fn run(self, log: AuditLog) -> miette::Result<u8> {
        let compiled = &self.policy.compiled;
        let enforce = compiled.mode == Mode::Enforce;
        let layers = self.layers()?;
        step(Step::Layers)?;
        let addresses = service::addresses(compiled);
        let mut resolver = Resolver::new(addresses.denied_names());
        let config = SandboxConfig {
            trace_opens: compiled.trace_opens as u8,
            audit_mode: u8::from(!enforce),
            trace_args: u8::from(compiled.trace_args),
            path_hooks: u8::from(self.kind == Kind::Lsm),
            icmp: service::icmp(compiled),
            ..SandboxConfig::default()
        };
        let (config, proc) = namespaces::told(layers.open.as_ref(), config);
        let automaton = (self.kind == Kind::Lsm).then_some(&*layers.kernel.automaton);
        let tables = addresses.tables()?;
        let entrance = service::entrance(compiled)?;
        let listen = NetworkRules::new(&compiled.listen, ALLOW).tables()?;
        let exec = layers.programs.as_ref().map(|programs| &*programs.table);
        let unix = policy::automaton::unix::build(&compiled.unix)?;
        let refusable: Vec<u32> = seccomp::numbers().collect();
        let contents = Contents {
            config,
            held: layers
                .kernel
                .held
                .into_iter()
                .chain(layers.open.into_iter().flat_map(|open| open.held))
                .collect(),
            automaton,
            exec,
            unix: unix.as_deref(),
            egress: &tables,
            listen: &listen,
            proc,
            refusable: &refusable,
        };
        let (sandbox, rings) = Sandbox::create(&self.loaded, contents)?;
        let session = Session::new(&self.identity, compiled, sandbox.id, self.options);
        let mode = if enforce { fanotify::Mode::Enforce } else { fanotify::Mode::Audit };
        let (fanotify, rules) = layers.fanotify.unzip();
        let mut plan = self.plan(layers.mounts, fanotify, layers.seccomp, &session);
        plan.network = entrance.network;
        let unix = unix.map(Arc::from);
        plan.performer = match rules.clone().filter(|_| self.kind == Kind::Fanotify) {
            Some(rules) => Some(Arc::new(PathPerformer::new(rules, mode, &compiled.paths.keys, unix))),
            None => layers.keyed.map(|keyed| Arc::new(keyed) as Arc<dyn Performer>),
        };
        let (refusals, refused) = fanotify::channel();
        let (mut verdicts, mut reports) = (None, None);
        let mut init_pid = 0;
        let prepared = launch::spawn(&plan, |forked| {
            init_pid = forked.init_pid;
            let user = (self.identity.uid, self.identity.gid);
            reports = Reports::start(forked, refusals.clone(), compiled.paths.keys.clone(), user)?;
            if let Some(rules) = rules {
                verdicts = Some(fanotify::Verdicts::start(forked, rules, mode, refusals)?);
            }
            fault::at(Step::Verdicts)
        });
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return give_up(error),
        };
        step(Step::Ready)?;
        redirected::check(compiled, &self.automaton, prepared.redirected())?;
        step(Step::Judged)?;
        let killer = prepared.killer();
        let on_fatal: audit::recorder::OnFatal = Box::new(move |_| {
            if let Some(killer) = killer {
                killer.kill();
            }
        });
        let required = compiled.audit_required;
        let recorder_options =
            RecorderOptions { required, on_fatal: Some(on_fatal), ..RecorderOptions::default() };
        let recorder = Recorder::spawn(log, session.fields.clone(), recorder_options)
            .map_err(system("start the recorder"))?;
        step(Step::Recorder)?;
        let networks = Arc::clone(sandbox.networks());
        let asking = service::asking(compiled, &session.fields);
        let (egress, told) = Egress::new(addresses, Arc::clone(&networks), entrance.diag, enforce, asking);
        if resolver.has_names() {
            resolver.begin();
            if resolver.collect(NAMES_PATIENCE) {
                egress.set_denied(resolver.resolved());
            }
        }
        networks.set_service(service::ports(&entrance.sockets)?)?;
        let writable = writable(compiled);
        let subject =
            audit::Subject { uid: self.identity.uid, gids: &self.identity.groups, writable: &writable };
        let service = service::start(entrance.sockets, compiled, sandbox.id, &subject, &egress)?;
        let _approval = service::approval(&self.loaded, compiled, sandbox.id, &egress)?;
        sandbox.mark(prepared.command())?;
        if let Some(performer) = prepared.performer() {
            sandbox.mark_performer(performer, self.kind == Kind::Lsm)?;
        }
        step(Step::Marked)?;
        let not_held = promises::not_held(self.kind, &self.loaded, layers.not_held, &prepared);
        recorder.record(session.start(&self.options.command, self.kind, not_held));
        step(Step::Started)?;
        let observed = Observed {
            sandbox,
            rings,
            kernel_log: KernelLog::open(&self.loaded)?,
            killer: prepared.killer(),
            limits: limits::Reports::new(compiled, prepared.limits()),
            refused,
            resolver,
            egress,
            told,
            compiled: Arc::new(policy::explain::with_links_followed(compiled)),
            automaton: self.automaton.clone(),
            programs: layers.programs.map(|programs| Arc::from(programs.table)),
            root: PathBuf::from(format!("/proc/{init_pid}/root")),
            enforcing: enforce,
            command: Command {
                pid: prepared.command_pid().unsigned_abs(),
                argv: self.options.command.clone(),
                cwd: self.cwd.clone(),
            },
            recorder: recorder.handle(),
        };
        let observer = Observer::start(observed, filter::of(&plan.seccomp))
            .map_err(system("start the thread that reads events"))?;
        step(Step::Observer)?;

        let ended = prepared.release().and_then(launch::Running::wait);
        service.stop();
        if let Some(reports) = reports {
            reports.stop();
        }
        let counts = verdicts.map(fanotify::Verdicts::stop).unwrap_or_default();
        if counts.unreadable > 0 {
            recorder.record(session.unreadable(counts.unreadable));
        }
        observer.stop();
        let fatal = recorder.is_fatal();
        let status = match &ended {
            Ok(ended) if !fatal => ended.status(),
            Ok(_) => Status::Failure as u8,
            Err(error) => error.status() as u8,
        };
        let review = self.policy.review.end()?;
        let end = session.end(ended.as_ref().ok().copied(), status, review.texts());
        let summary = recorder.finish(Some(end));
        summary::tell_end(&summary, &review, fatal, self.options.quiet, &session);
        match ended {
            Ok(_) => Ok(status),
            Err(error) => give_up(error),
        }
    }

    fn layers(&self) -> miette::Result<Layers> {
        let Policy { compiled, own_files, .. } = &self.policy;
        let programs = programs::find(&compiled.exec, &self.env)?;
        namespaces::check(compiled, self.kind, &self.identity, programs.as_ref())?;
        match self.kind {
            Kind::Lsm => {
                let mut kernel =
                    lsm::prepare(&compiled.paths, &self.automaton, programs.as_ref(), own_files)?;
                let not_held = std::mem::take(&mut kernel.not_held);
                let open = namespaces::open(compiled, &kernel.automaton, programs.as_ref())?;
                let keyed = match compiled.mode {
                    // With mounts of its own a caller's paths are no longer those that the performer looks for.
                    Mode::Enforce if open.is_none() => KeyPerformer::new(&compiled.paths, &kernel.automaton),
                    // In audit mode everything may change.
                    Mode::Enforce | Mode::Audit => None,
                };
                let performed = if keyed.is_some() { KEYED } else { SeccompPlan::HOOKS.performed };
                Ok(Layers {
                    kernel,
                    open,
                    mounts: MountPlan::default(),
                    fanotify: programs::by_content(programs.as_ref(), &self.automaton)?,
                    seccomp: SeccompPlan { performed, ..SeccompPlan::HOOKS },
                    programs,
                    keyed,
                    not_held,
                })
            }
            Kind::Fanotify => {
                let mode = match compiled.mode {
                    Mode::Enforce => fanotify::Mode::Enforce,
                    Mode::Audit => fanotify::Mode::Audit,
                };
                let setup = fanotify::prepare(fanotify::Input {
                    paths: &compiled.paths,
                    automaton: self.automaton.clone(),
                    own_files: own_files.clone(),
                    mode,
                    programs: programs.as_ref(),
                })?;
                let kernel = lsm::Prepared {
                    held: Vec::new(),
                    automaton: self.automaton.clone(),
                    not_held: Vec::new(),
                };
                Ok(Layers {
                    kernel,
                    open: None,
                    mounts: setup.mounts,
                    fanotify: Some((setup.fanotify, Arc::new(setup.rules))),
                    seccomp: SeccompPlan {
                        group_signals: filter::group_signals(),
                        performed: PERFORMED,
                        ..SeccompPlan::FANOTIFY
                    },
                    programs,
                    keyed: None,
                    not_held: setup.not_held,
                })
            }
        }
    }

    fn plan(
        &self,
        mounts: MountPlan,
        fanotify: Option<launch::plan::FanotifyPlan>,
        seccomp: SeccompPlan,
        session: &Session,
    ) -> LaunchPlan {
        let compiled = &self.policy.compiled;
        LaunchPlan {
            argv: self.options.command.clone(),
            cwd: self.cwd.clone(),
            env: proxy::without(compiled, self.identity.environment(&self.env)),
            identity: self.identity.clone(),
            cgroup: CgroupPlan {
                name: session.fields.session.0.clone(),
                bounds: limits::bounds(compiled, self.kind, &self.identity),
            },
            network: None,
            mounts,
            landlock: landlock::plan(compiled, self.kind),
            seccomp: filter::for_policy(seccomp, compiled),
            fanotify,
            performer: None,
        }
    }
}

/// Tells why the command did not start or was lost, with the status that a shell would give.
fn give_up(error: LaunchError) -> miette::Result<u8> {
    let status = error.status() as u8;
    crate::diagnostic::report(&error.into());
    Ok(status)
}
