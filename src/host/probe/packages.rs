//! The package cache of the state directory.

use std::path::Path;

use super::{Finding, State};
use crate::packages::{Choice, MAX_BYTES, Store};

/// Where there is one.
pub(super) fn finding(state: &Path) -> Option<Finding> {
    let directory = Choice::On.directory(state).filter(|path| path.exists())?;
    let store = Store::open(&directory, MAX_BYTES).and_then(|store| store.sweep());
    let name = "package cache";
    Some(match store {
        Ok(swept) => {
            let megabytes = swept.bytes.div_ceil(1_000_000);
            let detail = format!("{} files, {megabytes} MB", swept.files);
            Finding::new(name, State::Ok, detail)
        }
        Err(error) => Finding::new(name, State::Degraded, error.to_string())
            .mend("remove that directory, or name another by --package-cache"),
    })
}
