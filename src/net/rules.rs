//! What a person writes about the network, and what it means for one connection.
//!
//! ```text
//! internet                              everything but what no sandbox reaches
//! internet:deny 198.51.100.0/24         the same without a block of addresses
//! allow:pypi.org,*.pythonhosted.org     these names, on ports 80 and 443
//! allow:deny x.example.org,*.example.org:22,2001:db8::/32
//! allow:except index packages.corp:8080 what the host is configured to use, also at a private address
//! ```
//!
//! Rules stand between commas or on lines of their own, `#` begins a comment, and the first that fits decides.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::gate::Protocol;
use super::names::Name;
use super::ranges::{Block, DOCUMENTATION};

mod read;

pub use read::{MAX_TEXT, Problem, RuleError};

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    base: Base,
    rules: Vec<Rule>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Internet,
    Listed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allow: bool,
    target: Target,
    ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Name(Name),
    Below(Name),
    AnyName,
    Block(Block),
    Documentation,
}

/// Ports of a rule: those given, or all, or for a name that is allowed those of the web.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    All,
    Web,
    Given {
        first: u16,
        last: u16,
        protocol: Protocol,
    },
}

/// A proxy or index that the host is configured to use: allowed also at a private address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// What it is.
    pub kind: Service,
    /// Its name, or its address.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

/// What an exception is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// An HTTP proxy: where it may lead is decided by what it is asked for.
    Proxy,
    /// A package index.
    Index,
}

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// To be looked up.
    Name(Name),
    /// As it is.
    Address(IpAddr),
}

/// What the rules say, and which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) allow: bool,
    pub(super) rule: String,
    /// The rule is about a name.
    pub(super) by_name: bool,
    /// Its ports are given, so that it may mean what is no web.
    pub(super) ports_given: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self::internet()
    }
}

impl Rules {
    /// Everything but what no sandbox reaches.
    #[must_use]
    pub fn internet() -> Self {
        Self {
            base: Base::Internet,
            rules: Vec::new(),
            exceptions: Vec::new(),
        }
    }

    /// Adds what the host is configured to use.
    #[must_use]
    pub fn with_exceptions(mut self, exceptions: impl IntoIterator<Item = Exception>) -> Self {
        for exception in exceptions {
            if !self.exceptions.contains(&exception) {
                self.exceptions.push(exception);
            }
        }
        self
    }

    /// Adds what the host is configured to use: its proxies, and of its indexes those that the rules allow.
    #[must_use]
    pub fn with_configured(self, found: impl IntoIterator<Item = Exception>) -> Self {
        let wanted: Vec<_> = found
            .into_iter()
            .filter(|one| one.kind == Service::Proxy || self.wants(one))
            .collect();
        self.with_exceptions(wanted)
    }

    fn wants(&self, index: &Exception) -> bool {
        self.permits(&index.host, index.port).is_ok()
    }

    /// Whether a server may be talked to, as far as its name or address as written says it, and the rule that says so.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn permits(&self, host: &Host, port: u16) -> Result<String, String> {
        let (name, address) = match host {
            Host::Name(name) => (Some(name), None),
            Host::Address(address) => (None, Some(*address)),
        };
        let verdict = self.verdict(name, (address, port), Protocol::Tcp);
        if verdict.allow {
            Ok(verdict.rule)
        } else {
            Err(verdict.rule)
        }
    }

    pub(super) fn denies_names(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| !rule.allow && rule.target.is_name())
    }

    pub(super) fn is_listed(&self) -> bool {
        self.base == Base::Listed
    }

    /// The first rule that fits what is known.
    pub(super) fn verdict(
        &self,
        name: Option<&Name>,
        (address, port): (Option<IpAddr>, u16),
        protocol: Protocol,
    ) -> Verdict {
        let fits =
            |rule: &&Rule| rule.target.fits(name, address) && rule.ports.hold(port, protocol);
        if let Some(rule) = self.rules.iter().find(fits) {
            return Verdict {
                allow: rule.allow,
                rule: rule.to_string(),
                by_name: rule.target.is_name(),
                ports_given: matches!(rule.ports, Ports::Given { .. }),
            };
        }
        let (allow, rule) = match (self.base, name) {
            (Base::Internet, _) => (true, "internet"),
            (Base::Listed, Some(_)) => (false, "no rule allows it"),
            (Base::Listed, None) => (false, "no name was looked up for this address"),
        };
        Verdict {
            allow,
            rule: rule.to_owned(),
            by_name: false,
            ports_given: false,
        }
    }

    /// Whether a name may be looked up: some port of it may be allowed.
    pub(super) fn may_ask(&self, name: &Name) -> Result<String, String> {
        if let Some(exception) = self.exception_named(name) {
            return Ok(exception.to_string());
        }
        for rule in &self.rules {
            let fits = rule.target.is_name() && rule.target.fits(Some(name), None);
            match (fits, rule.allow, rule.ports) {
                (true, true, _) => return Ok(rule.to_string()),
                (true, false, Ports::All) => return Err(rule.to_string()),
                _ => {}
            }
        }
        match self.base {
            Base::Internet => Ok("internet".to_owned()),
            Base::Listed => Err("no rule allows it".to_owned()),
        }
    }

    pub(super) fn exception_named(&self, name: &Name) -> Option<&Exception> {
        let named =
            |exception: &&Exception| matches!(&exception.host, Host::Name(host) if host == name);
        self.exceptions.iter().find(named)
    }

    /// The exception for a connection to an address that has these names.
    pub(super) fn exception(&self, names: &[&Name], to: SocketAddr) -> Option<&Exception> {
        self.exceptions.iter().find(|exception| {
            let host = match &exception.host {
                Host::Name(name) => names.contains(&name),
                Host::Address(address) => *address == to.ip(),
            };
            host && exception.port == to.port()
        })
    }
}

impl Target {
    fn is_name(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Below(_) | Self::AnyName)
    }

    /// Either may be unknown.
    fn fits(&self, name: Option<&Name>, address: Option<IpAddr>) -> bool {
        let holds = |block: &Block| address.is_some_and(|address| block.contains(address));
        match (self, name) {
            (Self::Name(own), Some(name)) => own == name,
            (Self::Below(parent), Some(name)) => name.is_below(parent),
            (Self::AnyName, name) => name.is_some(),
            (Self::Name(_) | Self::Below(_), None) => false,
            (Self::Block(block), _) => holds(block),
            (Self::Documentation, _) => DOCUMENTATION
                .iter()
                .any(|block| block.parse().is_ok_and(|block| holds(&block))),
        }
    }
}

impl Ports {
    fn hold(self, port: u16, with: Protocol) -> bool {
        match self {
            Self::All => true,
            Self::Web => with == Protocol::Tcp && matches!(port, 80 | 443),
            Self::Given {
                first,
                last,
                protocol,
            } => with == protocol && (first..=last).contains(&port),
        }
    }
}

impl fmt::Display for Rules {
    /// As [`Rules::from_str`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.base {
            Base::Internet => "internet",
            Base::Listed => "allow",
        };
        f.write_str(mode)?;
        let rules = self.rules.iter().map(Rule::to_string);
        let all = rules.chain(self.exceptions.iter().map(Exception::to_string));
        for (rule, before) in all.zip([":"].into_iter().chain(std::iter::repeat(","))) {
            write!(f, "{before}{rule}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.allow {
            f.write_str("deny ")?;
        }
        let given = matches!(self.ports, Ports::Given { .. });
        match &self.target {
            Target::Name(name) => write!(f, "{name}")?,
            Target::Below(name) => write!(f, "*.{name}")?,
            Target::AnyName => f.write_str("*")?,
            Target::Block(block) if given && block.base().is_ipv6() => write!(f, "[{block}]")?,
            Target::Block(block) => write!(f, "{block}")?,
            Target::Documentation => f.write_str("documentation")?,
        }
        let Ports::Given {
            first,
            last,
            protocol,
        } = self.ports
        else {
            return Ok(());
        };
        write!(f, ":{first}")?;
        if last > first {
            write!(f, "-{last}")?;
        }
        if protocol == Protocol::Udp {
            f.write_str("/udp")?;
        }
        Ok(())
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Service::Proxy => "proxy",
            Service::Index => "index",
        };
        match &self.host {
            Host::Name(name) => write!(f, "except {kind} {name}:{}", self.port),
            Host::Address(address) => {
                write!(f, "except {kind} {}", SocketAddr::new(*address, self.port))
            }
        }
    }
}

#[cfg(test)]
mod tests;
