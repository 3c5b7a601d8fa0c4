//! Images of Harbor's tasks: by name from the store, or made of a Dockerfile once and kept.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::super::super::error::CliError;
use super::super::super::network::{self, Connected};
use super::super::super::progress::Progress;
use super::super::super::sanitize::one_line;
use super::super::settle::Error;
use crate::host::Launcher;
use crate::image::{self, Change, Derivation, Image, Store};
use crate::spec::{BindMount, Network};
use crate::task::{Dockerfile, Harbor, HarborImage, Instruction, TaskError, expand, join};

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
        HarborImage::Built(file, context) => {
            let base = named(store, task, ("FROM", &file.from))?;
            let derivation = derivation(&base, file, context, task.build_timeout);
            let progress = Progress::new();
            let tell = |line: &str| progress.tell(&one_line(line));
            let image = Box::pin(image::derive(store, launcher, &base, &derivation, &tell)).await;
            progress.done();
            Ok(image.map_err(CliError::from)?)
        }
    }
}

/// What a Dockerfile says, with its variables put in.
fn derivation<'a>(
    base: &Image,
    file: &Dockerfile,
    context: &'a Path,
    timeout: Duration,
) -> Derivation<'a> {
    let mut env = base.manifest.env.clone();
    let mut directory = "/".to_owned();
    let mut changes = Vec::new();
    for instruction in &file.instructions {
        let known: Vec<_> = env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let put_in = |text: &str| expand(text, &known);
        match instruction {
            Instruction::Env(name, value) => {
                env.insert(name.clone(), put_in(value));
            }
            Instruction::Workdir(path) => {
                directory = join(&directory, &put_in(path));
                changes.push(Change::Directory(directory.clone()));
            }
            Instruction::Copy(sources, target) => {
                let target = join(&directory, &put_in(target));
                let copies = sources.iter().cloned();
                changes.extend(copies.map(|source| Change::Copy(source, target.clone())));
            }
            Instruction::Run(argv) => changes.push(Change::Run {
                argv: argv.clone(),
                directory: directory.clone(),
                env: env.clone(),
            }),
        }
    }
    let runs = changes
        .iter()
        .any(|change| matches!(change, Change::Run { .. }));
    Derivation {
        changes,
        env,
        context,
        timeout,
        network: network_of_builds(runs),
    }
}

/// That of a sandbox, for a Dockerfile is somebody else's program: nothing near the host, and no password of the host's.
fn network_of_builds(runs: bool) -> (Network, Vec<BindMount>, Vec<(String, String)>) {
    let device = File::options().read(true).write(true).open("/dev/net/tun");
    if !runs || device.is_err() {
        // What needs one fails, and says so.
        return (Network::None, Vec::new(), Vec::new());
    }
    let Connected {
        network,
        binds,
        env,
        packages: _,
    } = network::connect(Network::internet(), None);
    (network, binds, env)
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
