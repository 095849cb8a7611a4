//! Egress by name: the service that answers the sandbox's lookups and passes its connections on, and what its supervisor
//! has to do for it.
//!
//! The kernel programs lead what the sandbox asks of port 53, and connections to addresses that are allowed by name, to
//! sockets on loopback. [`Sockets::bind`] makes these (their [`Ports`] go into the kernel's map), [`Service::start`]
//! starts the process that serves them and starts it again when it dies; they stay bound meanwhile, so nobody else gets
//! what is sent there. The process runs as a user of its own and can open, execute and write nothing
//! (`egress/confine.rs`); it decides about names by the rules it was given, and asks its [`Broker`], in the
//! supervisor, for all that only the supervisor knows:
//!
//! 1. [`Broker::who`]: whose is this socket, and whereto did it want? `None`: not the sandbox's, nothing is answered.
//! 2. [`Broker::answer`]: this name has these addresses. The supervisor checks the name once more, writes those that may
//!    be reached into the kernel's map and says which; only these are in the answer that the sandbox gets afterwards.
//! 3. [`Broker::verify`]: this connection says it talks to that name. May it?
//!
//! ```text
//! let sockets = Sockets::bind()?;                                  // before the sandbox exists
//! let ports = sockets.ports();                                     // → SERVICES
//! let service = Service::start(sockets, settings, Host::default(), broker)?; // after the last fork, before the release
//! …
//! service.stop();                                                  // after the sandbox's end
//! ```

mod accept;
pub mod channel;
mod confine;
mod dns;
mod keeper;
pub mod names;
pub mod relay;
pub mod service;
mod sockets;
mod supervisor;
mod wire;

use serde::Serialize;

use self::channel::{Answer, Entered, Event, Origin, Permit, Permitted, Reply, Verdict, Verify, Who};
pub use self::{
    keeper::{Host, Service, ServiceError},
    sockets::{DNS6_SERVERS_MAX, Ports, Sockets},
};

/// What the supervisor does for the service. Called by one thread, one call after the other: what takes long is handed
/// to another thread together with its [`Respond`].
pub trait Broker: Send + Sync {
    /// Whose is the socket at the other end, and whereto did it want? `None`: it is not the sandbox's.
    fn who(&self, who: Who, respond: Respond<Option<Origin>>);

    /// May it go on, where somebody may have to be asked? Only where [`channel::Settings::ask_ms`] says so.
    fn permit(&self, permit: Permit, respond: Respond<Permitted>);

    /// Checks the name, has the kernel let the sandbox connect to its addresses, and says to which.
    fn answer(&self, answer: Answer, respond: Respond<Entered>);

    /// May a connection go on that names whom it talks to?
    fn verify(&self, verify: Verify, respond: Respond<Verdict>);

    /// What the host's hosts(5) says from now on: its names are known inside without a lookup. Called before the service is
    /// started, and when the file has changed.
    fn hosts(&self, text: &str);

    /// Something to be recorded.
    fn event(&self, event: Event);

    /// The service has ended by itself and is started again; connections through it are gone.
    fn ended(&self, why: &str);
}

/// Where the response to one question goes, from whichever thread. Dropped without one it is a no.
#[derive(Debug)]
pub struct Respond<T: Default + Into<Reply> + Serialize> {
    number: u64,
    to: keeper::Line,
    response: Option<T>,
}

impl<T: Default + Into<Reply> + Serialize> Respond<T> {
    /// Responds.
    pub fn send(mut self, response: T) {
        self.response = Some(response);
    }
}

impl<T: Default + Into<Reply> + Serialize> Drop for Respond<T> {
    fn drop(&mut self) {
        let response = self.response.take().unwrap_or_default();
        self.to.reply(self.number, response.into());
    }
}
