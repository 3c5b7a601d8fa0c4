//! Images of Harbor's tasks: by name from the store, or made of a Dockerfile once and kept.

use super::super::error::CliError;
use super::super::progress::Progress;
use super::super::sanitize::one_line;
use super::settle::Error;
use crate::host::Launcher;
use crate::image::{self, Image, Store};
use crate::task::{Harbor, HarborImage, TaskError};

/// Longest name in the store.
const MAX_NAME: usize = 64;

/// The image of a task.
pub(super) async fn of(store: &Store, launcher: &Launcher, task: &Harbor) -> Result<Image, Error> {
    match &task.image {
        HarborImage::Default => {
            let progress = Progress::new();
            let tell = |line: &str| progress.tell(line);
            let image = Box::pin(image::ensure(store, launcher, None, &tell)).await;
            progress.done();
            Ok(image.map_err(CliError::from)?)
        }
        HarborImage::Named(name) => named(store, task, ("docker_image", name)),
        HarborImage::Built(file, _) => named(store, task, ("FROM", &file.from)),
    }
}

/// A name of a registry is that of the store with other characters.
fn named(store: &Store, task: &Harbor, (key, name): (&str, &str)) -> Result<Image, Error> {
    let ours = store_name(name);
    for name in [name, &ours] {
        // What can be no name of ours stands for nothing.
        if let Ok(Some(image)) = store.find(name) {
            return Ok(image);
        }
    }
    let shown = one_line(name);
    Err(Error::Task(TaskError::Malformed {
        path: task.directory.clone(),
        problem: format!(
            "{key} {shown} is not in the store: write it to a file where it is \
             (`docker save {shown} -o FILE`), then `llm-in-sandbox image import FILE --name {ours}`"
        ),
    }))
}

fn store_name(name: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || "._-".contains(c) => c,
        _ => '-',
    };
    let whole: String = name.chars().map(plain).collect();
    // What tells images apart stands at the end.
    let from = whole.len().saturating_sub(MAX_NAME);
    let short = whole.get(from..).unwrap_or_default();
    short.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_registries_become_names_of_the_store() {
        assert_eq!(store_name("python:3.12-slim"), "python-3.12-slim");
        assert_eq!(store_name("ghcr.io/Some/Thing:1"), "ghcr.io-some-thing-1");
        assert_eq!(store_name("tiny"), "tiny");
        let long = store_name(&format!("{}:7", "x/".repeat(60)));
        assert!(long.len() == 64 && long.ends_with("-7"), "{long}");
    }
}
