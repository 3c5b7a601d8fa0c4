//! What ends a command without a result, and with which exit code.

use std::borrow::Cow;

use crate::env::EnvError;
use crate::exit;
use crate::host::HostError;
use crate::image::{ImageError, StoreError};
use crate::overhead::OverheadError;

/// A command that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store of images.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The measurement.
    #[error(transparent)]
    Overhead(#[from] OverheadError),
    /// Something of ours.
    #[error("{0}")]
    Io(&'static str, #[source] std::io::Error),
}

impl CliError {
    pub(super) fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Host(error)
            | Self::Image(ImageError::Host(error))
            | Self::Overhead(OverheadError::Host(error)) => error.hint(),
            Self::Image(error) => error.hint().map(Cow::Borrowed),
            Self::Store(error) => error.hint().map(Cow::Borrowed),
            Self::Env(_) | Self::Overhead(_) | Self::Io(..) => None,
        }
    }

    pub(super) fn exit(&self) -> u8 {
        match self {
            Self::Host(HostError::Plan(_) | HostError::Rules(_)) => exit::USAGE,
            Self::Host(_)
            | Self::Image(_)
            | Self::Store(_)
            | Self::Env(_)
            | Self::Overhead(_)
            | Self::Io(..) => exit::FAILED,
        }
    }
}
