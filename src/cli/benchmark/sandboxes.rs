//! Sandboxes of one evaluation: one zygote, and an image for all samples or one for each row; a new sandbox for each sample.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::error::CliError;
use super::super::run::AgentSettings;
use super::super::sandbox::{Ground, SandboxArgs, warn_unenforced};
use super::harbor::{self, Asked, Tests};
use super::settle::Error;
use crate::agent::{Ablation, SandboxFacts, Shell};
use crate::bench::{Sandboxes, Tested};
use crate::host::{Launcher, LauncherConfig, Sandbox, ShellMode};
use crate::image::{DEFAULT_NAME, ImageHold, state_dir};
use crate::outcome::{Cause, Outcome};
use crate::packages::{self, Choice};
use crate::spec::{Network, SandboxSpec, Usage};
use crate::task::{Scorer, Task};

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
pub(super) struct Kind {
    pub(super) digest: String,
    pub(super) spec: SandboxSpec,
    /// Limits that its task names: without them it would be another task.
    pub(super) needed: Vec<&'static str>,
    pub(super) tests: Option<Tests>,
    /// `image rm` finds the image in use until this is dropped.
    pub(super) _hold: Arc<ImageHold>,
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
            Box::pin(harbor::open(asked, (state, config))).await?
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
