//! What can go wrong with an image as a whole.

use std::path::PathBuf;

use super::fetch::FetchError;
use super::oci::OciError;
use super::state::StoreError;
use crate::env::EnvError;
use crate::host::HostError;

/// Why an image could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A recipe.
    #[error(transparent)]
    Recipe(#[from] rootfs_builder::RecipeError),
    /// A checksum list without the file.
    #[error(transparent)]
    Checksum(#[from] rootfs_builder::ChecksumError),
    /// A download.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// An archive of layers.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The sandbox in which the image is made.
    #[error("start the sandbox in which the image is made")]
    Host(#[from] HostError),
    /// An operation in it.
    #[error("work in the tree of the image")]
    Env(#[from] EnvError),
    /// A step of the recipe failed.
    #[error("{title}: {outcome}; the end of its output:\n{output}")]
    Step {
        /// What it was to do.
        title: String,
        /// How it ended.
        outcome: String,
        /// The last lines that it wrote.
        output: String,
    },
    /// A program of the host is missing or failed.
    #[error("run {program}: {problem}")]
    Program {
        /// Which one.
        program: String,
        /// What happened.
        problem: String,
    },
    /// A file of the host.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A compression that is not read.
    #[error("read {}: {format} is not supported", path.display())]
    Compression {
        /// Of which file.
        path: PathBuf,
        /// The compression.
        format: &'static str,
    },
    /// Content does not have the checksum that it should.
    #[error("{what}: sha256 is {actual}, expected {expected}")]
    Digest {
        /// Of what.
        what: String,
        /// As it should be.
        expected: String,
        /// As it is.
        actual: String,
    },
    /// A base that is no archive.
    #[error("the base of the recipe is no archive")]
    NoArchive,
    /// The name is none of a recipe, and no image has it.
    #[error("no image and no built-in recipe `{0}`")]
    NoRecipe(String),
    /// The image is for another kind of machine.
    #[error("the image is for {image}, this machine is {machine}")]
    Architecture {
        /// Of the image.
        image: String,
        /// Of this machine.
        machine: String,
    },
    /// Packing left something out, so that the image would not be whole.
    #[error("pack the image: {count} entries do not fit, the first is `{first}`")]
    Incomplete {
        /// How many.
        count: u64,
        /// The first.
        first: String,
    },
    /// Packages belong to many users, and a sandbox of this user has one.
    #[error("build an image: only one id is mapped for this user, and packages need a range")]
    OneId,
    /// Our own thread died.
    #[error("image worker thread failed")]
    Worker,
}

impl ImageError {
    /// What a user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Program { program, .. } if program == "mmdebstrap" => Some(
                "install mmdebstrap and debian-archive-keyring, or bring an image with `image import`",
            ),
            Self::NoRecipe(_) => Some(
                "`image build --recipe FILE` builds any recipe; `ubuntu` and `debian` are built in",
            ),
            Self::OneId => Some(
                "give this user a range in /etc/subuid and /etc/subgid (`doctor` tells how), or `image import FILE` an image that was exported elsewhere",
            ),
            Self::Compression { .. } => Some("repack it with gzip or zstd, or not at all"),
            Self::Fetch(_) => {
                Some("`image import FILE` takes an image that was fetched or exported elsewhere")
            }
            Self::Digest { .. } => {
                Some("it was changed, or did not arrive whole: take it away and make it again")
            }
            Self::Recipe(_)
            | Self::Checksum(_)
            | Self::Oci(_)
            | Self::Host(_)
            | Self::Env(_)
            | Self::Step { .. }
            | Self::Program { .. }
            | Self::Io { .. }
            | Self::NoArchive
            | Self::Architecture { .. }
            | Self::Incomplete { .. }
            | Self::Worker => None,
        }
    }
}
