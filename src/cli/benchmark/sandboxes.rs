//! Sandboxes of one evaluation: one zygote and one image, a new sandbox for each sample.

use std::path::{Path, PathBuf};
use std::sync::Once;

use serde_json::json;

use super::super::error::CliError;
use super::super::run::AgentSettings;
use super::super::sandbox::{Ground, SandboxArgs, warn_unenforced};
use crate::agent::{PromptConfig, SandboxFacts, Shell};
use crate::bench::Sandboxes;
use crate::host::{LauncherConfig, Sandbox, ShellMode};
use crate::image::{DEFAULT_NAME, state_dir};
use crate::outcome::Outcome;
use crate::packages::{self, Choice};
use crate::spec::{Network, Usage};

/// Where they come from.
#[derive(Debug)]
pub(super) struct Pool {
    ground: Ground,
    mode: ShellMode,
    warned: Once,
}

impl Pool {
    /// Starts the zygote, and builds the image when it is missing.
    pub(super) async fn open(
        agent: &AgentSettings,
        prompt: &PromptConfig,
        state: Option<&Path>,
    ) -> Result<Self, CliError> {
        let image = agent.image.clone();
        let mut arguments = SandboxArgs::defaults(image.unwrap_or_else(|| DEFAULT_NAME.to_owned()));
        arguments.workdir.clone_from(&prompt.working_dir);
        arguments.seccomp.clone_from(&agent.seccomp);
        arguments.net.clone_from(&agent.net);
        arguments.record_effects = true;
        arguments.package_cache = match &agent.package_cache {
            Some(choice) => choice.clone(),
            // Nobody asked for it: where it cannot be, there is none.
            None if is_of_use(&agent.net, &state_dir(state)?) => Choice::On,
            None => Choice::Off,
        };
        arguments.net_limits = Some(agent.net_limits);
        // Unlike one command it starts many.
        let config = LauncherConfig::default();
        let ground = Box::pin(arguments.prepare(state, "benchmark", config)).await?;
        Ok(Self {
            ground,
            mode: match agent.shell {
                Shell::Persistent => ShellMode::Persistent,
                Shell::Fresh => ShellMode::Fresh,
            },
            warned: Once::new(),
        })
    }

    /// Of the image.
    pub(super) fn digest(&self) -> &str {
        &self.ground.image.manifest.digest
    }
}

/// Whether there can be a package cache in the state directory, and sandboxes of this network have something of it.
fn is_of_use(network: &Network, state: &Path) -> bool {
    let usable = |path: PathBuf| packages::Store::open(&path, packages::MAX_BYTES).is_ok();
    matches!(network, Network::Rules(_)) && Choice::On.directory(state).is_some_and(usable)
}

impl Sandboxes for Pool {
    type Env = Sandbox;

    async fn start(&self) -> Result<Sandbox, Outcome> {
        let started = self.ground.launcher.sandbox(self.ground.spec.clone()).await;
        let sandbox = started.map_err(|error| error.outcome())?;
        self.warned.call_once(|| warn_unenforced(&sandbox));
        Ok(sandbox.with_shell(self.mode))
    }

    async fn end(&self, sandbox: Sandbox) -> Result<Usage, Outcome> {
        sandbox.close().await.map_err(|error| error.outcome())
    }

    fn facts(&self, sandbox: &Sandbox) -> SandboxFacts {
        SandboxFacts {
            image_digest: Some(self.digest().to_owned()),
            spec: json!({ "network": self.ground.spec.network.to_string(), "limits": sandbox.in_force(), "walls": sandbox.walls() }),
        }
    }
}
