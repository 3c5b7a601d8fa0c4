//! Sandboxes of Harbor's tasks: each with an image, limits and networks of its own, and one more for its tests.

mod images;
mod verifier;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::super::error::CliError;
use super::super::network::network;
use super::super::sandbox::{SandboxArgs, Where};
use super::sandboxes::Kind;
use super::settle::Error;
use crate::host::{Launcher, LauncherConfig};
use crate::image::{Image, ImageHold, Store, state_dir};
use crate::packages::{self, Cache};
use crate::spec::Network;
use crate::task::{Harbor, Phase, TaskError};
pub(super) use verifier::{Tests, check};

/// The sandboxes of one of Harbor's tasks, before there is an image.
pub(super) struct Asked<'a> {
    task: &'a Harbor,
    model: SandboxArgs,
    tests: SandboxArgs,
    needed: Vec<&'static str>,
}

impl<'a> Asked<'a> {
    pub(super) fn of(
        usual: &SandboxArgs,
        task: &'a Harbor,
        [alone, tests_alone]: [bool; 2],
    ) -> Result<Self, Error> {
        let phase = |phase: &Phase, alone: bool| {
            let mut arguments = usual.clone();
            let text = if alone { "none" } else { &phase.network };
            arguments.net = network(text).map_err(|problem| wrong(task, problem))?;
            arguments.workdir.clone_from(&task.workdir);
            arguments.env.clone_from(&task.env);
            arguments.env.extend(phase.env.iter().cloned());
            arguments.cpus = task.cpus;
            arguments.memory = task.memory.unwrap_or(arguments.memory);
            arguments.disk = task
                .storage
                .unwrap_or(arguments.disk.min(arguments.memory / 2));
            // What does not fit into memory needs a disk.
            if arguments.disk > arguments.memory / 2 {
                arguments.upper = Where::Disk;
            }
            Ok::<_, Error>(arguments)
        };
        let model = phase(&task.agent, alone)?;
        let mut tests = phase(&task.verifier, tests_alone)?;
        tests.record_effects = false;
        // What the model wrote is there before the first test writes anything.
        if tests.upper == Where::Tmpfs {
            tests.memory = tests.memory.saturating_add(tests.disk);
        }
        tests.disk = tests.disk.saturating_add(tests.disk / 2);
        tests.inodes = tests.inodes.saturating_add(tests.inodes / 2);
        let needed = [
            ("memory", task.memory.is_some()),
            ("cpus", task.cpus.is_some()),
        ];
        let needed = needed.into_iter().filter(|(_, named)| *named);
        Ok(Self {
            task,
            model,
            tests,
            needed: needed.map(|(name, _)| name).collect(),
        })
    }

    fn kind(
        self,
        (image, hold): (&Image, Arc<ImageHold>),
        state: &Path,
    ) -> (Kind, Option<packages::Settings>) {
        let (spec, packages) = self.model.spec(image, "benchmark", state);
        let (tests, more) = self.tests.spec(image, "tests", state);
        let kind = Kind {
            digest: image.manifest.digest.clone(),
            spec,
            needed: self.needed,
            tests: Some(Tests {
                spec: tests,
                directory: self.task.tests(),
                timeout: self.task.verifier.timeout.unwrap_or_default(),
            }),
            _hold: hold,
        };
        (kind, packages.or(more))
    }
}

fn wrong(task: &Harbor, problem: String) -> Error {
    Error::Task(TaskError::Malformed {
        path: task.directory.join("task.toml"),
        problem,
    })
}

/// Each task with its own image; images that several share are held once.
pub(super) async fn open(
    asked: Vec<Asked<'_>>,
    (state, config): (Option<&Path>, LauncherConfig),
) -> Result<(Launcher, Vec<Kind>), Error> {
    let connected = |asked: &&Asked<'_>| matches!(asked.model.net, Network::Rules(_));
    let first = asked.iter().find(connected).or(asked.first());
    let Some(first) = first.map(|asked| asked.model.clone()) else {
        return Err(Error::Task(TaskError::NoData {
            task: String::new(),
            problem: "it has no task directory".to_owned(),
        }));
    };
    let state_directory = state_dir(state).map_err(CliError::from)?;
    let launcher = first.launcher(&state_directory, config).await?;
    let store = Store::open(&state_directory).map_err(CliError::from)?;
    let mut holds: HashMap<String, Arc<ImageHold>> = HashMap::new();
    let mut kinds = Vec::new();
    let mut packages = None;
    for asked in asked {
        let image = images::of(&store, &launcher, asked.task).await?;
        let digest = image.manifest.digest.clone();
        let hold = match holds.get(&digest) {
            Some(hold) => Arc::clone(hold),
            None => Arc::new(store.hold(&image).map_err(CliError::from)?),
        };
        holds.insert(digest, Arc::clone(&hold));
        let (kind, more) = asked.kind((&image, hold), &state_directory);
        packages = packages.or(more);
        kinds.push(kind);
    }
    Ok((launcher.with_packages(packages.map(Cache::new)), kinds))
}
