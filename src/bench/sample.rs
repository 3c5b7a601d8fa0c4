//! One sample: a model at work, its answer, and the score.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::asking::Asking;
use super::failure::{failure, of_io};
use super::gate::Gate;
use super::judge::{Judge, Place, Subject};
use super::ledger::{Record, Status, Times, seconds};
use super::live::{Activity, Live, Wait};
use super::log::Log;
use super::manifest::Mode;
use super::plan::Job;
use super::rescore::Scores;
use super::tested::Tested;
use super::{Grader, Sandboxes, plain, sandboxed};
use crate::agent::{Ablation, Cancel, Limits, Shell, Style};
use crate::llm::{HttpModel, LlmError, Model, ModelSettings, ReplayModel, RetryPolicy, TokenUsage};
use crate::outcome::{Cause, Outcome, Policy};
use crate::reward::{Reward, Truth, boxed};
use crate::spec::Usage;
use crate::task::{Row, Scorer, Task};

/// What a score waits for that an interrupt has cut.
const CUT: &str = "the run ended before it was scored";
/// Attempts at one sample that leave folders.
const MAX_FOLDERS: u32 = 10_000;

/// Where models come from.
#[derive(Debug)]
pub enum Models {
    /// A server, for all samples.
    Http(Box<HttpModel>),
    /// Recorded answers, the same for all samples.
    Replay(ReplayModel),
    /// A directory of recorded answers, one file for each sample.
    Directory(PathBuf),
}

impl Models {
    /// Prepares them; connects nowhere.
    ///
    /// # Errors
    /// [`LlmError`] when settings or files cannot be used.
    pub fn open(settings: &ModelSettings) -> Result<Self, LlmError> {
        let mut settings = settings.clone();
        if let ModelSettings::Http(config) = &mut settings {
            // Attempts are made by whoever holds the permits.
            config.retry.attempts = 1;
        }
        Self::repeating(&settings)
    }

    /// Those that make a failed request again by themselves.
    pub(super) fn repeating(settings: &ModelSettings) -> Result<Self, LlmError> {
        Ok(match settings {
            ModelSettings::Replay(path) if path.is_dir() => Self::Directory(path.clone()),
            ModelSettings::Replay(path) => Self::Replay(ReplayModel::open(path)?),
            ModelSettings::Http(config) => {
                Self::Http(Box::new(HttpModel::new((**config).clone())?))
            }
        })
    }

    /// The one for the sample of this name.
    pub(super) fn model(&self, name: &str, seed: Option<u64>) -> Result<Model, LlmError> {
        Ok(match self {
            Self::Http(model) => Model::Http(Box::new(model.with_seed(seed))),
            Self::Replay(model) => Model::Replay(model.clone()),
            Self::Directory(path) => {
                let file = path.join(format!("{name}.jsonl"));
                Model::Replay(ReplayModel::open(&file)?)
            }
        })
    }
}

/// What all samples have in common.
#[derive(Debug)]
pub struct Shared<S, G> {
    /// The task.
    pub task: Task,
    /// What the model has.
    pub mode: Mode,
    /// How the model was named.
    pub settings: ModelSettings,
    /// The models.
    pub models: Models,
    /// Permits for requests.
    pub gate: Gate,
    /// What goes on.
    pub live: Live,
    /// Budgets of a sample.
    pub limits: Limits,
    /// Tokens of the one answer of the plain mode.
    pub max_response_len: u64,
    /// How observations are written.
    pub style: Style,
    /// What carries out commands.
    pub shell: Shell,
    /// What the model is to do without.
    pub ablations: Vec<Ablation>,
    /// Sandboxes; none in the plain mode.
    pub sandboxes: Option<S>,
    /// Python scorers, where the task needs them.
    pub grader: Option<G>,
    /// The judge, where one is named and the task needs it.
    pub judge: Option<Judge>,
    /// The run folder.
    pub folder: PathBuf,
    /// Keep every request and its answer.
    pub save_exchanges: bool,
}

/// What a sample came to, before it is scored.
pub(super) struct Worked {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<String>,
    pub(super) answer: Option<String>,
    pub(super) steps: u32,
    pub(super) usage: TokenUsage,
    pub(super) times: Times,
    pub(super) sandbox: Option<Usage>,
    pub(super) tested: Option<Tested>,
}

impl Worked {
    /// A person ended it.
    pub(super) fn interrupted() -> Self {
        Self::failed(Outcome::infrastructure(Cause::Interrupted, ""))
    }

    /// It came to no answer.
    pub(super) fn failed(outcome: Outcome) -> Self {
        let detail = match &outcome {
            Outcome::Infrastructure(failure) => Some(failure.detail.clone()),
            Outcome::Policy(_) => None,
        };
        Self {
            outcome,
            detail,
            answer: None,
            steps: 0,
            usage: TokenUsage::default(),
            times: Times::default(),
            sandbox: None,
            tested: None,
        }
    }

    /// Tests have judged what it left, or could not be run.
    pub(super) fn judged(&mut self, tested: Result<Tested, Outcome>) {
        match tested {
            Ok(tested) => {
                self.times.score = tested.seconds;
                let limit = matches!(self.outcome, Outcome::Policy(Policy::Limit(_)));
                self.tested = Some(match limit {
                    true => tested.ended_by_limit(),
                    false => tested,
                });
            }
            Err(outcome) => {
                let failed = Self::failed(outcome);
                (self.outcome, self.detail) = (failed.outcome, failed.detail);
            }
        }
    }
}

/// Carries a sample out. Never fails: the record says what happened.
pub(super) async fn run<S: Sandboxes, G: Grader>(
    shared: Arc<Shared<S, G>>,
    job: Job,
    attempt: u32,
    mut cancel: Cancel,
) -> Record {
    let begun = Instant::now();
    let shared = &*shared;
    let activity = shared.live.begin(&job.name);
    let mut log = Log::default();
    let (folder, worked) = match make_folder(&shared.folder, &job.name) {
        Ok(folder) => {
            let inside: (&Activity, Cancel) = (&activity, cancel.clone());
            let worked = Box::pin(work(shared, &job, &folder, inside, &mut log)).await;
            (folder, worked)
        }
        Err(error) => (shared.folder.clone(), Worked::failed(of_io(&error))),
    };
    let row = row(shared, &job);
    let scoring = Instant::now();
    activity.waits_for(Wait::Grader);
    let (status, score, pending) = match &worked.outcome {
        Outcome::Infrastructure(_) => (Status::Failed, None, None),
        Outcome::Policy(_) => {
            let answer = worked.answer.as_deref().unwrap_or("");
            // What is decided at once is not lost to an interrupt.
            let scored = match &worked.tested {
                Some(tested) => tested.score(),
                None => tokio::select! {
                    biased;
                    scored = shared.score(&job, answer) => scored,
                    () = stopped(&mut cancel) => Err(CUT.to_owned()),
                },
            };
            match scored {
                Ok(score) => (Status::Scored, Some(score), None),
                Err(waits) => (Status::Pending, None, Some(waits)),
            }
        }
    };
    let below = folder.strip_prefix(&shared.folder).unwrap_or(&folder);
    let record = Record {
        key: job.key.clone(),
        id: row.id().to_owned(),
        repeat: job.repeat,
        seed: job.seed,
        status,
        score,
        pending,
        outcome: worked.outcome,
        detail: worked.detail,
        answer: worked.answer,
        attempts: attempt,
        folder: below.to_string_lossy().into_owned(),
        steps: worked.steps,
        usage: worked.usage,
        times: Times {
            score: worked.times.score + seconds(scoring.elapsed()),
            total: seconds(begun.elapsed()),
            ..worked.times
        },
        sandbox: worked.sandbox,
        tested: worked.tested,
    };
    log.finish(&record, &row.truth());
    let path = shared.folder.join("logs").join(format!("{}.txt", job.name));
    if let Err(error) = std::fs::write(&path, log.text()) {
        tracing::warn!(%error, path = %path.display(), "the log of a sample is not kept");
    }
    record
}

pub(super) fn row<S, G>(shared: &Shared<S, G>, job: &Job) -> Row {
    // Jobs are made from the rows of the same task.
    shared.task.rows.get(job.row).cloned().unwrap_or_default()
}

impl<S: Sandboxes, G: Grader> Scores for Shared<S, G> {
    async fn score(&self, job: &Job, answer: &str) -> Result<f64, String> {
        let (grader, judge) = (self.grader.as_ref(), self.judge.as_ref());
        Box::pin(score(&self.task, grader, judge, job, answer)).await
    }

    fn judge(&self) -> Option<&Judge> {
        self.judge.as_ref()
    }
}

/// What rewards and judges need to know of a row.
pub(super) struct Parts<'a> {
    row: &'a Row,
    truth: String,
    aliases: Vec<String>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(row: &'a Row) -> Self {
        Self {
            row,
            truth: row.truth(),
            aliases: row.aliases(),
        }
    }

    fn truth(&self) -> Truth<'_> {
        Truth {
            answer: &self.truth,
            aliases: &self.aliases,
            domain: self.row.domain(),
            qa_type: self.row.qa_type(),
        }
    }

    pub(super) fn subject<'s>(&'s self, answer: &'s str) -> Subject<'s> {
        Subject {
            question: self.row.problem(),
            reference: &self.truth,
            aliases: &self.aliases,
            answer,
        }
    }
}

/// The score of an answer, or what it waits for.
pub(super) async fn score<G: Grader>(
    task: &Task,
    grader: Option<&G>,
    judge: Option<&Judge>,
    job: &Job,
    answer: &str,
) -> Result<f64, String> {
    let Some(row) = task.rows.get(job.row) else {
        return Err("its row is gone".to_owned());
    };
    let reward = match (&task.scorer, grader) {
        (Scorer::Native(reward), _) => *reward,
        (Scorer::Python(_), Some(grader)) => return grader.score(row, answer).await,
        (Scorer::Python(_), None) => return Err("there is no grader".to_owned()),
        (Scorer::Tests(_), _) => return Err("its tests need the state that it left".to_owned()),
    };
    let parts = Parts::of(row);
    if parts.truth.trim().is_empty() && parts.aliases.is_empty() {
        return Err("its row has no ground_truth".to_owned());
    }
    if let Some(score) = reward.score(answer, parts.truth()) {
        return Ok(score);
    }
    let instructions = reward == Reward::Instructions
        || (reward == Reward::Composite && row.domain().starts_with("instruct_follow"));
    let algebra = matches!(reward, Reward::Math | Reward::Composite) && !instructions;
    match (judge, grader) {
        (Some(judge), _) if reward.is_judged() => {
            let place = Place {
                key: &job.key,
                id: row.id(),
                name: &job.name,
            };
            judge
                .decide(place, parts.subject(answer))
                .await
                .into_score()
        }
        (None, _) if reward.is_judged() => {
            Err("a judge has to decide: `judge DIR --judge_model NAME`".to_owned())
        }
        (_, Some(grader)) if algebra => {
            let equal = grader.math(boxed(answer), &parts.truth).await?;
            Ok(reward.by_algebra(equal, answer, parts.truth()))
        }
        (_, None) if algebra => {
            Err("computer algebra has to decide: `image build grader`, then `verify`".to_owned())
        }
        (_, Some(grader)) if instructions => grader.follows(row, answer).await,
        (_, None) if instructions => {
            Err("verifiers have to decide: `image build grader`, then `verify`".to_owned())
        }
        _ => Err("text alone does not decide it".to_owned()),
    }
}

async fn work<S: Sandboxes, G: Grader>(
    shared: &Shared<S, G>,
    job: &Job,
    folder: &Path,
    (activity, mut cancel): (&Activity, Cancel),
    log: &mut Log,
) -> Worked {
    let model = match shared.models.model(&job.name, job.seed) {
        Ok(model) => Asking {
            model,
            retry: match &shared.settings {
                ModelSettings::Http(config) => config.retry.clone(),
                ModelSettings::Replay(_) => RetryPolicy::default(),
            },
            gate: &shared.gate,
            live: &shared.live,
            activity,
        },
        Err(error) => return Worked::failed(failure(Cause::Llm, &error)),
    };
    let Some(sandboxes) = &shared.sandboxes else {
        let plain = Box::pin(plain::work(shared, job, folder, &model, log));
        let worked = unless(&mut cancel, plain).await;
        return worked.unwrap_or_else(Worked::interrupted);
    };
    let inside = (&model, cancel.clone());
    Box::pin(sandboxed::work(shared, sandboxes, job, folder, inside, log)).await
}

/// A new folder for an attempt: `samples/NAME/N`.
fn make_folder(folder: &Path, name: &str) -> std::io::Result<PathBuf> {
    let parent = folder.join("samples").join(name);
    std::fs::create_dir_all(&parent)?;
    for number in 1..=MAX_FOLDERS {
        let path = parent.join(number.to_string());
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// What `work` gives, or nothing as soon as the run is to end.
pub(super) async fn unless<T>(cancel: &mut Cancel, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stopped(cancel) => None,
        done = work => Some(done),
    }
}

/// Comes as soon as the run is to end.
async fn stopped(cancel: &mut Cancel) {
    if cancel.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could end it.
        std::future::pending::<()>().await;
    }
}
