//! What a run was begun with: `run.json`.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::BenchError;
use super::judge::JudgeConfig;
use crate::agent::Ablation;
use crate::llm::Sampling;
use crate::task::{self, Task};

/// The file.
pub(super) const FILE: &str = "run.json";
/// Changes when the meaning of a file of the run folder does.
const VERSION: u32 = 1;

/// What the model has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A sandbox and three tools.
    #[default]
    LlmInSandbox,
    /// One answer.
    Llm,
}

/// All that can change a result. Nothing secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Name of the task.
    pub task: String,
    /// Digest of its prompts and scorer.
    pub task_digest: String,
    /// Digest of the chosen rows.
    pub data_digest: String,
    /// What the model has.
    pub mode: Mode,
    /// Model name.
    pub model: String,
    /// Sampling; the seed is the run's, each sample's follows from it.
    pub sampling: Sampling,
    /// Members merged into each request.
    pub extra_body: Map<String, Value>,
    /// Name of the image.
    pub image: String,
    /// Its digest; absent without a sandbox.
    pub image_digest: Option<String>,
    /// Turns.
    pub max_steps: u32,
    /// Tokens of the conversation.
    pub max_token_limit: u64,
    /// Tokens of one answer.
    pub max_tokens_per_call: u64,
    /// Tokens of the one answer of the plain mode.
    pub max_response_len: u64,
    /// Seconds for one command.
    pub cmd_timeout_s: f64,
    /// Seconds for one sample.
    pub task_timeout_s: Option<f64>,
    /// Seconds for one answer of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_timeout_s: Option<f64>,
    /// What the model has to do without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ablations: Vec<Ablation>,
    /// `persistent` or `fresh`.
    pub shell: String,
    /// `native` or `original`.
    pub style: String,
    /// Refused system calls.
    pub seccomp: Value,
    /// Network of the sandboxes, as asked for.
    pub network: String,
    /// Its limits, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_limits: Option<String>,
    /// Samples of each row.
    pub repeat: u32,
}

impl RunConfig {
    /// Digest of all of it.
    #[must_use]
    pub fn digest(&self) -> String {
        // Plain data always encodes.
        let text = serde_json::to_vec(self).unwrap_or_default();
        task::hex(&Sha256::digest(text))
    }

    /// Takes over what describes the task.
    pub fn describe(&mut self, task: &Task) {
        self.task.clone_from(&task.name);
        self.task_digest.clone_from(&task.digest);
        self.data_digest.clone_from(&task.data_digest);
    }
}

/// Part of the samples of a run: every `of`-th, from the `number`-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub version: u32,
    /// Version of this package.
    pub package: String,
    /// Digest of `config`.
    pub digest: String,
    /// What decides the results.
    pub config: RunConfig,
    /// How the task was named: a name, or an absolute path.
    pub source: String,
    /// File of rows, if another than the task's own.
    pub data: Option<String>,
    /// Rows that were fetched from a hub, and the commit that holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<crate::hub::Fetched>,
    /// Documents stand in the prompt instead of in files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub context_in_prompt: bool,
    /// Reward, if another than the task's own.
    pub reward: Option<crate::reward::Reward>,
    /// First row.
    pub start_id: Option<usize>,
    /// Row after the last.
    pub end_id: Option<usize>,
    /// Which part of the samples, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Server, without credentials.
    pub base_url: Option<String>,
    /// Requests and answers are kept.
    pub save_exchanges: bool,
    /// Where packages are kept, if that was said; what they are does not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_cache: Option<String>,
    /// The judge that scores were to be given by; it decides scores, and no sample's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeConfig>,
}

impl Manifest {
    /// Of a run that begins.
    #[must_use]
    pub fn new(config: RunConfig, source: String) -> Self {
        Self {
            version: VERSION,
            package: env!("CARGO_PKG_VERSION").to_owned(),
            digest: config.digest(),
            config,
            source,
            data: None,
            hub: None,
            context_in_prompt: false,
            reward: None,
            start_id: None,
            end_id: None,
            shard: None,
            base_url: None,
            save_exchanges: false,
            package_cache: None,
            judge: None,
        }
    }

    /// Reads that of a run folder.
    ///
    /// # Errors
    /// [`BenchError`] when there is none, or it is of another version.
    pub fn read(folder: &Path) -> Result<Self, BenchError> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(BenchError::file("read", &path))?;
        let wrong = |problem: String| BenchError::Malformed {
            path: path.clone(),
            problem,
        };
        let manifest: Self = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(wrong(format!(
                "format {version} is not known here, only {VERSION}"
            )));
        }
        Ok(manifest)
    }

    /// Takes the place of that of a run folder; a reader never sees half of it.
    ///
    /// # Errors
    /// [`BenchError`] when the disk refuses it.
    pub fn write(&self, folder: &Path) -> Result<(), BenchError> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        super::original::replace(&path, |file| {
            writeln!(file, "{text}").map_err(BenchError::file("write", &path))
        })
    }

    /// Whether a run with this configuration is the same run.
    ///
    /// # Errors
    /// [`BenchError::Differs`] naming every difference.
    pub fn check(&self, config: &RunConfig, folder: &Path) -> Result<(), BenchError> {
        let object = |config: &RunConfig| serde_json::to_value(config).unwrap_or_default();
        differences("", &object(&self.config), &object(config), folder)
    }
}

/// Whether everything is now as it was then.
///
/// # Errors
/// [`BenchError::Differs`] naming what is not.
pub(super) fn differences(
    what: &str,
    then: &Value,
    now: &Value,
    folder: &Path,
) -> Result<(), BenchError> {
    let members = |config: &Value| config.as_object().cloned().unwrap_or_default();
    // What is left out where it is not asked for may be in one of them only.
    let names: std::collections::BTreeSet<String> = members(then)
        .into_iter()
        .chain(members(now))
        .map(|(name, _)| name)
        .collect();
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| then.get(name) != now.get(name))
        .map(|name| {
            let value = |config: &Value| config.get(&name).cloned().unwrap_or_default();
            format!("{what}{name} was {} and is {}", value(then), value(now))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(BenchError::Differs {
        folder: folder.to_owned(),
        differences: differences.join("; "),
    })
}
