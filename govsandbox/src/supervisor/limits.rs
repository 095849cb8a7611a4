//! Bounds on processes and memory: which are wanted, and what is told when they are met.

use rustix::process::{Resource as Limited, getrlimit};

use crate::{
    backend::Kind as Backend,
    event::model::{Action, Event, Kind, Object, Outcome, Rule},
    id::RuleId,
    launch::{
        Prepared,
        limits::{Bound, Hits, LimitWatch, PIDS_MAX_DEFAULT, Resource},
        privilege::Identity,
    },
    policy::compile::{Compiled, Layer, RuleInfo},
};

/// Half of what the machine has, or the user: others need some too.
fn default_pids(identity: &Identity) -> u64 {
    let half = |setting| Some(std::fs::read_to_string(setting).ok()?.trim().parse::<u64>().ok()? / 2);
    let machine = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"].map(half);
    let user = getrlimit(Limited::Nproc).current.map(|max| max / 2);
    // Root's processes have no such limit.
    let user = user.filter(|_| identity.uid != 0);
    machine.into_iter().chain([user]).flatten().fold(PIDS_MAX_DEFAULT, u64::min).max(1)
}

/// The policy's bounds, and one on processes for a policy without. Processes of ours that live beside the command in its
/// cgroup are not counted against it.
pub(super) fn bounds(compiled: &Compiled, backend: Backend, identity: &Identity) -> Vec<Bound> {
    let pids =
        compiled.pids_max.as_ref().map_or_else(|| (default_pids(identity), false), |limit| (limit.max, true));
    // The init, and on `fanotify` the performer.
    let own = match backend {
        Backend::Lsm => 1,
        Backend::Fanotify => 2,
    };
    let pids = Bound { resource: Resource::Pids, max: pids.0, own, required: pids.1 };
    let memory = compiled.memory_max_bytes.as_ref();
    let memory =
        memory.map(|limit| Bound { resource: Resource::Memory, max: limit.max, own: 0, required: true });
    std::iter::once(pids).chain(memory).collect()
}

/// What this machine can't bound, in words.
pub(super) fn not_held(prepared: &Prepared) -> Option<String> {
    let unbounded = !prepared.is_bounded(Resource::Pids);
    unbounded.then(|| "a bound on the number of processes: no cgroup here has the controller pids".to_owned())
}

/// Makes events of what was met.
pub(super) struct Reports {
    watch: LimitWatch,
    pids: RuleInfo,
    memory: RuleInfo,
    told: Vec<Hits>,
}

impl Reports {
    pub(super) fn new(compiled: &Compiled, watch: LimitWatch) -> Self {
        let rule = |limit: &Option<crate::policy::compile::Limit>, key: &str| {
            let default = || RuleInfo { id: RuleId(format!("default/{key}")), layer: Layer::Builtin };
            limit.as_ref().map_or_else(default, |limit| limit.rule.clone())
        };
        Self {
            watch,
            pids: rule(&compiled.pids_max, "limits.pids_max"),
            memory: rule(&compiled.memory_max_bytes, "limits.memory_max_bytes"),
            told: Vec::new(),
        }
    }

    /// One event for each bound that was met since the last time.
    pub(super) fn due(&mut self) -> Vec<Event> {
        let now = self.watch.read();
        let told = |hits: &Hits| self.told.iter().find(|told| told.resource == hits.resource);
        let fresh = now.iter().map(|hits| (hits, hits.count - told(hits).map_or(0, |told| told.count)));
        let events =
            fresh.filter(|(_, count)| *count > 0).map(|(hits, count)| self.event(hits, count)).collect();
        self.told = now;
        events
    }

    fn event(&self, hits: &Hits, count: u64) -> Event {
        let (rule, errno, detail) = match hits.resource {
            Resource::Pids => (
                &self.pids,
                Some(libc::EAGAIN),
                format!("{} processes and threads at once: a fork failed", hits.max),
            ),
            Resource::Memory => {
                (&self.memory, None, format!("{} bytes of memory: a process was killed", hits.max))
            }
        };
        Event {
            time: jiff::Timestamp::now(),
            kind: Kind::PrivilegeUse,
            action: Action::Use,
            outcome: Outcome::Denied,
            errno,
            rule: Some(Rule { id: rule.id.clone(), layer: rule.layer }),
            process: None,
            object: Object { detail: Some(detail), count: Some(count), ..Object::default() },
        }
    }
}
