//! Where settings come from: flag, environment, file, default, in this order, for every command.
//!
//! This module knows the settings file and the environment variables; flags are the commands' own. It reads the process
//! environment only through the function it is given, so tests need not change it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::llm::Secret;

/// Largest settings file.
const MAX_BYTES: u64 = 1 << 20;

/// One environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// Path of the settings file.
pub const CONFIG: EnvVar = EnvVar {
    name: "LLM_IN_SANDBOX_CONFIG",
    doc: "settings file, as --settings",
};
/// Model name.
pub const LLM_NAME: EnvVar = EnvVar {
    name: "LLM_NAME",
    doc: "model name, as --llm_name",
};
/// Model server.
pub const LLM_BASE_URL: EnvVar = EnvVar {
    name: "LLM_BASE_URL",
    doc: "address of the model server, as --llm_base_url",
};
/// Key.
pub const LLM_API_KEY: EnvVar = EnvVar {
    name: "LLM_API_KEY",
    doc: "key of the model server, as --api_key",
};
/// Key.
pub const OPENAI_API_KEY: EnvVar = EnvVar {
    name: "OPENAI_API_KEY",
    doc: "key of the model server, where LLM_API_KEY is not set",
};
/// Key.
pub const ANTHROPIC_API_KEY: EnvVar = EnvVar {
    name: "ANTHROPIC_API_KEY",
    doc: "key of the model server for model names that begin with anthropic/, where LLM_API_KEY is not set",
};
/// Temperature.
pub const LLM_TEMPERATURE: EnvVar = EnvVar {
    name: "LLM_TEMPERATURE",
    doc: "sampling temperature, as --temperature",
};
/// Samples at once.
pub const LLM_NUM_WORKERS: EnvVar = EnvVar {
    name: "LLM_NUM_WORKERS",
    doc: "samples of `benchmark` at work at once, as --num_workers",
};
/// Judge.
pub const LLM_JUDGE_MODEL: EnvVar = EnvVar {
    name: "LLM_JUDGE_MODEL",
    doc: "model that judges answers, as --judge_model",
};
/// Judge.
pub const LLM_JUDGE_BASE_URL: EnvVar = EnvVar {
    name: "LLM_JUDGE_BASE_URL",
    doc: "address of its server, as --judge_base_url",
};
/// Judge.
pub const LLM_JUDGE_API_KEY: EnvVar = EnvVar {
    name: "LLM_JUDGE_API_KEY",
    doc: "key of its server, as --judge_api_key",
};
/// Hub.
pub const HF_ENDPOINT: EnvVar = EnvVar {
    name: "HF_ENDPOINT",
    doc: "address of the hub that holds data sets",
};
/// Token of the hub.
pub const HF_TOKEN: EnvVar = EnvVar {
    name: "HF_TOKEN",
    doc: "token for data sets that are private or have conditions; else that in $HF_HOME/token",
};
/// Where the hub's own tools keep the token.
pub const HF_HOME: EnvVar = EnvVar {
    name: "HF_HOME",
    doc: "directory of the file `token`, by default ~/.cache/huggingface",
};
/// No questions to the hub.
pub const HF_HUB_OFFLINE: EnvVar = EnvVar {
    name: "HF_HUB_OFFLINE",
    doc: "take data sets from the cache alone, when set to 1",
};
/// Refused system calls.
pub const SECCOMP: EnvVar = EnvVar {
    name: "LLM_IN_SANDBOX_SECCOMP",
    doc: "refused system calls of `run`, as --seccomp",
};
/// Network.
pub const NET: EnvVar = EnvVar {
    name: "LLM_IN_SANDBOX_NET",
    doc: "network of `run`, as --net",
};
/// Package cache.
pub const PACKAGE_CACHE: EnvVar = EnvVar {
    name: "LLM_IN_SANDBOX_PACKAGE_CACHE",
    doc: "package cache of `run` and `benchmark`, as --package_cache",
};
/// Limits of the network.
pub const NET_LIMITS: EnvVar = EnvVar {
    name: "LLM_IN_SANDBOX_NET_LIMITS",
    doc: "limits of the network of `run`, as --net_limits",
};
/// Colours.
pub const NO_COLOR: EnvVar = EnvVar {
    name: "NO_COLOR",
    doc: "no colours, when set to anything",
};

/// All variables that are read here.
pub const ENV_VARS: [EnvVar; 20] = [
    CONFIG,
    LLM_NAME,
    LLM_BASE_URL,
    LLM_API_KEY,
    OPENAI_API_KEY,
    ANTHROPIC_API_KEY,
    LLM_TEMPERATURE,
    LLM_NUM_WORKERS,
    LLM_JUDGE_MODEL,
    LLM_JUDGE_BASE_URL,
    LLM_JUDGE_API_KEY,
    HF_ENDPOINT,
    HF_TOKEN,
    HF_HOME,
    HF_HUB_OFFLINE,
    SECCOMP,
    NET,
    PACKAGE_CACHE,
    NET_LIMITS,
    NO_COLOR,
];

/// The environment as a function from a name to its value.
#[derive(Clone, Copy)]
pub struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl<'a> Environment<'a> {
    /// Looks variables up with `lookup`.
    #[must_use]
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self(lookup)
    }

    /// The process's own environment.
    #[must_use]
    pub fn process() -> Environment<'static> {
        Environment(&|name| std::env::var(name).ok())
    }

    /// A variable's value; empty counts as absent.
    #[must_use]
    pub fn get(&self, var: EnvVar) -> Option<String> {
        (self.0)(var.name).filter(|value| !value.is_empty())
    }
}

/// A settings file. Every key may be left out; relative paths are taken from the working directory.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    /// Model name.
    pub llm_name: Option<String>,
    /// Model server.
    pub llm_base_url: Option<String>,
    /// Key of the model server.
    pub api_key: Option<Secret>,
    /// Prompt configuration.
    pub prompt_config: Option<PathBuf>,
    /// Image name.
    pub docker_image: Option<String>,
    /// Turns.
    pub max_steps: Option<u32>,
    /// Tokens of the conversation.
    pub max_token_limit: Option<u64>,
    /// Tokens of one answer.
    pub max_tokens_per_call: Option<u64>,
    /// Sampling.
    pub temperature: Option<f64>,
    /// Sampling.
    pub top_p: Option<f64>,
    /// Sampling.
    pub top_k: Option<u64>,
    /// Sampling.
    pub seed: Option<u64>,
    /// Members merged into each request.
    pub extra_body: Option<Map<String, Value>>,
    /// Headers of each request.
    pub extra_headers: Option<BTreeMap<String, Secret>>,
    /// Seconds for one command.
    pub cmd_timeout: Option<f64>,
    /// Seconds for one answer of the model.
    pub turn_timeout: Option<f64>,
    /// Seconds for the task.
    pub task_timeout: Option<f64>,
    /// Parent of the run folders.
    pub output_dir: Option<PathBuf>,
    /// Samples of an evaluation at work at once.
    pub num_workers: Option<usize>,
    /// Model that judges answers.
    pub judge_model: Option<String>,
    /// Its server.
    pub judge_base_url: Option<String>,
    /// Key of its server.
    pub judge_api_key: Option<Secret>,
    /// Refused system calls.
    pub seccomp: Option<String>,
    /// Network.
    pub net: Option<String>,
    /// Package cache.
    pub package_cache: Option<String>,
    /// Limits of the network.
    pub net_limits: Option<String>,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("read the settings file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else than settings.
    #[error("the settings file {path} is malformed: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is known.
        problem: String,
    },
    /// A value has the wrong form.
    #[error("{name}: {problem}")]
    Value {
        /// Flag, variable or key.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// Finds and reads the settings file: the named one must exist, of the usual places the first one counts.
///
/// # Errors
/// [`SettingsError`] when a named file is missing, or a file is malformed.
pub fn load(
    flag: Option<&Path>,
    environment: Environment<'_>,
    home: Option<&Path>,
) -> Result<SettingsFile, SettingsError> {
    if let Some(path) = flag {
        return read(path);
    }
    if let Some(path) = environment.get(CONFIG) {
        return read(Path::new(&path));
    }
    let mut places = vec![
        PathBuf::from("llm-in-sandbox.yaml"),
        PathBuf::from("llm_in_sandbox.yaml"),
    ];
    if let Some(home) = home {
        places.push(home.join(".llm-in-sandbox/config.yaml"));
        places.push(home.join(".llm-in-sandbox.yaml"));
    }
    match places.iter().find(|path| path.is_file()) {
        Some(path) => read(path),
        None => Ok(SettingsFile::default()),
    }
}

fn read(path: &Path) -> Result<SettingsFile, SettingsError> {
    let read_error = |source| SettingsError::Read {
        path: path.to_owned(),
        source,
    };
    let malformed = |problem| SettingsError::Malformed {
        path: path.to_owned(),
        problem,
    };
    let size = std::fs::metadata(path).map_err(read_error)?.len();
    if size > MAX_BYTES {
        return Err(malformed(format!(
            "it has {size} bytes, more than {MAX_BYTES}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(read_error)?;
    let only_comments = text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if only_comments {
        return Ok(SettingsFile::default());
    }
    // The parser's message may quote the lines around a mistake, and one of them may hold the key.
    serde_saphyr::from_str(&text).map_err(|e| malformed(first_line(&e.to_string())))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Environment<'static> = Environment(&|_| None);

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_is_read_and_its_key_is_not_shown() {
        let (_dir, path) =
            file("llm_name: m\napi_key: sk-private\nextra_body:\n  a: {b: true}\nmax_steps: 7\n");
        let settings = load(Some(&path), NOTHING, None).unwrap();
        assert_eq!(settings.llm_name.as_deref(), Some("m"));
        assert_eq!(settings.max_steps, Some(7));
        assert_eq!(settings.extra_body.clone().unwrap()["a"]["b"], true);
        assert!(!format!("{settings:?}").contains("sk-private"));
        assert_eq!(settings.api_key.clone().unwrap().expose(), "sk-private");
    }

    #[test]
    fn a_missing_named_file_is_an_error_and_a_missing_usual_one_is_not() {
        let missing = Path::new("/nonexistent/settings.yaml");
        assert!(matches!(
            load(Some(missing), NOTHING, None),
            Err(SettingsError::Read { .. })
        ));
        let lookup = |name: &str| (name == CONFIG.name).then(|| "/nonexistent/s".to_owned());
        assert!(load(None, Environment::new(&lookup), None).is_err());
        assert!(
            load(None, NOTHING, Some(Path::new("/nonexistent")))
                .unwrap()
                .llm_name
                .is_none()
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones_and_without_the_key() {
        let (_dir, path) = file("api_key: sk-private\nlm_name: m\n");
        let error = load(Some(&path), NOTHING, None).unwrap_err().to_string();
        assert!(
            error.contains("lm_name") && error.contains("llm_name"),
            "{error}"
        );
        assert!(!error.contains("sk-private"), "{error}");
    }

    #[test]
    fn the_home_directory_is_searched_and_empty_files_are_fine() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".llm-in-sandbox")).unwrap();
        std::fs::write(
            home.path().join(".llm-in-sandbox/config.yaml"),
            "# nothing\n",
        )
        .unwrap();
        std::fs::write(
            home.path().join(".llm-in-sandbox.yaml"),
            "llm_name: second\n",
        )
        .unwrap();
        assert!(
            load(None, NOTHING, Some(home.path()))
                .unwrap()
                .llm_name
                .is_none()
        );
    }
}
