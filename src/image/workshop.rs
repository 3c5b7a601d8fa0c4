//! Work on a tree from inside it: a sandbox that sees the tree as `/` and may write to it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rootfs_builder::Step;
use sha2::Digest;

use super::decompress::{HashSink, Pumped, Section, io, pump};
use super::draft::Draft;
use super::error::ImageError;
use super::fetch::hex;
use crate::env::{EnvError, ExitStatus, GuestPath};
use crate::host::{Launcher, Sandbox, Spawn};
use crate::spec::{BindMount, Limits, Network, Root, SandboxSpec};
use crate::tree::{PackOptions, PackReport, UnpackPolicy, UnpackReport};

/// Bytes of a failed step's output that people are shown.
const SHOWN_OUTPUT: u64 = 4096;
/// Bytes of a package list.
const MAX_LIST: u64 = 4 << 20;

/// Opens a tree; with binds and variables of the host only where its network is needed.
pub(super) async fn open(
    launcher: &Launcher,
    rootfs: &Path,
    network: Network,
    binds: Vec<BindMount>,
) -> Result<Sandbox, ImageError> {
    let spec = SandboxSpec {
        root: Root::Writable(rootfs.to_path_buf()),
        network,
        // A build writes as much as the disk has; compilers of the recipe may need much memory.
        limits: Limits {
            memory_bytes: None,
            disk_bytes: None,
            inodes: None,
            pids: Some(4096),
            ..Limits::default()
        },
        binds,
        workdir: "/".to_owned(),
        purpose: "image".to_owned(),
        ..SandboxSpec::new(rootfs)
    };
    Ok(launcher.sandbox(spec).await?)
}

/// Passes a result on; after a failure the tree goes at once, also where its files belong to
/// subordinate ids.
pub(super) async fn or_clear<T>(
    launcher: &Launcher,
    draft: &Draft,
    result: Result<T, ImageError>,
) -> Result<T, ImageError> {
    if result.is_err() {
        // What cannot be deleted now stays for the next start.
        let _ = launcher.remove_tree(&draft.rootfs()).await;
    }
    result
}

/// Unpacks a section of a file in the tree; returns what was read and what was made.
pub(super) async fn unpack(
    sandbox: &Sandbox,
    section: Section,
    policy: UnpackPolicy,
) -> Result<(Pumped, UnpackReport), ImageError> {
    let (reader, writer) = pipe()?;
    // A tar is a little larger than what is in it.
    let max_bytes = policy.max_bytes.saturating_mul(2);
    let feeder = tokio::task::spawn_blocking(move || pump(&section, writer, max_bytes));
    let report = sandbox
        .unpack(&GuestPath::from("/"), reader.into(), policy)
        .await;
    let pumped = feeder.await.map_err(|_| ImageError::Worker)?;
    // What is wrong with the stream explains what is wrong with the archive.
    let pumped = pumped?;
    Ok((pumped, report?))
}

/// Carries out one step of a recipe; its output goes to `log`.
pub(super) async fn carry_out(
    sandbox: &Sandbox,
    step: &Step,
    extra_env: &[(String, String)],
    log: &Path,
) -> Result<(), ImageError> {
    match step {
        Step::Write {
            path,
            content,
            mode,
        } => {
            put(
                sandbox,
                path,
                tar::EntryType::Regular,
                content.as_bytes(),
                *mode,
            )
            .await
        }
        Step::Directory { path } => put(sandbox, path, tar::EntryType::Directory, b"", 0o755).await,
        Step::Run {
            title,
            argv,
            env,
            timeout_s,
        } => {
            let status = run(sandbox, argv, env, extra_env, *timeout_s, log).await?;
            let outcome = match status {
                Some(ExitStatus::Code(0)) => return Ok(()),
                Some(ExitStatus::Code(code)) => format!("exit status {code}"),
                Some(ExitStatus::Signal(signal)) => format!("killed by signal {signal}"),
                None => format!("not done after {timeout_s} s"),
            };
            Err(ImageError::Step {
                title: title.clone(),
                outcome,
                output: tail(log),
            })
        }
    }
}

/// Runs a command and returns its standard output; `None` where it fails, as where there is no such program.
pub(super) async fn capture(
    sandbox: &Sandbox,
    argv: &[&str],
) -> Result<Option<String>, ImageError> {
    let scratch = || {
        tempfile::tempfile().map_err(|source| io("make a file in", &std::env::temp_dir(), source))
    };
    let mut output = scratch()?;
    let spawn = Spawn {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![
            (
                "PATH".to_owned(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("PIP_DISABLE_PIP_VERSION_CHECK".to_owned(), "1".to_owned()),
            // To look must not change the tree.
            ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
        ],
        cwd: None,
        stdin: None,
        stdout: output
            .try_clone()
            .map_err(|source| io("share a file in", &std::env::temp_dir(), source))?
            .into(),
        stderr: null()?,
    };
    let Ok(mut process) = sandbox.spawn(spawn).await else {
        return Ok(None);
    };
    match tokio::time::timeout(Duration::from_secs(120), process.wait()).await {
        Ok(Ok(ExitStatus::Code(0))) => {}
        Ok(Ok(_)) | Err(_) => return Ok(None),
        Ok(Err(error)) => return Err(error.into()),
    }
    let mut text = Vec::new();
    output
        .seek(SeekFrom::Start(0))
        .and_then(|_| output.take(MAX_LIST).read_to_end(&mut text))
        .map_err(|source| io("read a file in", &std::env::temp_dir(), source))?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// The digest of the tree: SHA-256 of its canonical archive.
pub(super) async fn digest(sandbox: &Sandbox) -> Result<(String, PackReport), ImageError> {
    let (digest, report) = pack(sandbox, |reader| {
        let mut sink = HashSink::default();
        copy(reader, &mut sink)?;
        Ok(hex(&sink.0.finalize()))
    })
    .await?;
    Ok((digest, report))
}

/// Packs the tree; `take` reads the archive on a thread of its own.
pub(super) async fn pack<T: Send + 'static>(
    sandbox: &Sandbox,
    take: impl FnOnce(std::io::PipeReader) -> Result<T, ImageError> + Send + 'static,
) -> Result<(T, PackReport), ImageError> {
    let (reader, writer) = pipe()?;
    let taker = tokio::task::spawn_blocking(move || take(reader));
    let report = sandbox
        .pack(&GuestPath::from("/"), writer.into(), PackOptions::image())
        .await;
    let taken = taker.await.map_err(|_| ImageError::Worker)?;
    let report = report?;
    if let Some(first) = report
        .left_out
        .listed
        .iter()
        .find(|entry| !entry.reason.is_harmless())
    {
        return Err(ImageError::Incomplete {
            count: report.left_out.total(),
            first: first.path.clone(),
        });
    }
    Ok((taken?, report))
}

pub(super) fn copy(mut from: impl Read, to: &mut impl Write) -> Result<u64, ImageError> {
    std::io::copy(&mut from, to)
        .map_err(|source| io("read the archive of", Path::new("the tree"), source))
}

async fn run(
    sandbox: &Sandbox,
    argv: &[String],
    env: &BTreeMap<String, String>,
    extra_env: &[(String, String)],
    timeout_s: u64,
    log: &Path,
) -> Result<Option<ExitStatus>, ImageError> {
    let output = File::create(log).map_err(|source| io("write", log, source))?;
    let errors = output
        .try_clone()
        .map_err(|source| io("write", log, source))?;
    let env = env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain(extra_env.iter().cloned());
    let spawn = Spawn {
        argv: argv.to_vec(),
        env: env.collect(),
        cwd: None,
        stdin: None,
        stdout: output.into(),
        stderr: errors.into(),
    };
    let mut process = sandbox.spawn(spawn).await?;
    match tokio::time::timeout(Duration::from_secs(timeout_s), process.wait()).await {
        Ok(status) => Ok(Some(status?)),
        // The caller gives the whole sandbox up, and the process with it.
        Err(_) => Ok(None),
    }
}

/// One file or directory, put there as a small archive: under the same rules as any other.
async fn put(
    sandbox: &Sandbox,
    path: &str,
    kind: tar::EntryType,
    content: &[u8],
    mode: u32,
) -> Result<(), ImageError> {
    let name = Path::new("put");
    let failed = |source| io("make the archive", name, source);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, path.trim_start_matches('/'), content)
        .map_err(failed)?;
    let bytes = archive.into_inner().map_err(failed)?;
    let mut file = tempfile::tempfile().map_err(failed)?;
    file.write_all(&bytes)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(failed)?;
    // `layer`: a link in its place, as the base may have for resolv.conf, is replaced.
    sandbox
        .unpack(&GuestPath::from("/"), file.into(), UnpackPolicy::layer())
        .await?;
    Ok(())
}

pub(super) fn pipe() -> Result<(std::io::PipeReader, PipeWriter), ImageError> {
    std::io::pipe()
        .map_err(|error| EnvError::Infrastructure(format!("make a pipe: {error}")).into())
}

fn null() -> Result<OwnedFd, ImageError> {
    let path = Path::new("/dev/null");
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| io("open", path, source))?;
    Ok(file.into())
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN_OUTPUT)))?;
        let mut text = Vec::new();
        file.take(SHOWN_OUTPUT).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    read().unwrap_or_default()
}
