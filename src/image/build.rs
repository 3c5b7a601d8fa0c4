//! Images from recipes, and the image that a command gets when it names none.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rootfs_builder::{Base, Plan, Recipe, Step, built_in, plan, resolve_base};

use super::Tell;
use super::base::{list_text, unpack_base};
use super::draft::Draft;
use super::error::ImageError;
use super::fetch::FetchError;
use super::host_network::host_network_settings;
use super::manifest::{MANIFEST_FORMAT, Manifest, Packages, rfc3339};
use super::store::{Image, NameLock, Store};
use super::workshop;
use crate::host::{Launcher, Sandbox};
use crate::spec::{Network, SandboxSpec};
use crate::tree::PackReport;

/// Stands for the image that a command gets when it names none.
pub const DEFAULT_NAME: &str = "default";
/// As long as another process may take to build the image that we wait for.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Which recipe the default is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The recipe.
    pub recipe: Recipe,
    /// What people are told and the manifest records; absent where there was nothing to choose.
    pub reason: Option<String>,
}

/// The image of a name, built first where it is missing; `None` is the default.
///
/// # Errors
///
/// When it is neither there nor one that a built-in recipe makes, or cannot be built.
pub async fn ensure(
    store: &Store,
    launcher: &Launcher,
    name: Option<&str>,
    tell: Tell<'_>,
) -> Result<Image, ImageError> {
    let wanted = name.unwrap_or(DEFAULT_NAME);
    if let Some(image) = store.find(wanted)? {
        return Ok(image);
    }
    // Before the wait: a name that nothing makes is no reason to wait.
    named_recipe(wanted)?;
    let _lock = lock(store, wanted).await?;
    if let Some(image) = store.find(wanted)? {
        return Ok(image);
    }
    let choice = choice(wanted).await?;
    // Somebody may be building by name what the default turned out to be. The default's lock is
    // always taken first, so nobody waits in a circle.
    let _built_lock = match choice.recipe.name.as_str() {
        name if name == wanted => None,
        name => Some(lock(store, name).await?),
    };
    if let Some(image) = store.find(&choice.recipe.name)? {
        store.set_name(wanted, &image.manifest.digest)?;
        return Ok(image);
    }
    make(store, launcher, wanted, &choice, tell).await
}

/// Builds the image of a name again, whatever is there; `None` is the default.
///
/// # Errors
///
/// As [`ensure`].
pub async fn rebuild(
    store: &Store,
    launcher: &Launcher,
    name: Option<&str>,
    tell: Tell<'_>,
) -> Result<Image, ImageError> {
    let wanted = name.unwrap_or(DEFAULT_NAME);
    named_recipe(wanted)?;
    let _lock = lock(store, wanted).await?;
    let old = store.find(wanted)?;
    let choice = choice(wanted).await?;
    let image = make(store, launcher, wanted, &choice, tell).await?;
    if let Some(old) = old
        && !store
            .names()?
            .iter()
            .any(|(_, digest)| *digest == old.manifest.digest)
    {
        // A sandbox may use it still; then it stays until somebody removes it.
        let _ = store.remove(&old);
    }
    Ok(image)
}

async fn make(
    store: &Store,
    launcher: &Launcher,
    name: &str,
    choice: &Choice,
    tell: Tell<'_>,
) -> Result<Image, ImageError> {
    if let Some(reason) = &choice.reason {
        tell(reason);
    }
    let image = build(store, launcher, choice, tell).await?;
    store.set_name(name, &image.manifest.digest)?;
    Ok(image)
}

async fn choice(name: &str) -> Result<Choice, ImageError> {
    match named_recipe(name)? {
        Some(recipe) => Ok(Choice {
            recipe,
            reason: None,
        }),
        None => Ok(choose_default(recipe("ubuntu")?, recipe("debian")?).await),
    }
}

/// `None` for the default, which is a choice.
fn named_recipe(name: &str) -> Result<Option<Recipe>, ImageError> {
    if name == DEFAULT_NAME {
        Ok(None)
    } else {
        recipe(name).map(Some)
    }
}

fn recipe(name: &str) -> Result<Recipe, ImageError> {
    let text = built_in(name).ok_or_else(|| ImageError::NoRecipe(name.to_owned()))?;
    Ok(rootfs_builder::parse(text)?)
}

pub(super) async fn lock(store: &Store, name: &str) -> Result<NameLock, ImageError> {
    let (store, name) = (store.clone(), name.to_owned());
    let lock = tokio::task::spawn_blocking(move || store.lock_name(&name, PATIENCE));
    Ok(lock.await.map_err(|_| ImageError::Worker)??)
}

/// The first recipe where the server of its checksum list answers within seconds, else the second.
pub async fn choose_default(first: Recipe, second: Recipe) -> Choice {
    let Base::Tar {
        checksums: Some(list),
        ..
    } = &first.base
    else {
        return Choice {
            recipe: first,
            reason: None,
        };
    };
    match list_text(list).await {
        Ok(_) => Choice {
            recipe: first,
            reason: None,
        },
        Err(error) => {
            let reason = format!(
                "taking image `{}` instead of `{}`: {}",
                second.name,
                first.name,
                chain(&error)
            );
            Choice {
                recipe: second,
                reason: Some(reason),
            }
        }
    }
}

/// Builds an image and lets its recipe's name stand for it.
///
/// # Errors
///
/// When the base cannot be had or a step fails; nothing is left of it then.
pub async fn build(
    store: &Store,
    launcher: &Launcher,
    choice: &Choice,
    tell: Tell<'_>,
) -> Result<Image, ImageError> {
    if launcher.ids_inside() == 1 {
        return Err(ImageError::OneId);
    }
    let draft = store.draft()?;
    let filled = fill(launcher, &draft, choice, tell).await;
    let manifest = workshop::or_clear(launcher, &draft, filled).await?;
    let image = store.commit(draft, &manifest)?;
    store.set_name(&manifest.name, &image.manifest.digest)?;
    make_default_if_first(store, &image)?;
    Ok(image)
}

async fn fill(
    launcher: &Launcher,
    draft: &Draft,
    choice: &Choice,
    tell: Tell<'_>,
) -> Result<Manifest, ImageError> {
    let recipe = &choice.recipe;
    let base = resolve_base(&recipe.base, architecture());
    let source = unpack_base(launcher, draft, &base, tell).await?;
    let Plan {
        prepare,
        install,
        seal,
    } = plan(recipe);
    let log = draft.scratch("build.log");

    let bare = workshop::open(launcher, &draft.rootfs(), Network::None, Vec::new()).await?;
    carry_out(&bare, &prepare, &[], &log, tell).await?;
    bare.close().await?;

    let (binds, env) = host_network_settings();
    // What is bound needs a file to be bound on; those that the tree does not have go with `seal`.
    let marks: Vec<_> = binds
        .iter()
        .map(|bind| bind.target.clone())
        .filter(|target| !PREPARED.contains(&target.as_str()))
        .collect();
    let connected = workshop::open(launcher, &draft.rootfs(), Network::Host, binds).await?;
    carry_out(&connected, &install, &env, &log, tell).await?;
    connected.close().await?;

    let bare = workshop::open(launcher, &draft.rootfs(), Network::None, Vec::new()).await?;
    let forget = forget_marks(marks);
    carry_out(&bare, std::slice::from_ref(&forget), &[], &log, tell).await?;
    carry_out(&bare, &seal, &[], &log, tell).await?;
    let (packages, digest, report) = take_stock(launcher, draft, bare, tell).await?;
    Ok(Manifest {
        format: MANIFEST_FORMAT,
        digest,
        tree_digest: None,
        name: recipe.name.clone(),
        created: rfc3339(SystemTime::now()),
        size_bytes: report.bytes,
        entries: report.entries,
        architecture: architecture().to_owned(),
        recipe: Some(recipe.clone()),
        source,
        chosen: choice.reason.clone(),
        env: recipe.env.clone(),
        packages,
    })
}

/// Who has built `debian` by name is not made to wait for `ubuntu` by the next command. The image of graders is for no model.
pub(super) fn make_default_if_first(store: &Store, image: &Image) -> Result<(), ImageError> {
    let for_models = ["ubuntu", "debian"].contains(&image.manifest.name.as_str());
    if for_models && store.find(DEFAULT_NAME)?.is_none() {
        store.set_name(DEFAULT_NAME, &image.manifest.digest)?;
    }
    Ok(())
}

/// Files that the plan itself puts into every tree.
const PREPARED: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

pub(super) fn forget_marks(marks: Vec<String>) -> Step {
    let mut argv: Vec<_> = ["rm", "-rf", "--", "/run/host"].map(str::to_owned).into();
    argv.extend(marks);
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into();
    Step::Run {
        title: "remove mount points".to_owned(),
        argv,
        env,
        timeout_s: 30,
    }
}

async fn carry_out(
    sandbox: &Sandbox,
    steps: &[Step],
    env: &[(String, String)],
    log: &Path,
    tell: Tell<'_>,
) -> Result<(), ImageError> {
    rootfs_builder::execute(steps, async |step| {
        if let Step::Run { title, .. } = step {
            tell(title);
        }
        workshop::carry_out(sandbox, step, env, log).await
    })
    .await
}

/// Packages, digest and size of a tree that is ready. Ends the sandbox in which it was made.
pub(super) async fn take_stock(
    launcher: &Launcher,
    draft: &Draft,
    bare: Sandbox,
    tell: Tell<'_>,
) -> Result<(Packages, String, PackReport), ImageError> {
    let packages = inventory(launcher, &draft.rootfs()).await?;
    tell("computing the digest");
    let (digest, report) = workshop::digest(&bare).await?;
    bare.close().await?;
    draft.discard("build.log");
    Ok((packages, digest, report))
}

/// What is installed in a tree; package managers that it does not have list nothing. They are programs
/// of the tree, so they run over it, not in it: what they write is not there afterwards.
pub(super) async fn inventory(launcher: &Launcher, rootfs: &Path) -> Result<Packages, ImageError> {
    let spec = SandboxSpec {
        workdir: "/".to_owned(),
        purpose: "image".to_owned(),
        ..SandboxSpec::new(rootfs)
    };
    let sandbox = launcher.sandbox(spec).await?;
    let apt = workshop::capture(
        &sandbox,
        &["dpkg-query", "-W", "-f", "${Package}=${Version}\n"],
    )
    .await?;
    let pip = workshop::capture(
        &sandbox,
        &["python3", "-m", "pip", "list", "--format=freeze"],
    )
    .await?;
    sandbox.discard().await?;
    Ok(Packages {
        apt: Packages::parse_lines(&apt.unwrap_or_default(), "="),
        pip: Packages::parse_lines(&pip.unwrap_or_default(), "=="),
    })
}

/// This machine as Debian and OCI name it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn chain(error: &ImageError) -> String {
    if let ImageError::Fetch(FetchError::Transport { url, .. }) = error {
        return format!("{url} cannot be reached");
    }
    error.to_string()
}
