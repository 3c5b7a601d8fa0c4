//! The flags that say which model works, in what, and for how long.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::llm::Secret;

/// Flags of every command in which a model works in a sandbox. What is absent comes from the environment, the settings file or
/// the defaults.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case")]
pub struct AgentArgs {
    /// Model name, or replay:FILE for recorded answers [env: LLM_NAME]
    #[arg(long, value_name = "NAME")]
    pub llm_name: Option<String>,
    /// Address of an OpenAI-compatible server, up to /v1 [env: LLM_BASE_URL] [default: http://localhost:8000/v1]
    #[arg(long, value_name = "URL")]
    pub llm_base_url: Option<String>,
    /// Key of the server [env: LLM_API_KEY, OPENAI_API_KEY]
    #[arg(long, value_name = "KEY", value_parser = secret)]
    pub api_key: Option<Secret>,
    /// Image of the store
    #[arg(long, value_name = "NAME")]
    pub docker_image: Option<String>,
    /// Turns the model may take [default: 100]
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u32>,
    /// Sampling temperature [env: LLM_TEMPERATURE] [default: 1.0]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Nucleus sampling
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Tokens to sample from
    #[arg(long, value_name = "K")]
    pub top_k: Option<u64>,
    /// Sampling seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Tokens of the conversation above which the run ends [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_token_limit: Option<u64>,
    /// Tokens of one answer [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_tokens_per_call: Option<u64>,
    /// Directory that gets a folder for this run [default: ./output]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Keep every request and its answer as files
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", ignore_case = true, value_name = "BOOL")]
    pub save_litellm_response: Option<Truth>,
    /// JSON object merged into each request
    #[arg(long, value_name = "JSON")]
    pub extra_body: Option<String>,
    /// Header of each request, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub extra_header: Vec<String>,
    /// Settings file [env: LLM_IN_SANDBOX_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Seconds one command may take [default: 120]
    #[arg(long, value_name = "S")]
    pub cmd_timeout: Option<f64>,
    /// Seconds one answer of the model may take, with all attempts to get it [default: no limit]
    #[arg(long, value_name = "S")]
    pub turn_timeout: Option<f64>,
    /// Seconds the task may take [default: no limit]
    #[arg(long, value_name = "S")]
    pub task_timeout: Option<f64>,
    /// One shell for all commands, or a new one for each
    #[arg(long, value_name = "KIND", default_value = "persistent")]
    pub shell: ShellMode,
    /// Give observations the exact text of the original system
    #[arg(long, value_name = "SYSTEM")]
    pub compat: Option<Compat>,
    /// System calls that are refused: `default`, `strict` or a TOML file [env: LLM_IN_SANDBOX_SECCOMP]
    #[arg(long, value_name = "PROFILE")]
    pub seccomp: Option<String>,
    /// Network: `none`, `internet`, `allow:HOST,HOST…`, `allow:./FILE` or `host` [env: LLM_IN_SANDBOX_NET] [default: internet]
    #[arg(long, value_name = "MODE")]
    pub net: Option<String>,
    /// Python packages are downloaded once for all sandboxes: `on`, `off`, or the directory of the cache
    /// [env: LLM_IN_SANDBOX_PACKAGE_CACHE] [default: on for `benchmark`, else off]
    #[arg(long, value_name = "off|on|DIR")]
    pub package_cache: Option<String>,
    /// Limits of the network, as in `connections=100,bytes=2g,bandwidth=10m,connect=5,idle=600` [env: LLM_IN_SANDBOX_NET_LIMITS]
    #[arg(long, value_name = "LIST")]
    pub net_limits: Option<String>,
}

/// A flag that may be spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Truth {
    /// Yes.
    True,
    /// No.
    False,
}

/// What carries out commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ShellMode {
    /// One shell that keeps its state.
    #[default]
    Persistent,
    /// A new shell for each command.
    Fresh,
}

/// Systems whose texts can be imitated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    /// The Python system.
    Original,
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the form that clap asks for; a key is never malformed"
)]
pub(in crate::cli) fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}
