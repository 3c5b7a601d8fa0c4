//! From the text of rules to rules.

use std::net::IpAddr;
use std::str::FromStr;

use super::{Base, Exception, Host, Ports, Rule, Rules, Service, Target};
use crate::net::gate::Protocol;
use crate::net::names::Name;
use crate::net::ranges::{self, Block, BlockError};

/// Longest text: rules are read by people.
pub const MAX_TEXT: usize = 64 << 10;

/// A text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{rule}` {problem}")]
pub struct RuleError {
    /// From 1.
    pub line: usize,
    /// What is written there.
    pub rule: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Neither `internet` nor `allow:`.
    #[error("is no mode: write internet, or allow:HOST,HOST…")]
    NoMode,
    /// Longer than [`MAX_TEXT`].
    #[error("is too long: rules have at most {MAX_TEXT} bytes")]
    TooLong,
    /// Nothing is allowed.
    #[error("allows nothing: write none in place of an empty list")]
    Empty,
    /// More words than `allow HOST`.
    #[error(
        "is no rule: write HOST, allow HOST, deny HOST, except index HOST:PORT or except proxy HOST:PORT"
    )]
    Words,
    /// Not a host name.
    #[error(
        "names no host: a name has letters, digits and -, others are written in their xn-- form"
    )]
    Name,
    /// `*` elsewhere than before the first dot.
    #[error("has a wildcard that is not a whole beginning: write *.example.org, or *")]
    Wildcard,
    /// Not a block of addresses.
    #[error("{0}")]
    Block(#[from] BlockError),
    /// Not a port.
    #[error("has no ports like 443, 8000-8100 or 123/udp behind its :")]
    Ports,
    /// No rule opens these addresses.
    #[error(
        "is {0}: no rule opens that; an index or a proxy of the host at a private address is written except index HOST:PORT"
    )]
    Refused(&'static str),
    /// The mode allows all names.
    #[error(
        "cannot stand here: internet knows only deny with addresses, and except; for names write allow:deny HOST,*"
    )]
    NotInInternet,
}

impl FromStr for Rules {
    type Err = RuleError;

    /// A mode with its rules, as after `--net`.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (mode, list) = text.split_once(':').unwrap_or((text, ""));
        let base = match mode {
            "internet" => Base::Internet,
            "allow" => Base::Listed,
            _ => return Err(error(1, mode, Problem::NoMode)),
        };
        let mut rules = Self {
            base,
            ..Self::internet()
        };
        if text.len() > MAX_TEXT {
            return Err(error(1, mode, Problem::TooLong));
        }
        for (line, content) in (1..).zip(list.lines()) {
            let written = content.split('#').next().unwrap_or("");
            for rule in written
                .split(',')
                .map(str::trim)
                .filter(|rule| !rule.is_empty())
            {
                rules
                    .add(rule)
                    .map_err(|problem| error(line, rule, problem))?;
            }
        }
        let allows = rules.rules.iter().any(|rule| rule.allow) || !rules.exceptions.is_empty();
        if base == Base::Listed && !allows {
            return Err(error(1, text, Problem::Empty));
        }
        Ok(rules)
    }
}

fn error(line: usize, rule: &str, problem: Problem) -> RuleError {
    let rule = rule.chars().take(100).collect();
    RuleError {
        line,
        rule,
        problem,
    }
}

impl Rules {
    fn add(&mut self, rule: &str) -> Result<(), Problem> {
        let words: Vec<_> = rule.split_whitespace().collect();
        match words[..] {
            ["except", kind, host] => {
                let kind = match kind {
                    "proxy" => Service::Proxy,
                    "index" => Service::Index,
                    _ => return Err(Problem::Words),
                };
                let (host, port) = host.rsplit_once(':').ok_or(Problem::Ports)?;
                let port = port.parse().map_err(|_| Problem::Ports)?;
                let exception = Exception::new(kind, host, port)?;
                *self = std::mem::take(self).with_exceptions([exception]);
            }
            ["deny", target] => self.rules.push(Rule::new(false, target)?),
            ["allow", target] | [target] => self.rules.push(Rule::new(true, target)?),
            _ => return Err(Problem::Words),
        }
        let last = self.rules.last();
        if self.base == Base::Internet
            && last.is_some_and(|rule| rule.allow || rule.target.is_name())
        {
            return Err(Problem::NotInInternet);
        }
        Ok(())
    }
}

impl Exception {
    /// An index or a proxy.
    ///
    /// # Errors
    /// No host of that name can be one: loopback, say.
    pub fn new(kind: Service, host: &str, port: u16) -> Result<Self, Problem> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bare.unwrap_or(host).parse::<IpAddr>() {
            Ok(address) => Host::Address(ranges::plain(address)),
            Err(_) => Host::Name(Name::new(host).ok_or(Problem::Name)?),
        };
        match &host {
            Host::Address(address) => match ranges::refused(*address) {
                Some(refused) if !refused.may_be_configured => {
                    return Err(Problem::Refused(refused.what));
                }
                _ => {}
            },
            Host::Name(name) if name.as_str() == "localhost" => {
                return Err(Problem::Refused("loopback"));
            }
            Host::Name(_) => {}
        }
        Ok(Self { kind, host, port })
    }
}

impl Rule {
    fn new(allow: bool, text: &str) -> Result<Self, Problem> {
        let (host, ports) = split_ports(text)?;
        let target = Target::new(host)?;
        if let (true, Target::Block(block)) = (allow, &target) {
            let what = |address| ranges::refused(address).map(|refused| refused.what);
            // One that only begins or ends in such a range is wide, and that range stays closed.
            if let Some(refused) =
                what(block.base()).filter(|_| what(block.base()) == what(block.last()))
            {
                return Err(Problem::Refused(refused));
            }
        }
        let ports = match ports {
            Some(ports) => Ports::new(ports)?,
            None if allow && target.is_name() => Ports::Web,
            None => Ports::All,
        };
        Ok(Self {
            allow,
            target,
            ports,
        })
    }
}

/// `host`, `host:ports`, `1.2.0.0/16:ports`, `[v6]:ports`, `v6`.
fn split_ports(text: &str) -> Result<(&str, Option<&str>), Problem> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(BlockError::NoAddress)?;
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((host, Some(ports))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(Problem::Ports),
        };
    }
    if text.parse::<Block>().is_ok() || text.matches(':').count() > 1 {
        return Ok((text, None));
    }
    Ok(text
        .rsplit_once(':')
        .map_or((text, None), |(host, ports)| (host, Some(ports))))
}

impl Target {
    fn new(host: &str) -> Result<Self, Problem> {
        if host == "*" {
            return Ok(Self::AnyName);
        }
        if host == "documentation" {
            return Ok(Self::Documentation);
        }
        if let Some(parent) = host.strip_prefix("*.") {
            return Name::new(parent).map(Self::Below).ok_or(Problem::Name);
        }
        if host.contains('*') {
            return Err(Problem::Wildcard);
        }
        let numbers = host.rsplit('.').next().is_some_and(|last| {
            last.split('/')
                .next()
                .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
        });
        if host.contains([':', '/']) || numbers {
            return Ok(Self::Block(host.parse()?));
        }
        Name::new(host).map(Self::Name).ok_or(Problem::Name)
    }
}

impl Ports {
    fn new(text: &str) -> Result<Self, Problem> {
        let (range, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((range, "udp")) => (range, Protocol::Udp),
            Some(_) => return Err(Problem::Ports),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self::Given {
                first,
                last,
                protocol,
            }),
            _ => Err(Problem::Ports),
        }
    }
}
