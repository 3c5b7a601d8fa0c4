//! An image that is another one with a few changes, made once: its name follows from all that goes into it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rootfs_builder::Step;
use sha2::{Digest, Sha256};

use super::Tell;
use super::build::{forget_marks, lock, take_stock};
use super::decompress::{HashSink, io};
use super::draft::Draft;
use super::error::ImageError;
use super::fetch::hex;
use super::manifest::{MANIFEST_FORMAT, Manifest, rfc3339};
use super::store::{Image, Store};
use super::workshop;
use crate::env::GuestPath;
use crate::host::{Launcher, Sandbox};
use crate::spec::{BindMount, Network, SandboxSpec};
use crate::tree::{self, PackOptions, UnpackPolicy};

/// Largest single file that is copied.
const MAX_FILE: u64 = 2 << 30;

/// One change. Texts are as they are: variables have been put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Runs a program in a directory, with these variables.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// Where; absolute.
        directory: String,
        /// Beside those of the host's network.
        env: BTreeMap<String, String>,
    },
    /// Makes a directory.
    Directory(String),
    /// Copies a file or what a directory holds; a target that ends with `/` is a directory.
    Copy(PathBuf, String),
}

/// What is made of an image.
#[derive(Debug)]
pub struct Derivation<'a> {
    /// What happens, in order.
    pub changes: Vec<Change>,
    /// Variables of the image's processes.
    pub env: BTreeMap<String, String>,
    /// Where copied files are.
    pub context: &'a Path,
    /// For all of it.
    pub timeout: Duration,
    /// Of programs that run: somebody else's, so nothing of the host's is in it.
    pub network: (Network, Vec<BindMount>, Vec<(String, String)>),
}

/// The image that comes of it; the one that is there, if it was made before.
///
/// # Errors
/// When a file is missing or a step fails; nothing is left of it then.
pub async fn derive(
    store: &Store,
    launcher: &Launcher,
    base: &Image,
    derivation: &Derivation<'_>,
    tell: Tell<'_>,
) -> Result<Image, ImageError> {
    let name = name(base, derivation)?;
    if let Some(image) = store.find(&name)? {
        return Ok(image);
    }
    let _lock = lock(store, &name).await?;
    if let Some(image) = store.find(&name)? {
        return Ok(image);
    }
    let _hold = store.hold(base)?;
    let draft = store.draft()?;
    let filled = Box::pin(fill(launcher, &draft, base, (derivation, &name), tell)).await;
    let manifest = workshop::or_clear(launcher, &draft, filled).await?;
    let image = store.commit(draft, &manifest)?;
    store.set_name(&name, &image.manifest.digest)?;
    Ok(image)
}

fn name(base: &Image, derivation: &Derivation<'_>) -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    hash.update(&base.manifest.digest);
    hash.update(format!("{:?}{:?}", derivation.changes, derivation.env));
    if derivation
        .changes
        .iter()
        .any(|change| matches!(change, Change::Copy(..)))
    {
        let context = derivation.context;
        let failed = |error| io("read", context, error);
        let root = File::open(context).map_err(failed)?;
        let mut sink = HashSink::default();
        let packed = tree::pack(root.as_fd(), &mut sink, &PackOptions::copy_out());
        let packed = packed.map_err(|error| failed(std::io::Error::other(error)))?;
        if let Some(first) = packed.left_out.listed.first() {
            return Err(ImageError::Incomplete {
                count: packed.left_out.total(),
                first: first.path.clone(),
            });
        }
        hash.update(sink.0.finalize());
    }
    let digest = hex(&hash.finalize());
    Ok(format!("derived-{}", digest.get(..24).unwrap_or_default()))
}

async fn fill(
    launcher: &Launcher,
    draft: &Draft,
    base: &Image,
    (derivation, name): (&Derivation<'_>, &str),
    tell: Tell<'_>,
) -> Result<Manifest, ImageError> {
    let deadline = Instant::now() + derivation.timeout;
    let rootfs = draft.rootfs();
    tell("copying the image that it begins with");
    let bare = workshop::open(launcher, &rootfs, Network::None, Vec::new()).await?;
    copy_tree(launcher, base, &bare).await?;
    bare.close().await?;

    let (network, binds, env) = derivation.network.clone();
    let marks = binds.iter().map(|bind| bind.target.clone()).collect();
    let connected = workshop::open(launcher, &rootfs, network, binds).await?;
    for change in &derivation.changes {
        carry_out(
            &connected,
            derivation.context,
            change,
            (&env, deadline),
            draft,
            tell,
        )
        .await?;
    }
    connected.close().await?;

    let bare = workshop::open(launcher, &rootfs, Network::None, Vec::new()).await?;
    let log = draft.scratch("build.log");
    workshop::carry_out(&bare, &forget_marks(marks), &[], &log).await?;
    let (packages, digest, report) = take_stock(launcher, draft, bare, tell).await?;
    Ok(Manifest {
        format: MANIFEST_FORMAT,
        digest,
        tree_digest: None,
        name: name.to_owned(),
        created: rfc3339(SystemTime::now()),
        size_bytes: report.bytes,
        entries: report.entries,
        architecture: base.manifest.architecture.clone(),
        recipe: None,
        source: format!("made of the image {}", base.manifest.digest),
        chosen: None,
        env: derivation.env.clone(),
        packages,
    })
}

/// From a sandbox that sees the tree into one that writes the new one.
async fn copy_tree(launcher: &Launcher, base: &Image, to: &Sandbox) -> Result<(), ImageError> {
    let spec = SandboxSpec {
        workdir: "/".to_owned(),
        purpose: "image".to_owned(),
        ..SandboxSpec::new(&base.rootfs)
    };
    let from = launcher.sandbox(spec).await?;
    let (reader, writer) = workshop::pipe()?;
    let root = GuestPath::from("/");
    let (packed, unpacked) = tokio::join!(
        from.pack(&root, writer.into(), PackOptions::image()),
        to.unpack(&root, reader.into(), UnpackPolicy::image()),
    );
    unpacked?;
    packed?;
    from.discard().await?;
    Ok(())
}

async fn carry_out(
    sandbox: &Sandbox,
    context: &Path,
    change: &Change,
    (network, deadline): (&[(String, String)], Instant),
    draft: &Draft,
    tell: Tell<'_>,
) -> Result<(), ImageError> {
    let log = draft.scratch("build.log");
    let step = match change {
        Change::Copy(source, target) => return copy(sandbox, context, source, target).await,
        Change::Directory(path) => Step::Directory { path: path.clone() },
        Change::Run {
            argv,
            directory,
            env,
        } => {
            let title = argv.last().cloned().unwrap_or_default();
            tell(&title);
            // A step has no directory of its own.
            let enter = ["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", directory];
            let enter = enter.map(str::to_owned).into_iter();
            Step::Run {
                title,
                argv: enter.chain(argv.iter().cloned()).collect(),
                env: env.clone(),
                timeout_s: deadline.saturating_duration_since(Instant::now()).as_secs(),
            }
        }
    };
    workshop::carry_out(sandbox, &step, network, &log).await
}

/// One source, of which no link leads out of the context.
async fn copy(
    sandbox: &Sandbox,
    context: &Path,
    source: &Path,
    target: &str,
) -> Result<(), ImageError> {
    let path = context.join(source);
    let failed = |error| io("copy", &path, error);
    let real = path.canonicalize().map_err(failed)?;
    if !real.starts_with(context.canonicalize().map_err(failed)?) {
        return Err(failed(std::io::Error::other("it leads out of the context")));
    }
    if real.is_dir() {
        let report = sandbox.copy_in(&real, &GuestPath::from(target)).await?;
        return match report.left_out.listed.first() {
            None => Ok(()),
            Some(first) => Err(ImageError::Incomplete {
                count: report.left_out.total(),
                first: first.path.clone(),
            }),
        };
    }
    let metadata = fs::metadata(&real).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        let problem = "it is no regular file, or a very large one";
        return Err(failed(std::io::Error::other(problem)));
    }
    let name = source.file_name().unwrap_or_default();
    let directory = target.ends_with('/') || is_directory(sandbox, target).await;
    let (parent, name) = match target.rsplit_once('/') {
        _ if directory => (target, name.to_string_lossy().into_owned()),
        Some((parent, name)) => (parent, name.to_owned()),
        None => ("", target.to_owned()),
    };
    let archive = archive(&real, &name, &metadata).map_err(failed)?;
    let policy = UnpackPolicy {
        replace: true,
        ..UnpackPolicy::copy_out()
    };
    let parent = if parent.is_empty() { "/" } else { parent };
    sandbox
        .unpack(&GuestPath::from(parent), archive.into(), policy)
        .await?;
    Ok(())
}

async fn is_directory(sandbox: &Sandbox, path: &str) -> bool {
    use crate::env::{Env as _, FileKind};
    let stat = sandbox.stat(&GuestPath::from(path)).await;
    stat.is_ok_and(|stat| stat.kind == FileKind::Directory)
}

/// A file as an archive of itself.
fn archive(path: &Path, name: &str, metadata: &fs::Metadata) -> std::io::Result<File> {
    use std::io::{Read as _, Seek as _};
    use std::os::unix::fs::PermissionsExt as _;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(metadata.permissions().mode() & 0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(metadata.len());
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    let content = File::open(path)?.take(metadata.len());
    archive.append_data(&mut header, name, content)?;
    let mut file = archive.into_inner()?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}
