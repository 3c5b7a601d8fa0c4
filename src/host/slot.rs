//! A sandbox that is begun: it has ids, a cgroup, a place in the registry, and a PID 1 that waits for its plan.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::timeout;

use super::cgroup::{Cgroup, Cgroups};
use super::ids::{self, Range, Ranges};
use super::launcher::START_DEADLINE;
use super::link::{Answers, Link};
use super::network::Device;
use super::process::First;
use super::registry::{Entry, EntryInfo, Registry};
use super::sandbox::Held;
use super::zygote::{Ids, Zygote};
use super::{HostError, LauncherConfig};
use crate::plan::{self, groundwork};
use crate::spec::Limits;
use crate::sys::channel::Channel;
use crate::wire::{
    FromInit, FromZygote, IdMap, NetworkSource, RootSource, Setup, SetupFailure, SetupOp,
    SetupPlan, ToInit, UpperSource,
};

/// What all sandboxes of a launcher are made from.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) zygote: Arc<Zygote>,
    pub(super) ids: Ids,
    /// Where the ids of each sandbox come from, for root.
    pub(super) ranges: Option<Arc<Ranges>>,
    pub(super) cgroups: Cgroups,
    pub(super) registry: Registry,
    pub(super) host: plan::Host,
    pub(super) config: LauncherConfig,
}

/// What a sandbox needs of the host's file systems.
#[derive(Debug)]
pub(super) struct Allotment {
    entry: Entry,
    range: Option<Range>,
    cgroup: Cgroup,
}

/// What a sandbox is to be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) plan: SetupPlan,
    pub(super) limits: Limits,
    /// Device and inode of the image's tree: another one may have its path by now.
    tree: Option<(u64, u64)>,
}

impl Wanted {
    pub(super) fn new(plan: SetupPlan, limits: Limits) -> Self {
        let tree = match &plan.mounts.root {
            // What is bound may change between two sandboxes, and a layer on disk is of one alone.
            RootSource::Overlay {
                lower,
                upper: UpperSource::Tmpfs { .. },
                ..
            } if plan.mounts.binds.is_empty() => fs::metadata(lower).ok(),
            RootSource::Overlay { .. } | RootSource::Writable(_) => None,
        };
        Self {
            plan,
            limits,
            tree: tree.map(|tree| (tree.dev(), tree.ino())),
        }
    }

    /// What is made for the one serves the other.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.has_root_of(other) && self.limits == other.limits && self.plan == other.plan
    }

    /// The root that is made for the one serves the other.
    pub(super) fn has_root_of(&self, other: &Self) -> bool {
        self.tree.is_some()
            && self.tree == other.tree
            && self.plan.mounts == other.plan.mounts
            && self.plan.root == other.plan.root
    }

    /// How many of the first steps behind the root are the same.
    pub(super) fn steps_in_common(&self, other: &Self) -> usize {
        let [one, other] = [self, other].map(|wanted| wanted.plan.setup.steps.iter());
        one.zip(other)
            .take_while(|(one, other)| one == other)
            .count()
    }
}

/// What the next sandbox is expected to be.
#[derive(Debug, Clone, Default)]
pub(super) enum Expected {
    /// Anything.
    #[default]
    Any,
    /// One with the root of this one, and so many of its first steps behind that.
    Root(Arc<Wanted>, usize),
    /// One like this.
    Like(Arc<Wanted>),
}

impl Expected {
    /// What is prepared for this serves such a one.
    pub(super) fn serves(&self, wanted: Option<&Wanted>) -> bool {
        match (self, wanted) {
            (Self::Any, _) => true,
            (Self::Root(..) | Self::Like(_), None) => false,
            (Self::Root(last, steps), Some(wanted)) => {
                last.has_root_of(wanted) && last.steps_in_common(wanted) >= *steps
            }
            (Self::Like(last), Some(wanted)) => last.is_like(wanted),
        }
    }

    /// The sandbox, and its steps behind the root that are done ahead.
    fn known(&self) -> Option<(&Wanted, &[SetupOp])> {
        let (wanted, steps) = match self {
            Self::Any => return None,
            Self::Root(wanted, steps) => (wanted, *steps),
            Self::Like(wanted) => (wanted, usize::MAX),
        };
        let all = &wanted.plan.setup.steps;
        Some((wanted, all.get(..steps).unwrap_or(all)))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) network: NetworkSource,
    /// What it is prepared for, beyond that.
    pub(super) prepared: Expected,
    // Dropped first: a PID 1 whose pid nobody knows yet ends for want of a host.
    pub(super) init: Link<FromInit>,
    pub(super) held: Held,
    pub(super) exit: Answers<FromZygote>,
    device: Device,
    readiness: Answers<FromInit>,
}

/// What comes with a sandbox that serves.
#[derive(Debug)]
pub(super) struct Sent {
    /// Of a network by rules.
    pub(super) device: Device,
    /// Where refused calls are reported.
    pub(super) listener: Option<OwnedFd>,
    /// Of the program that was asked for with it.
    pub(super) program: Option<Answers<FromInit>>,
}

impl Site {
    /// Takes ids, makes the cgroup and the place in the registry. Looks at files, and so blocks for a moment.
    pub(super) fn allot(&self) -> Result<Allotment, HostError> {
        let entry = self.registry.register()?;
        let range = self.ranges.as_ref().map(Ranges::allot).transpose()?;
        // Noted before they exist: a host that is killed in between leaves nothing unknown.
        entry.note_cgroups(&self.cgroups.places(&entry.id))?;
        let cgroup = self.cgroups.create(&entry.id);
        let cgroup = cgroup.map_err(HostError::file("make the cgroup of", entry.directory()))?;
        Ok(Allotment {
            entry,
            range,
            cgroup,
        })
    }

    /// Has PID 1 made. Whether that went well is known when the slot is finished.
    pub(super) async fn begin(
        &self,
        allotment: Allotment,
        network: NetworkSource,
        expected: Expected,
    ) -> Result<Slot, HostError> {
        let failed = |what| move |e| HostError::Zygote(what, e);
        let Allotment {
            entry,
            range,
            cgroup,
        } = allotment;
        let mut groundwork = groundwork(&self.host, self.id_map(range.as_ref()), network);
        self.leave_out(&mut groundwork.steps);
        // Before the clone: should our caller give up in the middle of it, this cleans up.
        let held = Held {
            pidfd: None,
            cgroup,
            entry,
            init_pid: 0,
            range,
        };
        let (ours, theirs) = Channel::pair().map_err(failed("make a socket pair"))?;
        let (init, readiness) = Link::new(ours, FromInit::id).map_err(failed("watch PID 1"))?;
        // PID 1 then holds the other end alone: its death is the end of our answers.
        let mounts = expected
            .known()
            .map(|(wanted, _)| wanted.plan.mounts.clone());
        let zygote = &self.zygote;
        let begun = zygote.begin(groundwork, &theirs, &held.cgroup, mounts);
        let exit = begun.await?;
        Ok(Slot {
            network,
            prepared: expected,
            held,
            init,
            exit,
            device: Device::default(),
            readiness,
        })
    }

    /// For tests that show what a wall stops.
    pub(super) fn leave_out(&self, steps: &mut Vec<SetupOp>) {
        if !self.config.without.is_empty() {
            steps.retain(|op| !self.config.lacks(&format!("{op:?}")));
        }
    }

    fn id_map(&self, range: Option<&Range>) -> IdMap {
        let own = |count| IdMap {
            base: 0,
            count,
            shift_files: false,
        };
        match (self.ids, range) {
            (Ids::Fixed { count, .. }, _) => own(count),
            (Ids::Ranges, Some(range)) if !self.config.lacks("Ids") => range.map,
            (Ids::Ranges, _) => own(ids::RANGE),
        }
    }
}

impl Slot {
    /// Waits until the zygote has cloned it.
    pub(super) async fn cloned(&mut self, site: &Site) -> Result<(), HostError> {
        if self.held.pidfd.is_none() {
            let (pid, pidfd, device) = site.zygote.begun(&mut self.exit).await?;
            self.device = device.into();
            self.held.pidfd = Some(pidfd);
            self.held.init_pid = pid;
        }
        Ok(())
    }

    /// Has done what is known of the sandbox that it was begun for; where that is all, whatever else is asked for takes another.
    /// That it serves is heard by whoever takes it.
    pub(super) async fn prepare(&mut self) -> Result<(), HostError> {
        let expected = self.prepared.clone();
        let Some((wanted, steps)) = expected.known() else {
            return Ok(());
        };
        let look_up = plan::look_up(&wanted.plan.setup);
        let known = [&wanted.plan.root, [look_up].as_slice(), steps].concat();
        // One that is dead already has said why, or the zygote has; and is never taken.
        let _ = self.init.send(&ToInit::Prepare(known), &[]).await;
        match &expected {
            Expected::Like(wanted) => self.set_up(wanted, &[]).await,
            Expected::Any | Expected::Root(..) => Ok(()),
        }
    }

    /// Has these steps done as the last.
    async fn set_up(&mut self, wanted: &Wanted, steps: &[SetupOp]) -> Result<(), HostError> {
        let setup = Setup {
            steps: steps.to_vec(),
            ..wanted.plan.setup.clone()
        };
        let _ = self.init.send(&ToInit::SetUp(setup), &[]).await;
        self.limit(&wanted.limits)
    }

    fn limit(&mut self, limits: &Limits) -> Result<(), HostError> {
        let written = self.held.cgroup.limit(limits);
        let directory = self.held.entry.directory();
        written.map_err(HostError::file("limit the cgroup of", directory))
    }

    /// Makes it the sandbox that was asked for: its PID 1 serves, and runs this program first.
    pub(super) async fn finish(
        &mut self,
        site: &Site,
        wanted: &Wanted,
        (place, purpose): (String, String),
        program: Option<First>,
    ) -> Result<Sent, HostError> {
        let SetupPlan {
            mounts,
            root,
            setup,
        } = &wanted.plan;
        match self.prepared {
            Expected::Any => {
                site.zygote.mount(self.exit.id, mounts).await?;
                let steps = [root.as_slice(), &setup.steps].concat();
                self.set_up(wanted, &steps).await?;
            }
            Expected::Root(_, done) => {
                let rest = setup.steps.get(done..).unwrap_or_default();
                self.set_up(wanted, rest).await?;
            }
            Expected::Like(_) => {}
        }
        let program = match program {
            Some(program) => Some(program.ask(&self.init).await),
            None => None,
        };
        self.cloned(site).await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.held.entry.describe(&EntryInfo {
            id: self.held.entry.id.clone(),
            host_pid: std::process::id(),
            init_pid: Some(self.held.init_pid),
            root: place,
            started: now.map_or(0, |since| since.as_secs()),
            purpose,
        })?;
        let answer = self.readiness.next().await;
        let (message, fds) = answer.map_or((None, Vec::new()), |a| (Some(a.message), a.fds));
        let (said, error) = match message {
            Some(FromInit::Ready) => {
                let mut fds = fds.into_iter();
                if self.network == (NetworkSource::New { served: true }) {
                    self.device = fds.next().into();
                }
                return Ok(Sent {
                    device: std::mem::take(&mut self.device),
                    listener: fds.next(),
                    program,
                });
            }
            Some(FromInit::Failed(failure)) => (true, HostError::Setup(failure)),
            Some(other) => (
                true,
                HostError::ZygoteGone(format!("let PID 1 say {other:?}")),
            ),
            None => (
                false,
                HostError::ZygoteGone("lost PID 1 during its set-up".into()),
            ),
        };
        match self.end().await {
            // What the zygote could not do was the cause, not what follows from it.
            Some(failure) if !said => Err(HostError::Setup(failure)),
            _ => Err(error),
        }
    }

    /// Ends it; gives the zygote's reason, if it was the zygote's.
    async fn end(&mut self) -> Option<SetupFailure> {
        self.held.kill();
        let mut reason = None;
        while let Ok(Some(answer)) = timeout(START_DEADLINE, self.exit.next()).await {
            if let FromZygote::SpawnFailed { failure, .. } = answer.message {
                reason = Some(failure);
            } else {
                break;
            }
        }
        reason
    }
}
