//! The thread that writes the log, and the way to it that never waits.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    gap::Losses,
    log::{AuditLog, LogError},
    queue::{Limits, Queue, Weight},
};
use crate::event::{
    model::{Event, SessionFields},
    text::for_terminal,
};

/// From the first event to the write: many events share the cost of one turn, and a reader still sees them at once.
const LINGER: Duration = Duration::from_millis(2);
/// Between two tries while the log can't be written.
const RETRY: Duration = Duration::from_secs(1);
/// How long [`Recorder::finish`] waits for a disk that hangs: nothing was written meanwhile. On a machine with too much to
/// do a write takes seconds too.
const FINISH_PATIENCE: Duration = Duration::from_secs(30);
/// How long a denial waits for room while the log is written; a disk that takes nothing for so long hangs.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// Events of one write; after each the writer says how far it is.
const WRITE_EVENTS_MAX: usize = 256;

/// Called once, from the recorder's thread, when the log can't be written although the policy requires it.
pub type OnFatal = Box<dyn FnOnce(&LogError) + Send>;

/// What a recorder may do.
#[derive(Default)]
pub struct RecorderOptions {
    /// `audit.required`: a log that can't be written is fatal.
    pub required: bool,
    /// See [`OnFatal`]; [`RecorderHandle::is_fatal`] tells the same.
    pub on_fatal: Option<OnFatal>,
    /// Memory of waiting events.
    pub limits: Limits,
}

/// Writes a session's events on a thread of its own.
#[derive(Debug)]
pub struct Recorder {
    handle: RecorderHandle,
    log: PathBuf,
    is_finished: bool,
}

/// Where any thread leaves its events.
#[derive(Clone, Debug)]
pub struct RecorderHandle(Arc<Shared>);

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Where the log is.
    pub log: PathBuf,
    /// Events that were handed over and are in the log.
    pub written: u64,
    /// Events that were handed over and are not: no room in memory, or none on the disk until the end.
    pub lost: u64,
    /// What is in the log of this session, by kind and outcome: `file.open.denied` → 3.
    pub counts: BTreeMap<String, u64>,
}

impl Summary {
    /// How many denials are in the log.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.counts.iter().filter(|(name, _)| name.ends_with(".denied")).map(|(_, count)| count).sum()
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// To the writer: there is something to do.
    wake: Condvar,
    /// To who waits in [`RecorderHandle::record`]: there may be room.
    room: Condvar,
    /// To [`Recorder::finish`]: the writer is done.
    done: Condvar,
    is_fatal: AtomicBool,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Events handed over.
    recorded: u64,
    written: u64,
    counts: BTreeMap<String, u64>,
    /// The last try to write failed.
    is_failing: bool,
    /// The writer sleeps until it is told of an event.
    is_idle: bool,
    is_closing: bool,
    is_done: bool,
    /// The session's last event; it waits for the counts.
    end: Option<Event>,
}

impl Recorder {
    /// Starts the thread. Call it after the command was forked: a child has none of its parent's threads.
    ///
    /// # Errors
    /// That of `pthread_create(3)`.
    pub fn spawn(log: AuditLog, session: SessionFields, options: RecorderOptions) -> io::Result<Self> {
        let state = State {
            queue: Queue::new(options.limits),
            recorded: 0,
            written: 0,
            counts: BTreeMap::new(),
            is_failing: false,
            is_idle: false,
            is_closing: false,
            is_done: false,
            end: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Condvar::new(),
            room: Condvar::new(),
            done: Condvar::new(),
            is_fatal: AtomicBool::new(false),
        });
        let path = log.path().to_owned();
        let on_fatal = options.required.then_some(options.on_fatal);
        let writer = Writer {
            shared: Arc::clone(&shared),
            log,
            session,
            on_fatal,
            pending: VecDeque::new(),
            losses: Losses::default(),
            failure: None,
            has_complained: false,
        };
        thread::Builder::new().name("audit-log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { handle: RecorderHandle(shared), log: path, is_finished: false })
    }

    /// For another thread.
    #[must_use]
    pub fn handle(&self) -> RecorderHandle {
        self.handle.clone()
    }

    /// See [`RecorderHandle::record`].
    pub fn record(&self, event: Event) {
        self.handle.record(event);
    }

    /// See [`RecorderHandle::is_fatal`].
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.handle.is_fatal()
    }

    /// Writes what waits, then `end`, the session's last event, whose `object.counts` are filled in if it has none.
    /// Gives up when the disk hangs for thirty seconds; what is not written by then is lost.
    #[must_use]
    pub fn finish(mut self, end: Option<Event>) -> Summary {
        self.close(end)
    }

    fn close(&mut self, end: Option<Event>) -> Summary {
        self.is_finished = true;
        let shared = &self.handle.0;
        let mut state = shared.lock();
        state.recorded += u64::from(end.is_some());
        state.end = end;
        state.is_closing = true;
        shared.wake.notify_one();
        let mut written_before = None;
        while !state.is_done && written_before != Some(state.written) {
            written_before = Some(state.written);
            let waited = shared.done.wait_timeout_while(state, FINISH_PATIENCE, |state| !state.is_done);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Summary {
            log: self.log.clone(),
            written: state.written,
            lost: state.recorded.saturating_sub(state.written),
            counts: state.counts.clone(),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.is_finished {
            self.close(None);
        }
    }
}

impl RecorderHandle {
    /// Hands the event over. It is in memory only for some milliseconds; with no room left it is counted, and the count
    /// becomes an `audit.gap`. A denial waits for room, so that who causes them is slowed down by what lies between; but
    /// not for a disk that fails or hangs.
    pub fn record(&self, event: Event) {
        let mut state = self.0.lock();
        state.recorded += 1;
        if event.is_denial() {
            let is_waiting =
                |state: &mut State| !state.is_failing && !state.is_done && !state.queue.has_room(&event);
            if is_waiting(&mut state) {
                self.0.wake.notify_one();
            }
            let waited = self.0.room.wait_timeout_while(state, ROOM_PATIENCE, is_waiting);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.push(event);
        if std::mem::take(&mut state.is_idle) {
            self.0.wake.notify_one();
        }
    }

    /// The log is required and can't be written: the run has to end.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.0.is_fatal.load(Ordering::Acquire)
    }
}

impl Shared {
    /// A panic elsewhere leaves the state whole: each change of it is complete.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    shared: Arc<Shared>,
    log: AuditLog,
    session: SessionFields,
    /// `None`: the log is not required.
    on_fatal: Option<Option<OnFatal>>,
    /// Taken from the queue and not yet written.
    pending: VecDeque<Event>,
    losses: Losses,
    /// The last try failed, with that errno.
    failure: Option<Option<i32>>,
    has_complained: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            let is_closing = self.collect();
            self.write_pending();
            if is_closing && (self.failure.is_some() || self.shared.lock().queue.is_empty()) {
                break;
            }
        }
        let end = {
            let mut state = self.shared.lock();
            let counts = state.counts.clone();
            state.end.take().map(|mut end| {
                end.object.counts.get_or_insert(counts);
                end
            })
        };
        self.pending.extend(end);
        self.write_pending();
        let mut state = self.shared.lock();
        state.is_done = true;
        self.shared.done.notify_one();
    }

    /// Waits for work, then takes all there is. Returns whether the session is over.
    fn collect(&mut self) -> bool {
        let mut state = self.shared.lock();
        if self.failure.is_some() {
            state = self.shared.sleep(state, RETRY);
        } else {
            state.is_idle = true;
            state = self
                .shared
                .wake
                .wait_while(state, |state| !state.is_closing && state.queue.is_idle())
                .unwrap_or_else(PoisonError::into_inner);
            state.is_idle = false;
            state = self.shared.sleep(state, LINGER);
        }
        let mut taken = state.queue.take();
        if self.pending.is_empty() {
            self.pending = taken; // and the memory of the last burst is given back
        } else {
            self.pending.append(&mut taken);
        }
        self.losses.merge(std::mem::take(&mut state.queue.losses));
        state.is_closing
    }

    /// Writes what waits and, when that worked, what was lost before.
    fn write_pending(&mut self) {
        loop {
            let (written, goes_on) = self.write_some();
            let mut state = self.shared.lock();
            written.add_to(&mut state);
            state.is_failing = self.failure.is_some();
            drop(state);
            self.shared.room.notify_all();
            if !goes_on || self.pending.is_empty() {
                break;
            }
        }
    }

    /// `false`: the log can't be written.
    fn write_some(&mut self) -> (Written, bool) {
        let mut written = Written::default();
        let some = self.pending.len().min(WRITE_EVENTS_MAX);
        let result = self.log.append_all(self.pending.iter().take(some), &self.session);
        let count = result.as_ref().map_or_else(|unwritten| unwritten.written, |()| some);
        written.weight = Weight::of(self.pending.iter().take(count));
        self.pending.drain(..count).for_each(|event| written.count(&event));
        written.events = count as u64;
        let result = result.and_then(|()| {
            if !self.pending.is_empty() {
                return Ok(()); // what is waiting comes first
            }
            let gaps = self.losses.events(self.failure.flatten(), jiff::Timestamp::now());
            let result = self.log.append_all(&gaps, &self.session);
            let count = result.as_ref().map_or_else(|unwritten| unwritten.written, |()| gaps.len());
            self.losses.forget_first(count);
            gaps.iter().take(count).for_each(|gap| written.count(gap));
            result
        });
        match result {
            Ok(()) if self.pending.is_empty() => self.failure = None,
            Ok(()) => {}
            Err(unwritten) => {
                self.failure = Some(self.complain(&unwritten.error));
                return (written, false);
            }
        }
        (written, true)
    }

    fn complain(&mut self, error: &LogError) -> Option<i32> {
        if let Some(on_fatal) = &mut self.on_fatal {
            self.shared.is_fatal.store(true, Ordering::Release);
            if let Some(on_fatal) = on_fatal.take() {
                on_fatal(error);
            }
        }
        if !std::mem::replace(&mut self.has_complained, true) {
            let goes_on = if self.on_fatal.is_some() {
                "the policy requires the log, so the run ends"
            } else {
                "the run goes on, what is not written is counted"
            };
            crate::diagnostic::tell(&format!("{}; {goes_on}", for_terminal(&error.to_string())));
        }
        error.errno()
    }
}

impl Shared {
    /// Sleeps, unless the session is over.
    fn sleep<'s>(&self, state: MutexGuard<'s, State>, duration: Duration) -> MutexGuard<'s, State> {
        let sleep = self.wake.wait_timeout_while(state, duration, |state| !state.is_closing);
        sleep.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// What one turn brought into the log.
#[derive(Default)]
struct Written {
    events: u64,
    weight: Weight,
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Written {
    fn count(&mut self, event: &Event) {
        *self.counts.entry((event.kind.name(), event.outcome.name())).or_default() += 1;
    }

    fn add_to(self, state: &mut State) {
        state.queue.release(self.weight);
        state.written += self.events;
        for ((kind, outcome), count) in self.counts {
            *state.counts.entry(format!("{kind}.{outcome}")).or_default() += count;
        }
    }
}
