//! Which limits struck: the kernel's counts, and what PID 1 finds used up.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cgroup::{Counts, Events};
use super::in_force::InForce;
use super::process::gone;
use crate::env::EnvError;
use crate::outcome::LimitHit;
use crate::plan::room;
use crate::spec::Limits;
use crate::wire::{Space, TERMINALS, UsedUp};

/// A command that succeeds within this time has hardly met a limit: what it has is told with a later one, and its answer need not
/// wait for anybody to look.
pub(super) const BRIEF: Duration = Duration::from_millis(3);

/// Limits are looked at after this time, however brief all commands were.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The record of one sandbox.
#[derive(Debug)]
pub(super) struct Strikes {
    limits: Limits,
    /// The root has the limits of bytes and inodes.
    root_bounded: bool,
    /// `RLIMIT_NPROC` bounds the processes: what it refuses is counted by nobody.
    pids_by_rlimit: bool,
    events: Events,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// At the last look.
    counts: Counts,
    looked: Option<Instant>,
    now: UsedUp,
    /// What the caller knows already.
    told: UsedUp,
    ever: UsedUp,
    refused: u64,
    ended: bool,
    /// By copies out.
    copied: Vec<LimitHit>,
}

impl Strikes {
    pub(super) fn new(in_force: &InForce, root_bounded: bool, events: Events) -> Self {
        Self {
            limits: in_force.limits.clone(),
            root_bounded,
            pids_by_rlimit: in_force.unenforced.iter().any(|l| l.starts_with("pids")),
            events,
            state: Mutex::new(State {
                looked: Some(Instant::now()),
                ..State::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernel had counted at the last look: needs no reading, and what was met since then is the next command's to tell.
    pub(super) fn last(&self) -> Counts {
        self.state().counts
    }

    /// Processes that live, where that is counted.
    pub(super) fn processes(&self) -> Option<u64> {
        self.events.processes()
    }

    /// Bytes of a command's text: as many as the shell's own files may have.
    pub(super) fn longest_command(&self) -> u64 {
        room(Space::ShellFiles, &self.limits).0
    }

    /// Reads what the kernel has counted.
    pub(super) fn look(&self) {
        let counts = self.events.read();
        let mut state = self.state();
        state.counts = counts;
        state.looked = Some(Instant::now());
    }

    /// The same after a command, where it may have met a limit, or all were brief for a while; says whether it did look.
    pub(super) fn look_after(&self, failed: bool, took: Duration) -> bool {
        let lately = |at: Instant| at.elapsed() < LOOK_EVERY;
        let look = failed || took > BRIEF || !self.state().looked.is_some_and(lately);
        if look {
            self.look();
        }
        look
    }

    /// Takes down what PID 1 found.
    pub(super) fn note(&self, used_up: UsedUp) {
        let mut state = self.state();
        let ever = &mut state.ever;
        for (all, new) in [
            (&mut ever.blocks, &used_up.blocks),
            (&mut ever.inodes, &used_up.inodes),
        ] {
            all.extend(
                new.iter()
                    .filter(|space| !all.contains(space))
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
        ever.terminals |= used_up.terminals;
        ever.open_files |= used_up.open_files;
        state.now = used_up;
    }

    /// What struck from `before` to the last look. A disk that stays full is told again only to a command that failed.
    ///
    /// # Errors
    /// Not this sandbox's memory was used up, but the host's.
    pub(super) fn since(&self, before: Counts, failed: bool) -> Result<Vec<LimitHit>, EnvError> {
        let mut state = self.state();
        let counts = state.counts;
        let since = counts.since(before);
        if since.killed > 0 && !self.events.was_at_memory_limit() {
            return Err(host_memory(since.killed));
        }
        let known = std::mem::take(&mut state.told);
        let mut used_up = state.now.clone();
        state.told = used_up.clone();
        if !failed {
            used_up.blocks.retain(|space| !known.blocks.contains(space));
            used_up.inodes.retain(|space| !known.inodes.contains(space));
            used_up.terminals &= !known.terminals;
            used_up.open_files &= !known.open_files;
        }
        Ok(self.hits(since, &used_up, state.ended))
    }

    /// What struck from beginning to end.
    pub(super) fn all(&self) -> Vec<LimitHit> {
        let mut counts = self.events.read();
        let state = self.state();
        counts.refused = counts.refused.max(state.refused);
        if counts.killed > 0 && !self.events.was_at_memory_limit() {
            counts.killed = 0;
        }
        let mut hits = self.hits(counts, &state.ever, state.ended);
        hits.extend(state.copied.iter().cloned());
        hits
    }

    /// Takes down what a copy lacks.
    pub(super) fn copied(&self, hits: &[LimitHit]) {
        self.state().copied.extend_from_slice(hits);
    }

    /// See [`Events::peak_memory`].
    pub(super) fn peak_memory(&self) -> Option<u64> {
        self.events.peak_memory()
    }

    /// Why PID 1 is gone, or, where `lives`, why a child of it ended without an answer.
    pub(super) fn death(&self, before: Counts, lives: bool) -> EnvError {
        let counts = self.events.read();
        let killed = counts.since(before).killed;
        if killed == 0 {
            return gone();
        }
        if !self.events.was_at_memory_limit() {
            return host_memory(killed);
        }
        self.state().ended |= !lives;
        EnvError::Limit(self.memory(killed, !lives))
    }

    /// Why PID 1 could not start a process.
    pub(super) fn refused(&self, reason: String, errno: Option<i32>, used_up: UsedUp) -> EnvError {
        let terminals = used_up.terminals;
        self.note(used_up);
        let counts = self.events.read();
        let limit = match (errno, self.limits.pids) {
            (Some(libc::EAGAIN), Some(limit)) if counts.refused > 0 || self.pids_by_rlimit => {
                self.state().refused += 1;
                LimitHit::Pids {
                    max: limit,
                    refused: 1,
                }
            }
            (Some(libc::ENOMEM), _) if self.events.was_at_memory_limit() => {
                self.memory(counts.killed, false)
            }
            // With all terminals of the sandbox in use it was those; else the host has none left.
            (Some(libc::ENOSPC), _) if terminals => LimitHit::Terminals {
                max: TERMINALS.into(),
            },
            _ => return EnvError::Infrastructure(reason),
        };
        EnvError::Limit(limit)
    }

    fn memory(&self, killed: u64, sandbox_ended: bool) -> LimitHit {
        LimitHit::Memory {
            max_bytes: self.limits.memory_bytes.unwrap_or(0),
            killed,
            peak_bytes: self.events.peak_memory(),
            sandbox_ended,
        }
    }

    fn hits(&self, counts: Counts, used_up: &UsedUp, ended: bool) -> Vec<LimitHit> {
        let mut hits = Vec::new();
        if counts.killed > 0 {
            hits.push(self.memory(counts.killed, ended));
        }
        if let (1.., Some(limit)) = (counts.refused, self.limits.pids) {
            hits.push(LimitHit::Pids {
                max: limit,
                refused: counts.refused,
            });
        }
        let bounded = |space: &&Space| **space != Space::Root || self.root_bounded;
        for space in used_up.blocks.iter().filter(bounded) {
            hits.push(LimitHit::Disk {
                path: space.path().to_owned(),
                max_bytes: room(*space, &self.limits).0,
            });
        }
        for space in used_up.inodes.iter().filter(bounded) {
            hits.push(LimitHit::Inodes {
                path: space.path().to_owned(),
                max: room(*space, &self.limits).1,
            });
        }
        if used_up.terminals {
            hits.push(LimitHit::Terminals {
                max: TERMINALS.into(),
            });
        }
        if used_up.open_files {
            hits.push(LimitHit::OpenFiles {
                max: self.limits.open_files,
            });
        }
        if counts.throttled > 0 {
            hits.push(LimitHit::CpuThrottled {
                periods: counts.throttled,
                time: Duration::from_micros(counts.throttled_us),
            });
        }
        hits
    }
}

fn host_memory(killed: u64) -> EnvError {
    EnvError::Infrastructure(format!(
        "the host ran out of memory and killed {killed} processes of the sandbox, which was within its limit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cgroup::{Cgroup, Cgroups};
    use crate::spec::SandboxSpec;

    /// The kernel says ENOSPC for a devpts that is full and for a host without terminals alike.
    #[test]
    fn a_host_without_terminals_is_no_limit_of_the_sandbox() {
        let spec = SandboxSpec::new("/");
        let in_force = InForce::new(&spec, Cgroups::none().controllers());
        let strikes = Strikes::new(&in_force, true, Cgroup::default().events());
        let refused = |errno, terminals| {
            let used_up = UsedUp {
                terminals,
                ..UsedUp::default()
            };
            strikes.refused("no terminal".into(), errno, used_up)
        };
        let host = EnvError::Infrastructure("no terminal".into());
        assert_eq!(refused(Some(libc::ENOSPC), false), host);
        assert_eq!(refused(Some(libc::EIO), true), host);
        assert_eq!(refused(None, true), host);
        let limit = EnvError::Limit(LimitHit::Terminals { max: 64 });
        assert_eq!(refused(Some(libc::ENOSPC), true), limit);
    }
}
