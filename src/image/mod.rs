//! Images: the trees that sandboxes see as `/`.
//!
//! Runs in the host process. An image is a directory `images/<digest>/rootfs` of the state
//! directory beside its `manifest.json`; names are small files that hold a digest. Trees are
//! unpacked, built on and packed inside a sandbox, never by the host itself: what an archive or a
//! package does wrong, it does there.

mod base;
mod build;
mod decompress;
mod derive;
mod draft;
mod error;
mod export;
mod fetch;
mod filtered_network;
mod host_network;
mod import;
mod manifest;
pub(crate) mod oci;
mod state;
mod store;
mod workshop;

use crate::host::{Launcher, LauncherConfig};
pub use base::fetch_base;

pub use build::{Choice, DEFAULT_NAME, build, choose_default, ensure, rebuild};
pub use derive::{Change, Derivation, derive};
pub use draft::Draft;
pub use error::ImageError;
pub use export::{export, verify};
pub use fetch::{FetchError, FetchLimits, fetch, fetch_text};
pub use filtered_network::{
    FilteredNetwork, HostService, PackageIndexes, filtered_network_settings,
    shared_network_settings,
};
pub use import::{Contents, import, read_archive};
pub use manifest::{MANIFEST_FORMAT, Manifest, Package, Packages, rfc3339};
pub use oci::{LayerSource, OciError, OciImage};
pub use state::{StoreError, state_dir};
pub use store::{Image, ImageHold, NameLock, Store, Unfinished};

/// Tells people how far something is, one short line at a time.
pub type Tell<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Deletes what processes that died have left unfinished, also where it belongs to subordinate ids;
/// returns how much that was.
///
/// # Errors
///
/// When it cannot be deleted.
pub async fn reclaim(store: &Store, launcher: LauncherConfig) -> Result<usize, ImageError> {
    let left = store.unfinished()?;
    let count = left.len();
    if count > 0 {
        let launcher = Launcher::start(launcher).await?;
        for unfinished in left {
            launcher.remove_tree(unfinished.directory()).await?;
            unfinished.forget();
        }
    }
    Ok(count)
}
