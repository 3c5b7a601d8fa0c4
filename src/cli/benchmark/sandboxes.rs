//! Sandboxes of one evaluation: one zygote, and an image for all samples or one for each row; a new sandbox for each sample.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::error::CliError;
use super::super::network::network;
use super::super::run::AgentSettings;
use super::super::sandbox::{Ground, SandboxArgs, Where, warn_unenforced};
use super::images;
use super::settle::Error;
use super::verifier::Tests;
use crate::agent::{Ablation, SandboxFacts, Shell};
use crate::bench::{Sandboxes, Tested};
use crate::host::{Launcher, LauncherConfig, Sandbox, ShellMode};
use crate::image::{DEFAULT_NAME, Image, ImageHold, Store, state_dir};
use crate::outcome::{Cause, Outcome};
use crate::packages::{self, Cache, Choice};
use crate::spec::{Network, SandboxSpec, Usage};
use crate::task::{Harbor, Phase, Scorer, Task, TaskError};

/// Where they come from.
#[derive(Debug)]
pub(super) struct Pool {
    launcher: Launcher,
    /// One for all rows, or one for each.
    kinds: Vec<Kind>,
    digest: String,
    mode: ShellMode,
    warned: Once,
}

/// What sandboxes of a row are started from.
#[derive(Debug)]
struct Kind {
    digest: String,
    spec: SandboxSpec,
    /// Limits that its task names: without them it would be another task.
    needed: Vec<&'static str>,
    tests: Option<Tests>,
    /// `image rm` finds the image in use until this is dropped.
    _hold: Arc<ImageHold>,
}

impl Pool {
    /// Starts the zygote, and builds images that are missing.
    pub(super) async fn open(
        agent: &AgentSettings,
        ablations: &[Ablation],
        task: &Task,
        state: Option<&Path>,
    ) -> Result<Self, Error> {
        let state_directory = state_dir(state).map_err(CliError::from)?;
        let mut arguments = arguments(agent, &state_directory);
        // Unlike one command it starts many.
        let config = LauncherConfig::default();
        let (launcher, kinds) = if let Scorer::Tests(tasks) = &task.scorer {
            // Of the ablation the tests know nothing; what the owner of the host has set holds for all.
            let alone = agent.net == Network::None;
            let alone = [alone, alone && !ablations.contains(&Ablation::NoNetwork)];
            let mut asked = Vec::new();
            for task in tasks {
                asked.push(Asked::of(&arguments, task, alone)?);
            }
            Box::pin(of_tasks(asked, (state, config))).await?
        } else {
            arguments.workdir.clone_from(&task.prompt.working_dir);
            let ground = Box::pin(arguments.prepare(state, "benchmark", config)).await?;
            let Ground {
                launcher,
                image,
                spec,
                hold,
            } = ground;
            let kind = Kind {
                digest: image.manifest.digest,
                spec,
                needed: Vec::new(),
                tests: None,
                _hold: Arc::new(hold),
            };
            (launcher, vec![kind])
        };
        Ok(Self {
            launcher,
            digest: digest(&kinds),
            kinds,
            mode: match agent.shell {
                Shell::Persistent => ShellMode::Persistent,
                Shell::Fresh => ShellMode::Fresh,
            },
            warned: Once::new(),
        })
    }

    /// Of the image, or of all images in the order of the rows.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    fn kind(&self, row: usize) -> Option<&Kind> {
        self.kinds.get(row).or(self.kinds.first())
    }
}

fn arguments(agent: &AgentSettings, state: &Path) -> SandboxArgs {
    let image = agent.image.clone();
    let mut arguments = SandboxArgs::defaults(image.unwrap_or_else(|| DEFAULT_NAME.to_owned()));
    arguments.seccomp.clone_from(&agent.seccomp);
    arguments.net.clone_from(&agent.net);
    arguments.record_effects = true;
    arguments.package_cache = match &agent.package_cache {
        Some(choice) => choice.clone(),
        // Nobody asked for it: where it cannot be, there is none.
        None if is_of_use(&agent.net, state) => Choice::On,
        None => Choice::Off,
    };
    arguments.net_limits = Some(agent.net_limits);
    arguments
}

/// Whether there can be a package cache in the state directory, and sandboxes of this network have something of it.
fn is_of_use(network: &Network, state: &Path) -> bool {
    let usable = |path: PathBuf| packages::Store::open(&path, packages::MAX_BYTES).is_ok();
    matches!(network, Network::Rules(_)) && Choice::On.directory(state).is_some_and(usable)
}

/// The sandboxes of one of Harbor's tasks, before there is an image.
struct Asked<'a> {
    task: &'a Harbor,
    model: SandboxArgs,
    tests: SandboxArgs,
    needed: Vec<&'static str>,
}

impl<'a> Asked<'a> {
    fn of(
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
async fn of_tasks(
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

fn digest(kinds: &[Kind]) -> String {
    if let [kind] = kinds {
        return kind.digest.clone();
    }
    let mut hash = Sha256::new();
    for kind in kinds {
        hash.update(kind.digest.as_bytes());
    }
    crate::task::hex(&hash.finalize())
}

impl Sandboxes for Pool {
    type Env = Sandbox;

    async fn start(&self, row: usize) -> Result<Sandbox, Outcome> {
        let Some(kind) = self.kind(row) else {
            return Err(Outcome::infrastructure(Cause::Other, "there is no image"));
        };
        let started = self.launcher.sandbox(kind.spec.clone()).await;
        let sandbox = started.map_err(|error| error.outcome())?;
        let unenforced = &sandbox.in_force().unenforced;
        let mut needed = kind.needed.iter();
        if let Some(name) = needed.find(|name| unenforced.iter().any(|missing| missing == *name)) {
            let problem = format!("this host does not enforce {name}, which task.toml asks for");
            return Err(Outcome::infrastructure(Cause::Other, problem));
        }
        self.warned.call_once(|| warn_unenforced(&sandbox));
        Ok(sandbox.with_shell(self.mode))
    }

    async fn end(&self, sandbox: Sandbox) -> Result<Usage, Outcome> {
        sandbox.close().await.map_err(|error| error.outcome())
    }

    async fn test(
        &self,
        row: usize,
        sandbox: Sandbox,
    ) -> (Result<Tested, Outcome>, Result<Usage, Outcome>) {
        match self.kind(row).and_then(|kind| kind.tests.as_ref()) {
            Some(tests) => Box::pin(tests.judge(&self.launcher, sandbox)).await,
            None => {
                let problem = "its row has no tests";
                let failed = Outcome::infrastructure(Cause::Other, problem);
                (Err(failed), self.end(sandbox).await)
            }
        }
    }

    fn facts(&self, row: usize, sandbox: &Sandbox) -> SandboxFacts {
        let kind = self.kind(row);
        let network = kind.map(|kind| kind.spec.network.to_string());
        SandboxFacts {
            image_digest: kind.map(|kind| kind.digest.clone()),
            spec: json!({ "network": network, "limits": sandbox.in_force(), "walls": sandbox.walls() }),
        }
    }
}
