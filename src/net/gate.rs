//! Policy: may this connection be made, may this name be looked up. Pure: no I/O, no clock.
//!
//! What no sandbox reaches comes first, then what the host is configured to use, then the rules. Where rules
//! are about names, a connection is made because its address was answered for an allowed name, and because the
//! first bytes name it, too: many names share one address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::hello::{self, Asked, AskedHost, Form, Hello};
use super::names::{Lookups, Name};
use super::ranges::{self, Refused};
use super::rules::{Exception, Service};

pub use super::rules::Rules;

/// How a connection is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A flow of datagrams between two ports.
    Udp,
    /// Echo requests.
    Icmp,
    /// A name that is looked up.
    Dns,
}

/// What is to be done with a connection or a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is made.
    Allow {
        /// The name for which it is.
        name: Option<Arc<str>>,
        /// The rule that says so, for the record.
        rule: Arc<str>,
    },
    /// It is refused.
    Deny {
        /// The name for which it is.
        name: Option<Arc<str>>,
        /// The rule that says so, for the record.
        rule: Arc<str>,
    },
    /// Of TCP only: the first bytes decide, see [`Gate::first_bytes`]. Nothing is connected before.
    Peek,
}

/// What the first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peeked {
    /// Never [`Decision::Peek`].
    Decided(Decision),
    /// Ask again with more of them. The engine asks at most [`PEEK_MAX`] bytes, then denies.
    NeedMore,
}

/// As many first bytes are shown at most: a `ClientHello` with keys against quantum computers has 2 KiB.
pub const PEEK_MAX: usize = 16 << 10;

/// Protocols in which the server speaks first: their first bytes name nothing, and waiting for them would
/// wait for ever. FTP, SMTP, POP, NNTP, IMAP, submission, MySQL, VNC.
const SERVER_SPEAKS_FIRST: [u16; 8] = [21, 25, 110, 119, 143, 587, 3306, 5900];
/// Where a connection has to name its host.
const WEB: [u16; 2] = [80, 443];
/// Addresses of one answer that are passed on.
const MAX_ADDRESSES: usize = 32;

/// The host's own addresses.
#[derive(Debug, Clone, Default)]
pub struct HostAddresses(Vec<IpAddr>);

impl FromIterator<IpAddr> for HostAddresses {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        Self(addresses.into_iter().map(ranges::plain).collect())
    }
}

/// The policy of one sandbox.
#[derive(Debug)]
pub struct Gate {
    rules: Rules,
    own: HostAddresses,
    lookups: Lookups,
    budget: Budget,
    /// When it was last asked: first bytes follow soon.
    asked: Option<Instant>,
}

impl Gate {
    /// Of one sandbox.
    #[must_use]
    pub fn new(rules: Rules, own: HostAddresses) -> Self {
        Self {
            rules,
            own,
            lookups: Lookups::default(),
            budget: Budget::default(),
            asked: None,
        }
    }

    /// Whether a connection may be made.
    pub fn open(&mut self, protocol: Protocol, to: SocketAddr, now: Instant) -> Decision {
        self.asked = Some(now);
        let to = plain(to);
        let names: Vec<_> = self.lookups.of(to.ip(), now).collect();
        let latest = names.first().copied();
        let exception = self.rules.exception(&names, to);
        let exception = exception.filter(|_| protocol == Protocol::Tcp);
        match (self.near(to.ip()), exception) {
            (Some(refused), Some(_)) if !refused.may_be_configured => {
                return deny(latest, refused.what);
            }
            (_, Some(exception)) if exception.kind == Service::Proxy => return Decision::Peek,
            (_, Some(exception)) => return allow(latest, &exception.to_string()),
            (Some(refused), None) => return deny(latest, refused.what),
            (None, None) => {}
        }
        let at = (Some(to.ip()), to.port());
        let verdict = |name| self.rules.verdict(name, at, protocol);
        if !self.rules.is_listed() {
            let verdict = verdict(latest);
            return decided(verdict.allow, latest, &verdict.rule);
        }
        let named = names.iter().find(|name| verdict(Some(name)).allow).copied();
        let by_address = verdict(None);
        let open = by_address.allow && !self.rules.denies_names();
        let waits = protocol == Protocol::Tcp && !SERVER_SPEAKS_FIRST.contains(&to.port());
        match named {
            _ if open => allow(latest, &by_address.rule),
            None if by_address.allow && !waits => allow(latest, &by_address.rule),
            None if !by_address.allow => deny(latest, &verdict(latest).rule),
            _ if waits => Decision::Peek,
            name => allow(name, &verdict(name).rule),
        }
    }

    /// Whether a connection may be made whose first bytes are these.
    pub fn first_bytes(&mut self, to: SocketAddr, bytes: &[u8]) -> Peeked {
        let to = plain(to);
        let names: Vec<_> = self.names(to.ip()).collect();
        let hello = hello::read(bytes);
        if hello == Hello::NeedMore && bytes.len() < PEEK_MAX {
            return Peeked::NeedMore;
        }
        let proxy = self.rules.exception(&names, to);
        Peeked::Decided(match proxy.filter(|one| one.kind == Service::Proxy) {
            Some(proxy) => self.through(proxy, hello),
            None => self.directly(to, hello),
        })
    }

    /// Whether a name (lower case, without the final dot) may be looked up.
    pub fn question(&mut self, name: &str, now: Instant) -> Decision {
        let Some(asked) = Name::new(name) else {
            return deny(None, "no name of a host");
        };
        let name = Some(&asked);
        if asked.is_local() && self.rules.exception_named(&asked).is_none() {
            return deny(name, "a name of this machine or its neighbours");
        }
        match self.rules.may_ask(&asked) {
            Err(rule) => deny(name, &rule),
            Ok(rule) => match self.budget.spend(&asked, now) {
                Ok(()) => allow(name, &rule),
                Err(bound) => deny(name, bound),
            },
        }
    }

    /// The addresses that the sandbox may be told of those that an answer holds.
    pub fn answer(
        &mut self,
        name: &str,
        addresses: &[(IpAddr, Duration)],
        now: Instant,
    ) -> Vec<IpAddr> {
        let Some(name) = Name::new(name) else {
            return Vec::new();
        };
        let configured = self.rules.exception_named(&name).is_some();
        let mut told = Vec::new();
        for (address, ttl) in addresses.iter().take(MAX_ADDRESSES) {
            let address = ranges::plain(*address);
            let near = self.near(address);
            // A name of the outside that leads inside: rebinding.
            if near.is_none_or(|refused| configured && refused.may_be_configured) {
                self.lookups.learn(&name, address, *ttl, now);
                told.push(address);
            }
        }
        told
    }

    fn names(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        let names = self.asked.map(|now| self.lookups.of(address, now));
        names.into_iter().flatten()
    }

    /// Why no sandbox reaches an address.
    fn near(&self, address: IpAddr) -> Option<Refused> {
        let is_own = |address| self.own.0.contains(&address);
        if is_own(address) || ranges::carried(address).map(IpAddr::V4).any(is_own) {
            return Some(Refused {
                what: "the host's own address",
                may_be_configured: false,
            });
        }
        ranges::refused(address)
    }

    fn directly(&self, to: SocketAddr, hello: Hello) -> Decision {
        match hello {
            Hello::Tls(name) => self.sent(&name, to),
            Hello::Http(asked) => match asked {
                Asked {
                    form: Form::Connect,
                    ..
                } => deny(None, "a tunnel through what is no proxy of the host's"),
                Asked {
                    host: AskedHost::Name(name),
                    ..
                } => self.sent(&name, to),
                Asked {
                    host: AskedHost::Address(address),
                    ..
                } if address == to.ip() => self.nameless(to),
                Asked { .. } => deny(None, "a request to another address"),
            },
            Hello::HiddenTls => deny(None, "TLS that hides its name"),
            Hello::Malformed(why) => deny(None, why),
            Hello::NamelessTls | Hello::Other | Hello::NeedMore => self.nameless(to),
        }
    }

    /// The first bytes name a host.
    fn sent(&self, name: &Name, to: SocketAddr) -> Decision {
        let at = (Some(to.ip()), to.port());
        let verdict = self.rules.verdict(Some(name), at, Protocol::Tcp);
        let looked_up = self.names(to.ip()).any(|known| known == name);
        if verdict.allow && verdict.by_name && !looked_up {
            return deny(Some(name), "this name was not looked up for this address");
        }
        decided(verdict.allow, Some(name), &verdict.rule)
    }

    /// The first bytes name none: an address that a rule has, or a port that one gives for what is no web.
    fn nameless(&self, to: SocketAddr) -> Decision {
        let at = (Some(to.ip()), to.port());
        let verdict = |name: Option<&Name>| self.rules.verdict(name, at, Protocol::Tcp);
        let by_address = verdict(None);
        if by_address.allow {
            return allow(None, &by_address.rule);
        }
        let means_it = |name: &&Name| {
            let verdict = verdict(Some(name));
            verdict.allow && verdict.ports_given && !WEB.contains(&to.port())
        };
        let latest = self.names(to.ip()).next();
        match self.names(to.ip()).find(means_it) {
            Some(name) => allow(Some(name), &verdict(Some(name)).rule),
            None => deny(latest, "the first bytes name no host"),
        }
    }

    /// What a proxy is asked for. The proxy looks names up, and decides where private ones lead.
    fn through(&self, proxy: &Exception, hello: Hello) -> Decision {
        let Hello::Http(asked) = hello else {
            return deny(None, "no request to a proxy");
        };
        match asked.form {
            Form::Origin => return deny(None, "no request to a proxy"),
            // More requests may follow on the same connection, to others.
            Form::Absolute if self.rules.is_listed() => {
                return deny(None, "through a proxy, rules hold for tunnels only");
            }
            Form::Absolute | Form::Connect => {}
        }
        let port = asked.port.unwrap_or(80);
        let (name, at) = match &asked.host {
            AskedHost::Address(address) => {
                if let Some(refused) = self.near(*address) {
                    return deny(None, refused.what);
                }
                (None, (Some(*address), port))
            }
            AskedHost::Name(name) if name.is_local() || !name.as_str().contains('.') => {
                return deny(Some(name), "a name of this machine or its neighbours");
            }
            AskedHost::Name(name) => (Some(name), (None, port)),
        };
        let verdict = self.rules.verdict(name, at, Protocol::Tcp);
        decided(verdict.allow, name, &format!("{proxy}, {}", verdict.rule))
    }
}

fn plain(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(ranges::plain(to.ip()), to.port())
}

fn decided(allowed: bool, name: Option<&Name>, rule: &str) -> Decision {
    if allowed {
        allow(name, rule)
    } else {
        deny(name, rule)
    }
}

fn allow(name: Option<&Name>, rule: &str) -> Decision {
    Decision::Allow {
        name: name.map(|name| Arc::from(name.as_str())),
        rule: Arc::from(rule),
    }
}

fn deny(name: Option<&Name>, rule: &str) -> Decision {
    Decision::Deny {
        name: name.map(|name| Arc::from(name.as_str())),
        rule: Arc::from(rule),
    }
}

#[cfg(test)]
mod tests;
