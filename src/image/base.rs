//! What a recipe builds on: a downloaded archive, what mmdebstrap extracts, or another image.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

use rootfs_builder::{BOOTSTRAP_TIMEOUT, Base, bootstrap_command, choose};

use super::Tell;
use super::decompress::{Section, io, pump};
use super::draft::Draft;
use super::error::ImageError;
use super::fetch::{FetchLimits, fetch, fetch_text};
use super::host_network::host_network_settings;
use super::import::unpack_file;
use super::workshop;
use crate::host::Launcher;
use crate::spec::Network;
use crate::tree::UnpackPolicy;

/// The bootstrap runs under this id where we are root: one that owns nothing and is no service's.
const NOBODY_IN_PARTICULAR: u32 = 0x7fff_0000;
/// What was killed is gone within this time.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// Puts the base into the tree and says where it came from.
pub(super) async fn unpack_base(
    launcher: &Launcher,
    draft: &Draft,
    base: &Base,
    tell: Tell<'_>,
) -> Result<String, ImageError> {
    match base {
        Base::Image { path } => {
            unpack_file(launcher, draft, Path::new(path), tell).await?;
            Ok(path.clone())
        }
        Base::Mmdebstrap { suite } => {
            tell(&format!("downloading the base system of {suite}"));
            let archive = draft.scratch("base.tar");
            bootstrap(suite, &archive).await?;
            unpack_tree(launcher, draft, &archive).await?;
            draft.discard("base.tar");
            Ok(format!("mmdebstrap {suite}"))
        }
        Base::Tar { .. } => {
            let archive = draft.scratch("base.tar");
            let (path, source) = fetch_base(base, &archive, tell).await?;
            tell("unpacking the base system");
            unpack_tree(launcher, draft, &path).await?;
            draft.discard("base.tar");
            Ok(source)
        }
    }
}

/// Gets the archive of a base and checks it: a local one where it is, a remote one in the file `to`.
/// Returns its path and, for the manifest, where it came from with its SHA-256.
///
/// # Errors
///
/// When it cannot be had within the bounds of a download, or its checksum is wrong.
pub async fn fetch_base(
    base: &Base,
    to: &Path,
    tell: Tell<'_>,
) -> Result<(PathBuf, String), ImageError> {
    let Base::Tar {
        location,
        sha256,
        checksums,
    } = base
    else {
        return Err(ImageError::NoArchive);
    };
    let (location, expected) = match checksums {
        Some(list) => {
            let (directory, pattern) = location.rsplit_once('/').unwrap_or((".", location));
            let listed = choose(&list_text(list).await?, pattern)?;
            (format!("{directory}/{}", listed.file), Some(listed.sha256))
        }
        None => (
            location.clone(),
            sha256.as_ref().map(|digits| digits.to_ascii_lowercase()),
        ),
    };
    let (path, actual) = if is_url(&location) {
        tell(&format!("downloading {location}"));
        let mut told = 0;
        let progress = |done: u64, length: Option<u64>| {
            let percent = length
                .filter(|length| *length > 0)
                .map_or(0, |length| done.saturating_mul(100) / length);
            if percent >= told + 10 {
                told = percent - percent % 10;
                tell(&format!("downloaded {told} %"));
            }
        };
        (
            to.to_path_buf(),
            fetch(&location, to, FetchLimits::ARCHIVE, progress).await?,
        )
    } else {
        let path = PathBuf::from(&location);
        let section = Section::whole(&path)?;
        let hashed = tokio::task::spawn_blocking(move || pump(&section, std::io::sink(), u64::MAX));
        (path, hashed.await.map_err(|_| ImageError::Worker)??.stored)
    };
    match expected {
        Some(expected) if expected != actual => Err(ImageError::Digest {
            what: location,
            expected,
            actual,
        }),
        _ => Ok((path, format!("{location} sha256:{actual}"))),
    }
}

async fn unpack_tree(launcher: &Launcher, draft: &Draft, archive: &Path) -> Result<(), ImageError> {
    let sandbox = workshop::open(launcher, &draft.rootfs(), Network::None, Vec::new()).await?;
    workshop::unpack(&sandbox, Section::whole(archive)?, UnpackPolicy::image()).await?;
    sandbox.close().await?;
    Ok(())
}

/// A program of the host and all that it starts. Dropped before its end, it ends with them: what it
/// would write after that would be nobody's to take away.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) else {
            return;
        };
        // Not waited for yet, so the number is still its own.
        let group = Pid::from_raw(id);
        let _ = killpg(group, Signal::SIGKILL);
        let deadline = Instant::now() + END_DEADLINE;
        while Instant::now() < deadline {
            let ended = !matches!(self.0.try_wait(), Ok(None));
            if ended && killpg(group, None).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs mmdebstrap without any privilege, its output into `archive`.
async fn bootstrap(suite: &str, archive: &Path) -> Result<(), ImageError> {
    let missing = |program: &str, problem: String| ImageError::Program {
        program: program.to_owned(),
        problem,
    };
    let output = std::fs::File::create(archive).map_err(|source| io("write", archive, source))?;
    let place = tempfile::tempdir()
        .map_err(|source| io("make a directory in", &std::env::temp_dir(), source))?;
    let log_path = archive.with_extension("log");
    let log = std::fs::File::create(&log_path).map_err(|source| io("write", &log_path, source))?;
    // setpriv: std would leave posix_spawn for a fork of the whole host process to change ids, and
    // the death of this process must be that of mmdebstrap.
    let mut command = tokio::process::Command::new("setpriv");
    command.args(["--no-new-privs", "--pdeathsig", "KILL"]);
    if nix::unistd::geteuid().is_root() {
        let id = NOBODY_IN_PARTICULAR;
        command.args([
            format!("--reuid={id}"),
            format!("--regid={id}"),
            "--clear-groups".to_owned(),
        ]);
        std::os::unix::fs::chown(place.path(), Some(id), Some(id))
            .map_err(|source| io("chown", place.path(), source))?;
    }
    command
        .arg("--")
        .args(bootstrap_command(suite))
        .current_dir(place.path())
        .env_clear();
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command.env("TMPDIR", place.path()).env("LANG", "C.UTF-8");
    let (_, settings) = host_network_settings();
    command.envs(
        settings
            .into_iter()
            .filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy")),
    );
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(log)
        .process_group(0)
        .spawn();
    let mut group = Group(child.map_err(|error| missing("setpriv", error.to_string()))?);
    let status = tokio::time::timeout(BOOTSTRAP_TIMEOUT, group.0.wait())
        .await
        .map_err(|_| {
            missing(
                "mmdebstrap",
                format!("not done after {} s", BOOTSTRAP_TIMEOUT.as_secs()),
            )
        })?
        .map_err(|error| missing("mmdebstrap", error.to_string()))?;
    let said = std::fs::read(&log_path).unwrap_or_default();
    let _ = std::fs::remove_file(&log_path);
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(
        said.get(said.len().saturating_sub(2048)..)
            .unwrap_or_default(),
    )
    .into_owned();
    Err(missing("mmdebstrap", format!("{status}: {}", said.trim())))
}

pub(super) async fn list_text(list: &str) -> Result<String, ImageError> {
    if is_url(list) {
        return Ok(fetch_text(list, FetchLimits::LIST).await?);
    }
    std::fs::read_to_string(list).map_err(|source| io("read", Path::new(list), source))
}

fn is_url(location: &str) -> bool {
    location.starts_with("http:") || location.starts_with("https:")
}
