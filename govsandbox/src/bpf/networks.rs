//! Where one sandbox may connect to, while it lives: its entries in the egress maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use govsandbox_ebpf::{
    abi::egress::{ALIASES4, AliasKey, DNS_PORT, EgressKey, EgressService, Original, PortTable, Server},
    decide::egress::alias_number,
};

use super::{
    egress::Network,
    fill::{FillError, map_error, typed},
    load::Loaded,
};
use crate::id::SandboxId;

/// One sandbox's networks, its service, and what was led there. All are gone with the sandbox; from then on nothing is
/// written any more.
#[derive(Debug)]
pub struct Networks {
    id: SandboxId,
    maps: Mutex<Maps>,
}

#[derive(Debug)]
struct Maps {
    egress: LpmTrie<MapData, EgressKey, PortTable>,
    services: HashMap<MapData, u32, EgressService>,
    originals: HashMap<MapData, u64, Original>,
    servers: HashMap<MapData, AliasKey, Server>,
    entered: BTreeSet<Network>,
    listen: LpmTrie<MapData, EgressKey, PortTable>,
    listened: Vec<Network>,
    /// The sandbox is gone: its number may be another's.
    cleared: bool,
}

impl Networks {
    pub(super) fn open(loaded: &Loaded, id: SandboxId) -> Result<Self, FillError> {
        let maps = Maps::open(loaded)?;
        Ok(Self { id, maps: Mutex::new(maps) })
    }

    /// Replaces the networks: new ones first, so that what stays allowed is never refused in between.
    ///
    /// # Errors
    /// [`FillError::Map`]; then the old ones hold, and what was new is there too.
    pub fn set_egress(&self, tables: &BTreeMap<Network, PortTable>) -> Result<(), FillError> {
        let mut maps = self.maps();
        for (network, table) in tables {
            maps.enter(self.id, *network, table)?;
        }
        let gone: Vec<Network> =
            maps.entered.iter().copied().filter(|network| !tables.contains_key(network)).collect();
        gone.into_iter().try_for_each(|network| maps.leave(self.id, network))
    }

    /// What is allowed in one network from now on.
    ///
    /// # Errors
    /// [`FillError::Map`]; then what was there before holds.
    pub fn set_network(&self, network: Network, table: &PortTable) -> Result<(), FillError> {
        self.maps().enter(self.id, network, table)
    }

    /// Nothing of its own holds in this network any more; connections that stand go on. One that is not there is no error.
    ///
    /// # Errors
    /// [`FillError::Map`].
    pub fn remove_network(&self, network: Network) -> Result<(), FillError> {
        self.maps().leave(self.id, network)
    }

    /// Own addresses that are reached from other machines; once, at the start.
    ///
    /// # Errors
    /// [`FillError::Map`].
    pub(super) fn set_listen(&self, tables: &BTreeMap<Network, PortTable>) -> Result<(), FillError> {
        let mut maps = self.maps();
        for (network, table) in tables {
            maps.listen.insert(&key(self.id, *network), table, 0).map_err(map_error("LISTEN"))?;
            maps.listened.push(*network);
        }
        Ok(())
    }

    /// Leads queries, and connections that are allowed by name, to this service from now on.
    ///
    /// # Errors
    /// [`FillError::Map`].
    pub fn set_service(&self, service: EgressService) -> Result<(), FillError> {
        let mut maps = self.maps();
        if maps.cleared {
            return Ok(());
        }
        maps.services.insert(self.id.0, service, 0).map_err(map_error("SERVICES"))
    }

    /// Whom a socket wanted that was led to the service; `None`: it was not, or is not of this sandbox. Of a socket that
    /// asks by UDP the last one that was asked: [`Self::asked`] tells each.
    #[must_use]
    pub fn original(&self, cookie: u64) -> Option<Original> {
        self.maps().originals.get(&cookie, 0).ok().filter(|original| original.sandbox_id == self.id.0)
    }

    /// The server that a query was sent to, by the address and port at which the service got it by UDP.
    #[must_use]
    pub fn asked(&self, local: SocketAddr) -> Option<SocketAddr> {
        let maps = self.maps();
        let service = maps.services.get(&self.id.0, 0).ok()?;
        let number = match local.ip() {
            IpAddr::V4(v4) if local.port() == service.dns4_udp_port => alias_number(v4.octets())?,
            IpAddr::V6(Ipv6Addr::LOCALHOST) => {
                let place = service.dns6_udp_ports.iter().position(|port| *port == local.port())?;
                ALIASES4 + u32::try_from(place).ok()?
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        let server = maps.servers.get(&AliasKey { sandbox_id: self.id.0, number }, 0).ok()?;
        Some(SocketAddr::new(Ipv6Addr::from(server.address).to_canonical(), DNS_PORT))
    }

    /// Takes everything out. What can't be removed is refused, once the sandbox is gone from the list.
    pub(super) fn clear(&self) {
        let mut maps = self.maps();
        if std::mem::replace(&mut maps.cleared, true) {
            return;
        }
        let entered = std::mem::take(&mut maps.entered);
        for network in entered {
            maps.egress.remove(&key(self.id, network)).ok();
        }
        let listened = std::mem::take(&mut maps.listened);
        for network in listened {
            maps.listen.remove(&key(self.id, network)).ok();
        }
        maps.forget_service(self.id.0);
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Maps {
    fn open(loaded: &Loaded) -> Result<Self, FillError> {
        Ok(Self {
            egress: typed(loaded, "EGRESS", Map::LpmTrie)?,
            services: typed(loaded, "SERVICES", Map::HashMap)?,
            originals: typed(loaded, "ORIGINALS", Map::LruHashMap)?,
            servers: typed(loaded, "SERVERS", Map::HashMap)?,
            entered: BTreeSet::new(),
            listen: typed(loaded, "LISTEN", Map::LpmTrie)?,
            listened: Vec::new(),
            cleared: false,
        })
    }

    fn enter(&mut self, id: SandboxId, network: Network, table: &PortTable) -> Result<(), FillError> {
        if self.cleared {
            return Ok(());
        }
        self.egress.insert(&key(id, network), table, 0).map_err(map_error("EGRESS"))?;
        self.entered.insert(network);
        Ok(())
    }

    fn leave(&mut self, id: SandboxId, network: Network) -> Result<(), FillError> {
        if !self.entered.contains(&network) {
            return Ok(());
        }
        self.egress.remove(&key(id, network)).map_err(map_error("EGRESS"))?;
        self.entered.remove(&network);
        Ok(())
    }

    /// The service first: from then on nothing is led, and no server gets a number.
    fn forget_service(&mut self, id: u32) {
        self.services.remove(&id).ok(); // each of these may be gone already
        let servers: Vec<AliasKey> =
            self.servers.keys().flatten().filter(|key| key.sandbox_id == id).collect();
        for key in servers {
            self.servers.remove(&key).ok();
        }
    }
}

/// Removes what a sandbox left whose supervisor was killed.
pub(super) fn forget(loaded: &Loaded, id: u32) -> Result<(), FillError> {
    let mut maps = Maps::open(loaded)?;
    let own = |key: &Key<EgressKey>| key.data().sandbox_id_be == id.to_be_bytes();
    for trie in [&mut maps.egress, &mut maps.listen] {
        let networks: Vec<Key<EgressKey>> = trie.keys().flatten().filter(own).collect();
        for key in networks {
            trie.remove(&key).ok(); // as in `Networks::clear`
        }
    }
    maps.forget_service(id);
    Ok(())
}

fn key(id: SandboxId, network: Network) -> Key<EgressKey> {
    let sandbox_id_be = id.0.to_be_bytes();
    Key::new(32 + u32::from(network.bits), EgressKey { sandbox_id_be, address: network.address })
}
