//! Owns the zygote and starts sandboxes through it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::ahead::Ahead;
use super::cgroup::Cgroups;
use super::ids::{self, Ranges};
use super::in_force::InForce;
use super::init::Init;
use super::link::Answers;
use super::network;
use super::process::{First, Process, Spawn};
use super::registry::{Entry, Registry};
use super::sandbox::Sandbox;
use super::slot::{Site, Wanted};
use super::strikes::Strikes;
use super::upper::{self, DiskUpper};
use super::walls::Walls;
use super::zygote::{Ids, Zygote, ZygoteProcess};
use super::{DEFAULT_ENV, HostError};
use crate::net::rules::Rules;
use crate::packages::Cache;
use crate::plan;
use crate::spec::{Network, Root, SandboxSpec, Upper};
use crate::sys::landlock;
use crate::wire::{FromInit, UpperSource};

/// Nothing that we wait for during a start takes longer on a working host.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(30);

/// In [`LauncherConfig::without`]: a wall that is no step of a process.
const OWN_ADDRESSES: &str = "OwnAddresses";

/// How to start sandboxes on this host.
#[derive(Debug, Default)]
pub struct LauncherConfig {
    /// The program to run as zygote. When absent it is this one, which then calls
    /// [`zygote_entry`](../fn.zygote_entry.html) first; tests name the real binary.
    pub program: Option<PathBuf>,
    /// A zygote that was forked from this process, for a program of root that holds no secret and
    /// starts one sandbox: a new program takes 1 ms more. Where another is needed it ends.
    pub forked: Option<ZygoteProcess>,
    /// The first sandbox's network has rules: it is made ahead with its device.
    pub expect_device: bool,
    /// Directory of running sandboxes; the host's own when absent.
    pub registry: Option<Registry>,
    /// Fail rather than start a sandbox with a limit that cannot be enforced.
    pub require_limits: bool,
    /// Directory for writable layers on disk, on the file system that is to hold them.
    pub upper_directory: Option<PathBuf>,
    /// Tell which system calls were refused, see [`Walls::refused`]: each refusal is then this
    /// program's answer to a question of the kernel, and a sandbox has no listener of its own.
    pub report_refusals: bool,
    /// How many sandboxes are begun before they are asked for, so that a start takes a quarter of the
    /// time. Each has ids, a cgroup, namespaces and a PID 1 that waits: about 0.7 MB. After two sandboxes
    /// of one image it has their root, too, after two that are alike also their limits and settings; no
    /// command runs in any. When absent, 8 from the second sandbox on.
    pub ahead: Option<usize>,
    /// Walls to leave out, each named by the beginning of its step's `Debug` form (`MaskFile`,
    /// `Seccomp(Unknown`), or `Ids` (inside-root is the caller himself), `InheritedSeccomp` or
    /// `OwnAddresses` (those of this host are like any of the internet).
    ///
    /// ONLY for tests that show that a check fails where its wall is missing. No flag, file or
    /// variable sets it; code that can set it runs with the host's rights and needs no sandbox to
    /// misuse them.
    #[doc(hidden)]
    pub without: Vec<String>,
}

impl LauncherConfig {
    pub(super) fn lacks(&self, wall: &str) -> bool {
        self.without.iter().any(|name| wall.starts_with(name))
    }
}

/// The host's handle on its zygote. Dropping it ends the zygote and every sandbox of it.
#[derive(Debug)]
pub struct Launcher {
    site: Arc<Site>,
    ahead: Ahead,
    packages: Option<Cache>,
}

impl Launcher {
    /// Starts the zygote, and takes away what hosts that died have left.
    ///
    /// # Errors
    /// The host lacks something; the error's hint tells where to look.
    pub async fn start(mut config: LauncherConfig) -> Result<Self, HostError> {
        let (zygote, ids, cgroups);
        let forked = config.forked.take();
        let privileged = ids::privileged();
        if privileged {
            // First, for it prepares itself meanwhile.
            (zygote, ids) = Zygote::start(&config, forked, privileged).await?;
            if config.expect_device {
                zygote.prepare(network::device().0).await;
            }
            cgroups = Cgroups::detect();
        } else {
            // An ordinary user's process leaves its own cgroup for a leaf, where his zygote belongs, too.
            cgroups = Cgroups::detect();
            (zygote, ids) = Zygote::start(&config, forked, privileged).await?;
        }
        if config.expect_device {
            network::start_engine();
        }
        let registry = match &config.registry {
            Some(registry) => registry.clone(),
            None => Registry::open()?,
        };
        for failed in registry.reclaim()?.failed {
            tracing::warn!("could not take away what a dead host left: {failed}");
        }
        let ranges = match ids {
            Ids::Ranges => Some(Ranges::open(&registry.ids_directory())?),
            Ids::Fixed { .. } => None,
        };
        let (device, resolvers) = network::device();
        // Taking a wall away takes away a step of PID 1, which must be there.
        let all_steps = config.without.iter().all(|wall| wall == OWN_ADDRESSES);
        let site = Arc::new(Site {
            host: plan::Host {
                privileged: ranges.is_some(),
                networks_ahead: ranges.is_some() && all_steps,
                device,
                resolvers,
                setgroups: !matches!(
                    ids,
                    Ids::Fixed {
                        setgroups: false,
                        ..
                    }
                ),
                pids_by_rlimit: !cgroups.controllers().pids,
                landlock: landlock::version(),
                report_refusals: config.report_refusals,
            },
            zygote: Arc::new(zygote),
            ids,
            ranges,
            cgroups,
            registry,
            config,
        });
        let ahead = Ahead::new(Arc::clone(&site));
        let expected = match site.config.expect_device {
            true => Network::internet(),
            false => Network::None,
        };
        ahead.fill(plan::network(&expected, &site.host));
        Ok(Self {
            site,
            ahead,
            packages: None,
        })
    }

    /// Its sandboxes have this package cache at their gateway, where their networks have rules.
    #[must_use]
    pub fn with_packages(self, packages: Option<Cache>) -> Self {
        Self { packages, ..self }
    }

    /// Starts a sandbox and waits until its PID 1 serves.
    ///
    /// # Errors
    /// A step failed; nothing of the sandbox is left.
    pub async fn sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, HostError> {
        Ok(self.begin_with(spec, None).await?.0)
    }

    /// Starts a sandbox with a program in it, which begins as soon as PID 1 serves. Where it is the
    /// `only` one, the sandbox ends with it: nobody has to say so.
    ///
    /// # Errors
    /// A step failed; nothing of the sandbox is left.
    pub async fn run(
        &self,
        spec: SandboxSpec,
        program: Spawn,
        only: bool,
    ) -> Result<(Sandbox, Process), HostError> {
        let started = self.begin_with(spec, Some(First { program, only })).await?;
        let (sandbox, Some(answers)) = started else {
            return Err(HostError::ZygoteGone("forgot the program".into()));
        };
        let process = Process::first(&sandbox.link, answers);
        Ok((sandbox, process))
    }

    async fn begin_with(
        &self,
        spec: SandboxSpec,
        first: Option<First>,
    ) -> Result<(Sandbox, Option<Answers<FromInit>>), HostError> {
        let started = Instant::now();
        let site = &self.site;
        let in_force = InForce::new(&spec, site.cgroups.controllers());
        if site.config.require_limits && !in_force.unenforced.is_empty() {
            return Err(HostError::Unenforceable(in_force.unenforced.join(", ")));
        }
        let rules = match &spec.network {
            Network::Rules(text) => Some(text.parse::<Rules>()?),
            Network::None | Network::Host => None,
        };
        if rules.is_some() {
            network::open_node().map_err(HostError::NoDevice)?;
        }
        let source = plan::network(&spec.network, &site.host);
        let starting = async {
            // A layer on disk is noted in the slot's place before it is made.
            let wanted = match on_disk(&spec.root) {
                false => Some(self.wanted(&spec, None)?),
                true => None,
            };
            let (mut slot, start) = self.ahead.take(source, wanted.as_ref()).await?;
            let (wanted, _upper) = match wanted {
                Some(wanted) => (wanted, None),
                None => {
                    let upper = self.disk_upper(&spec, &mut slot.held.entry).await?;
                    (self.wanted(&spec, Some(upper.source.clone()))?, Some(upper))
                }
            };
            let walls = Walls::new(&spec, &wanted.plan.setup);
            let words = (root_path(&spec.root), spec.purpose.clone());
            let sent = slot.finish(site, &wanted, words, first).await?;
            drop(start);
            let walls = walls.watched(sent.listener);
            Ok::<_, HostError>((slot, walls, sent.device, sent.program))
        };
        let (slot, walls, device, program) = timeout(START_DEADLINE, starting)
            .await
            .map_err(|_| HostError::TimedOut("starting the sandbox", START_DEADLINE.as_secs()))??;
        self.ahead.fill(source);
        let protect_host = !site.config.lacks(OWN_ADDRESSES);
        let packages = self.packages.as_ref();
        let limits = spec.limits.network;
        let network = rules.map(|rules| device.serve(rules, limits, protect_host, packages));
        let network = network.transpose()?;
        let root_bounded = !matches!(spec.root, Root::Writable(_));
        let strikes = Strikes::new(&in_force, root_bounded, slot.held.cgroup.events());
        let sandbox = Sandbox::new(
            Init::new(slot.init, strikes, spec.record_effects && root_bounded),
            Arc::clone(&site.zygote),
            slot.exit,
            slot.held,
            in_force,
            spec.workdir,
            started,
        )
        .with_walls(walls)
        .with_network(network);
        Ok((sandbox, program))
    }

    /// Deletes a tree whose files may belong to subordinate ids, which this process may not touch.
    ///
    /// # Errors
    /// The kernel refused, or the zygote is gone.
    pub async fn remove_tree(&self, path: &Path) -> Result<(), HostError> {
        self.site.zygote.remove_tree(path).await
    }

    /// Begins a sandbox with such a network, for the next [`Self::sandbox`]: what there is to do until
    /// then is done meanwhile.
    ///
    /// # Errors
    /// The host lacks something.
    pub async fn begin(&self, network: &Network) -> Result<(), HostError> {
        if matches!(network, Network::Rules(_)) {
            network::open_node().map_err(HostError::NoDevice)?;
        }
        self.ahead
            .begin(plan::network(network, &self.site.host))
            .await
    }

    /// How many sandboxes are begun and wait to be asked for, see [`LauncherConfig::ahead`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.ahead.waiting()
    }

    /// Whether more of them are being made: once half of them are used, until as many wait as should.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.ahead.is_filling()
    }

    /// How many user and group ids exist inside a sandbox.
    #[must_use]
    pub fn ids_inside(&self) -> u32 {
        match self.site.ids {
            Ids::Ranges => ids::RANGE,
            Ids::Fixed { count, .. } => count,
        }
    }

    /// Directory of running sandboxes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.site.registry
    }

    /// The writable layer on disk, where one is asked for.
    async fn disk_upper(
        &self,
        spec: &SandboxSpec,
        entry: &mut Entry,
    ) -> Result<DiskUpper, HostError> {
        let Some(parent) = &self.site.config.upper_directory else {
            return Err(HostError::NoUpperDirectory);
        };
        let path = parent.join(&entry.id);
        entry.note_upper(path.clone())?;
        let privileged = self.site.host.privileged;
        upper::make(&path, &spec.limits, privileged).await
    }

    fn wanted(
        &self,
        spec: &SandboxSpec,
        disk_upper: Option<UpperSource>,
    ) -> Result<Arc<Wanted>, HostError> {
        let mut spec = spec.clone();
        let mut env: Vec<(String, String)> = DEFAULT_ENV
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        env.append(&mut spec.env);
        spec.env = env;
        let mut plan = plan::plan(&spec, &self.site.host, disk_upper)?;
        self.site.leave_out(&mut plan.root);
        self.site.leave_out(&mut plan.setup.steps);
        Ok(Arc::new(Wanted::new(plan, spec.limits)))
    }
}

fn on_disk(root: &Root) -> bool {
    matches!(
        root,
        Root::Overlay {
            upper: Upper::Disk,
            ..
        }
    )
}

fn root_path(root: &Root) -> String {
    match root {
        Root::Overlay { lower, .. } => lower.display().to_string(),
        Root::Writable(directory) => directory.display().to_string(),
    }
}
