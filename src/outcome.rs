//! How a command, a sandbox or a sample ended, and which limits struck on the way.
//!
//! Two families, apart by type: what the model did ([`Policy`]), which evaluation may score, and what
//! we or the host failed at ([`Infrastructure`]), which it must not.

mod connection;
mod limit;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use connection::{Connection, Connections};
pub use limit::LimitHit;

/// An end, of one family or the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum Outcome {
    /// The model's doing.
    Policy(Policy),
    /// Ours, or the host's.
    Infrastructure(Infrastructure),
}

/// An end that is the model's doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Policy {
    /// A command exited.
    Exited {
        /// With this code.
        code: i32,
    },
    /// A signal killed a command.
    Signal {
        /// This one.
        signal: i32,
    },
    /// The seccomp filter killed a command, with SIGSYS: it called what a sandbox may not.
    Seccomp,
    /// A limit ended it, or struck while it failed.
    Limit(LimitHit),
    /// The shell was lost with the command.
    ShellLost,
    /// A sample: the model said that it is done.
    Submitted,
    /// A sample: a budget of the task is used up, by its name in the record (`max_steps`, …).
    Budget {
        /// Its name.
        budget: String,
    },
}

/// An end that says nothing about the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Infrastructure {
    /// What failed.
    pub cause: Cause,
    /// In words.
    pub detail: String,
}

/// What failed beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// PID 1 of the sandbox ended, by no limit of the sandbox.
    SandboxDied,
    /// The process that starts sandboxes ended.
    ZygoteGone,
    /// The host has no memory left.
    HostMemory,
    /// The host has no process left, or the caller may have no more.
    HostProcesses,
    /// The host, or the caller, has no file descriptor left.
    HostFiles,
    /// A disk of the host is full.
    HostDisk,
    /// Something took longer than it can on a working host.
    TimedOut,
    /// Something of a sandbox is left after its end.
    LeftBehind,
    /// The model could not be asked.
    Llm,
    /// A person ended it.
    Interrupted,
    /// Anything else of ours.
    Other,
}

impl Cause {
    /// Of what the kernel answered to a request of the host's.
    #[must_use]
    pub fn of_errno(errno: Option<i32>) -> Self {
        // The numbers are the same on every architecture of Linux that we know: errno-base.h.
        match errno {
            Some(12) => Self::HostMemory,
            Some(11) => Self::HostProcesses,
            Some(23 | 24) => Self::HostFiles,
            Some(28 | 122) => Self::HostDisk,
            _ => Self::Other,
        }
    }
}

/// What is known of how a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code: its parent, PID 1, has it from the kernel.
    Exited(i32),
    /// This signal killed it: known in the same way.
    Signal(i32),
    /// `$?` of a shell, whose child it was. From 129 on it is taken for 128 and a signal, though a
    /// program may exit with that code as well: nobody but the shell was told which.
    Reported(i32),
    /// The shell went with it.
    Lost,
}

impl Outcome {
    /// Of a command that ended so while `struck` struck. A limit is named when the command failed, or was
    /// stopped.
    #[must_use]
    pub fn of_command(ending: Ending, struck: &[LimitHit]) -> Self {
        /// SIGSYS: signal(7), the same on every architecture that we know.
        const BAD_CALL: i32 = 31;
        let stopped = |hit: &&LimitHit| {
            matches!(
                hit,
                LimitHit::WallTime { .. } | LimitHit::IdleTime { .. } | LimitHit::Memory { .. }
            )
        };
        let limit = struck
            .iter()
            .find(stopped)
            .or_else(|| struck.iter().find(|hit| hit.can_end()));
        let ending = if let Ending::Reported(code @ 129..=192) = ending {
            Ending::Signal(code - 128)
        } else {
            ending
        };
        Self::Policy(match (ending, limit) {
            (Ending::Exited(0) | Ending::Reported(0), _) => Policy::Exited { code: 0 },
            (Ending::Signal(BAD_CALL), _) => Policy::Seccomp,
            (_, Some(hit)) => Policy::Limit(hit.clone()),
            (Ending::Signal(signal), None) => Policy::Signal { signal },
            (Ending::Exited(code) | Ending::Reported(code), None) => Policy::Exited { code },
            (Ending::Lost, None) => Policy::ShellLost,
        })
    }

    /// A failure of ours or the host's.
    #[must_use]
    pub fn infrastructure(cause: Cause, detail: impl Into<String>) -> Self {
        Self::Infrastructure(Infrastructure {
            cause,
            detail: detail.into(),
        })
    }
}

/// A system call that the sandbox refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its name, or its number.
    pub call: String,
    /// What the program was told.
    pub errno: String,
    /// Which rule of the policy said so.
    pub rule: String,
    /// How often.
    pub count: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            call,
            errno,
            rule,
            count,
        } = self;
        write!(f, "refused {count} times: {call} ({errno}): {rule}")
    }
}

/// What of a sandbox was still there after its end, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    /// Living processes.
    pub processes: u64,
    /// Mounts that the host sees.
    pub mounts: u64,
    /// Cgroups.
    pub cgroups: u64,
    /// Network namespaces.
    pub network_namespaces: u64,
    /// Terminals whose master this program holds.
    pub terminals: u64,
    /// Directories of ours.
    pub directories: u64,
    /// All of these.
    pub total: u64,
}

impl LeftBehind {
    /// With the sum made.
    #[must_use]
    pub fn summed(mut self) -> Self {
        self.total = self.processes
            + self.mounts
            + self.cgroups
            + self.network_namespaces
            + self.terminals
            + self.directories;
        self
    }
}

impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total)?;
        let kinds = [
            (self.processes, "process", "processes"),
            (self.mounts, "mount", "mounts"),
            (self.cgroups, "cgroup", "cgroups"),
            (
                self.network_namespaces,
                "network namespace",
                "network namespaces",
            ),
            (self.terminals, "terminal", "terminals"),
            (self.directories, "directory", "directories"),
        ];
        let found: Vec<String> = kinds
            .iter()
            .filter(|(number, ..)| *number > 0)
            .map(|(number, one, many)| count(*number, one, many))
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", found.join(", "))
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn memory() -> LimitHit {
        LimitHit::Memory {
            max_bytes: 2 << 30,
            killed: 1,
            peak_bytes: None,
            sandbox_ended: false,
        }
    }

    #[test]
    fn a_limit_is_the_outcome_of_what_failed_only() {
        let disk = LimitHit::Disk {
            path: "/".into(),
            max_bytes: 1536,
        };
        let slow = LimitHit::CpuThrottled {
            periods: 3,
            time: Duration::from_secs(1),
        };
        let of = |ending, struck: &[LimitHit]| match Outcome::of_command(ending, struck) {
            Outcome::Policy(policy) => policy,
            Outcome::Infrastructure(other) => panic!("{other:?}"),
        };
        for zero in [Ending::Exited(0), Ending::Reported(0)] {
            assert_eq!(of(zero, &[memory()]), Policy::Exited { code: 0 });
        }
        assert_eq!(
            of(Ending::Exited(1), std::slice::from_ref(&disk)),
            Policy::Limit(disk.clone())
        );
        let both = [disk, memory()];
        assert_eq!(of(Ending::Reported(137), &both), Policy::Limit(memory()));
        assert_eq!(of(Ending::Signal(9), &[slow]), Policy::Signal { signal: 9 });
        assert_eq!(of(Ending::Exited(3), &[]), Policy::Exited { code: 3 });
        assert_eq!(of(Ending::Lost, &[]), Policy::ShellLost);
    }

    #[test]
    fn a_code_that_looks_like_a_signal_is_one_only_where_nobody_knows_better() {
        let of = |ending| Outcome::of_command(ending, &[]);
        for signal in [9, 31] {
            let code = 128 + signal;
            assert_eq!(of(Ending::Reported(code)), of(Ending::Signal(signal)));
            let exited = Outcome::Policy(Policy::Exited { code });
            assert_eq!(of(Ending::Exited(code)), exited);
        }
        let seccomp = Outcome::Policy(Policy::Seccomp);
        assert_eq!(of(Ending::Signal(31)), seccomp);
        let high = Outcome::Policy(Policy::Exited { code: 255 });
        assert_eq!(of(Ending::Reported(255)), high);
    }

    #[test]
    fn the_json_is_flat_and_comes_back() {
        let outcomes = [
            (
                Outcome::Policy(Policy::Limit(memory())),
                r#"{"family":"policy","kind":"limit","limit":"memory","max_bytes":2147483648,"killed":1,"peak_bytes":null,"sandbox_ended":false}"#,
            ),
            (
                Outcome::infrastructure(Cause::HostFiles, "x"),
                r#"{"family":"infrastructure","cause":"host_files","detail":"x"}"#,
            ),
            (
                Outcome::Policy(Policy::Seccomp),
                r#"{"family":"policy","kind":"seccomp"}"#,
            ),
        ];
        for (outcome, json) in outcomes {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), json);
            assert_eq!(serde_json::from_str::<Outcome>(json).unwrap(), outcome);
        }
    }

    #[test]
    fn a_hit_reads_as_a_line() {
        assert_eq!(
            memory().to_string(),
            "memory limit 2g struck: 1 process killed"
        );
        let left = LeftBehind {
            processes: 2,
            cgroups: 1,
            ..LeftBehind::default()
        };
        assert_eq!(left.summed().to_string(), "3 (2 processes, 1 cgroup)");
        assert_eq!(LeftBehind::default().to_string(), "0");
    }
}
