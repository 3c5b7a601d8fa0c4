//! `image …` and the original's `build`: results on stdout, progress on stderr.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::image_report::{inspect, list, print};
use super::progress::Progress;
use crate::host::{Launcher, LauncherConfig};
use crate::image::{
    self, Choice, DEFAULT_NAME, Image, ImageError, Store, StoreError, build, ensure, export,
    import, verify,
};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Build an image from a recipe
    Build(BuildArgs),
    /// Take an image from a file: an export, an OCI archive, a `docker save` archive or a root file system
    Import(ImportArgs),
    /// Write an image to one file that `import` takes on another machine
    Export(ExportArgs),
    /// List the images of this host
    Ls(ListArgs),
    /// Show what an image is and what is in it
    Inspect(InspectArgs),
    /// Check that the tree of an image is what it was when it was made
    Verify(NameArgs),
    /// Remove an image
    Rm(RemoveArgs),
    /// Delete what interrupted commands have left
    Gc,
}

/// `image build`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Built-in recipe: `ubuntu`, `debian` or `grader`; the default is chosen by what can be reached
    #[arg(conflicts_with = "recipe")]
    pub name: Option<String>,
    /// Recipe file (TOML)
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Build again where the image exists
    #[arg(long)]
    pub force: bool,
}

/// The original's `build`.
#[derive(Debug, Args)]
pub(super) struct BuildAliasArgs {
    /// Name of the image; the original's default name means our default
    #[arg(long = "image_name", alias = "image-name", default_value = ORIGINAL_NAME)]
    pub image_name: String,
    /// Build again where the image exists
    #[arg(long)]
    pub force: bool,
}

/// `image import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file; plain or compressed by gzip or zstd
    pub file: PathBuf,
    /// Name for the image; the one it was exported by when absent
    #[arg(long)]
    pub name: Option<String>,
}

/// `image export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Name or digest of the image
    #[arg(default_value = DEFAULT_NAME)]
    pub name: String,
    /// File to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// `image ls`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `image inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Name or digest of the image; built first where it is a built-in one that is missing
    #[arg(default_value = DEFAULT_NAME)]
    pub name: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// A command on one image.
#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// Name or digest of the image
    #[arg(default_value = DEFAULT_NAME)]
    pub name: String,
}

/// `image rm`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Names or digests of the images
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// Name that the original gives its image when it is told none.
pub(super) const ORIGINAL_NAME: &str = "cdx123/llm-in-sandbox:v0.1";

/// The name of our store for a name as the original's flags take it.
#[must_use]
pub(super) fn local_name(name: &str) -> &str {
    if name == ORIGINAL_NAME {
        DEFAULT_NAME
    } else {
        name
    }
}

/// Carries a command out; `launcher` is started only where a tree is worked on.
///
/// # Errors
///
/// Whatever the store, the network or the sandbox refuse.
pub(super) async fn run(
    command: ImageCommand,
    state: &Path,
    launcher: LauncherConfig,
) -> Result<(), ImageError> {
    let store = Store::open(state)?;
    match command {
        ImageCommand::Build(args) => run_build(&store, launcher, &args).await,
        ImageCommand::Import(args) => {
            let progress = Progress::new();
            let launcher = Launcher::start(launcher).await?;
            let image = import(
                &store,
                &launcher,
                &args.file,
                args.name.as_deref(),
                &|line| progress.tell(line),
            )
            .await?;
            progress.done();
            print(&format!("{}\n", image.manifest.digest))
        }
        ImageCommand::Export(args) => {
            let image = find(&store, &args.name)?;
            let progress = Progress::new();
            let launcher = Launcher::start(launcher).await?;
            export(&store, &launcher, &image, &args.output, &|line| {
                progress.tell(line);
            })
            .await?;
            progress.done();
            print(&format!("{}\n", args.output.display()))
        }
        ImageCommand::Ls(args) => list(&store, args.json),
        ImageCommand::Inspect(args) => {
            let progress = Progress::new();
            let image = match store.find(&args.name)? {
                Some(image) => image,
                None => {
                    let launcher = Launcher::start(launcher).await?;
                    let name = Some(args.name.as_str()).filter(|name| *name != DEFAULT_NAME);
                    ensure(&store, &launcher, name, &|line| progress.tell(line)).await?
                }
            };
            progress.done();
            inspect(&image, args.json)
        }
        ImageCommand::Verify(args) => {
            let image = find(&store, &args.name)?;
            let launcher = Launcher::start(launcher).await?;
            verify(&store, &launcher, &image).await?;
            print(&format!("{} unchanged\n", image.manifest.digest))
        }
        ImageCommand::Rm(args) => {
            for name in &args.names {
                let image = find(&store, name)?;
                store.remove(&image)?;
                print(&format!("{}\n", image.manifest.digest))?;
            }
            image::reclaim(&store, launcher).await.map(|_| ())
        }
        ImageCommand::Gc => {
            let count = store.reclaimed() + image::reclaim(&store, launcher).await?;
            print(&format!("{count} unfinished images deleted\n"))
        }
    }
}

/// Carries the original's `build` out.
///
/// # Errors
///
/// As [`run`].
pub(super) async fn run_build_alias(
    args: &BuildAliasArgs,
    state: &Path,
    launcher: LauncherConfig,
) -> Result<(), ImageError> {
    let name = Some(local_name(&args.image_name).to_owned()).filter(|name| name != DEFAULT_NAME);
    let args = BuildArgs {
        name,
        recipe: None,
        force: args.force,
    };
    run(ImageCommand::Build(args), state, launcher).await
}

async fn run_build(
    store: &Store,
    launcher: LauncherConfig,
    args: &BuildArgs,
) -> Result<(), ImageError> {
    let progress = Progress::new();
    let tell = |line: &str| progress.tell(line);
    let recipe = match &args.recipe {
        Some(path) => {
            let read = |source| ImageError::Io {
                operation: "read",
                path: path.clone(),
                source,
            };
            Some(rootfs_builder::parse(
                &std::fs::read_to_string(path).map_err(read)?,
            )?)
        }
        None => None,
    };
    let name = recipe
        .as_ref()
        .map(|recipe| recipe.name.as_str())
        .or(args.name.as_deref());
    let existing = store.find(name.unwrap_or(DEFAULT_NAME))?;
    let image = match existing.filter(|_| !args.force) {
        Some(image) => image,
        None => {
            let launcher = Launcher::start(launcher).await?;
            match recipe {
                Some(recipe) => {
                    build(
                        store,
                        &launcher,
                        &Choice {
                            recipe,
                            reason: None,
                        },
                        &tell,
                    )
                    .await?
                }
                None if args.force => image::rebuild(store, &launcher, name, &tell).await?,
                None => ensure(store, &launcher, name, &tell).await?,
            }
        }
    };
    progress.done();
    print(&format!("{}\n", image.manifest.digest))
}

fn find(store: &Store, name: &str) -> Result<Image, ImageError> {
    store
        .find(name)?
        .ok_or_else(|| StoreError::Unknown(name.to_owned()).into())
}
