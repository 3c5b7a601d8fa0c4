//! `judge`: a judge says what the answers of a finished run are worth; no answer is asked for again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::task::JoinSet;

use super::super::output::{note, result};
use super::super::run::{self, AgentArgs};
use super::super::sanitize::one_line;
use super::grader::PythonGrader;
use super::judge_args::JudgeArgs;
use super::sandboxes::Pool;
use super::settle::{self, Error};
use super::verify::elapsed;
use super::{reward, summary_lines, tell_error};
use crate::bench::{
    self, Answered, JUDGEMENTS, Judge, JudgeSettings, Judged, Ledger, Place, Record, Rescored,
    Scoring, Shared, Status, Subject, Summary,
};
use crate::llm::Secret;
use crate::reward::Reward;
use crate::settings::{self, Environment};
use crate::task::Scorer;

/// Flags of `judge`: those of the original's script, and a run folder.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(in crate::cli) struct RejudgeArgs {
    /// Folder of a run
    #[arg(
        value_name = "DIR",
        conflicts_with = "input",
        required_unless_present = "input"
    )]
    folder: Option<PathBuf>,
    /// A trajectory.json instead, of ours or of the original; all of its answers are judged
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Model that judges, or replay:FILE [env: LLM_JUDGE_MODEL] [default: that of the run]
    #[arg(long, alias = "judge_name", value_name = "NAME")]
    judge_model: Option<String>,
    /// Address of its server [env: LLM_JUDGE_BASE_URL, LLM_BASE_URL]
    #[arg(long, value_name = "URL")]
    judge_base_url: Option<String>,
    /// Key of its server [env: LLM_JUDGE_API_KEY]
    #[arg(long, alias = "judge_api_key", value_name = "KEY", value_parser = run::secret)]
    api_key: Option<Secret>,
    /// Sampling temperature [default: 0]
    #[arg(long, alias = "judge_temperature", value_name = "T")]
    temperature: Option<f64>,
    /// Tokens of one reply [default: 16384]
    #[arg(long, alias = "judge_max_tokens", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: Option<u64>,
    /// Requests under way at once [default: 16]
    #[arg(long, alias = "judge_requests", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    num_workers: Option<u32>,
    /// Judgements of each answer, whose mean is the score [default: 1]
    #[arg(long, alias = "judge_num_repeats", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::MAX_REPEATS)))]
    num_repeats: Option<u32>,
    /// Seconds for one judgement, repeated requests included [default: 1800]
    #[arg(long, value_name = "S")]
    judge_timeout: Option<f64>,
    /// JSON object merged into each request
    #[arg(long, value_name = "JSON")]
    judge_extra_body: Option<String>,
    /// Where the verdicts are written in the original's form [default: trajectory_judged.json]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take over the verdicts of this file of the original's, which it gave on the run's trajectory.json; asks nobody
    #[arg(long, value_name = "FILE", requires = "folder")]
    import: Option<PathBuf>,
    /// Only the first N answers; 0 is all of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    debug: usize,
    /// Ask once more what is on record
    #[arg(long)]
    again: bool,
    /// Reward instead of the task's own; `judge` leaves every answer to the judge
    #[arg(long, value_name = "NAME", value_parser = reward())]
    reward: Option<Reward>,
    /// Settings file [env: LLM_IN_SANDBOX_CONFIG]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// Carries it out; gives the exit code: 0 when every answer has a score.
pub(in crate::cli) async fn judge(args: RejudgeArgs) -> u8 {
    let done = match (&args.folder, &args.input) {
        (Some(folder), _) => Box::pin(judge_run(&args, folder)).await,
        (None, Some(input)) => Box::pin(judge_file(&args, input)).await,
        // clap asks for one of them.
        (None, None) => Ok(0),
    };
    done.unwrap_or_else(|error| tell_error(&error))
}

fn resolve(
    args: &RejudgeArgs,
    earlier: Option<&bench::JudgeConfig>,
) -> Result<JudgeSettings, Error> {
    let mut flags = JudgeArgs {
        judge_model: args.judge_model.clone(),
        judge_base_url: args.judge_base_url.clone(),
        judge_api_key: args.api_key.clone(),
        judge_temperature: args.temperature,
        judge_max_tokens: args.max_tokens,
        judge_num_repeats: args.num_repeats,
        judge_requests: args.num_workers,
        judge_timeout: args.judge_timeout,
        judge_extra_body: args.judge_extra_body.clone(),
    };
    if let Some(earlier) = earlier {
        flags.fill(earlier);
    }
    let environment = Environment::process();
    let home = std::env::home_dir();
    let file = settings::load(args.settings.as_deref(), environment, home.as_deref())?;
    let judge = flags.resolve(&AgentArgs::default(), &file, environment)?;
    judge.ok_or_else(|| {
        let problem = "no judge is named by flag, LLM_JUDGE_MODEL, settings file or run.json";
        run::value("--judge_model", problem.into()).into()
    })
}

async fn judge_run(args: &RejudgeArgs, folder: &Path) -> Result<u8, Error> {
    let (manifest, task) = settle::reopen(folder, args.reward)?;
    if !matches!(task.scorer, Scorer::Native(reward) if reward.is_judged()) {
        let problem = "the task's own asks no judge; `--reward judge` leaves every answer to one";
        return Err(run::value("--reward", problem.into()).into());
    }
    let jobs = bench::jobs(&task, &manifest);
    let record = folder.join(JUDGEMENTS);
    let (mut ledger, judge) = match &args.import {
        Some(file) => {
            let mut ledger = Ledger::open(folder)?;
            let count = bench::import_judged(file, &record, &mut ledger, &task, &jobs)?;
            note(&format!("{count} verdicts are taken over"));
            (ledger, Judge::recorded(&record)?)
        }
        None => {
            let settings = resolve(args, manifest.judge.as_ref())?;
            let ledger = Ledger::open(folder)?;
            let judge = Judge::open(&settings, &record, args.again)?;
            (ledger, Some(judge))
        }
    };
    let chosen: Vec<bench::Job> = jobs.iter().take(most(args.debug)).cloned().collect();
    let scoring = Arc::new(Scoring::<PythonGrader> {
        task,
        grader: None,
        judge,
    });
    let counts = bench::rescore(&mut ledger, &scoring, chosen, &mut tell).await?;
    let task = &scoring.task;
    let summary = bench::write_results(&mut ledger, &manifest, task, &jobs, elapsed(folder))?;
    let asked = scoring.judge.as_ref();
    if let Some(judge) = asked.filter(|judge| judge.config().is_some()) {
        let output = args.output.clone();
        let output = output.unwrap_or_else(|| folder.join(JUDGED));
        bench::write_judged(&output, &mut ledger, task, &jobs, judge)?;
        tell_asked(judge);
        result(&format!("verdicts:   {}", output.display()));
    }
    tell_rescored(counts, &summary);
    Ok(u8::from(counts.pending > 0))
}

/// What a run folder calls the original's file.
const JUDGED: &str = "trajectory_judged.json";

/// A run that goes on.
type Running = Shared<Pool, PythonGrader>;

/// Samples of an earlier time that wait for the judge or the grader, where there is one now.
pub(super) fn waiting(shared: &Running, ledger: &Ledger, jobs: &[bench::Job]) -> Vec<bench::Job> {
    let scores = shared.judge.is_some() || shared.grader.is_some();
    let waits = |job: &&bench::Job| {
        let known = ledger.get(&job.key).map(|known| known.status);
        scores && known == Some(Status::Pending)
    };
    jobs.iter().filter(waits).cloned().collect()
}

/// Scores these.
pub(super) async fn fill(
    ledger: &mut Ledger,
    shared: &Arc<Running>,
    waiting: Vec<bench::Job>,
) -> Result<(), Error> {
    bench::rescore(ledger, shared, waiting, &mut tell).await?;
    Ok(())
}

/// Writes what the judge of a run said in the original's form.
pub(super) fn write_verdicts(
    ledger: &mut Ledger,
    shared: &Running,
    jobs: &[bench::Job],
) -> Result<(), Error> {
    if let Some(judge) = &shared.judge {
        let output = shared.folder.join(JUDGED);
        bench::write_judged(&output, ledger, &shared.task, jobs, judge)?;
    }
    Ok(())
}

/// What became of the score of one sample.
pub(super) fn tell(record: &Record, what: &str) {
    note(&format!("{}: {}", one_line(&record.id), one_line(what)));
}

/// What scoring once more came to.
pub(super) fn tell_rescored(counts: Rescored, summary: &Summary) {
    result(&format!(
        "{} scores are as they were, {} are new, {} are still to come, {} samples have no answer",
        counts.same, counts.changed, counts.pending, counts.without
    ));
    for line in summary_lines(summary) {
        result(&line);
    }
}

fn most(debug: usize) -> usize {
    if debug == 0 { usize::MAX } else { debug }
}

fn tell_asked(judge: &Judge) {
    let asked = judge.asked();
    note(&format!(
        "{} judgements were asked for ({} tokens), {} were on record",
        asked.asked, asked.tokens, asked.recorded
    ));
}

async fn judge_file(args: &RejudgeArgs, input: &Path) -> Result<u8, Error> {
    let settings = resolve(args, None)?;
    let output = args.output.clone().unwrap_or_else(|| beside(input));
    let record = output.with_extension("jsonl");
    if record == output {
        let problem = "so the record of what was asked is named; choose another ending";
        return Err(run::value("--output", problem.into()).into());
    }
    let answers = bench::read_answers(input)?;
    let judge = Judge::open(&settings, &record, args.again)?;
    let judge = Arc::new(judge);
    let mut left = answers.into_iter().take(most(args.debug)).enumerate();
    let mut working = JoinSet::new();
    let mut done = Vec::new();
    loop {
        // Some more than may be asked at once.
        while working.len() < settings.requests.saturating_mul(2) {
            let Some((at, (id, answered))) = left.next() else {
                break;
            };
            let judge = Arc::clone(&judge);
            working.spawn(async move {
                let (judged, score) = Box::pin(one(&judge, &id, &answered)).await;
                (at, (id, judged, score))
            });
        }
        // A panic would have ended the program.
        let Some(Ok((at, judged))) = working.join_next().await else {
            break;
        };
        if let Some(error) = &judged.1.error {
            note(&format!("{}: {}", one_line(&judged.0), one_line(error)));
        }
        done.push((at, judged));
    }
    done.sort_by_key(|(at, _)| *at);
    let done = done.into_iter().map(|(_, judged)| judged);
    let file = bench::judged(settings.model.name(), settings.repeats, done);
    file.write(&output)?;
    tell_asked(&judge);
    let stats = &file.stats;
    result(&match stats.mean_score {
        Some(mean) => format!(
            "mean score: {mean:.4} (n {})",
            stats.num_problems - stats.pending
        ),
        None => "mean score: none (n 0)".to_owned(),
    });
    if stats.pending > 0 {
        result(&format!(
            "pending:    {} of {}, in no mean",
            stats.pending, stats.num_problems
        ));
    }
    result(&format!("verdicts:   {}", output.display()));
    Ok(u8::from(stats.pending > 0))
}

async fn one(judge: &Judge, id: &str, answered: &Answered) -> (Judged, Option<f64>) {
    let known = |error: Option<&str>| Judged {
        verdicts: Vec::new(),
        error: error.map(str::to_owned),
    };
    match answered.agent_answer.as_deref() {
        None => (known(Some("there is no answer")), None),
        Some(answer) if answer.trim().is_empty() => (known(None), Some(0.0)),
        Some(answer) => {
            let truth = &answered.ground_truth;
            let text = truth.as_str().map(str::to_owned);
            let reference = text.unwrap_or_else(|| truth.to_string());
            let subject = Subject {
                question: &answered.problem_statement,
                reference: &reference,
                aliases: &[],
                answer,
            };
            let name = bench::file_name(id);
            let place = Place {
                key: id,
                id,
                name: &name,
            };
            let judged = judge.decide(place, subject).await;
            let score = judged.score();
            (judged, score)
        }
    }
}

/// `x_judged.json` beside `x.json`.
fn beside(input: &Path) -> PathBuf {
    let stem = input.file_stem().unwrap_or_default().to_string_lossy();
    input.with_file_name(format!("{stem}_judged.json"))
}
