//! The flags of commands that start a sandbox.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::error::CliError;
use super::image::local_name;
use super::network;
use super::progress::Progress;
use super::seccomp::profile;
use crate::host::{HostError, Launcher, LauncherConfig, Sandbox, ZygoteProcess};
use crate::image::{self, DEFAULT_NAME, Image, ImageHold, Store};
use crate::outcome::Refused;
use crate::packages::{self, Cache, Choice};
use crate::spec::{BindMount, Limits, Network, NetworkLimits, Root, SandboxSpec, Seccomp, Upper};

/// What a sandbox is like.
#[derive(Debug, Clone, Args)]
pub(super) struct SandboxArgs {
    /// Image of the store; a missing one is built
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    pub(super) image: String,
    /// `none`: its own loopback only; `internet`: all but the host and what is near it; `allow:HOST,HOST…` or
    /// `allow:./FILE`: what the rules say; `host`: the host's network, unprotected
    #[arg(long, value_name = "MODE", default_value = "none", value_parser = network::network)]
    pub(super) net: Network,
    /// Python packages are downloaded once for all sandboxes: `on`, `off`, or the directory of the cache
    #[arg(long, value_name = "off|on|DIR", default_value = "off")]
    pub(super) package_cache: Choice,
    /// Of a network by rules: `connections=N` at once, `bytes=SIZE` at all, `bandwidth=SIZE` a second, `connect=S` and
    /// `idle=S` in seconds, with commas between them
    #[arg(long, value_name = "LIST", value_parser = network::limits)]
    pub(super) net_limits: Option<NetworkLimits>,
    /// Memory and swap of all processes together
    #[arg(long, value_name = "SIZE", default_value = "2g", value_parser = size)]
    pub(super) memory: u64,
    /// Processes and threads
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(super) pids: u64,
    /// Bytes that may be written; at most half of the memory
    #[arg(long, value_name = "SIZE", default_value = "1g", value_parser = size)]
    pub(super) disk: u64,
    /// Where writes go: memory, or a file on disk that needs root for its limit
    #[arg(long, value_name = "WHERE", default_value = "tmpfs")]
    pub(super) upper: Where,
    /// With `--upper disk`: write as much as the disk has
    #[arg(long, requires = "upper")]
    pub(super) no_disk_limit: bool,
    /// Files that may be made
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub(super) inodes: u64,
    /// CPUs' worth of time [default: no limit]
    #[arg(long, value_name = "X", value_parser = cpus)]
    pub(super) cpus: Option<f64>,
    /// Show a host path inside, read-only; may be repeated
    #[arg(long, value_name = "SRC:DST", value_parser = bind)]
    pub(super) ro_bind: Vec<BindMount>,
    /// Set a variable inside; may be repeated
    #[arg(long, value_name = "K=V", value_parser = variable)]
    pub(super) env: Vec<(String, String)>,
    /// Working directory inside, made when missing
    #[arg(long, value_name = "DIR", default_value = "/testbed")]
    pub(super) workdir: String,
    /// System calls that are refused: `default`, `strict` (no network, no look into other processes,
    /// no chroot), or a TOML file whose `deny` names more
    #[arg(long, value_name = "PROFILE", default_value = "default", value_parser = profile)]
    pub(super) seccomp: Seccomp,
    /// Tell at the end which system calls were refused, and by which rule
    #[arg(long, alias = "seccomp_log")]
    pub(super) seccomp_log: bool,
    /// Not of a person: `run` and `benchmark` ask for it.
    #[arg(skip)]
    pub(super) record_effects: bool,
    /// Fail where a limit cannot be enforced, rather than warn
    #[arg(long)]
    pub(super) require_limits: bool,
}

/// A running sandbox and what it stands on.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) sandbox: Sandbox,
    pub(super) image: Image,
    /// The network as it was settled, for records.
    pub(super) network: String,
    /// `image rm` finds the image in use until this is dropped.
    _hold: ImageHold,
}

/// What sandboxes of one kind are started from.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) launcher: Launcher,
    pub(super) image: Image,
    pub(super) spec: SandboxSpec,
    /// See [`Started`].
    pub(super) hold: ImageHold,
}

/// See [`Upper`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Where {
    /// A tmpfs.
    Tmpfs,
    /// The state directory's file system.
    Disk,
}

impl SandboxArgs {
    /// The defaults, for commands without these flags.
    pub(super) fn defaults(image: String) -> Self {
        let limits = Limits::default();
        Self {
            image,
            net: Network::None,
            package_cache: Choice::Off,
            net_limits: None,
            memory: limits.memory_bytes.unwrap_or(0),
            pids: limits.pids.unwrap_or(0),
            disk: limits.disk_bytes.unwrap_or(0),
            inodes: limits.inodes.unwrap_or(0),
            upper: Where::Tmpfs,
            no_disk_limit: false,
            cpus: None,
            ro_bind: Vec::new(),
            env: Vec::new(),
            workdir: "/testbed".into(),
            seccomp: Seccomp::default(),
            seccomp_log: false,
            record_effects: false,
            require_limits: false,
        }
    }

    /// Starts the zygote and the sandbox, and builds the image first when it is missing.
    pub(super) async fn start(
        self,
        state: Option<&Path>,
        purpose: &str,
        config: LauncherConfig,
    ) -> Result<Started, CliError> {
        let ground = self.prepare(state, purpose, config).await?;
        let network = ground.spec.network.to_string();
        let sandbox = ground.launcher.sandbox(ground.spec).await?;
        warn_unenforced(&sandbox);
        Ok(Started {
            sandbox,
            network,
            image: ground.image,
            _hold: ground.hold,
        })
    }

    /// Starts the zygote, and builds the image when it is missing: all that any number of sandboxes share.
    pub(super) async fn prepare(
        self,
        state: Option<&Path>,
        purpose: &str,
        config: LauncherConfig,
    ) -> Result<Ground, CliError> {
        let state = image::state_dir(state)?;
        let launcher = self.launcher(&state, config).await?;
        let store = Store::open(&state)?;
        let found = store.find(local_name(&self.image));
        let image = match found? {
            Some(image) => image,
            None => build_missing(&launcher, &store, &self.image).await?,
        };
        let hold = store.hold(&image)?;
        let (spec, packages) = self.spec(&image, purpose, &state);
        Ok(Ground {
            spec,
            launcher: launcher.with_packages(packages.map(Cache::new)),
            image,
            hold,
        })
    }

    /// Starts the zygote.
    pub(super) async fn launcher(
        &self,
        state: &Path,
        config: LauncherConfig,
    ) -> Result<Launcher, CliError> {
        // Before anything starts, and before an image is built for nothing.
        if self.upper == Where::Tmpfs {
            crate::plan::check_tmpfs(&self.limits()).map_err(HostError::from)?;
        }
        let config = LauncherConfig {
            require_limits: self.require_limits,
            expect_device: matches!(self.net, Network::Rules(_)),
            report_refusals: self.seccomp_log,
            upper_directory: Some(state.join("uppers")),
            ..config
        };
        let launcher = Launcher::start(config).await?;
        launcher.begin(&self.net).await?;
        Ok(launcher)
    }

    fn limits(&self) -> Limits {
        Limits {
            memory_bytes: Some(self.memory),
            disk_bytes: (!self.no_disk_limit).then_some(self.disk),
            inodes: Some(self.inodes),
            pids: Some(self.pids),
            cpus: self.cpus,
            network: self.net_limits.unwrap_or_default(),
            ..Limits::default()
        }
    }

    /// A sandbox of this image, and the package cache that it has.
    pub(super) fn spec(
        self,
        image: &Image,
        purpose: &str,
        state: &Path,
    ) -> (SandboxSpec, Option<packages::Settings>) {
        let limits = self.limits();
        let mut spec = image.spec();
        spec.binds = self.ro_bind;
        let cache = self.package_cache.directory(state);
        let connected = network::connect(self.net, cache);
        spec.binds.extend(connected.binds);
        spec.env.extend(connected.env);
        spec.network = connected.network;
        spec.env.extend(self.env);
        if let (Where::Disk, Root::Overlay { upper, .. }) = (self.upper, &mut spec.root) {
            *upper = Upper::Disk;
        }
        spec.limits = limits;
        spec.seccomp = self.seccomp;
        spec.workdir = self.workdir;
        spec.purpose = purpose.into();
        spec.record_effects = self.record_effects;
        (spec, connected.packages)
    }
}

pub(super) fn tell_refused(refused: &[Refused]) {
    for refused in refused {
        super::output::note(&refused.to_string());
    }
}

/// Tells which limits this host cannot hold.
pub(super) fn warn_unenforced(sandbox: &Sandbox) {
    let missing = &sandbox.in_force().unenforced;
    if !missing.is_empty() {
        super::output::note(&format!(
            "warning: this host does not enforce: {}",
            missing.join(", ")
        ));
    }
}

/// For one command: the few sandboxes that it needs are begun when it needs them, so that an interrupt
/// never meets one that is being begun for nobody.
pub(super) fn launcher_config() -> LauncherConfig {
    LauncherConfig {
        ahead: Some(0),
        ..LauncherConfig::default()
    }
}

/// For the commands of [`super::fork_zygote`].
pub(super) fn keyless_launcher_config(forked: Option<ZygoteProcess>) -> LauncherConfig {
    LauncherConfig {
        forked,
        ..launcher_config()
    }
}

async fn build_missing(launcher: &Launcher, store: &Store, name: &str) -> Result<Image, CliError> {
    let name = Some(local_name(name)).filter(|name| *name != DEFAULT_NAME);
    let progress = Progress::new();
    let built = image::ensure(store, launcher, name, &|line| progress.tell(line)).await;
    progress.done();
    Ok(built?)
}

/// `512k`, `2g`: powers of 1024, either case.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let malformed = || format!("{text} is not a size like 512m or 2g");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(['k', 'm', 'g', 't']);
    let shift = match lower.get(digits.len()..) {
        Some("") => 0,
        Some("k") => 10,
        Some("m") => 20,
        Some("g") => 30,
        Some("t") => 40,
        _ => return Err(malformed()),
    };
    let number: u64 = digits.parse().map_err(|_| malformed())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(malformed)
}

fn cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus >= 0.01 => Ok(cpus),
        _ => Err(format!("{text} is not a number of CPUs of at least 0.01")),
    }
}

fn bind(text: &str) -> Result<BindMount, String> {
    match text.rsplit_once(':') {
        Some((source, target)) if !source.is_empty() && target.starts_with('/') => Ok(BindMount {
            source: source.into(),
            target: target.into(),
        }),
        _ => Err(format!("{text} is not SRC:DST with an absolute DST")),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("{text} is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_in_any_case() {
        assert_eq!(size("1"), Ok(1));
        assert_eq!(size("2K"), Ok(2048));
        assert_eq!(size("3m"), Ok(3 << 20));
        assert_eq!(size("1T"), Ok(1 << 40));
        for bad in ["", "g", "1.5g", "-1", "1kb", "0", "99999999999t", "1mm"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn malformed_pairs_are_refused() {
        assert!(bind("/a:/b").is_ok());
        assert!(bind("/a:b").is_err() && bind("/a").is_err() && bind(":/b").is_err());
        assert!(variable("A=").is_ok() && variable("=1").is_err() && variable("A").is_err());
        assert!(cpus("0.5").is_ok() && cpus("0").is_err() && cpus("NaN").is_err());
    }
}
