//! Whole trees into a sandbox and out of it, each side reading what the other writes.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::fd::AsFd;
use std::path::Path;

use tokio::time::timeout;

use super::files::TREE_DEADLINE;
use super::process::{close_on_exec_pipe, host_failed};
use super::sandbox::Sandbox;
use crate::env::{EnvError, GuestPath};
use crate::outcome::LimitHit;
use crate::spec::Limits;
use crate::tree::{
    self, LeftOut, LeftOutReason, PackError, PackOptions, UnpackErrorKind, UnpackPolicy,
    UnpackReport,
};

/// What one sandbox has from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories, links, and deletions.
    pub entries: u64,
    /// What did not come along.
    pub left_out: LeftOut,
}

/// What came out of a sandbox.
#[derive(Debug, Clone)]
pub struct CopiedOut {
    /// What arrived, and what was left out.
    pub report: UnpackReport,
    /// The limits for which something was left out.
    pub struck: Vec<LimitHit>,
}

impl Sandbox {
    /// Copies what a host directory holds into a directory of the sandbox.
    ///
    /// # Errors
    /// Either side refused, or the sandbox died.
    pub async fn copy_in(&self, from: &Path, to: &GuestPath) -> Result<UnpackReport, EnvError> {
        let (reader, writer) = close_on_exec_pipe()?;
        let root = File::open(from).map_err(host_failed)?;
        let packing = tokio::task::spawn_blocking(move || {
            let out = BufWriter::with_capacity(1 << 20, File::from(writer));
            tree::pack(root.as_fd(), out, &PackOptions::copy_out())
        });
        let policy = UnpackPolicy {
            replace: true,
            ..UnpackPolicy::copy_out()
        };
        let unpacked = self.unpack(to, reader, policy).await;
        match join(packing).await? {
            Ok(packed) => {
                let mut report = unpacked?;
                report.left_out.merge(packed.left_out);
                Ok(report)
            }
            // The sandbox stopped reading: it knows why.
            Err(PackError::Write(_)) => unpacked,
            Err(error) => Err(with_cause(&error)),
        }
    }

    /// Ends all processes of this sandbox, and carries what it has changed over to another one on the same image, in which
    /// nothing ran yet. Needs [`record_effects`](crate::spec::SandboxSpec::record_effects), for then PID 1 has the layers.
    ///
    /// Modes, owners and links come along; sockets, FIFOs, extended attributes and fractions of seconds do not.
    ///
    /// # Errors
    /// Either side refused, or a sandbox died.
    pub async fn seal_into(&self, other: &Self) -> Result<Sealed, EnvError> {
        let (reader, writer) = close_on_exec_pipe()?;
        let limits = &self.in_force().limits;
        let options = PackOptions {
            // What a tree of holes takes when it is written out is not what it took.
            max_bytes: limits.disk_bytes.unwrap_or(limits.copied_bytes),
            ..PackOptions::image()
        };
        let root = GuestPath::from("/");
        let other = other.unpack(&root, reader, UnpackPolicy::changes());
        let (packed, unpacked) = tokio::join!(self.seal(&root, writer, options), other);
        let cut_short = UnpackErrorKind::Truncated.to_string();
        let unpacked = match (&packed, unpacked) {
            // Whoever stopped writing knows why; else whoever stopped reading.
            (Err(_), Err(error)) if !error.to_string().ends_with(&cut_short) => return Err(error),
            (_, unpacked) => unpacked,
        };
        let mut left_out = packed?.left_out;
        let unpacked = unpacked?;
        left_out.merge(unpacked.left_out);
        Ok(Sealed {
            bytes: unpacked.bytes,
            entries: unpacked.entries,
            left_out,
        })
    }

    /// Copies what a directory of the sandbox holds into a host directory: regular files,
    /// directories and links that stay inside; no device, no set-user-id bit, no link followed.
    ///
    /// # Errors
    /// Either side refused, or the sandbox died.
    pub async fn copy_out(&self, from: &GuestPath, to: &Path) -> Result<CopiedOut, EnvError> {
        let limits = &self.in_force().limits;
        let options = PackOptions {
            max_bytes: limits.copied_bytes,
            max_entries: limits.copied_entries,
            ..PackOptions::copy_out()
        };
        let policy = UnpackPolicy {
            max_bytes: limits.copied_bytes,
            max_entries: limits.copied_entries,
            ..UnpackPolicy::copy_out()
        };
        let (reader, writer) = close_on_exec_pipe()?;
        let root = File::open(to).map_err(host_failed)?;
        let unpacking = tokio::task::spawn_blocking(move || {
            let archive = BufReader::with_capacity(1 << 20, File::from(reader));
            tree::unpack(archive, root.as_fd(), &policy)
        });
        let packed = self.pack(from, writer, options).await;
        let unpacked = join(unpacking).await?;
        let report = match (packed, unpacked) {
            (Err(died @ (EnvError::Died(_) | EnvError::Limit(_))), _) => return Err(died),
            // The sandbox stopped writing: it knows why.
            (Err(error), Err(unpacked)) if unpacked.kind == UnpackErrorKind::Truncated => {
                return Err(error);
            }
            (_, Err(error)) => {
                // More came than was asked for: the side inside is not what it was.
                let Some(hit) = exceeded(&error.kind) else {
                    return Err(with_cause(&error));
                };
                self.link.strikes.copied(std::slice::from_ref(&hit));
                return Err(EnvError::Limit(hit));
            }
            (packed, Ok(mut report)) => {
                report.left_out.merge(packed?.left_out);
                report
            }
        };
        let struck = struck(&report.left_out, limits);
        self.link.strikes.copied(&struck);
        Ok(CopiedOut { report, struck })
    }
}

/// The limits for which a copy lacks something.
fn struck(left_out: &LeftOut, limits: &Limits) -> Vec<LimitHit> {
    let bytes = left_out.count(LeftOutReason::TooLarge);
    let entries = left_out.count(LeftOutReason::TooMany);
    let deep = left_out.count(LeftOutReason::TooDeep);
    let hits = [
        (bytes > 0).then_some(LimitHit::CopiedBytes {
            max_bytes: limits.copied_bytes,
            left_out: bytes,
        }),
        (entries > 0).then_some(LimitHit::CopiedEntries {
            max: limits.copied_entries,
            left_out: entries,
        }),
        (deep > 0).then_some(LimitHit::CopiedDepth {
            max: PackOptions::copy_out().max_depth as u64,
            left_out: deep,
        }),
    ];
    hits.into_iter().flatten().collect()
}

/// The limit that ended the host's side: it counts for itself.
fn exceeded(kind: &UnpackErrorKind) -> Option<LimitHit> {
    let hit = if let UnpackErrorKind::TooManyBytes(max_bytes) = *kind {
        LimitHit::CopiedBytes {
            max_bytes,
            left_out: 1,
        }
    } else if let UnpackErrorKind::TooManyEntries(max) = *kind {
        LimitHit::CopiedEntries { max, left_out: 1 }
    } else {
        return None;
    };
    Some(hit)
}

fn with_cause(error: &dyn std::error::Error) -> EnvError {
    let cause = error.source().map(|cause| format!(": {cause}"));
    EnvError::Infrastructure(format!("{error}{}", cause.unwrap_or_default()))
}

/// What a side of a copy on a thread of ours came to.
async fn join<T>(task: tokio::task::JoinHandle<T>) -> Result<T, EnvError> {
    match timeout(TREE_DEADLINE, task).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(EnvError::Infrastructure(error.to_string())),
        Err(_) => Err(EnvError::Infrastructure("copying a tree hangs".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_with_its_limit_however_much_was_listed_before() {
        let limits = Limits::default();
        assert_eq!(struck(&LeftOut::default(), &limits), []);
        let mut left_out = LeftOut::default();
        for (reason, count) in [
            (LeftOutReason::Special, 1000),
            (LeftOutReason::TooLarge, 1),
            (LeftOutReason::TooMany, 7),
        ] {
            left_out.counts.insert(reason, count);
        }
        let hits = [
            LimitHit::CopiedBytes {
                max_bytes: 10 << 30,
                left_out: 1,
            },
            LimitHit::CopiedEntries {
                max: 200_000,
                left_out: 7,
            },
        ];
        assert_eq!(struck(&left_out, &limits), hits);
        // What the other side says may be as large as a number can be.
        left_out.merge(LeftOut {
            counts: [(LeftOutReason::TooMany, u64::MAX)].into(),
            ..LeftOut::default()
        });
        assert_eq!(left_out.count(LeftOutReason::TooMany), u64::MAX);
        assert_eq!(left_out.total(), u64::MAX);
    }

    #[test]
    fn a_side_inside_that_keeps_no_limit_is_no_failure_of_the_hosts() {
        let hit = exceeded(&UnpackErrorKind::TooManyEntries(3)).unwrap();
        assert_eq!(hit.name(), "copied_entries");
        assert!(exceeded(&UnpackErrorKind::TooManyBytes(3)).is_some());
        assert_eq!(exceeded(&UnpackErrorKind::Truncated), None);
    }
}
