//! How a command, a sandbox or a sample ended, and which limits struck on the way.
//!
//! Two families, apart by type: what the model did ([`Policy`]), which evaluation may score, and what
//! we or the host failed at ([`Infrastructure`]), which it must not.

mod connection;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use connection::{Connection, Connections};

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

/// A limit that struck, with the evidence for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "limit", rename_all = "snake_case")]
pub enum LimitHit {
    /// The kernel killed processes because the sandbox's memory was used up (`memory.events`, `memory.oom_control`).
    Memory {
        /// The limit.
        max_bytes: u64,
        /// Processes killed.
        killed: u64,
        /// The most memory that was in use.
        peak_bytes: Option<u64>,
        /// PID 1 was among them: the sandbox is gone.
        sandbox_ended: bool,
    },
    /// The kernel refused processes or threads (`pids.events`; without a cgroup: EAGAIN by `RLIMIT_NPROC`).
    Pids {
        /// The limit.
        max: u64,
        /// How often.
        refused: u64,
    },
    /// A file system has no free block (statfs).
    Disk {
        /// Where it is mounted.
        path: String,
        /// Its size.
        max_bytes: u64,
    },
    /// A file system has no free inode (statfs).
    Inodes {
        /// Where it is mounted.
        path: String,
        /// How many it has.
        max: u64,
    },
    /// Every terminal is in use (`/dev/pts`).
    Terminals {
        /// How many there may be.
        max: u64,
    },
    /// A process has as many files open as it may (`/proc/PID/fd`).
    OpenFiles {
        /// How many that is.
        max: u64,
    },
    /// The deadline passed.
    WallTime {
        /// After so long.
        after: Duration,
    },
    /// Nothing was printed and no CPU time used.
    IdleTime {
        /// For so long.
        after: Duration,
    },
    /// Output was longer than what is kept.
    Output {
        /// Bytes that were not kept.
        omitted_bytes: u64,
    },
    /// The CPU quota held processes back: no end, only slow.
    CpuThrottled {
        /// Periods in which it did.
        periods: u64,
        /// For how long in all, summed over CPUs.
        time: Duration,
    },
}

impl LimitHit {
    /// It can be why something failed. Being slow, or having printed too much, is not.
    #[must_use]
    pub fn can_end(&self) -> bool {
        !matches!(self, Self::CpuThrottled { .. } | Self::Output { .. })
    }

    /// The sandbox went with it.
    #[must_use]
    pub fn ends_sandbox(&self) -> bool {
        matches!(
            self,
            Self::Memory {
                sandbox_ended: true,
                ..
            }
        )
    }

    /// Its name, as in records.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::Pids { .. } => "pids",
            Self::Disk { .. } => "disk",
            Self::Inodes { .. } => "inodes",
            Self::Terminals { .. } => "terminals",
            Self::OpenFiles { .. } => "open_files",
            Self::WallTime { .. } => "wall_time",
            Self::IdleTime { .. } => "idle_time",
            Self::Output { .. } => "output",
            Self::CpuThrottled { .. } => "cpu_throttled",
        }
    }
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory {
                max_bytes,
                killed,
                sandbox_ended,
                ..
            } => {
                let end = if *sandbox_ended {
                    ", sandbox ended"
                } else {
                    ""
                };
                write!(
                    f,
                    "memory limit {} struck: {} killed{end}",
                    size(*max_bytes),
                    count(*killed, "process", "processes")
                )
            }
            Self::Pids { max, refused } => write!(
                f,
                "process limit {max} struck: {} refused",
                count(*refused, "process or thread", "processes or threads")
            ),
            Self::Disk { path, max_bytes } => {
                write!(f, "disk limit {} struck: {path} is full", size(*max_bytes))
            }
            Self::Inodes { path, max } => {
                write!(f, "file limit {max} struck: {path} has no inode left")
            }
            Self::Terminals { max } => {
                write!(f, "terminal limit {max} struck: all are in use")
            }
            Self::OpenFiles { max } => {
                write!(f, "open file limit {max} struck: a process has that many")
            }
            Self::WallTime { after } => {
                write!(f, "time limit {} s struck", after.as_secs_f64())
            }
            Self::IdleTime { after } => write!(
                f,
                "idle limit {} s struck: no output and no CPU time",
                after.as_secs_f64()
            ),
            Self::Output { omitted_bytes } => {
                write!(f, "output limit struck: {omitted_bytes} bytes left out")
            }
            Self::CpuThrottled { periods, time } => write!(
                f,
                "CPU limit struck: held back in {periods} periods, for {:.2} s",
                time.as_secs_f64()
            ),
        }
    }
}

impl Outcome {
    /// Of a command that ended with `status` (as a shell reports it) while `struck` struck. A limit is named
    /// when the command failed, or was stopped.
    #[must_use]
    pub fn of_command(status: Option<i32>, struck: &[LimitHit]) -> Self {
        /// SIGSYS, as a shell reports it.
        const BAD_CALL: i32 = 128 + 31;
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
        Self::Policy(match (status, limit) {
            (Some(0), _) => Policy::Exited { code: 0 },
            (Some(BAD_CALL), _) => Policy::Seccomp,
            (_, Some(hit)) => Policy::Limit(hit.clone()),
            (Some(code @ 129..=192), None) => Policy::Signal { signal: code - 128 },
            (Some(code), None) => Policy::Exited { code },
            (None, None) => Policy::ShellLost,
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

/// As the flags take it: `2g`, `512m`; whole bytes where that is exact only.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "g"), (20, "m"), (10, "k")] {
        if bytes >> shift > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
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
        let of = |status, struck: &[LimitHit]| match Outcome::of_command(status, struck) {
            Outcome::Policy(policy) => policy,
            Outcome::Infrastructure(other) => panic!("{other:?}"),
        };
        assert_eq!(of(Some(0), &[memory()]), Policy::Exited { code: 0 });
        assert_eq!(
            of(Some(1), std::slice::from_ref(&disk)),
            Policy::Limit(disk.clone())
        );
        assert_eq!(of(Some(137), &[disk, memory()]), Policy::Limit(memory()));
        assert_eq!(of(Some(137), &[slow]), Policy::Signal { signal: 9 });
        assert_eq!(of(Some(159), &[]), Policy::Seccomp);
        assert_eq!(of(Some(3), &[]), Policy::Exited { code: 3 });
        assert_eq!(of(None, &[]), Policy::ShellLost);
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
