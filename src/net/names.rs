//! Host names as rules and packets write them, and which addresses were looked up for them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A host name in lower case, without the dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// Of RFC 1035.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

impl Name {
    /// Nothing for what is none. A name whose last label is a number is an address in one of the
    /// spellings that programs accept (`127.1`, `0x7f.1`, `2130706433`), never a name.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(known)
        };
        let last = text.rsplit('.').next().unwrap_or("");
        let number =
            last.bytes().all(|b| b.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
        let good = text.len() <= MAX_NAME && text.split('.').all(label) && !number;
        good.then(|| Self(text.to_ascii_lowercase()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// It is `parent`'s, and not `parent` itself.
    #[must_use]
    pub fn is_below(&self, parent: &Self) -> bool {
        self.0
            .strip_suffix(&parent.0)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }

    /// Its last two labels: about what one owner has.
    #[must_use]
    pub fn owner(&self) -> &str {
        let second = self.0.rmatch_indices('.').nth(1);
        second.map_or(&self.0, |(at, _)| self.0.get(at + 1..).unwrap_or(&self.0))
    }

    /// A name that means this machine or its neighbours to whoever looks it up, or asks for the name of an address.
    #[must_use]
    pub fn is_local(&self) -> bool {
        const LOCAL: [&str; 7] = [
            "localhost",
            "localdomain",
            "local",
            "internal",
            "home.arpa",
            "in-addr.arpa",
            "ip6.arpa",
        ];
        LOCAL.iter().any(|local| {
            let parent = Self((*local).to_owned());
            *self == parent || self.is_below(&parent)
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Programs keep an address longer than the answer allows: a connection pool, a slow download.
const FLOOR: Duration = Duration::from_secs(600);
const CEILING: Duration = Duration::from_secs(24 * 3600);
/// Names and addresses remembered of one sandbox: some hundred kilobytes at most.
const MAX_LOOKUPS: usize = 2048;

/// Which names were looked up, and what was answered.
#[derive(Debug, Default)]
pub struct Lookups {
    /// Until when each name of an address holds.
    names: HashMap<IpAddr, Vec<(Name, Instant)>>,
    /// In the order of the lookups, to forget the oldest.
    order: VecDeque<(IpAddr, Name)>,
}

impl Lookups {
    /// The address was answered for the name.
    pub fn learn(&mut self, name: &Name, address: IpAddr, ttl: Duration, now: Instant) {
        let until = now + ttl.clamp(FLOOR, CEILING);
        let names = self.names.entry(address).or_default();
        if let Some((_, known)) = names.iter_mut().find(|(known, _)| known == name) {
            *known = until.max(*known);
            return;
        }
        names.push((name.clone(), until));
        self.order.push_back((address, name.clone()));
        if self.order.len() > MAX_LOOKUPS
            && let Some((address, oldest)) = self.order.pop_front()
            && let Some(names) = self.names.get_mut(&address)
        {
            names.retain(|(name, _)| *name != oldest);
            if names.is_empty() {
                self.names.remove(&address);
            }
        }
    }

    /// The names that lead to an address, the latest first.
    pub fn of(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = &Name> {
        let names = self.names.get(&address).map_or(&[][..], Vec::as_slice);
        let live = names.iter().rev().filter(move |(_, until)| *until >= now);
        live.map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn names_are_names_and_not_addresses() {
        assert_eq!(name("PyPI.org.").as_str(), "pypi.org");
        assert_eq!(name("_dmarc.x-y.org").as_str(), "_dmarc.x-y.org");
        let long = format!("{}.org", "a".repeat(64));
        for bad in [
            "",
            ".",
            "a..b",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "a.0x1",
            "1.1.1.1.",
            "a b",
            "a/b",
            "a\0",
            "bücher.de",
            "[::1]",
            "a:1",
            long.as_str(),
        ] {
            assert_eq!(Name::new(bad), None, "{bad}");
        }
        assert!(Name::new(&"a.".repeat(128)).is_none());
        assert!(Name::new(&"a.".repeat(127)).is_some());
    }

    #[test]
    fn a_suffix_is_no_parent() {
        let parent = name("pypi.org");
        assert!(name("files.pypi.org").is_below(&parent));
        assert!(name("a.b.pypi.org").is_below(&parent));
        for other in ["pypi.org", "evilpypi.org", "pypi.org.evil.example", "org"] {
            assert!(!name(other).is_below(&parent), "{other}");
        }
        assert_eq!(name("a.b.pypi.org").owner(), "pypi.org");
        assert_eq!(name("org").owner(), "org");
    }

    #[test]
    fn names_of_this_machine_are_known() {
        for local in [
            "localhost",
            "x.localhost",
            "metadata.google.internal",
            "printer.local",
        ] {
            assert!(name(local).is_local(), "{local}");
        }
        assert!(name("1.0.0.127.in-addr.arpa").is_local());
        assert!(!name("localhost.example").is_local() && !name("mylocalhost").is_local());
    }

    #[test]
    fn an_answer_is_remembered_while_it_lasts_and_memory_is_bounded() {
        let now = Instant::now();
        let mut lookups = Lookups::default();
        let address: IpAddr = "203.0.113.1".parse().unwrap();
        lookups.learn(&name("a.org"), address, Duration::ZERO, now);
        lookups.learn(&name("b.org"), address, Duration::from_secs(3600), now);
        let of = |lookups: &Lookups, at| -> Vec<String> {
            lookups.of(address, at).map(Name::to_string).collect()
        };
        assert_eq!(of(&lookups, now + FLOOR), ["b.org", "a.org"]);
        assert_eq!(of(&lookups, now + FLOOR * 2), ["b.org"]);
        assert!(of(&lookups, now + CEILING).is_empty());
        for n in 0..MAX_LOOKUPS {
            lookups.learn(&name(&format!("n{n}.org")), address, FLOOR, now);
        }
        assert_eq!(lookups.order.len(), MAX_LOOKUPS);
        assert_eq!(
            lookups.names.values().map(Vec::len).sum::<usize>(),
            MAX_LOOKUPS
        );
        assert!(!of(&lookups, now).contains(&"a.org".to_owned()));
    }
}
