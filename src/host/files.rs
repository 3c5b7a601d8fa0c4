//! Files of a sandbox: every operation happens inside, with its rights; only bytes cross.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::cgroup::Counts;
use super::init::Init;
use super::link::Answers;
use super::process::{self, gone, host_failed, unexpected};
use super::sandbox::Sandbox;
use crate::env::{DirEntry, EnvError, FileError, FileKind, FileStat, GuestPath};
use crate::tree::{PackOptions, PackReport, UnpackPolicy, UnpackReport};
use crate::wire::{Entry, FileOp, FileReply, FromInit, ToInit};

/// A file operation that takes longer hangs, on a working host.
const DEADLINE: Duration = Duration::from_secs(120);
/// The same for whole trees.
pub(super) const TREE_DEADLINE: Duration = Duration::from_secs(3600);
/// No honest reply is larger: a listing of the most entries that anybody asks for.
const REPLY_MAX: u64 = 64 << 20;

/// A running operation.
struct Operation {
    link: Arc<Init>,
    reply: pipe::Receiver,
    answers: Answers<FromInit>,
    /// What had been counted when it began.
    before: Counts,
}

impl Operation {
    async fn start(link: &Arc<Init>, op: FileOp, data: Option<OwnedFd>) -> Result<Self, EnvError> {
        let (reply, writer) = process::reading_pipe()?;
        let answers = link.open();
        let fds: Vec<_> = [Some(&writer), data.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        let before = link.strikes.last();
        link.send(&ToInit::File { id: answers.id, op }, &fds)
            .await
            .map_err(|e| link.unsent(e, before))?;
        Ok(Self {
            link: Arc::clone(link),
            reply,
            answers,
            before,
        })
    }

    async fn finish<T: DeserializeOwned>(
        mut self,
        path: &GuestPath,
        limit: u64,
        deadline: Duration,
    ) -> Result<T, EnvError> {
        let mut bytes = Vec::new();
        let mut reply = (&mut self.reply).take(REPLY_MAX);
        timeout(deadline, reply.read_to_end(&mut bytes))
            .await
            .map_err(|_| EnvError::Infrastructure(format!("a file operation on {path} hangs")))?
            .map_err(host_failed)?;
        if bytes.is_empty() {
            return Err(self.unanswered(path).await);
        }
        // What comes from inside is checked like any hostile input.
        let reply: FileReply<T> = serde_json::from_slice(&bytes)
            .map_err(|e| EnvError::Infrastructure(format!("reply of a file operation: {e}")))?;
        let refused = |error| {
            Err(EnvError::File {
                path: path.clone(),
                error,
            })
        };
        match reply {
            FileReply::Done(value) => Ok(value),
            FileReply::Errno(errno) => refused(file_error(errno)),
            FileReply::NotRegular => refused(FileError::NotRegular),
            FileReply::TooLarge(size) => refused(FileError::TooLarge { size, limit }),
            FileReply::Failed(reason) => refused(FileError::Other(reason)),
        }
    }

    /// Why no reply came: a sandbox lives on where one operation was not started, or was killed from
    /// inside.
    async fn unanswered(&mut self, path: &GuestPath) -> EnvError {
        let died = || self.link.explain(gone(), self.before);
        let Ok(answer) = timeout(DEADLINE, self.answers.next()).await else {
            return EnvError::Infrastructure(format!("a file operation on {path} hangs"));
        };
        match answer.map(|answer| answer.message) {
            Some(FromInit::Refused {
                reason,
                errno,
                used_up,
                ..
            }) => self.link.strikes.refused(reason, errno, used_up),
            Some(FromInit::Exited { .. }) => match died() {
                EnvError::Died(_) => EnvError::File {
                    path: path.clone(),
                    error: FileError::Other("the operation was killed".into()),
                },
                error @ (EnvError::File { .. }
                | EnvError::Limit(_)
                | EnvError::Infrastructure(_)) => error,
            },
            Some(message) => unexpected(&message),
            None => died(),
        }
    }
}

pub(super) async fn read(
    link: &Arc<Init>,
    path: &GuestPath,
    max_bytes: u64,
) -> Result<Vec<u8>, EnvError> {
    let (data, writer) = process::reading_pipe()?;
    let op = FileOp::Read {
        path: path.as_bytes().into(),
        max_bytes,
    };
    let operation = Operation::start(link, op, Some(writer)).await?;
    let mut content = Vec::new();
    timeout(DEADLINE, data.take(max_bytes).read_to_end(&mut content))
        .await
        .map_err(|_| EnvError::Infrastructure(format!("reading {path} hangs")))?
        .map_err(host_failed)?;
    let _: u64 = operation.finish(path, max_bytes, DEADLINE).await?;
    Ok(content)
}

pub(super) async fn write(
    link: &Arc<Init>,
    path: &GuestPath,
    content: &[u8],
    exclusive: bool,
) -> Result<(), EnvError> {
    let (reader, mut data) = process::writing_pipe()?;
    let max_bytes = content.len() as u64;
    let op = FileOp::Write {
        path: path.as_bytes().into(),
        exclusive,
        max_bytes,
    };
    let operation = Operation::start(link, op, Some(reader)).await?;
    // When the operation fails, its end of the pipe is closed; its reply tells why.
    let _ = timeout(DEADLINE, data.write_all(content)).await;
    drop(data);
    let written: u64 = operation.finish(path, max_bytes, DEADLINE).await?;
    if written != max_bytes {
        return Err(EnvError::File {
            path: path.clone(),
            error: FileError::NoSpace,
        });
    }
    Ok(())
}

/// A file inside that takes what is sent, up to a bound.
pub(super) struct Sink {
    data: Option<pipe::Sender>,
    operation: Operation,
    path: GuestPath,
    max_bytes: u64,
}

impl Sink {
    pub(super) async fn open(
        link: &Arc<Init>,
        path: GuestPath,
        max_bytes: u64,
    ) -> Result<Self, EnvError> {
        let (reader, data) = process::writing_pipe()?;
        let op = FileOp::Write {
            path: path.as_bytes().into(),
            exclusive: false,
            max_bytes,
        };
        let operation = Operation::start(link, op, Some(reader)).await?;
        Ok(Self {
            data: Some(data),
            operation,
            path,
            max_bytes,
        })
    }

    /// Sends; after a failure nothing more is sent.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let Some(data) = &mut self.data else {
            return;
        };
        if !matches!(timeout(DEADLINE, data.write_all(bytes)).await, Ok(Ok(()))) {
            self.data = None;
        }
    }

    /// The path, and whether all of it is there.
    pub(super) async fn finish(self) -> (GuestPath, bool) {
        let sent = self.data.is_some();
        drop(self.data);
        let reply: Result<u64, _> = self
            .operation
            .finish(&self.path, self.max_bytes, DEADLINE)
            .await;
        (self.path, sent && reply.is_ok())
    }
}

pub(super) async fn stat(link: &Arc<Init>, path: &GuestPath) -> Result<FileStat, EnvError> {
    let op = FileOp::Stat {
        path: path.as_bytes().into(),
    };
    let entry: Entry = Operation::start(link, op, None)
        .await?
        .finish(path, 0, DEADLINE)
        .await?;
    Ok(file_stat(&entry))
}

pub(super) async fn list(
    link: &Arc<Init>,
    path: &GuestPath,
    depth: u32,
    max_entries: usize,
) -> Result<(Vec<DirEntry>, bool), EnvError> {
    let op = FileOp::List {
        path: path.as_bytes().into(),
        depth,
        max_entries,
    };
    let operation = Operation::start(link, op, None).await?;
    let (entries, truncated): (Vec<Entry>, bool) = operation.finish(path, 0, DEADLINE).await?;
    let entries = entries.into_iter().take(max_entries);
    let entries = entries
        .map(|entry| DirEntry {
            stat: file_stat(&entry),
            path: GuestPath::new(entry.path.0),
        })
        .collect();
    Ok((entries, truncated))
}

fn file_stat(entry: &Entry) -> FileStat {
    let kind = match entry.mode & libc::S_IFMT {
        libc::S_IFREG => FileKind::File,
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileStat {
        kind,
        size: entry.size,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
    }
}

/// The kernel's refusal as the model may see it.
fn file_error(errno: i32) -> FileError {
    match errno {
        libc::ENOENT => FileError::NotFound,
        libc::EEXIST => FileError::Exists,
        libc::EISDIR => FileError::IsDirectory,
        libc::ENOTDIR => FileError::NotDirectory,
        libc::EACCES | libc::EPERM | libc::EROFS => FileError::Permission,
        libc::ENOSPC | libc::EDQUOT => FileError::NoSpace,
        other => FileError::Other(nix::errno::Errno::from_raw(other).desc().to_lowercase()),
    }
}

impl Sandbox {
    /// Unpacks a plain tar, read from `archive` inside the sandbox, into a directory of it.
    ///
    /// # Errors
    /// The archive was refused, or the sandbox died.
    pub async fn unpack(
        &self,
        target: &GuestPath,
        archive: OwnedFd,
        policy: UnpackPolicy,
    ) -> Result<UnpackReport, EnvError> {
        let op = FileOp::Unpack {
            path: target.as_bytes().into(),
            policy,
        };
        let operation = Operation::start(&self.link, op, Some(archive)).await?;
        operation.finish(target, 0, TREE_DEADLINE).await
    }

    /// Packs a directory of the sandbox, inside it, as a plain tar into `archive`.
    ///
    /// # Errors
    /// The directory could not be read, or the sandbox died.
    pub async fn pack(
        &self,
        source: &GuestPath,
        archive: OwnedFd,
        options: PackOptions,
    ) -> Result<PackReport, EnvError> {
        let op = FileOp::Pack {
            path: source.as_bytes().into(),
            options,
        };
        let operation = Operation::start(&self.link, op, Some(archive)).await?;
        operation.finish(source, 0, TREE_DEADLINE).await
    }

    /// Ends all processes, and packs what the sandbox has changed.
    pub(super) async fn seal(
        &self,
        root: &GuestPath,
        archive: OwnedFd,
        options: PackOptions,
    ) -> Result<PackReport, EnvError> {
        let op = FileOp::Seal {
            path: root.as_bytes().into(),
            options,
        };
        let operation = Operation::start(&self.link, op, Some(archive)).await?;
        operation.finish(root, 0, TREE_DEADLINE).await
    }
}
