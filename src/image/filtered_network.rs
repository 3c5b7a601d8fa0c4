//! What a sandbox whose network has rules needs of the host's configuration: certificates, proxies, package indexes.
//!
//! Addresses only. Names and passwords in them stay outside, with a word to the person.

use std::path::{Path, PathBuf};

use super::host_network::{CaBundle, apt_proxies, certificates, file};
use crate::spec::BindMount;

/// Largest configuration file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Addresses of proxies.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];
/// Addresses of indexes, some of them lists.
const INDEXES: [&str; 7] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
];
/// Those of Python packages.
const PYTHON_INDEXES: [&str; 5] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
];
/// What pip and uv use when nothing is configured.
const PUBLIC_INDEX: &str = "https://pypi.org/simple/";
const PIP_PROXY: &str = "PIP_PROXY";
/// Passed as they are.
const PASSED: [&str; 4] = [
    "NO_PROXY",
    "no_proxy",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
];
/// Settings of pip's configuration files, and the variables that mean the same.
const PIP: [(&str, &str, Kind); 5] = [
    ("index-url", "PIP_INDEX_URL", Kind::Index),
    ("extra-index-url", "PIP_EXTRA_INDEX_URL", Kind::Index),
    ("proxy", "PIP_PROXY", Kind::Proxy),
    ("trusted-host", "PIP_TRUSTED_HOST", Kind::Text),
    ("timeout", "PIP_DEFAULT_TIMEOUT", Kind::Text),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Proxy,
    Index,
    Text,
}

/// What a sandbox is given, and what it will want to reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilteredNetwork {
    /// Files shown inside.
    pub binds: Vec<BindMount>,
    /// Variables set inside.
    pub env: Vec<(String, String)>,
    /// Proxies and indexes that the host is configured to use.
    pub services: Vec<HostService>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Of Python, as they are configured: variable, addresses.
    indexes: Vec<(String, Vec<Hidden>)>,
    /// Of pip alone.
    pip_proxy: Option<Hidden>,
}

/// What may hold a password.
#[derive(Clone, PartialEq, Eq)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&without_secret(&self.0).0)
    }
}

/// What a package cache is in front of. Passwords and all: nothing of it goes inside.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PackageIndexes {
    /// In the order of their numbers.
    pub indexes: Vec<String>,
    /// The proxy of pip alone.
    pub proxy: Option<String>,
}

impl std::fmt::Debug for PackageIndexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} indexes", self.indexes.len())
    }
}

/// A proxy or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostService {
    /// It is a proxy.
    pub proxy: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Reads the environment and the configuration of pip, npm and apt.
#[must_use]
pub fn filtered_network_settings() -> FilteredNetwork {
    collect(Path::new("/"), |name| {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    })
}

/// The same for a sandbox that shares the host's network: also how the host looks names up.
#[must_use]
pub fn shared_network_settings() -> FilteredNetwork {
    let mut found = filtered_network_settings();
    for path in ["/etc/resolv.conf", "/etc/hosts"] {
        found
            .binds
            .extend(file(PathBuf::from(path)).map(|source| BindMount {
                source,
                target: path.to_owned(),
            }));
    }
    found
}

fn collect(host: &Path, variable: impl Fn(&str) -> Option<String>) -> FilteredNetwork {
    let mut found = FilteredNetwork::default();
    certificates(
        CaBundle::InPlace,
        host,
        &variable,
        &mut found.binds,
        &mut found.env,
    );
    let named = |names: &[&str], kind| -> Vec<_> {
        let value = |name: &&str| Some(((*name).to_owned(), variable(name)?, kind));
        names.iter().filter_map(value).collect()
    };
    for (name, value, kind) in [
        named(&PROXIES, Kind::Proxy),
        named(&INDEXES, Kind::Index),
        named(&PASSED, Kind::Text),
    ]
    .concat()
    {
        found.set(&name, &value, kind);
    }
    let home = variable("HOME").map(PathBuf::from);
    let at_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let pip = [
        variable("PIP_CONFIG_FILE").map(PathBuf::from),
        at_home(".config/pip/pip.conf"),
        at_home(".pip/pip.conf"),
        Some(host.join("etc/pip.conf")),
    ];
    for text in pip.into_iter().flatten().filter_map(read) {
        for (key, value) in pairs(&text) {
            if let Some((_, name, kind)) = PIP.iter().find(|(known, ..)| *known == key) {
                found.set(name, &value, *kind);
            }
        }
    }
    let npm = [at_home(".npmrc"), Some(host.join("etc/npmrc"))];
    for text in npm.into_iter().flatten().filter_map(read) {
        for (_, value) in pairs(&text)
            .into_iter()
            .filter(|(key, _)| key == "registry")
        {
            found.set("npm_config_registry", &value, Kind::Index);
        }
    }
    for bind in apt_proxies(&host.join("etc/apt/apt.conf.d")) {
        found.apt(bind);
    }
    found
}

impl FilteredNetwork {
    /// Sets a variable, unless something that goes before it has.
    fn set(&mut self, name: &str, value: &str, kind: Kind) {
        if self.env.iter().any(|(known, _)| known == name) {
            return;
        }
        if kind == Kind::Text {
            return self.env.push((name.to_owned(), value.to_owned()));
        }
        let mut kept = Vec::new();
        for address in value.split_whitespace() {
            let (bare, secret) = without_secret(address);
            if secret {
                let stays = stays_outside(name);
                self.notes
                    .push(format!("{stays}: {bare} will refuse what needs them"));
            }
            match service(&bare, kind == Kind::Proxy) {
                Some(service) => self.serves(service),
                None => {
                    self.notes.push(format!(
                        "{name} is no address of a server of HTTP, so the sandbox does without it"
                    ));
                    if kind == Kind::Proxy {
                        continue;
                    }
                }
            }
            if name == PIP_PROXY {
                self.pip_proxy = Some(Hidden(address.to_owned()));
            }
            kept.push(bare);
        }
        if PYTHON_INDEXES.contains(&name) {
            let addresses = value.split_whitespace();
            let addresses = addresses.map(|one| Hidden(one.to_owned()));
            self.indexes.push((name.to_owned(), addresses.collect()));
        }
        self.env.push((name.to_owned(), kept.join(" ")));
    }

    /// Has pip and uv ask a package cache, whose address for the index of a number `inside` gives; `host` is its host.
    pub fn through_cache(
        &mut self,
        inside: impl Fn(usize) -> String,
        host: &str,
    ) -> PackageIndexes {
        let mut behind = PackageIndexes {
            proxy: self.pip_proxy.take().map(|proxy| proxy.0),
            ..PackageIndexes::default()
        };
        let mut asks = |address: String| {
            let known = behind.indexes.iter().position(|known| *known == address);
            let number = known.unwrap_or(behind.indexes.len());
            if known.is_none() {
                behind.indexes.push(address);
            }
            inside(number)
        };
        let mut replaced: Vec<(String, String)> = Vec::new();
        for (name, addresses) in std::mem::take(&mut self.indexes) {
            let inside: Vec<_> = addresses.into_iter().map(|one| asks(one.0)).collect();
            replaced.push((name, inside.join(" ")));
        }
        let of = |replaced: &[(String, String)], names: &[&str]| {
            let found = replaced
                .iter()
                .find(|(name, _)| names.contains(&name.as_str()));
            found.map(|(_, inside)| inside.clone())
        };
        let pip = of(&replaced, &["PIP_INDEX_URL"]).unwrap_or_else(|| {
            let inside = asks(PUBLIC_INDEX.to_owned());
            replaced.push(("PIP_INDEX_URL".to_owned(), inside.clone()));
            inside
        });
        if of(&replaced, &["UV_DEFAULT_INDEX", "UV_INDEX_URL"]).is_none() {
            replaced.push(("UV_DEFAULT_INDEX".to_owned(), pip));
        }
        self.env
            .retain(|(name, _)| name != PIP_PROXY && replaced.iter().all(|(one, _)| one != name));
        self.notes.retain(|note| {
            let about = |name: &str| note.starts_with(&stays_outside(name));
            !about(PIP_PROXY) && !replaced.iter().any(|(name, _)| about(name))
        });
        self.env.append(&mut replaced);
        // It is plain HTTP, no further than the sandbox's own gateway; and no proxy leads there.
        self.also("PIP_TRUSTED_HOST", " ", host);
        if self.services.iter().any(|service| service.proxy) {
            // Programs read either: what only one says holds for both.
            for (name, other) in [("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")] {
                let known = |name: &str| self.env.iter().find(|(known, _)| known == name);
                if let (None, Some((_, list))) = (known(name), known(other)) {
                    let list = list.clone();
                    self.env.push((name.to_owned(), list));
                }
            }
            self.also("NO_PROXY", ",", host);
            self.also("no_proxy", ",", host);
        }
        behind
    }

    /// Adds to a list in a variable.
    fn also(&mut self, name: &str, between: &str, value: &str) {
        match self.env.iter_mut().find(|(known, _)| known == name) {
            // It has its meaning only where it stands alone.
            Some((_, list)) if list.trim() == "*" && between == "," => {}
            Some((_, list)) => *list = format!("{list}{between}{value}"),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
    }

    fn serves(&mut self, service: HostService) {
        if !self.services.contains(&service) {
            self.services.push(service);
        }
    }

    /// Shows apt its proxies, unless a password is among them.
    fn apt(&mut self, bind: BindMount) {
        let text = read(bind.source.clone()).unwrap_or_default();
        let quoted: Vec<_> = text.split('"').skip(1).step_by(2).collect();
        if quoted.iter().any(|address| without_secret(address).1) {
            let path = bind.source.display();
            return self.notes.push(format!(
                "{path} holds a password, so the sandbox does without it"
            ));
        }
        for service in quoted.iter().filter_map(|address| service(address, true)) {
            self.serves(service);
        }
        self.binds.push(bind);
    }
}

fn stays_outside(variable: &str) -> String {
    format!("the user and password in {variable} stay outside the sandbox")
}

/// An address without user and password, and whether there was one.
fn without_secret(address: &str) -> (String, bool) {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => (format!("{scheme}{host}{path}"), true),
        None => (address.to_owned(), false),
    }
}

fn service(address: &str, proxy: bool) -> Option<HostService> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let usual = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end)?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, usual),
    };
    let host = host.to_owned();
    (!host.is_empty()).then_some(HostService { proxy, host, port })
}

/// `key = value` lines, in whatever section; an indented line goes on with the value before it.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';', '[']) {
            continue;
        }
        if line.starts_with([' ', '\t'])
            && let Some((_, value)) = pairs.last_mut()
        {
            value.push(' ');
            value.push_str(content);
        } else if let Some((key, value)) = content.split_once('=') {
            let key = key.trim().to_ascii_lowercase().replace('_', "-");
            pairs.push((key, value.trim().trim_matches('"').to_owned()));
        }
    }
    pairs
}

fn read(path: PathBuf) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let opened = std::fs::File::open(file(path)?).ok()?;
    opened.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let host = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = host.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        host
    }

    fn value<'a>(found: &'a FilteredNetwork, name: &str) -> Option<&'a str> {
        let pair = found.env.iter().find(|(known, _)| known == name)?;
        Some(&pair.1)
    }

    fn served(found: &FilteredNetwork) -> Vec<(bool, &str, u16)> {
        found
            .services
            .iter()
            .map(|one| (one.proxy, one.host.as_str(), one.port))
            .collect()
    }

    #[test]
    fn addresses_come_along_and_secrets_stay() {
        let host = host(&[
            (
                "etc/pip.conf",
                "[global]\nindex-url = https://me:hunter2@pip.corp/simple\nextra-index-url =\n    http://a.corp:8080/\n    https://b.corp/\n",
            ),
            (
                "etc/npmrc",
                "registry=https://npm.corp:4873/\n//npm.corp:4873/:_authToken=hunter2\n",
            ),
            (
                "etc/apt/apt.conf.d/01proxy",
                "Acquire::http::Proxy \"http://apt.corp:3142\";\n",
            ),
            (
                "etc/apt/apt.conf.d/02proxy",
                "Acquire::https::Proxy \"http://me:hunter2@apt.corp:3143\";\n",
            ),
        ]);
        let variable = |name: &str| match name {
            "https_proxy" => Some("http://me:hunter2@proxy.corp:3128".to_owned()),
            "no_proxy" => Some("localhost".to_owned()),
            "LLM_API_KEY" => Some("hunter2".to_owned()),
            _ => None,
        };
        let found = collect(host.path(), variable);
        assert_eq!(value(&found, "https_proxy"), Some("http://proxy.corp:3128"));
        assert_eq!(value(&found, "no_proxy"), Some("localhost"));
        assert_eq!(
            value(&found, "PIP_INDEX_URL"),
            Some("https://pip.corp/simple")
        );
        assert_eq!(
            value(&found, "PIP_EXTRA_INDEX_URL"),
            Some("http://a.corp:8080/ https://b.corp/")
        );
        assert_eq!(
            value(&found, "npm_config_registry"),
            Some("https://npm.corp:4873/")
        );
        assert_eq!(
            served(&found),
            [
                (true, "proxy.corp", 3128),
                (false, "pip.corp", 443),
                (false, "a.corp", 8080),
                (false, "b.corp", 443),
                (false, "npm.corp", 4873),
                (true, "apt.corp", 3142),
            ]
        );
        assert_eq!(found.notes.len(), 3, "{:?}", found.notes);
        let told = format!("{:?}", found.notes) + &format!("{:?}", found.env);
        assert!(!told.contains("hunter2"), "{told}");
        let targets: Vec<_> = found
            .binds
            .iter()
            .map(|bind| bind.target.as_str())
            .collect();
        assert_eq!(targets, ["/etc/apt/apt.conf.d/01proxy"]);
        for bind in &found.binds {
            assert!(
                !std::fs::read_to_string(&bind.source)
                    .unwrap()
                    .contains("hunter2")
            );
        }
    }

    #[test]
    fn the_environment_goes_before_files_and_other_proxies_are_named() {
        let host = host(&[("etc/pip.conf", "[global]\nindex-url = https://file.corp/\n")]);
        let variable = |name: &str| match name {
            "PIP_INDEX_URL" => Some("https://env.corp/simple".to_owned()),
            "ALL_PROXY" => Some("socks5://s.corp:1080".to_owned()),
            "HTTP_PROXY" => Some("[2a00::1]:3128".to_owned()),
            _ => None,
        };
        let found = collect(host.path(), variable);
        assert_eq!(
            value(&found, "PIP_INDEX_URL"),
            Some("https://env.corp/simple")
        );
        assert_eq!(
            served(&found),
            [(true, "[2a00::1]", 3128), (false, "env.corp", 443)]
        );
        assert_eq!(found.notes.len(), 1);
    }

    #[test]
    fn a_cache_stands_before_the_indexes_and_gets_their_passwords() {
        let host = host(&[(
            "etc/pip.conf",
            "[global]\nindex-url = https://me:hunter2@pip.corp/simple\nextra-index-url = https://b.corp/ https://a.corp/\nproxy = me:hunter2@proxy.corp:3128\n",
        )]);
        let variable = |name: &str| match name {
            "UV_DEFAULT_INDEX" => Some("https://a.corp/".to_owned()),
            "HTTPS_PROXY" => Some("http://web.corp:8080".to_owned()),
            "NO_PROXY" => Some("localhost".to_owned()),
            _ => None,
        };
        let mut found = collect(host.path(), variable);
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        let behind = found.through_cache(|number| format!("http://inside/{number}/"), "inside");
        assert_eq!(
            behind.indexes,
            [
                "https://a.corp/",
                "https://me:hunter2@pip.corp/simple",
                "https://b.corp/"
            ]
        );
        assert_eq!(behind.proxy.as_deref(), Some("me:hunter2@proxy.corp:3128"));
        for (name, expected) in [
            ("PIP_INDEX_URL", Some("http://inside/1/")),
            (
                "PIP_EXTRA_INDEX_URL",
                Some("http://inside/2/ http://inside/0/"),
            ),
            ("UV_DEFAULT_INDEX", Some("http://inside/0/")),
            ("PIP_PROXY", None),
            ("PIP_TRUSTED_HOST", Some("inside")),
            ("NO_PROXY", Some("localhost,inside")),
            ("no_proxy", Some("localhost,inside")),
        ] {
            assert_eq!(value(&found, name), expected, "{name}");
        }
        assert!(found.notes.is_empty(), "{:?}", found.notes);
        assert!(!format!("{found:?}{behind:?}").contains("hunter2"));
        let mut found = FilteredNetwork::default();
        let behind = found.through_cache(|number| format!("http://inside/{number}/"), "inside");
        assert_eq!(behind.indexes, [PUBLIC_INDEX]);
        assert_eq!(value(&found, "UV_DEFAULT_INDEX"), Some("http://inside/0/"));
        assert_eq!(value(&found, "NO_PROXY"), None);
    }

    #[test]
    fn a_host_without_any_of_it_gives_nothing() {
        let host = host(&[]);
        assert_eq!(collect(host.path(), |_| None), FilteredNetwork::default());
    }
}
