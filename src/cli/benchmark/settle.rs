//! From flags, environment, settings file and the folder of an earlier run to what is to be done. Reads files, starts nothing.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::error::CliError;
use super::super::run::{self, AgentSettings, Compat, RunError, ShellMode, Truth};
use super::{BenchmarkArgs, Context, Mode, harbor};
use crate::agent::{Ablation, Shell, Style};
use crate::bench::{self, BenchError, JudgeSettings, Manifest, RunConfig};
use crate::exit;
use crate::hub::{Fetched, HubError};
use crate::image::DEFAULT_NAME;
use crate::llm::{ModelSettings, Sampling};
use crate::reward::Reward;
use crate::settings::{self, Environment, SettingsError};
use crate::spec::{Network, NetworkLimits};
use crate::task::{Row, Scorer, Task, TaskError, Wanted};

/// Tokens of a plain answer, as in the original.
const MAX_RESPONSE_LEN: u64 = 65_536;

/// An evaluation cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The run folder.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The run folder.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The image or the host.
    #[error(transparent)]
    Cli(#[from] CliError),
    /// The Python of the task.
    #[error("the Python of the task cannot be used in the image {image}: {problem}")]
    Grader {
        /// The image.
        image: String,
        /// What Python said.
        problem: String,
    },
}

impl Error {
    pub(super) fn folder(path: &Path, source: std::io::Error) -> Self {
        Self::Run(RunError::Folder {
            path: path.to_owned(),
            source,
        })
    }

    pub(super) fn exit(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Task(_) | Self::Grader { .. } => exit::USAGE,
            Self::Hub(_) => exit::FAILED,
            Self::Bench(
                BenchError::Locked(_) | BenchError::Differs { .. } | BenchError::Model(_),
            ) => exit::USAGE,
            Self::Bench(_) => exit::FAILED,
            Self::Run(error) => error.exit(),
            Self::Cli(error) => error.exit(),
        }
    }

    pub(super) fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Cli(error) => error.hint(),
            Self::Grader { .. } => Some(Cow::Borrowed(
                "an image with what it imports: a recipe, `image build --recipe FILE`, then --grader_image NAME",
            )),
            Self::Hub(error) => error.hint().map(Cow::Borrowed),
            Self::Settings(_) | Self::Task(_) | Self::Bench(_) | Self::Run(_) => None,
        }
    }
}

/// Everything about one evaluation, settled but for the image's digest.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) manifest: Manifest,
    pub(super) task: Task,
    pub(super) agent: AgentSettings,
    /// Of the run to go on with.
    pub(super) folder: Option<PathBuf>,
    pub(super) workers: usize,
    pub(super) requests: usize,
    pub(super) retries: u32,
    pub(super) max_failures: Option<usize>,
    pub(super) grader_image: Option<String>,
    pub(super) ablations: Vec<Ablation>,
    pub(super) timeout: Option<Duration>,
    pub(super) stalled_after: Duration,
    pub(super) json: bool,
    pub(super) judge: Option<JudgeSettings>,
}

/// Settings that hold whatever the rows are.
pub(super) struct Checked {
    args: BenchmarkArgs,
    /// What the run that is gone on with had from a hub.
    pub(super) hub: Option<Fetched>,
    agent: AgentSettings,
    judge: Option<JudgeSettings>,
    ablations: Vec<Ablation>,
    timeout: Option<Duration>,
    stalled_after: Duration,
    workers: usize,
    requests: usize,
    task: String,
    mode: bench::Mode,
    /// Flags that do not go with every task, and whether they were given.
    given: [(&'static str, bool); 2],
}

/// Settles what needs no rows: nothing is fetched for settings that cannot be used.
///
/// # Errors
/// A setting cannot be used.
pub(super) fn check(
    mut args: BenchmarkArgs,
    environment: Environment<'_>,
    home: Option<&Path>,
) -> Result<Checked, Error> {
    let earlier = args.resume.as_deref().map(read_manifest).transpose()?;
    let given = [
        ("--net", args.agent.net.is_some()),
        ("--docker_image", args.agent.docker_image.is_some()),
    ];
    if let Some(manifest) = &earlier {
        fill(&mut args, manifest);
    }
    let file = settings::load(args.agent.settings.as_deref(), environment, home)?;
    let mut agent = run::resolve_agent(&args.agent, &file, environment)?;
    if let Some(manifest) = earlier.as_ref().filter(|_| args.agent.seccomp.is_none()) {
        let seccomp = serde_json::from_value(manifest.config.seccomp.clone());
        agent.seccomp = seccomp.unwrap_or_default();
    }
    let judge = args.judge.resolve(&args.agent, &file, environment)?;
    let ablations = args.runner.ablations();
    if ablations.contains(&Ablation::NoNetwork) {
        if args.agent.net.as_deref().is_some_and(|net| net != "none") {
            let problem = "the ablation no-network is asked for, too".to_owned();
            return Err(run::value("--net", problem).into());
        }
        agent.net = Network::None;
    }
    let (timeout, stalled_after) = (args.runner.timeout()?, args.runner.stalled_after()?);
    let workers = workers(&args, file.num_workers, environment)?;
    let requests = at_least_one("--llm_requests", args.llm_requests.unwrap_or(workers))?;
    let task = args.task.clone().or_else(|| args.task_flag.clone());
    let task = task.filter(|name| !name.is_empty());
    let task = task.ok_or_else(|| run::value("--task", "no task is named".into()))?;
    let mode = match args.mode {
        Some(Mode::Llm) => bench::Mode::Llm,
        Some(Mode::LlmInSandbox) | None => bench::Mode::LlmInSandbox,
    };
    if mode == bench::Mode::Llm && !ablations.is_empty() {
        let problem = "the mode llm has nothing that could be taken away".to_owned();
        return Err(run::value("--ablation", problem).into());
    }
    if mode == bench::Mode::Llm && args.context == Some(Context::Files) {
        let problem = "a model without a sandbox has no files".to_owned();
        return Err(run::value("--context", problem).into());
    }
    bench::Models::open(&agent.model).map_err(BenchError::from)?;
    Ok(Checked {
        args,
        hub: earlier.and_then(|manifest| manifest.hub),
        agent,
        judge,
        ablations,
        timeout,
        stalled_after,
        workers,
        requests,
        task,
        mode,
        given,
    })
}

impl Checked {
    /// The task and where its rows are.
    pub(super) fn rows(&self) -> Wanted {
        Wanted {
            task: self.task.clone(),
            data: self.args.data.clone(),
            ..Wanted::default()
        }
    }

    /// The rest, with the rows.
    ///
    /// # Errors
    /// The task or its rows cannot be used.
    pub(super) fn settle(self, fetched: Option<Fetched>) -> Result<Settled, Error> {
        let rows = self.rows();
        let Self { args, agent, .. } = self;
        let wanted = Wanted {
            fetched,
            context_in_prompt: args.context == Some(Context::Prompt),
            reward: args.reward,
            start: args.start_id,
            end: args.end_id,
            ..rows
        };
        let task = Task::load(&wanted)?;
        if matches!(task.scorer, Scorer::Tests(_)) {
            harbor::check(self.mode, &self.ablations, self.given)?;
        }
        let has_files = |row: &Row| row.files().is_ok_and(|files| !files.is_empty());
        if self.ablations.contains(&Ablation::NoFiles) && task.rows.iter().any(has_files) {
            let problem = "some problems have files; `--context prompt` puts them into the prompt";
            return Err(run::value("--ablation", problem.into()).into());
        }
        // A judge may be named once and for all; most tasks do not ask it.
        let judged = matches!(task.scorer, Scorer::Native(reward) if reward.is_judged());
        let judge = self.judge.filter(|_| judged);
        if let Some(judge) = &judge {
            bench::Models::open(&judge.model).map_err(BenchError::from)?;
        }
        let max_response_len = args.max_response_len.unwrap_or(MAX_RESPONSE_LEN);
        let repeat = args.repeat.unwrap_or(1);
        let mut config = config(&agent, self.mode, max_response_len, repeat);
        config.ablations.clone_from(&self.ablations);
        config.describe(&task);
        let mut manifest = Manifest::new(config, absolute(&wanted.task));
        manifest.data = wanted.data.map(|path| absolute(&path.to_string_lossy()));
        manifest.hub = wanted.fetched;
        manifest.context_in_prompt = wanted.context_in_prompt;
        manifest.reward = wanted.reward;
        manifest.start_id = wanted.start;
        manifest.end_id = wanted.end;
        manifest.shard = args.shard;
        manifest.base_url = agent.model.shown_url();
        manifest.save_exchanges = agent.save_exchanges;
        manifest.package_cache = agent.package_cache.as_ref().map(ToString::to_string);
        manifest.judge = judge.as_ref().map(JudgeSettings::describe);
        Ok(Settled {
            manifest,
            task,
            agent,
            folder: args.resume,
            workers: self.workers,
            requests: self.requests,
            retries: args.infra_retries,
            max_failures: args.max_infra_failures,
            grader_image: args.grader_image,
            ablations: self.ablations,
            timeout: self.timeout,
            stalled_after: self.stalled_after,
            json: args.runner.json,
            judge,
        })
    }
}

/// Reads the folder of a run, and its task as it is now.
pub(super) fn reopen(folder: &Path, other: Option<Reward>) -> Result<(Manifest, Task), Error> {
    let manifest = read_manifest(folder)?;
    let task = Task::load(&Wanted {
        task: manifest.source.clone(),
        data: manifest.data.as_ref().map(PathBuf::from),
        fetched: manifest.hub.clone(),
        context_in_prompt: manifest.context_in_prompt,
        reward: other.or(manifest.reward),
        start: manifest.start_id,
        end: manifest.end_id,
    })?;
    if task.data_digest != manifest.config.data_digest {
        let problem = format!("the rows of {} have changed since", manifest.source);
        return Err(run::value("DIR", problem).into());
    }
    Ok((manifest, task))
}

pub(super) fn read_manifest(folder: &Path) -> Result<Manifest, SettingsError> {
    Manifest::read(folder).map_err(|error| {
        let cause =
            std::error::Error::source(&error).map_or_else(String::new, |e| format!(": {e}"));
        run::value("DIR", format!("{error}{cause}"))
    })
}

/// What was not given anew is as it was.
fn fill(args: &mut BenchmarkArgs, manifest: &Manifest) {
    let config = &manifest.config;
    if args.task.is_none() && args.task_flag.is_none() {
        args.task = Some(manifest.source.clone());
    }
    args.mode.get_or_insert(match config.mode {
        bench::Mode::LlmInSandbox => Mode::LlmInSandbox,
        bench::Mode::Llm => Mode::Llm,
    });
    or_fill(&mut args.data, manifest.data.as_ref().map(PathBuf::from));
    let earlier = manifest.context_in_prompt.then_some(Context::Prompt);
    or_fill(&mut args.context, earlier);
    or_fill(&mut args.reward, manifest.reward);
    or_fill(&mut args.start_id, manifest.start_id);
    or_fill(&mut args.end_id, manifest.end_id);
    or_fill(&mut args.shard, manifest.shard);
    args.repeat.get_or_insert(config.repeat);
    args.max_response_len.get_or_insert(config.max_response_len);
    if args.runner.ablation.is_empty() {
        args.runner.ablation.clone_from(&config.ablations);
    }
    let agent = &mut args.agent;
    agent.llm_name.get_or_insert_with(|| config.model.clone());
    or_fill(&mut agent.llm_base_url, manifest.base_url.clone());
    agent
        .docker_image
        .get_or_insert_with(|| config.image.clone());
    agent.net.get_or_insert_with(|| config.network.clone());
    or_fill(&mut agent.net_limits, config.network_limits.clone());
    agent.max_steps.get_or_insert(config.max_steps);
    agent.max_token_limit.get_or_insert(config.max_token_limit);
    agent
        .max_tokens_per_call
        .get_or_insert(config.max_tokens_per_call);
    agent.cmd_timeout.get_or_insert(config.cmd_timeout_s);
    or_fill(&mut agent.turn_timeout, config.turn_timeout_s);
    or_fill(&mut agent.task_timeout, config.task_timeout_s);
    or_fill(&mut agent.temperature, config.sampling.temperature);
    or_fill(&mut agent.top_p, config.sampling.top_p);
    or_fill(&mut agent.top_k, config.sampling.top_k);
    or_fill(&mut agent.seed, config.sampling.seed);
    let body = serde_json::Value::Object(config.extra_body.clone());
    agent.extra_body.get_or_insert_with(|| body.to_string());
    or_fill(&mut agent.package_cache, manifest.package_cache.clone());
    if manifest.save_exchanges {
        agent.save_litellm_response.get_or_insert(Truth::True);
    }
    if let Some(judge) = &manifest.judge {
        args.judge.fill(judge);
    }
    if config.shell == "fresh" {
        agent.shell = ShellMode::Fresh;
    }
    if config.style == "original" {
        agent.compat.get_or_insert(Compat::Original);
    }
}

fn or_fill<T>(given: &mut Option<T>, earlier: Option<T>) {
    if given.is_none() {
        *given = earlier;
    }
}

fn config(
    agent: &AgentSettings,
    mode: bench::Mode,
    max_response_len: u64,
    repeat: u32,
) -> RunConfig {
    let (sampling, extra_body) = match &agent.model {
        ModelSettings::Http(http) => (http.sampling.clone(), http.extra_body.clone()),
        ModelSettings::Replay(_) => (Sampling::default(), serde_json::Map::new()),
    };
    let limits = &agent.limits;
    RunConfig {
        task: String::new(),
        task_digest: String::new(),
        data_digest: String::new(),
        mode,
        model: agent.model.name(),
        sampling,
        extra_body,
        image: agent
            .image
            .clone()
            .unwrap_or_else(|| DEFAULT_NAME.to_owned()),
        image_digest: None,
        max_steps: limits.max_steps,
        max_token_limit: limits.max_token_limit,
        max_tokens_per_call: limits.max_tokens_per_call,
        max_response_len,
        cmd_timeout_s: limits.cmd_timeout.as_secs_f64(),
        turn_timeout_s: limits.turn_timeout.map(|time| time.as_secs_f64()),
        ablations: Vec::new(),
        task_timeout_s: limits.task_timeout.map(|time| time.as_secs_f64()),
        shell: match agent.shell {
            Shell::Persistent => "persistent",
            Shell::Fresh => "fresh",
        }
        .to_owned(),
        style: match agent.style {
            Style::Native => "native",
            Style::Original => "original",
        }
        .to_owned(),
        seccomp: serde_json::to_value(&agent.seccomp).unwrap_or_default(),
        network: agent.net.to_string(),
        network_limits: (agent.net_limits != NetworkLimits::default())
            .then(|| agent.net_limits.to_string()),
        repeat,
    }
}

fn workers(
    args: &BenchmarkArgs,
    file: Option<usize>,
    environment: Environment<'_>,
) -> Result<usize, SettingsError> {
    let given = match environment.get(settings::LLM_NUM_WORKERS) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            let problem = format!("{text:?} is not a number");
            run::value(settings::LLM_NUM_WORKERS.name, problem)
        })?),
    };
    let workers = args.num_workers.or(given).or(file).unwrap_or(1);
    at_least_one("--num_workers", workers)
}

fn at_least_one(name: &str, number: usize) -> Result<usize, SettingsError> {
    if number == 0 {
        return Err(run::value(name, "it must be at least 1".into()));
    }
    Ok(number)
}

/// A path that means the same from everywhere; the name of a built-in task stays.
fn absolute(name: &str) -> String {
    match Path::new(name).canonicalize() {
        Ok(path) if !crate::task::NAMES.contains(&name) => path.to_string_lossy().into_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_has_its_package_cache_unless_it_gets_another() {
        let mut manifest = Manifest::new(RunConfig::default(), "t".into());
        manifest.package_cache = Some("/kept".into());
        let filled = |given: Option<&str>| {
            let mut args = BenchmarkArgs::default();
            args.agent.package_cache = given.map(str::to_owned);
            fill(&mut args, &manifest);
            args.agent.package_cache
        };
        assert_eq!(filled(None).as_deref(), Some("/kept"));
        assert_eq!(filled(Some("off")).as_deref(), Some("off"));
    }
}
