//! `network.allow`, `network.deny`: `HOST[:PORTS]`, or a table with the parts named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::policy::{
    compile::{EgressTarget, PortRange, Protocol},
    raw::{RawEgressRule, RawPorts, RawProtocol},
};

/// Octets of a name at most (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// Octets between two dots at most (RFC 1035, 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// Port ranges in one rule at most.
const PORT_RANGES_MAX: usize = 16;

const ALL_PORTS: PortRange = PortRange { first: 0, last: u16::MAX };

/// Which list a rule is in: what is left out means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressList {
    /// `network.allow`.
    Allow,
    /// `network.deny`.
    Deny,
    /// `network.listen`: own addresses.
    Listen,
}

/// A destination that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPattern {
    text: String,
    host: HostPattern,
    ports: Vec<PortRange>,
    protocol: Protocol,
}

/// Whom a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// An exact name.
    Name(String),
    /// `*.` and this name: what lies below it, itself not.
    Below(String),
    /// An address or network, host bits zero; IPv4 also where it was written v4-mapped.
    Network {
        /// First address.
        address: IpAddr,
        /// Length of the prefix.
        prefix_bits: u8,
    },
    /// `localhost`.
    Localhost,
    /// `*`.
    Any,
}

/// Why a destination makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum EgressError {
    /// `""`, `":443"`
    #[error("the host is missing")]
    #[diagnostic(code(policy::egress::empty), help("write `HOST` or `HOST:PORT`; every host is `*`"))]
    Empty,
    /// `https://…`
    #[error("`{text}` is a URL, and a rule names a host")]
    #[diagnostic(code(policy::egress::url), help("write `{host}`; rules know hosts and ports, not paths"))]
    Url {
        /// As written.
        text: String,
        /// The host in it.
        host: String,
    },
    /// `API.example.com`
    #[error("the name `{host}` is not in lower case")]
    #[diagnostic(code(policy::egress::upper_case), help("write `{lower}`"))]
    UpperCase {
        /// As written.
        host: String,
        /// In lower case.
        lower: String,
    },
    /// `example.com.`
    #[error("the name `{host}` ends in a dot")]
    #[diagnostic(code(policy::egress::trailing_dot), help("write `{}`", host.trim_end_matches('.')))]
    TrailingDot {
        /// As written.
        host: String,
    },
    /// `bücher.example`
    #[error("the name `{host}` has characters beyond ASCII")]
    #[diagnostic(
        code(policy::egress::not_ascii),
        help("write it as A-labels, as it goes over the wire: `xn--…`")
    )]
    NotAscii {
        /// As written.
        host: String,
    },
    /// `a.*.com`
    #[error("host `{host}` has a `*` inside a name")]
    #[diagnostic(
        code(policy::egress::inner_wildcard),
        help("only a leading `*.` stands for subdomains, as in `*.example.com`; a lone `*` is every host")
    )]
    InnerWildcard {
        /// As written.
        host: String,
    },
    /// `a..b`, `-a`
    #[error("`{host}` is neither a name nor an address")]
    #[diagnostic(
        code(policy::egress::host),
        help(
            "a name has letters, digits, `-` and `_` between its dots, at most {LABEL_BYTES_MAX} each and {NAME_BYTES_MAX} in all"
        )
    )]
    Host {
        /// As written.
        host: String,
    },
    /// `10.0.0.300`
    #[error("`{host}` is not an address")]
    #[diagnostic(
        code(policy::egress::address),
        help(
            "IPv4 has four numbers from 0 to 255 without leading zeros; IPv6 goes in brackets when a port follows"
        )
    )]
    Address {
        /// As written.
        host: String,
    },
    /// `10.0.0.0/33`
    #[error("`/{prefix}` is no prefix length for `{address}`")]
    #[diagnostic(code(policy::egress::prefix), help("it is a number from 0 to {max}"))]
    Prefix {
        /// The address before it.
        address: IpAddr,
        /// As written.
        prefix: String,
        /// 32 or 128.
        max: u8,
    },
    /// `10.0.0.1/8`
    #[error("`{address}/{prefix_bits}` has bits set beyond its prefix")]
    #[diagnostic(
        code(policy::egress::host_bits),
        help("the network is `{network}/{prefix_bits}`, the address alone `{address}`")
    )]
    HostBits {
        /// As written.
        address: IpAddr,
        /// As written.
        prefix_bits: u8,
        /// With these bits cleared.
        network: IpAddr,
    },
    /// `[::1`
    #[error("`{text}` does not close its bracket")]
    #[diagnostic(code(policy::egress::bracket), help("write `[ADDRESS]` or `[ADDRESS]:PORTS`"))]
    Bracket {
        /// As written.
        text: String,
    },
    /// `a:0`, `a:70000`, `a:x`
    #[error("`{port}` is no port")]
    #[diagnostic(
        code(policy::egress::port),
        help("a port is a number from 1 to 65535; several are `80,443` or `8000-8010`, all are `*`")
    )]
    Port {
        /// As written.
        port: String,
    },
    /// `a:90-80`
    #[error("the port range `{first}-{last}` is empty")]
    #[diagnostic(code(policy::egress::port_range), help("the smaller port comes first"))]
    PortRange {
        /// As written.
        first: u16,
        /// As written.
        last: u16,
    },
    /// More ranges than a rule can have.
    #[error("{count} port ranges in one rule")]
    #[diagnostic(code(policy::egress::port_ranges), help("at most {PORT_RANGES_MAX}; write several rules"))]
    PortRanges {
        /// How many.
        count: usize,
    },
    /// A port in the table's `host`.
    #[error("`{text}` has ports in `host`")]
    #[diagnostic(
        code(policy::egress::port_in_host),
        help("in a table they have a key of their own: `ports = \"{ports}\"`")
    )]
    PortInHost {
        /// As written.
        text: String,
        /// The part after the colon.
        ports: String,
    },
    /// `listen = ["example.com"]`
    #[error("`{host}` is a name, and a socket listens on an address")]
    #[diagnostic(
        code(policy::egress::listen_name),
        help("write one of this machine's addresses, `localhost`, or `*` for all of them")
    )]
    ListenName {
        /// As written.
        host: String,
    },
    /// A protocol in `network.deny`.
    #[error("a denied destination is denied for every protocol")]
    #[diagnostic(code(policy::egress::deny_protocol), help("leave `protocol` out"))]
    DenyProtocol,
}

/// Valid, and wider than it looks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("`*.{name}` allows every host below `{name}`, which anyone can register")]
#[diagnostic(code(policy::egress::top_level), help("name the domain as well: `*.example.{name}`"))]
pub struct TopLevelWildcard {
    name: String,
}

impl EgressPattern {
    /// Checks an entry of `list`.
    ///
    /// # Errors
    /// [`EgressError`].
    pub fn check(raw: &RawEgressRule, list: EgressList) -> Result<Self, EgressError> {
        let (host, ports, protocol) = match raw {
            RawEgressRule::Text(text) => {
                let (host, ports) = split(text)?;
                (host, ports.map(str::to_owned), None)
            }
            RawEgressRule::Table(table) => {
                let text = table.host.value.as_str();
                let (host, ports) = split(text)?;
                if let Some(ports) = ports {
                    return Err(EgressError::PortInHost { text: text.to_owned(), ports: ports.to_owned() });
                }
                let ports = table.ports.as_ref().map(|ports| match &ports.value {
                    RawPorts::Number(port) => port.to_string(),
                    RawPorts::Text(ports) => ports.clone(),
                });
                (host, ports, table.protocol.as_ref().map(|protocol| protocol.value))
            }
        };
        let host = HostPattern::parse(host)?;
        if list == EgressList::Listen
            && let HostPattern::Name(name) | HostPattern::Below(name) = &host
        {
            return Err(EgressError::ListenName { host: name.clone() });
        }
        let ports = match (ports, list, &host) {
            (Some(ports), _, _) => port_ranges(&ports)?,
            (None, EgressList::Allow, HostPattern::Name(_) | HostPattern::Below(_)) => {
                vec![PortRange { first: 443, last: 443 }]
            }
            (None, _, _) => vec![ALL_PORTS],
        };
        let protocol = match (list, protocol) {
            (EgressList::Deny, Some(_)) => return Err(EgressError::DenyProtocol),
            (EgressList::Deny, None) | (EgressList::Listen, _) => Protocol::Any,
            (EgressList::Allow, Some(RawProtocol::Udp)) => Protocol::Udp,
            (EgressList::Allow, Some(RawProtocol::Tcp) | None) => Protocol::Tcp,
        };
        Ok(Self { text: raw.to_string(), host, ports, protocol })
    }

    /// As written; a table as its parts.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whom it names.
    #[must_use]
    pub fn host(&self) -> &HostPattern {
        &self.host
    }

    /// Which ports; never empty.
    #[must_use]
    pub fn ports(&self) -> &[PortRange] {
        &self.ports
    }

    /// Which protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// A remark on a rule that is wider than it looks.
    #[must_use]
    pub fn warning(&self) -> Option<TopLevelWildcard> {
        match &self.host {
            HostPattern::Below(name) if !name.contains('.') => Some(TopLevelWildcard { name: name.clone() }),
            _ => None,
        }
    }
}

impl HostPattern {
    /// Checks a host: a name, `*.name`, an address, a network, `localhost` or `*`.
    ///
    /// # Errors
    /// [`EgressError`].
    pub fn parse(host: &str) -> Result<Self, EgressError> {
        match host {
            "" => return Err(EgressError::Empty),
            "*" => return Ok(Self::Any),
            "localhost" => return Ok(Self::Localhost),
            _ => {}
        }
        if let Some(network) = network(host)? {
            return Ok(network);
        }
        if let Some(name) = host.strip_prefix("*.") {
            return Ok(Self::Below(checked_name(host, name)?));
        }
        Ok(Self::Name(checked_name(host, host)?))
    }

    /// The addresses and names behind it.
    #[must_use]
    pub fn targets(&self) -> Vec<EgressTarget> {
        let network = |address: IpAddr, prefix_bits| EgressTarget::Network { address, prefix_bits };
        match self {
            Self::Below(name) => vec![EgressTarget::Below(name.clone())],
            Self::Name(name) => vec![EgressTarget::Name(name.clone())],
            Self::Network { address, prefix_bits } => vec![network(*address, *prefix_bits)],
            // As a destination the unspecified address is the machine itself (ip(7), ipv6(7)).
            Self::Localhost => vec![
                network(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                network(Ipv4Addr::UNSPECIFIED.into(), 32),
                network(Ipv6Addr::LOCALHOST.into(), 128),
                network(Ipv6Addr::UNSPECIFIED.into(), 128),
            ],
            Self::Any => vec![EgressTarget::Any],
        }
    }

    /// What a deny of it covers besides [`Self::targets`]: a connection to the unspecified address arrives at loopback,
    /// of IPv4 too when an IPv6 socket makes it.
    #[must_use]
    pub fn detours(&self) -> Vec<EgressTarget> {
        let Self::Network { address, prefix_bits } = self else { return Vec::new() };
        let loops = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*prefix_bits.min(&8))).unwrap_or(0);
                (v4.to_bits() ^ Ipv4Addr::LOCALHOST.to_bits()) & mask == 0
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*prefix_bits)).unwrap_or(0);
                (v6.to_bits() ^ Ipv6Addr::LOCALHOST.to_bits()) & mask == 0
            }
        };
        let whole = |address, prefix_bits| EgressTarget::Network { address, prefix_bits };
        if loops {
            vec![whole(Ipv4Addr::UNSPECIFIED.into(), 32), whole(Ipv6Addr::UNSPECIFIED.into(), 128)]
        } else {
            Vec::new()
        }
    }
}

/// Splits `HOST[:PORTS]`; the brackets around an IPv6 address are taken off.
fn split(text: &str) -> Result<(&str, Option<&str>), EgressError> {
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or(rest).to_owned();
        return Err(EgressError::Url { text: text.to_owned(), host });
    }
    if let Some(rest) = text.strip_prefix('[') {
        let bracket = || EgressError::Bracket { text: text.to_owned() };
        let (host, rest) = rest.split_once(']').ok_or_else(bracket)?;
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((host, Some(ports))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(bracket()),
        };
    }
    match text.split_once(':') {
        // More than one colon: IPv6 without brackets, hence without ports.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, ports)) => Ok((host, Some(ports))),
        None => Ok((text, None)),
    }
}

/// An address or network; `None` when it is not written like one.
fn network(host: &str) -> Result<Option<HostPattern>, EgressError> {
    let (text, prefix) = match host.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (host, None),
    };
    let last_label = text.rsplit('.').next().unwrap_or(text);
    let looks_like_v4 = !last_label.is_empty() && last_label.bytes().all(|byte| byte.is_ascii_digit());
    if prefix.is_none() && !text.contains(':') && !looks_like_v4 {
        return Ok(None);
    }
    let address: IpAddr = text.parse().map_err(|_| EgressError::Address { host: host.to_owned() })?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = match prefix {
        None => max,
        Some(prefix) => decimal(prefix)
            .and_then(|bits| u8::try_from(bits).ok())
            .filter(|bits| *bits <= max)
            .ok_or_else(|| EgressError::Prefix { address, prefix: prefix.to_owned(), max })?,
    };
    let network = masked(address, prefix_bits);
    if network != address {
        return Err(EgressError::HostBits { address, prefix_bits, network });
    }
    // v4-mapped is IPv4, unless the network is wider than all of IPv4.
    Ok(Some(match address {
        IpAddr::V6(v6) if prefix_bits >= 96 => match v6.to_ipv4_mapped() {
            Some(v4) => HostPattern::Network { address: v4.into(), prefix_bits: prefix_bits - 96 },
            None => HostPattern::Network { address, prefix_bits },
        },
        _ => HostPattern::Network { address, prefix_bits },
    }))
}

/// The address with all bits beyond the prefix cleared.
fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// A name in the one form that is compared: lower case, A-labels, no dot at the end. `host` is what to show.
fn checked_name(host: &str, name: &str) -> Result<String, EgressError> {
    let shown = || host.to_owned();
    if !name.is_ascii() {
        return Err(EgressError::NotAscii { host: shown() });
    }
    if name.contains('*') {
        return Err(EgressError::InnerWildcard { host: shown() });
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(EgressError::UpperCase { host: shown(), lower: host.to_ascii_lowercase() });
    }
    if name.len() > 1 && name.ends_with('.') {
        return Err(EgressError::TrailingDot { host: shown() });
    }
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > NAME_BYTES_MAX || !name.split('.').all(is_label) {
        return Err(EgressError::Host { host: shown() });
    }
    Ok(name.to_owned())
}

fn port_ranges(text: &str) -> Result<Vec<PortRange>, EgressError> {
    if text == "*" {
        return Ok(vec![ALL_PORTS]);
    }
    let ranges: Vec<_> = text.split(',').map(port_range).collect::<Result<_, _>>()?;
    if ranges.len() > PORT_RANGES_MAX {
        return Err(EgressError::PortRanges { count: ranges.len() });
    }
    Ok(ranges)
}

fn port_range(text: &str) -> Result<PortRange, EgressError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last { Err(EgressError::PortRange { first, last }) } else { Ok(PortRange { first, last }) }
}

fn port(text: &str) -> Result<u16, EgressError> {
    let port = decimal(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    port.ok_or_else(|| EgressError::Port { port: text.to_owned() })
}

/// A number of digits only; `parse` would take a `+` as well.
fn decimal(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
