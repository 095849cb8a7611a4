//! From the verdict thread to who records: bounded, and nothing is ever dropped.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    time::Duration,
};

use super::verdicts::Refusal;

/// Refusals that are sent and not told of yet, at most: some 3 MiB. With more the verdict thread waits, and so does who
/// opens files in the sandbox.
const WAITING_MAX: usize = 8192;
/// A receiver that does nothing for so long hangs: the refusal is sent all the same, and stays in memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The end of those that refuse: the verdict thread, and the one that hears of performed calls.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: Sender<Refusal>,
    waiting: Arc<Waiting>,
}

/// The other end.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Refusal>,
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    count: Mutex<usize>,
    /// To the sender: there is room.
    room: Condvar,
}

/// A pair.
#[must_use]
pub fn channel() -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel();
    let waiting = Arc::new(Waiting::default());
    (Outbox { sender, waiting: Arc::clone(&waiting) }, Inbox { receiver, waiting })
}

impl Outbox {
    /// Sends when there is room. A receiver that is gone ends no verdict.
    pub fn send(&self, refusal: Refusal) {
        let count = self.waiting.lock();
        let waited = self.waiting.room.wait_timeout_while(count, PATIENCE, |count| *count >= WAITING_MAX);
        *waited.unwrap_or_else(PoisonError::into_inner).0 += 1;
        self.sender.send(refusal).ok();
    }
}

impl Inbox {
    /// All that was sent; each counts until it is [`Inbox::told`].
    pub fn take(&self) -> impl Iterator<Item = Refusal> + '_ {
        self.receiver.try_iter()
    }

    /// One of them is recorded.
    pub fn told(&self) {
        let mut count = self.waiting.lock();
        *count = count.saturating_sub(1);
        self.waiting.room.notify_one();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        *self.waiting.lock() = 0;
        self.waiting.room.notify_one();
    }
}

impl Waiting {
    /// A panic elsewhere leaves a number whole.
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(ino: u64) -> Refusal {
        Refusal {
            time_boot_ns: 1,
            tgid: 1,
            tid: 1,
            path: Vec::new(),
            dev: 0,
            ino,
            write: false,
            exec: false,
            list: false,
            rule: 1,
            refused: true,
            change: None,
            socket: None,
            target: Vec::new(),
            call: None,
        }
    }

    #[test]
    fn a_full_box_makes_the_sender_wait_and_loses_nothing() {
        let (outbox, inbox) = channel();
        let sender =
            std::thread::spawn(move || (0..3 * WAITING_MAX as u64).for_each(|ino| outbox.send(refusal(ino))));
        let mut taken = Vec::new();
        while taken.len() < 3 * WAITING_MAX {
            let before = taken.len();
            taken.extend(inbox.take().map(|refusal| refusal.ino));
            assert!(taken.len() - before <= WAITING_MAX + 1, "it did not wait");
            (before..taken.len()).for_each(|_| inbox.told());
        }
        sender.join().unwrap();
        assert!(taken.iter().copied().eq(0..3 * WAITING_MAX as u64));
    }
}
