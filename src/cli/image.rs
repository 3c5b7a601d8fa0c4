//! `image …` and the original's `build`: results on stdout, progress on stderr.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::progress::Progress;
use crate::host::{Launcher, LauncherConfig};
use crate::image::{
    self, Choice, DEFAULT_NAME, Image, ImageError, Manifest, Packages, Store, StoreError, build,
    ensure, export, import, verify,
};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
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
pub struct BuildArgs {
    /// Built-in recipe: `ubuntu` or `debian`; the default is chosen by what can be reached
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
pub struct BuildAliasArgs {
    /// Name of the image; the original's default name means our default
    #[arg(long = "image_name", alias = "image-name", default_value = ORIGINAL_NAME)]
    pub image_name: String,
    /// Build again where the image exists
    #[arg(long)]
    pub force: bool,
}

/// `image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file; plain or compressed by gzip or zstd
    pub file: PathBuf,
    /// Name for the image; the one it was exported by when absent
    #[arg(long)]
    pub name: Option<String>,
}

/// `image export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Name or digest of the image
    #[arg(default_value = DEFAULT_NAME)]
    pub name: String,
    /// File to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// `image ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `image inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Name or digest of the image; built first where it is a built-in one that is missing
    #[arg(default_value = DEFAULT_NAME)]
    pub name: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// A command on one image.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name or digest of the image
    #[arg(default_value = DEFAULT_NAME)]
    pub name: String,
}

/// `image rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Names or digests of the images
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// Name that the original gives its image when it is told none.
pub const ORIGINAL_NAME: &str = "cdx123/llm-in-sandbox:v0.1";

/// The name of our store for a name as the original's flags take it.
#[must_use]
pub fn local_name(name: &str) -> &str {
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
pub async fn run(
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
        ImageCommand::Ls(args) => list(&store, &args),
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
            Ok(())
        }
        ImageCommand::Gc => {
            // Opening the store has reclaimed already what it could.
            let count = store.reclaim()?;
            print(&format!("{count} left to reclaim was reclaimed\n"))
        }
    }
}

/// Carries the original's `build` out.
///
/// # Errors
///
/// As [`run`].
pub async fn run_build_alias(
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

#[derive(Debug, Serialize)]
struct Listed<'a> {
    names: Vec<&'a str>,
    digest: &'a str,
    rootfs: &'a Path,
    size: u64,
    created: &'a str,
}

fn list(store: &Store, args: &ListArgs) -> Result<(), ImageError> {
    let (images, names) = (store.list()?, store.names()?);
    let listed: Vec<_> = images
        .iter()
        .map(|image| Listed {
            names: names
                .iter()
                .filter(|(_, digest)| *digest == image.manifest.digest)
                .map(|(name, _)| name.as_str())
                .collect(),
            digest: &image.manifest.digest,
            rootfs: &image.rootfs,
            size: image.manifest.size_bytes,
            created: &image.manifest.created,
        })
        .collect();
    if args.json {
        return print_json(&listed);
    }
    let mut text = String::new();
    for image in &listed {
        let short = image.digest.get(..12).unwrap_or(image.digest);
        let names = if image.names.is_empty() {
            "-".to_owned()
        } else {
            image.names.join(",")
        };
        text.push_str(&format!(
            "{names}\t{short}\t{} MiB\t{}\n",
            image.size >> 20,
            image.created
        ));
    }
    print(&text)
}

#[derive(Debug, Serialize)]
struct Inspected<'a> {
    digest: &'a str,
    rootfs: &'a Path,
    size: u64,
    name: &'a str,
    created: &'a str,
    architecture: &'a str,
    source: &'a str,
    chosen: Option<&'a str>,
    recipe: Option<&'a rootfs_builder::Recipe>,
    env: &'a std::collections::BTreeMap<String, String>,
    packages: &'a Packages,
}

fn inspect(image: &Image, json: bool) -> Result<(), ImageError> {
    let Manifest {
        digest,
        name,
        created,
        size_bytes,
        architecture,
        recipe,
        source,
        chosen,
        env,
        packages,
        ..
    } = &image.manifest;
    if json {
        return print_json(&Inspected {
            digest,
            rootfs: &image.rootfs,
            size: *size_bytes,
            name,
            created,
            architecture,
            source,
            chosen: chosen.as_deref(),
            recipe: recipe.as_ref(),
            env,
            packages,
        });
    }
    let mut text = format!(
        "name      {name}\ndigest    {digest}\nrootfs    {}\nsize      {} MiB\ncreated   {created}\nsource    {source}\n",
        image.rootfs.display(),
        size_bytes >> 20,
    );
    if let Some(reason) = chosen {
        text.push_str(&format!("chosen    {reason}\n"));
    }
    text.push_str(&format!(
        "packages  {} by apt, {} by pip\n",
        packages.apt.len(),
        packages.pip.len()
    ));
    for package in &packages.pip {
        text.push_str(&format!("  {} {}\n", package.name, package.version));
    }
    print(&text)
}

fn print_json<T: Serialize>(value: &T) -> Result<(), ImageError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| stdout_error(error.into()))?;
    print(&format!("{text}\n"))
}

fn print(text: &str) -> Result<(), ImageError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(stdout_error),
    }
}

fn stdout_error(source: std::io::Error) -> ImageError {
    ImageError::Io {
        operation: "write to",
        path: PathBuf::from("stdout"),
        source,
    }
}
