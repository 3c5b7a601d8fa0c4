//! `--net`: the modes, and what the host itself is configured to use.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::output;
use super::sandbox::size;
use crate::image::{self, FilteredNetwork, HostService};
use crate::net::rules::{Exception, MAX_TEXT, Rules, Service};
use crate::packages::{self, Address};
use crate::spec::{BindMount, Network, NetworkLimits};

/// What a sandbox gets for its network.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) network: Network,
    pub(super) binds: Vec<BindMount>,
    pub(super) env: Vec<(String, String)>,
    /// The package cache, where there is one.
    pub(super) packages: Option<packages::Settings>,
}

/// `none`, `host`, `internet`, `allow:` with rules or the path of a file of them.
pub(super) fn network(text: &str) -> Result<Network, String> {
    match text {
        "none" => return Ok(Network::None),
        "host" => return Ok(Network::Host),
        _ => {}
    }
    let rules = match text.split_once(':') {
        // A path says that it is one: a file that somebody puts here must not take the place of a host's name.
        Some((mode, path)) if path.starts_with(['/', '.']) => {
            let rules = read(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
            format!("{mode}:{rules}")
        }
        Some((_, name)) if Path::new(name).is_file() => {
            return Err(format!("{name} is a file here: write ./{name} for it"));
        }
        _ => text.to_owned(),
    };
    let rules: Rules = rules.parse().map_err(|error| format!("{error}"))?;
    Ok(Network::Rules(rules.to_string()))
}

/// A packet of 64 KiB then takes four seconds; with less, nothing could be told in time.
const MIN_RATE: u64 = 16 << 10;

/// As in `connections=100,bytes=2g,bandwidth=10m,connect=5,idle=600`. What is not named stays as it is.
pub(super) fn limits(text: &str) -> Result<NetworkLimits, String> {
    let mut limits = NetworkLimits::default();
    for part in text.split(',').map(str::trim) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let number = || match value.parse::<u64>() {
            Ok(number @ 1..=MAX_NUMBER) => Ok(number),
            _ => Err(format!("{name} is not a number from 1 to {MAX_NUMBER}")),
        };
        match name {
            "connections" => limits.connections = number()?,
            "bytes" => limits.bytes = Some(size(value)?),
            "bandwidth" => match size(value)? {
                rate @ MIN_RATE.. => limits.bytes_per_second = Some(rate),
                _ => return Err(format!("bandwidth is less than {MIN_RATE} bytes a second")),
            },
            "connect" => limits.connect_seconds = number()?,
            "idle" => limits.idle_seconds = number()?,
            _ => {
                return Err(format!(
                    "`{part}` is none of connections=N, bytes=SIZE, bandwidth=SIZE, connect=S, idle=S"
                ));
            }
        }
    }
    Ok(limits)
}

/// More connections than any host has descriptors, more seconds than any task takes.
const MAX_NUMBER: u64 = 10_000_000;

fn read(path: &Path) -> Result<String, std::io::Error> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(MAX_TEXT as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// What a sandbox of this network is given of the host's configuration, and of a package cache in that directory.
/// Notes go to the person.
pub(super) fn connect(network: Network, cache: Option<PathBuf>) -> Connected {
    if cache.is_some() && !matches!(network, Network::Rules(_)) {
        output::note("warning: a package cache is only for networks by rules, so there is none");
    }
    match network {
        Network::None => Connected {
            network,
            binds: Vec::new(),
            env: Vec::new(),
            packages: None,
        },
        Network::Host => {
            output::note(
                "warning: the sandbox shares the host's network, its local services included",
            );
            let settings = image::shared_network_settings();
            tell(&settings.notes);
            Connected {
                network,
                binds: settings.binds,
                env: settings.env,
                packages: None,
            }
        }
        Network::Rules(text) => by_rules(&text, cache),
    }
}

fn tell(notes: &[String]) {
    for note in notes {
        output::note(&format!("warning: {note}"));
    }
}

fn by_rules(text: &str, cache: Option<PathBuf>) -> Connected {
    let mut settings = image::filtered_network_settings();
    let packages = cache.and_then(|directory| through_cache(&mut settings, directory));
    tell(&settings.notes);
    // It was parsed before.
    let rules: Rules = text.parse().unwrap_or_default();
    let mut exceptions = Vec::new();
    for HostService { proxy, host, port } in settings.services {
        let kind = if proxy {
            Service::Proxy
        } else {
            Service::Index
        };
        match Exception::new(kind, &host, port) {
            Ok(exception) => exceptions.push(exception),
            Err(problem) => output::note(&format!(
                "warning: the host uses {host}:{port}, which {problem}"
            )),
        }
    }
    Connected {
        network: Network::Rules(rules.with_configured(exceptions).to_string()),
        binds: settings.binds,
        env: settings.env,
        packages,
    }
}

/// Has pip and uv ask the cache, which asks the indexes that they would have asked.
fn through_cache(settings: &mut FilteredNetwork, directory: PathBuf) -> Option<packages::Settings> {
    let behind = settings.through_cache(packages::index_address, &packages::host());
    let addresses: Result<Vec<_>, _> = behind.indexes.iter().map(|one| Address::new(one)).collect();
    let proxy = behind.proxy.as_deref().map(Address::new).transpose();
    match (addresses, proxy) {
        (Ok(indexes), Ok(proxy)) => Some(packages::Settings {
            directory,
            indexes,
            proxy,
        }),
        _ => {
            output::note(
                "warning: pip's index or proxy is malformed, so there is no package cache",
            );
            *settings = image::filtered_network_settings();
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_the_others_stay_as_they_are() {
        let all = limits("connections=7, bytes=2g,bandwidth=10m,connect=5,idle=60").unwrap();
        let expected = NetworkLimits {
            connections: 7,
            bytes: Some(2 << 30),
            bytes_per_second: Some(10 << 20),
            connect_seconds: 5,
            idle_seconds: 60,
        };
        assert_eq!(all, expected);
        assert_eq!(limits(&all.to_string()), Ok(all));
        let one = limits("bytes=1").unwrap();
        assert_eq!((one.bytes, one.connections), (Some(1), 1024));
        for bad in [
            "",
            "bytes",
            "bytes=0",
            "connections=0",
            "idle=-1",
            "up=1g",
            "bytes=1g,",
        ] {
            assert!(limits(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_are_read_and_a_file_is_named_by_its_path() {
        assert_eq!(network("none"), Ok(Network::None));
        assert_eq!(network("host"), Ok(Network::Host));
        assert_eq!(network("internet"), Ok(Network::internet()));
        let list = Network::Rules("allow:a.org,*.b.org:22".into());
        assert_eq!(network("allow:a.org, *.b.org:22"), Ok(list));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules");
        std::fs::write(
            &path,
            "# the index\npypi.org\n\ndeny evil.org\n*.files.org\n",
        )
        .unwrap();
        let flag = format!("allow:{}", path.display());
        let list = Network::Rules("allow:pypi.org,deny evil.org,*.files.org".into());
        assert_eq!(network(&flag), Ok(list));
        std::fs::write(&path, "pypi.org\n10.0.0.1\n").unwrap();
        let error = network(&flag).unwrap_err();
        assert!(
            error.starts_with("line 2: `10.0.0.1` is private"),
            "{error}"
        );
        for bad in [
            "",
            "all",
            "allow:",
            "allow:/nonexistent",
            "allow:Cargo.toml",
            "internet:a.org",
        ] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
