//! Limits, as they are named when they strike.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::count;

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
    /// Files did not fit into the bytes that are copied out.
    CopiedBytes {
        /// The limit.
        max_bytes: u64,
        /// How many files are missing.
        left_out: u64,
    },
    /// There was more than is copied out.
    CopiedEntries {
        /// The limit.
        max: u64,
        /// How many are missing, not counting what is in directories among them.
        left_out: u64,
    },
    /// Directories lay deeper than is copied out.
    CopiedDepth {
        /// The limit.
        max: u64,
        /// How many are missing.
        left_out: u64,
    },
    /// It had as many connections as it may have at once.
    NetworkConnections {
        /// The limit.
        max: u64,
        /// How many more it asked for.
        refused: u64,
    },
    /// All bytes that its network may carry are used: no connection is left, and none is made.
    NetworkBytes {
        /// The limit.
        max_bytes: u64,
    },
    /// Its bandwidth held packets back: no end, only slow.
    NetworkBandwidth {
        /// The limit.
        bytes_per_second: u64,
        /// For how long in all.
        time: Duration,
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
        !matches!(
            self,
            Self::CpuThrottled { .. } | Self::NetworkBandwidth { .. } | Self::Output { .. }
        )
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
            Self::CopiedBytes { .. } => "copied_bytes",
            Self::CopiedEntries { .. } => "copied_entries",
            Self::CopiedDepth { .. } => "copied_depth",
            Self::NetworkConnections { .. } => "network_connections",
            Self::NetworkBytes { .. } => "network_bytes",
            Self::NetworkBandwidth { .. } => "network_bandwidth",
            Self::CpuThrottled { .. } => "cpu_throttled",
        }
    }
}

impl fmt::Display for LimitHit {
    #[expect(clippy::too_many_lines, reason = "one sentence for each limit")]
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
            Self::CopiedBytes {
                max_bytes,
                left_out,
            } => write!(
                f,
                "limit {} of what is copied out struck: {} left out",
                size(*max_bytes),
                count(*left_out, "file", "files")
            ),
            Self::CopiedEntries { max, left_out } => write!(
                f,
                "limit {max} of files copied out struck: {left_out} or more left out"
            ),
            Self::CopiedDepth { max, left_out } => write!(
                f,
                "limit {max} of the depth copied out struck: {} left out",
                count(*left_out, "directory", "directories")
            ),
            Self::NetworkConnections { max, refused } => write!(
                f,
                "connection limit {max} struck: {} refused",
                count(*refused, "connection", "connections")
            ),
            Self::NetworkBytes { max_bytes } => write!(
                f,
                "network limit {} struck: all of it is used",
                size(*max_bytes)
            ),
            Self::NetworkBandwidth {
                bytes_per_second,
                time,
            } => write!(
                f,
                "bandwidth limit {} a second struck: held back for {:.2} s",
                size(*bytes_per_second),
                time.as_secs_f64()
            ),
            Self::CpuThrottled { periods, time } => write!(
                f,
                "CPU limit struck: held back in {periods} periods, for {:.2} s",
                time.as_secs_f64()
            ),
        }
    }
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
