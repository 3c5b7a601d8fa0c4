//! Owns the zygote and starts sandboxes through it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;

use super::cgroup::{Cgroup, Cgroups};
use super::ids::{self, Range};
use super::in_force::InForce;
use super::init::Init;
use super::link::{Answers, Link};
use super::network;
use super::registry::{Entry, EntryInfo, Registry};
use super::sandbox::{Held, Sandbox};
use super::strikes::Strikes;
use super::upper::{self, DiskUpper};
use super::walls::Walls;
use super::zygote::{Ids, Zygote};
use super::{DEFAULT_ENV, HostError};
use crate::net::rules::Rules;
use crate::plan::{Allotment, plan};
use crate::spec::{Network, Root, SandboxSpec, Upper};
use crate::sys::channel::Channel;
use crate::sys::landlock;
use crate::wire::{FromInit, FromZygote, IdMap, SetupOp, SetupPlan, UpperSource};

/// Nothing that we wait for during a start takes longer on a working host.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(30);

/// In [`LauncherConfig::without`]: a wall that is no step of a process.
const OWN_ADDRESSES: &str = "OwnAddresses";

/// How to start sandboxes on this host.
#[derive(Debug, Clone, Default)]
pub struct LauncherConfig {
    /// The program to run as zygote. When absent it is this one, which then calls
    /// [`zygote_entry`](../fn.zygote_entry.html) first; tests name the real binary.
    pub program: Option<PathBuf>,
    /// `Some(jail::zygote_main)` to fork the zygote from this process where that is as safe as a new
    /// program, which takes 1 ms more: as root, and while no other thread runs. For a program that
    /// holds no secret and starts one sandbox.
    pub forked: Option<fn(&str) -> u8>,
    /// The first sandbox's network has rules: the zygote makes it ahead with its device.
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
    /// Walls to leave out, each named by the beginning of its step's `Debug` form (`MaskFile`,
    /// `Seccomp(Unknown`), or `Ids` (inside-root is the caller himself), `InheritedSeccomp` or
    /// `OwnAddresses` (this host's are like those of the internet).
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
    zygote: Arc<Zygote>,
    ids: Ids,
    cgroups: Cgroups,
    registry: Registry,
    /// Version of the kernel's Landlock.
    landlock: u32,
    config: LauncherConfig,
}

impl Launcher {
    /// Starts the zygote, and takes away what hosts that died have left.
    ///
    /// # Errors
    /// The host lacks something; the error's hint tells where to look.
    pub async fn start(config: LauncherConfig) -> Result<Self, HostError> {
        let (zygote, ids, cgroups);
        let privileged = ids::privileged();
        if privileged {
            // First, for it prepares itself meanwhile.
            (zygote, ids) = Zygote::start(&config, privileged).await?;
            if config.expect_device {
                zygote.prepare(network::device().device).await;
            }
            cgroups = Cgroups::detect();
        } else {
            // An ordinary user's process leaves its own cgroup for a leaf, where his zygote belongs, too.
            cgroups = Cgroups::detect();
            (zygote, ids) = Zygote::start(&config, privileged).await?;
        }
        let registry = match &config.registry {
            Some(registry) => registry.clone(),
            None => Registry::open()?,
        };
        for failed in registry.reclaim()?.failed {
            tracing::warn!("could not take away what a dead host left: {failed}");
        }
        Ok(Self {
            zygote: Arc::new(zygote),
            ids,
            cgroups,
            registry,
            landlock: landlock::version(),
            config,
        })
    }

    /// Starts a sandbox and waits until its PID 1 serves.
    ///
    /// # Errors
    /// A step failed; nothing of the sandbox is left.
    pub async fn sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, HostError> {
        let started = Instant::now();
        let in_force = InForce::new(&spec, self.cgroups.controllers());
        if self.config.require_limits && !in_force.unenforced.is_empty() {
            return Err(HostError::Unenforceable(in_force.unenforced.join(", ")));
        }
        let rules = match &spec.network {
            Network::Rules(text) => Some(text.parse::<Rules>()?),
            Network::None | Network::Host => None,
        };
        if rules.is_some() {
            network::open_node().map_err(HostError::NoDevice)?;
        }
        let mut entry = self.registry.register()?;
        let range = match self.ids {
            Ids::Ranges => Some(ids::allot(&self.registry.ids_directory())?),
            Ids::Fixed { .. } => None,
        };
        // Noted before they exist: a host that is killed in between leaves nothing unknown.
        entry.note_cgroups(&self.cgroups.places(&entry.id))?;
        let cgroup = self
            .cgroups
            .create(&entry.id, &spec.limits)
            .map_err(HostError::file("make the cgroup of", entry.directory()))?;
        let upper = self.disk_upper(&spec, &mut entry).await?;
        let plan = self.plan(
            &spec,
            range.as_ref(),
            upper.as_ref().map(|u| u.source.clone()),
        )?;
        let walls = Walls::new(&spec, &plan);
        let description = EntryInfo {
            id: entry.id.clone(),
            host_pid: std::process::id(),
            init_pid: None,
            root: root_path(&spec.root),
            started: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            purpose: spec.purpose.clone(),
        };
        let starting = self.start_sandbox(plan, cgroup, entry, range, description);
        let root_bounded = !matches!(spec.root, Root::Writable(_));
        let Running {
            link,
            exit,
            held,
            device,
            listener,
        } = timeout(START_DEADLINE, starting)
            .await
            .map_err(|_| HostError::TimedOut("starting the sandbox", START_DEADLINE.as_secs()))??;
        let network = rules.map(|rules| match device {
            Some(device) => {
                network::Network::attach(device, rules, !self.config.lacks(OWN_ADDRESSES))
            }
            None => Err(HostError::ZygoteGone("sent no network device".into())),
        });
        let strikes = Strikes::new(&in_force, root_bounded, held.cgroup.events());
        Ok(Sandbox::new(
            Init::new(link, strikes),
            Arc::clone(&self.zygote),
            exit,
            held,
            in_force,
            spec.workdir,
            started,
        )
        .with_walls(walls.watched(listener))
        .with_network(network.transpose()?))
    }

    /// Deletes a tree whose files may belong to subordinate ids, which this process may not touch.
    ///
    /// # Errors
    /// The kernel refused, or the zygote is gone.
    pub async fn remove_tree(&self, path: &Path) -> Result<(), HostError> {
        self.zygote.remove_tree(path).await
    }

    /// How many user and group ids exist inside a sandbox.
    #[must_use]
    pub fn ids_inside(&self) -> u32 {
        match self.ids {
            Ids::Ranges => ids::RANGE,
            Ids::Fixed { count, .. } => count,
        }
    }

    /// Directory of running sandboxes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The writable layer on disk, where one is asked for.
    async fn disk_upper(
        &self,
        spec: &SandboxSpec,
        entry: &mut Entry,
    ) -> Result<Option<DiskUpper>, HostError> {
        let Root::Overlay {
            upper: Upper::Disk, ..
        } = &spec.root
        else {
            return Ok(None);
        };
        let Some(parent) = &self.config.upper_directory else {
            return Err(HostError::NoUpperDirectory);
        };
        let path = parent.join(&entry.id);
        entry.note_upper(path.clone())?;
        let privileged = matches!(self.ids, Ids::Ranges);
        let made = upper::make(&path, &spec.limits, privileged).await?;
        Ok(Some(made))
    }

    fn plan(
        &self,
        spec: &SandboxSpec,
        range: Option<&Range>,
        disk_upper: Option<UpperSource>,
    ) -> Result<SetupPlan, HostError> {
        let mut spec = spec.clone();
        let mut env: Vec<(String, String)> = DEFAULT_ENV
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        env.append(&mut spec.env);
        spec.env = env;
        let (ids, setgroups) = match (self.ids, range) {
            (Ids::Fixed { count, setgroups }, _) => (
                IdMap {
                    base: 0,
                    count,
                    shift_files: false,
                },
                setgroups,
            ),
            (Ids::Ranges, Some(range)) if self.config.lacks("Ids") => (
                IdMap {
                    base: 0,
                    shift_files: false,
                    ..range.map
                },
                true,
            ),
            (Ids::Ranges, Some(range)) => (range.map, true),
            (Ids::Ranges, None) => return Err(HostError::NoIds(0)),
        };
        let allotment = Allotment {
            ids,
            privileged: matches!(self.ids, Ids::Ranges),
            // Taking a wall away takes away a step of PID 1, which must be there.
            networks_ahead: matches!(self.ids, Ids::Ranges)
                && self.config.without.iter().all(|wall| wall == OWN_ADDRESSES),
            device: matches!(spec.network, Network::Rules(_)).then(network::device),
            setgroups,
            disk_upper,
            pids_by_rlimit: !self.cgroups.controllers().pids,
            landlock: self.landlock,
            report_refusals: self.config.report_refusals,
        };
        let mut plan = plan(&spec, &allotment)?;
        if !self.config.without.is_empty() {
            plan.setup
                .retain(|op| !self.config.lacks(&format!("{op:?}")));
        }
        Ok(plan)
    }

    async fn start_sandbox(
        &self,
        plan: SetupPlan,
        cgroup: Cgroup,
        entry: Entry,
        range: Option<Range>,
        mut description: EntryInfo,
    ) -> Result<Running, HostError> {
        let failed = |what| move |e| HostError::Zygote(what, e);
        // Before the clone: should our caller give up in the middle of it, this cleans up.
        let mut held = Held {
            pidfd: None,
            cgroup,
            entry,
            init_pid: 0,
            range,
        };
        let (ours, theirs) = Channel::pair().map_err(failed("make a socket pair"))?;
        let is_device = |op: &SetupOp| matches!(op, SetupOp::NetworkDevice(_));
        let by_pid_1 = plan.setup.iter().any(is_device);
        let init = Link::new(ours, FromInit::id).map_err(failed("watch PID 1"))?;
        let mut readiness = init.open_as(0);
        let cloned = self.zygote.clone_sandbox(plan, &theirs, &held.cgroup);
        let (mut exit, pid, pidfd, mut device) = cloned.await?;
        held.pidfd = Some(pidfd);
        held.init_pid = pid;
        // From here on PID 1 holds the other end alone: its death is the end of our answers.
        drop(theirs);
        let mut sent = match wait_ready(&mut readiness).await {
            Ok(sent) => sent.into_iter(),
            Err(error) => {
                held.kill();
                let _ = timeout(START_DEADLINE, exit.next()).await;
                return Err(error);
            }
        };
        description.init_pid = Some(pid);
        held.entry.describe(&description)?;
        if by_pid_1 {
            device = sent.next();
        }
        Ok(Running {
            link: init,
            exit,
            held,
            device,
            listener: sent.next(),
        })
    }
}

/// A sandbox that has just been started.
struct Running {
    link: Link<FromInit>,
    exit: Answers<FromZygote>,
    held: Held,
    /// The network device that is to be served.
    device: Option<OwnedFd>,
    /// For its refused calls.
    listener: Option<OwnedFd>,
}

/// The descriptors that come with readiness.
async fn wait_ready(readiness: &mut Answers<FromInit>) -> Result<Vec<OwnedFd>, HostError> {
    let answer = readiness.next().await;
    let (message, fds) = answer.map_or((None, Vec::new()), |a| (Some(a.message), a.fds));
    match message {
        Some(FromInit::Ready { steps_us }) => {
            tracing::debug!(?steps_us, "sandbox ready");
            Ok(fds)
        }
        Some(FromInit::Failed(failure)) => Err(HostError::Setup(failure)),
        Some(other) => Err(HostError::ZygoteGone(format!("let PID 1 say {other:?}"))),
        None => Err(HostError::ZygoteGone("lost PID 1 during its set-up".into())),
    }
}

fn root_path(root: &Root) -> String {
    match root {
        Root::Overlay { lower, .. } => lower.display().to_string(),
        Root::Writable(directory) => directory.display().to_string(),
    }
}
