//! The rows of a task that are on a hub: fetched before anything else, or taken from the cache.

use std::path::{Path, PathBuf};

use super::super::error::CliError;
use super::super::output::note;
use super::super::sanitize::one_line;
use super::settle::{Checked, Error};
use crate::hub::{Access, ENDPOINT, Fetched, Hub};
use crate::image;
use crate::llm::Secret;
use crate::settings::{self, Environment};
use crate::task;

/// Largest file that holds a token.
const MAX_TOKEN: u64 = 4096;

/// What a run needs from a hub, if anything. One that is gone on with takes the commit that it was begun with.
pub(super) async fn fetch(
    settings: &Checked,
    state: Option<&Path>,
) -> Result<Option<Fetched>, Error> {
    let Some(mut set) = task::data_set(&settings.rows())? else {
        return Ok(None);
    };
    let begun_with = settings.hub.clone();
    if let Some(begun) = begun_with.filter(|begun| begun.data_set.name == set.name) {
        if begun.files.iter().all(|file| file.is_file()) {
            return Ok(Some(begun));
        }
        set.revision = Some(begun.commit);
    }
    let hub = Hub::new(access(state)?)?;
    let fetched = Box::pin(hub.fetch(&set, &mut |line| note(&one_line(line)))).await?;
    note(&format!(
        "rows of {} at {}",
        one_line(&set.name),
        fetched.commit
    ));
    Ok(Some(fetched))
}

/// How the hub is reached, as its own tools have it.
fn access(state: Option<&Path>) -> Result<Access, Error> {
    let environment = Environment::process();
    let get = |variable| environment.get(variable);
    let home = get(settings::HF_HOME).map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")));
    let token = get(settings::HF_TOKEN).or_else(|| {
        let path = home?.join("token");
        let small = std::fs::metadata(&path).ok()?.len() <= MAX_TOKEN;
        small.then(|| std::fs::read_to_string(&path).ok())?
    });
    let token = token.map(|token| token.trim().to_owned());
    let state = image::state_dir(state).map_err(CliError::from)?;
    Ok(Access {
        endpoint: get(settings::HF_ENDPOINT).unwrap_or_else(|| ENDPOINT.to_owned()),
        token: token.filter(|token| !token.is_empty()).map(Secret::new),
        cache: state.join("hub"),
        offline: get(settings::HF_HUB_OFFLINE)
            .is_some_and(|value| !matches!(&*value, "0" | "false")),
    })
}
