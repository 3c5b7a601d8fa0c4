//! From flags, environment, settings file and defaults to one [`RunSettings`]. Reads files, starts nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::network::{self, network};
use super::super::seccomp::profile;
use super::{AgentArgs, Compat, RunArgs, RunError, ShellMode, Truth};
use crate::agent::{Limits, PromptConfig, Shell, Style};
use crate::llm::{HttpConfig, ModelSettings, Sampling, Secret};
use crate::packages::Choice;
use crate::settings::{self, EnvVar, Environment, SettingsError, SettingsFile};
use crate::spec::{Network, NetworkLimits, Seccomp};

/// The original's default image; it names ours.
const ORIGINAL_IMAGE: &str = "cdx123/llm-in-sandbox:v0.1";
/// Where a model is expected when no address is given.
const DEFAULT_BASE_URL: &str = "http://localhost:8000/v1";
/// Longest time that can be asked for: a year.
const MAX_SECONDS: f64 = 366.0 * 86_400.0;

/// Which model works, in what, and for how long, settled.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// The model.
    pub model: ModelSettings,
    /// Image of the store; `None` is the default.
    pub image: Option<String>,
    /// Budgets.
    pub limits: Limits,
    /// How observations are written.
    pub style: Style,
    /// What carries out commands.
    pub shell: Shell,
    /// System calls that the sandbox refuses beside the default.
    pub seccomp: Seccomp,
    /// Its network, as asked for.
    pub net: Network,
    /// Its package cache; the command has a default.
    pub package_cache: Option<Choice>,
    /// Limits of that.
    pub net_limits: NetworkLimits,
    /// Parent of the run folder.
    pub output_dir: PathBuf,
    /// Keep every request and its answer.
    pub save_exchanges: bool,
}

/// Everything about one run, settled.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// The task.
    pub query: String,
    /// Model, sandbox and budgets.
    pub agent: AgentSettings,
    /// Prompts and directories.
    pub prompt: PromptConfig,
    /// Leave the sandbox running.
    pub keep: bool,
    /// Tell which system calls were refused.
    pub seccomp_log: bool,
    /// Record what each call did.
    pub record_effects: bool,
    /// Directory to copy in; exists.
    pub input_dir: Option<PathBuf>,
}

/// Settles all settings.
///
/// # Errors
/// [`RunError`] for everything that a person can get wrong: a missing task, model or directory, malformed JSON or YAML.
pub fn resolve(
    args: RunArgs,
    environment: Environment<'_>,
    home: Option<&Path>,
) -> Result<RunSettings, RunError> {
    let file = settings::load(args.agent.settings.as_deref(), environment, home)?;
    let prompt_path = args
        .prompt_config
        .clone()
        .or_else(|| file.prompt_config.clone());
    let prompt = match prompt_path {
        Some(path) => PromptConfig::load(&path)?,
        None => PromptConfig::general()?,
    };
    let agent = resolve_agent(&args.agent, &file, environment)?;
    if let Some(dir) = &args.input_dir
        && !dir.is_dir()
    {
        return Err(value(
            "--input_dir",
            format!("{} is not a directory", dir.display()),
        )
        .into());
    }
    let query = args
        .task
        .or(args.query)
        .filter(|text| !text.trim().is_empty());
    Ok(RunSettings {
        query: query.ok_or_else(|| value("--query", "the task is missing".into()))?,
        agent,
        prompt,
        keep: args.keep,
        seccomp_log: args.seccomp_log,
        record_effects: args.record_effects,
        input_dir: args.input_dir,
    })
}

/// Settles what every command with a model has.
pub(in crate::cli) fn resolve_agent(
    args: &AgentArgs,
    file: &SettingsFile,
    environment: Environment<'_>,
) -> Result<AgentSettings, SettingsError> {
    let image = args
        .docker_image
        .clone()
        .or_else(|| file.docker_image.clone());
    let output_dir = args.output_dir.clone().or_else(|| file.output_dir.clone());
    Ok(AgentSettings {
        limits: limits(args, file)?,
        seccomp: seccomp(args, file, environment)?,
        net: net(args, file, environment)?,
        package_cache: package_cache(args, file, environment)?,
        net_limits: net_limits(args, file, environment)?,
        model: model(args, file, environment)?,
        image: image.filter(|name| !name.is_empty() && name != ORIGINAL_IMAGE),
        style: match args.compat {
            Some(Compat::Original) => Style::Original,
            None => Style::Native,
        },
        shell: match args.shell {
            ShellMode::Persistent => Shell::Persistent,
            ShellMode::Fresh => Shell::Fresh,
        },
        output_dir: output_dir.unwrap_or_else(|| PathBuf::from("output")),
        save_exchanges: args.save_litellm_response == Some(Truth::True),
    })
}

fn seccomp(
    args: &AgentArgs,
    file: &SettingsFile,
    environment: Environment<'_>,
) -> Result<Seccomp, SettingsError> {
    let given = args.seccomp.clone();
    given
        .or_else(|| environment.get(settings::SECCOMP))
        .or_else(|| file.seccomp.clone())
        .map_or_else(|| Ok(Seccomp::default()), |text| profile(&text))
        .map_err(|problem| value("--seccomp", problem))
}

fn net(
    args: &AgentArgs,
    file: &SettingsFile,
    environment: Environment<'_>,
) -> Result<Network, SettingsError> {
    let given = args.net.clone();
    given
        .or_else(|| environment.get(settings::NET))
        .or_else(|| file.net.clone())
        .map_or_else(|| Ok(Network::internet()), |text| network(&text))
        .map_err(|problem| value("--net", problem))
}

fn package_cache(
    args: &AgentArgs,
    file: &SettingsFile,
    environment: Environment<'_>,
) -> Result<Option<Choice>, SettingsError> {
    let given = args.package_cache.clone();
    given
        .or_else(|| environment.get(settings::PACKAGE_CACHE))
        .or_else(|| file.package_cache.clone())
        .map(|text| text.parse())
        .transpose()
        .map_err(|problem| value("--package_cache", problem))
}

fn net_limits(
    args: &AgentArgs,
    file: &SettingsFile,
    environment: Environment<'_>,
) -> Result<NetworkLimits, SettingsError> {
    let given = args.net_limits.clone();
    given
        .or_else(|| environment.get(settings::NET_LIMITS))
        .or_else(|| file.net_limits.clone())
        .map_or_else(
            || Ok(NetworkLimits::default()),
            |text| network::limits(&text),
        )
        .map_err(|problem| value("--net_limits", problem))
}

fn limits(args: &AgentArgs, file: &SettingsFile) -> Result<Limits, SettingsError> {
    let default = Limits::default();
    let positive = |name, n: u64| {
        if n == 0 {
            Err(value(name, "it must be at least 1".into()))
        } else {
            Ok(n)
        }
    };
    let steps = args
        .max_steps
        .or(file.max_steps)
        .unwrap_or(default.max_steps);
    positive("--max_steps", steps.into())?;
    let max_token_limit = args.max_token_limit.or(file.max_token_limit);
    let per_call = args.max_tokens_per_call.or(file.max_tokens_per_call);
    let cmd_timeout = args.cmd_timeout.or(file.cmd_timeout);
    let turn_timeout = args.turn_timeout.or(file.turn_timeout);
    let task_timeout = args.task_timeout.or(file.task_timeout);
    Ok(Limits {
        max_steps: steps,
        max_token_limit: positive(
            "--max_token_limit",
            max_token_limit.unwrap_or(default.max_token_limit),
        )?,
        max_tokens_per_call: positive(
            "--max_tokens_per_call",
            per_call.unwrap_or(default.max_tokens_per_call),
        )?,
        cmd_timeout: match cmd_timeout {
            Some(s) => seconds("--cmd_timeout", s)?,
            None => default.cmd_timeout,
        },
        turn_timeout: turn_timeout
            .map(|s| seconds("--turn_timeout", s))
            .transpose()?,
        task_timeout: task_timeout
            .map(|s| seconds("--task_timeout", s))
            .transpose()?,
    })
}

fn model(
    args: &AgentArgs,
    file: &SettingsFile,
    environment: Environment<'_>,
) -> Result<ModelSettings, SettingsError> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let name = given(&args.llm_name)
        .or_else(|| environment.get(settings::LLM_NAME))
        .or_else(|| given(&file.llm_name))
        .ok_or_else(|| {
            value(
                "--llm_name",
                "no model is named by flag, LLM_NAME or settings file".into(),
            )
        })?;
    let extra_body = match &args.extra_body {
        Some(text) => object("--extra_body", text)?,
        None => file.extra_body.clone().unwrap_or_default(),
    };
    let headers = headers(args, file)?;
    let sampling = sampling(args, file, environment)?;
    if let Some(path) = name.strip_prefix("replay:") {
        return Ok(ModelSettings::Replay(PathBuf::from(path)));
    }
    let base_url = given(&args.llm_base_url)
        .or_else(|| environment.get(settings::LLM_BASE_URL))
        .or_else(|| given(&file.llm_base_url))
        .unwrap_or_else(|| DEFAULT_BASE_URL.to_owned());
    let provider = provider_key(&name);
    let from_environment = || {
        let key = environment.get(settings::LLM_API_KEY);
        key.or_else(|| environment.get(provider)).map(Secret::new)
    };
    let api_key = args.api_key.clone().filter(|key| !key.expose().is_empty());
    let api_key = api_key
        .or_else(from_environment)
        .or_else(|| file.api_key.clone());
    Ok(ModelSettings::Http(Box::new(HttpConfig {
        api_key,
        sampling,
        extra_body,
        headers,
        ..HttpConfig::new(base_url, name)
    })))
}

fn sampling(
    args: &AgentArgs,
    file: &SettingsFile,
    environment: Environment<'_>,
) -> Result<Sampling, SettingsError> {
    let from_environment = match environment.get(settings::LLM_TEMPERATURE) {
        None => None,
        Some(text) => Some(text.parse::<f64>().map_err(|_| {
            value(
                settings::LLM_TEMPERATURE.name,
                format!("{text:?} is not a number"),
            )
        })?),
    };
    let temperature = args
        .temperature
        .or(from_environment)
        .or(file.temperature)
        .unwrap_or(1.0);
    let top_p = args.top_p.or(file.top_p);
    for (name, number) in [("--temperature", Some(temperature)), ("--top_p", top_p)] {
        if number.is_some_and(|n| !n.is_finite() || n < 0.0) {
            return Err(value(name, "it must be a number from 0".into()));
        }
    }
    Ok(Sampling {
        temperature: Some(temperature),
        top_p,
        top_k: args.top_k.or(file.top_k),
        seed: args.seed.or(file.seed),
    })
}

fn headers(args: &AgentArgs, file: &SettingsFile) -> Result<Vec<(String, Secret)>, SettingsError> {
    if args.extra_header.is_empty() {
        return Ok(file
            .extra_headers
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect());
    }
    let parse = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), Secret::new(value))),
        // The text may hold a secret, so it is not repeated.
        Some(_) | None => Err(value("--extra_header", "it must be NAME=VALUE".into())),
    };
    args.extra_header.iter().map(parse).collect()
}

/// The variable that holds the key of whoever serves a model of this name.
pub(in crate::cli) fn provider_key(model: &str) -> EnvVar {
    if model.starts_with("anthropic/") {
        settings::ANTHROPIC_API_KEY
    } else {
        settings::OPENAI_API_KEY
    }
}

/// A JSON object.
pub(in crate::cli) fn object(name: &str, text: &str) -> Result<Map<String, Value>, SettingsError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|e| value(name, format!("it must be a JSON object: {e}")))
}

/// A time above 0 and below a year.
pub(in crate::cli) fn seconds(name: &str, seconds: f64) -> Result<Duration, SettingsError> {
    let wrong = || value(name, "it must be a number of seconds above 0".into());
    if !(seconds > 0.0 && seconds <= MAX_SECONDS) {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A setting of the wrong form.
pub(in crate::cli) fn value(name: &str, problem: String) -> SettingsError {
    SettingsError::Value {
        name: name.to_owned(),
        problem,
    }
}
