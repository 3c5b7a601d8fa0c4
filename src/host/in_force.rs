//! Which limits hold.

use serde::Serialize;

use super::cgroup::Controllers;
use crate::spec::{Limits, Root, SandboxSpec};

/// Which of the limits asked for hold, and through what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InForce {
    /// What was asked for.
    #[serde(flatten)]
    pub limits: Limits,
    /// Version of the cgroup interface that enforces memory, processes and CPU; 0 when none does.
    pub cgroup: u8,
    /// Limits that this host does not enforce.
    pub unenforced: Vec<String>,
}

impl InForce {
    pub(super) fn new(spec: &SandboxSpec, controllers: Controllers) -> Self {
        let limits = &spec.limits;
        // A tree that is written in place has the room of its disk.
        let in_place = matches!(spec.root, Root::Writable(_));
        let missing = [
            (
                limits.memory_bytes.is_some() && !controllers.memory,
                "memory",
            ),
            (limits.cpus.is_some() && !controllers.cpu, "cpus"),
            // RLIMIT_NPROC counts by user, not by sandbox.
            (
                limits.pids.is_some() && !controllers.pids,
                "pids (by user only)",
            ),
            (in_place && limits.disk_bytes.is_some(), "disk"),
            (in_place && limits.inodes.is_some(), "inodes"),
        ];
        let unenforced = missing
            .iter()
            .filter(|(missing, _)| *missing)
            .map(|(_, name)| (*name).to_owned());
        Self {
            limits: limits.clone(),
            cgroup: controllers.version,
            unenforced: unenforced.collect(),
        }
    }
}
