//! The walls of a sandbox that depend on its specification and the kernel, and what they refused.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::outcome::Refused;
use crate::policy::{self, Refusal};
use crate::spec::{SandboxSpec, Seccomp};
use crate::sys::seccomp;
use crate::wire::{FilterSet, Profile, Setup, SetupOp};

/// What is in force in a sandbox; its PID 1 would not serve without.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Walls {
    /// What is refused beside the default.
    pub seccomp: Seccomp,
    /// Version of Landlock; 0 where the kernel has none that serves.
    pub landlock: u32,
    #[serde(skip)]
    profile: Option<Profile>,
    #[serde(skip)]
    counts: Arc<Mutex<Counts>>,
}

/// By number, and the refusal. Bounded: see [`MOST_NUMBERS`].
type Counts = BTreeMap<(u32, Refusal), u64>;

/// Larger numbers, of which a program can invent as many as it likes, count as this one.
const MOST_NUMBERS: u32 = 1024;

impl Walls {
    pub(super) fn new(spec: &SandboxSpec, setup: &Setup) -> Self {
        let mut walls = Self {
            seccomp: spec.seccomp.clone(),
            ..Self::default()
        };
        for op in &setup.steps {
            if let SetupOp::Landlock { version, .. } = op {
                walls.landlock = *version;
            } else if let SetupOp::Seccomp(FilterSet::Reported(profile)) = op {
                walls.profile = Some(profile.clone());
            }
        }
        walls
    }

    /// Answers what comes through the listener until the last process of the sandbox is gone. Should
    /// this thread end before, the kernel answers `ENOSYS` itself: nothing is ever let through.
    pub(super) fn watched(self, listener: Option<OwnedFd>) -> Self {
        if let (Some(listener), Some(profile)) = (listener, self.profile.clone()) {
            let counts = Arc::clone(&self.counts);
            std::thread::spawn(move || while answer(&listener, &profile, &counts) {});
        }
        self
    }

    /// Refused calls so far; absent unless [`LauncherConfig::report_refusals`](super::LauncherConfig).
    #[must_use]
    pub fn refused(&self) -> Option<Vec<Refused>> {
        self.profile.as_ref()?;
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = counts.iter().map(|((number, refusal), count)| Refused {
            call: policy::name(*number).map_or_else(|| format!("{number}"), str::to_owned),
            errno: format!("{:?}", Errno::from_raw(refusal.errno)),
            rule: refusal.rule.to_owned(),
            count: *count,
        });
        Some(refused.collect())
    }
}

/// Waits for one call and refuses it; false when no more can come.
fn answer(listener: &OwnedFd, profile: &Profile, counts: &Mutex<Counts>) -> bool {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::NONE) {
        Err(Errno::EINTR) => return true,
        Err(_) => return false,
        Ok(_) => {}
    }
    // To receive when there is nothing would wait without end.
    let events = fds.iter().filter_map(PollFd::revents);
    if !events
        .fold(PollFlags::empty(), |all, one| all | one)
        .contains(PollFlags::POLLIN)
    {
        return false;
    }
    // A process that was killed meanwhile needs no answer.
    let Ok(call) = seccomp::receive(listener.as_fd()) else {
        return true;
    };
    let known = policy::refusal(profile.strict, &profile.deny, call.number, &call.arguments);
    let refusal = known.unwrap_or(Refusal {
        errno: libc::EPERM,
        rule: "unknown",
    });
    *counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry((call.number.min(MOST_NUMBERS), refusal))
        .or_default() += 1;
    let _ = seccomp::refuse(listener.as_fd(), call, refusal.errno);
    true
}
