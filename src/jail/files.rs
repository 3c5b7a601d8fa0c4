//! File operations, each in a child of PID 1 with the rights of the sandbox's root: a file that
//! hangs, a path that leads astray or a disk that is full is the child's trouble, and inside.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::Serialize;

use super::effects::Layers;
use super::exec::Context;
use super::zygote::exit_now;
use crate::sys::fork::{Forked, fork};
use crate::sys::process;
use crate::tree;
use crate::wire::{ByteString, Entry, FileOp, FileReply, encode};

type Reply<T> = Result<T, FileReply<T>>;

/// Starts the operation; its reply goes to the first descriptor, contents through the second.
pub(super) fn start(
    context: &Context<'_>,
    op: &FileOp,
    fds: Vec<OwnedFd>,
    layers: Option<&Layers>,
) -> io::Result<i32> {
    let mut fds = fds.into_iter();
    let reply = fds
        .next()
        .ok_or_else(|| io::Error::other("no descriptor for the reply"))?;
    let data = fds.next();
    match fork(context.thread)? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            let _ = nix::unistd::setsid();
            // A path may lead through /proc/self/fd: nothing of PID 1's is to be there.
            let mut keep = vec![0, 1, 2, reply.as_raw_fd()];
            keep.extend(data.as_ref().map(AsRawFd::as_raw_fd));
            let layers = layers.filter(|_| matches!(op, FileOp::Seal { .. }));
            keep.extend(layers.iter().flat_map(|layers| layers.descriptors()));
            if process::close_all_but(&keep).is_err() {
                exit_now(70);
            }
            process::reset_signals();
            // A host that stops reading is an error of write(2), not a death without reply.
            ignore_broken_pipes();
            let answer = match nix::unistd::chdir(context.workdir) {
                Ok(()) => perform(op, data, layers),
                // A command may have deleted it, which is nothing to an absolute path.
                Err(_) if op.path().0.starts_with(b"/") => perform(op, data, layers),
                Err(error) => answer::<()>(Err(errno(&error.into()))),
            };
            let _ = File::from(reply).write_all(&answer);
            exit_now(0)
        }
    }
}

fn ignore_broken_pipes() {
    use nix::sys::signal::{SigSet, Signal};
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGPIPE);
    let _ = mask.thread_block();
}

fn perform(op: &FileOp, data: Option<OwnedFd>, layers: Option<&Layers>) -> Vec<u8> {
    let data = || data.ok_or_else(|| io::Error::other("no descriptor for the contents"));
    match op {
        FileOp::Read { path, max_bytes } => answer(read(&to_path(path), *max_bytes, data())),
        FileOp::Write {
            path,
            exclusive,
            max_bytes,
        } => answer(write(&to_path(path), *exclusive, *max_bytes, data())),
        FileOp::Stat { path } => answer(stat(path)),
        FileOp::List {
            path,
            depth,
            max_entries,
        } => answer(list(&to_path(path), *depth, *max_entries)),
        FileOp::Unpack { path, policy } => {
            answer(data().map_err(|e| errno(&e)).and_then(|archive| {
                let root = directory(&to_path(path), /*make*/ true).map_err(|e| errno(&e))?;
                tree::unpack(
                    io::BufReader::with_capacity(1 << 20, File::from(archive)),
                    root.as_fd(),
                    policy,
                )
                .map_err(|e| FileReply::Failed(e.to_string()))
            }))
        }
        FileOp::Pack { path, options } => {
            answer(data().map_err(|e| errno(&e)).and_then(|archive| {
                let root = directory(&to_path(path), /*make*/ false).map_err(|e| errno(&e))?;
                let out = io::BufWriter::with_capacity(1 << 20, File::from(archive));
                tree::pack(root.as_fd(), out, options).map_err(|e| FileReply::Failed(e.to_string()))
            }))
        }
        FileOp::Seal { path, options } => {
            answer(data().map_err(|e| errno(&e)).and_then(|archive| {
                let whole = directory(&to_path(path), /*make*/ false).map_err(|e| errno(&e))?;
                let unknown = || FileReply::Failed("nobody keeps account of changes".into());
                let layers = layers.ok_or_else(unknown)?;
                let overlay = tree::Overlay {
                    whole: whole.as_fd(),
                    upper: layers.upper.as_fd(),
                    lower: layers.lower.as_fd(),
                };
                let out = io::BufWriter::with_capacity(1 << 20, File::from(archive));
                tree::pack_changes(overlay, out, options)
                    .map_err(|e| FileReply::Failed(e.to_string()))
            }))
        }
    }
}

fn answer<T: Serialize>(result: Reply<T>) -> Vec<u8> {
    let reply = match result {
        Ok(value) => FileReply::Done(value),
        Err(reply) => reply,
    };
    encode(&reply).unwrap_or_default()
}

fn errno<T>(error: &io::Error) -> FileReply<T> {
    match error.raw_os_error() {
        Some(number) => FileReply::Errno(number),
        None => FileReply::Failed(error.to_string()),
    }
}

fn to_path(path: &ByteString) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&path.0))
}

fn directory(path: &Path, make: bool) -> io::Result<OwnedFd> {
    if make {
        fs::create_dir_all(path)?;
    }
    Ok(open(
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens without waiting: a FIFO or a device must not hold us up.
fn open_regular<T>(
    options: &mut fs::OpenOptions,
    path: &Path,
) -> Result<(File, Metadata), FileReply<T>> {
    let file = options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| errno(&e))?;
    let metadata = file.metadata().map_err(|e| errno(&e))?;
    if metadata.is_dir() {
        return Err(FileReply::Errno(libc::EISDIR));
    }
    if !metadata.is_file() {
        return Err(FileReply::NotRegular);
    }
    Ok((file, metadata))
}

fn read(path: &Path, max_bytes: u64, data: io::Result<OwnedFd>) -> Reply<u64> {
    let mut data = File::from(data.map_err(|e| errno(&e))?);
    let (file, metadata) = open_regular(fs::OpenOptions::new().read(true), path)?;
    if metadata.len() > max_bytes {
        return Err(FileReply::TooLarge(metadata.len()));
    }
    // A file that grows meanwhile is cut at the bound.
    io::copy(&mut file.take(max_bytes), &mut data).map_err(|e| errno(&e))
}

fn write(path: &Path, exclusive: bool, max_bytes: u64, data: io::Result<OwnedFd>) -> Reply<u64> {
    let data = File::from(data.map_err(|e| errno(&e))?);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| errno(&e))?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true);
    if exclusive {
        options.create_new(true)
    } else {
        options.create(true)
    };
    let (mut file, _) = open_regular(&mut options, path)?;
    file.set_len(0).map_err(|e| errno(&e))?;
    let mut data = data.take(max_bytes.saturating_add(1));
    let written = io::copy(&mut data, &mut file).map_err(|e| errno(&e))?;
    if written > max_bytes {
        file.set_len(max_bytes).map_err(|e| errno(&e))?;
        return Err(FileReply::TooLarge(written));
    }
    Ok(written)
}

fn stat(path: &ByteString) -> Reply<Entry> {
    let metadata = fs::metadata(to_path(path)).map_err(|e| errno(&e))?;
    Ok(entry(path.clone(), &metadata))
}

fn entry(path: ByteString, metadata: &Metadata) -> Entry {
    Entry {
        path,
        mode: metadata.mode(),
        size: metadata.len(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
    }
}

/// The entries, and whether there were more.
fn list(root: &Path, depth: u32, max_entries: usize) -> Reply<(Vec<Entry>, bool)> {
    let mut found = Vec::new();
    let mut stack = Vec::new();
    let first = children(root, Path::new(""), 1).map_err(|e| errno(&e))?;
    stack.extend(first.into_iter().rev());
    while let Some((relative, level)) = stack.pop() {
        if found.len() == max_entries {
            return Ok((found, true));
        }
        let Ok(metadata) = fs::symlink_metadata(root.join(&relative)) else {
            continue;
        };
        if metadata.is_dir() && level < depth {
            // A directory that cannot be read is listed, not entered.
            let below = children(root, &relative, level + 1).unwrap_or_default();
            stack.extend(below.into_iter().rev());
        }
        found.push(entry(relative.as_os_str().as_bytes().into(), &metadata));
    }
    Ok((found, false))
}

fn children(root: &Path, below: &Path, level: u32) -> io::Result<Vec<(PathBuf, u32)>> {
    let mut children = Vec::new();
    for child in fs::read_dir(root.join(below))? {
        children.push((below.join(child?.file_name()), level));
    }
    children.sort();
    Ok(children)
}
