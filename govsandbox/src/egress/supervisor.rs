//! The service's side of the channel: questions with their replies, and events.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
};

use super::channel::{
    Answer, Entered, Event, Limit, Message, Order, Origin, Permit, Permitted, Question, Reply, Verdict,
    Verify, Who,
};
use super::wire::{Channel, receive, send};
use crate::sys::async_descriptor::register;

/// Messages that wait to be sent; events beyond are counted and lost.
const WAITING_MAX: usize = 4096;

/// The supervisor, as the service sees it.
#[derive(Debug)]
pub(super) struct Supervisor {
    out: mpsc::Sender<Message>,
    pending: RefCell<HashMap<u64, oneshot::Sender<Reply>>>,
    next: Cell<u64>,
    patience: Duration,
    /// Of somebody who is asked, and the supervisor's own.
    long_patience: Duration,
    limited: RefCell<HashMap<Limit, u64>>,
}

impl Supervisor {
    /// On a channel that does not block. `orders` gets what is no reply; the future ends when the supervisor is gone.
    pub(super) fn new(
        channel: Channel,
        (patience, long_patience): (Duration, Duration),
        orders: impl FnMut(Order, Option<OwnedFd>),
    ) -> io::Result<(Rc<Self>, impl Future<Output = io::Result<()>>)> {
        let channel = register(channel.into())?;
        let (out, waiting) = mpsc::channel(WAITING_MAX);
        let supervisor = Rc::new(Self {
            out,
            pending: RefCell::default(),
            next: Cell::new(0),
            patience,
            long_patience,
            limited: RefCell::default(),
        });
        let ours = Rc::clone(&supervisor);
        let work = async move {
            tokio::select! {
                ended = write(&channel, waiting) => ended,
                ended = ours.read(&channel, orders) => ended,
            }
        };
        Ok((supervisor, work))
    }

    /// Whose socket is it? `None`: not the sandbox's, or nobody says.
    pub(super) async fn who(&self, who: Who) -> Option<Origin> {
        match self.ask(Question::Who(who), self.patience).await? {
            Reply::Who(origin) => origin,
            Reply::Permit(_) | Reply::Answer(_) | Reply::Verify(_) => None,
        }
    }

    /// May it go on? Nobody says: no.
    pub(super) async fn permit(&self, permit: Permit) -> Permitted {
        match self.ask(Question::Permit(permit), self.long_patience).await {
            Some(Reply::Permit(permitted)) => permitted,
            _ => Permitted::default(),
        }
    }

    /// Which addresses may be told? Nobody says: none.
    pub(super) async fn answer(&self, answer: Answer) -> Entered {
        match self.ask(Question::Answer(answer), self.patience).await {
            Some(Reply::Answer(entered)) => entered,
            _ => Entered::default(),
        }
    }

    /// May it go on? `None`: nobody says.
    pub(super) async fn verify(&self, verify: Verify) -> Option<Verdict> {
        match self.ask(Question::Verify(verify), self.patience).await? {
            Reply::Verify(verdict) => Some(verdict),
            Reply::Who(_) | Reply::Permit(_) | Reply::Answer(_) => None,
        }
    }

    /// Has it recorded.
    pub(super) fn tell(&self, event: Event) {
        if self.out.try_send(Message::Event(event)).is_err() {
            self.count(Limit::Events);
        }
    }

    /// Everything is in its place.
    pub(super) async fn ready(&self) {
        drop(self.out.send(Message::Ready).await); // the reader sees that the supervisor is gone
    }

    /// Counts what was turned away; [`Supervisor::tell_limits`] tells of it.
    pub(super) fn count(&self, what: Limit) {
        *self.limited.borrow_mut().entry(what).or_default() += 1;
    }

    /// Tells what was counted since the last time.
    pub(super) fn tell_limits(&self) {
        let limited = std::mem::take(&mut *self.limited.borrow_mut());
        for (what, count) in limited {
            if self.out.try_send(Message::Event(Event::Limited { what, count })).is_err() {
                *self.limited.borrow_mut().entry(what).or_default() += count;
            }
        }
    }

    async fn ask(&self, question: Question, patience: Duration) -> Option<Reply> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let (to, reply) = oneshot::channel();
        self.pending.borrow_mut().insert(number, to);
        let _forget = Forget { supervisor: self, number };
        self.out.send(Message::Question(number, question)).await.ok()?;
        tokio::time::timeout(patience, reply).await.ok()?.ok()
    }

    async fn read(
        &self,
        channel: &AsyncFd<OwnedFd>,
        mut orders: impl FnMut(Order, Option<OwnedFd>),
    ) -> io::Result<()> {
        loop {
            let received = channel.async_io(Interest::READABLE, |it| receive::<Order>(it.as_fd())).await?;
            match received {
                None => return Ok(()),
                Some((Order::Reply(number, reply), _)) => {
                    if let Some(to) = self.pending.borrow_mut().remove(&number) {
                        drop(to.send(reply)); // whoever asked has given up
                    }
                }
                Some((order, along)) => orders(order, along),
            }
        }
    }
}

async fn write(channel: &AsyncFd<OwnedFd>, mut waiting: mpsc::Receiver<Message>) -> io::Result<()> {
    while let Some(message) = waiting.recv().await {
        channel.async_io(Interest::WRITABLE, |it| send(it.as_fd(), &message, None)).await?;
    }
    Ok(())
}

/// Takes a question off the list, however the wait for its reply ends.
struct Forget<'a> {
    supervisor: &'a Supervisor,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.supervisor.pending.borrow_mut().remove(&self.number);
    }
}
