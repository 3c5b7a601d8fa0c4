//! Evaluation tasks: prompts, data and how answers are scored, from a directory in the original's format or Harbor's, or built in.

mod builtin;
mod config;
mod data;
mod harbor;
mod prompt;
mod row;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use builtin::NAMES;
pub use harbor::{Dockerfile, Harbor, HarborImage, Instruction, Phase, expand, join};
pub use prompt::Vanilla;
pub use row::Row;

use crate::agent::PromptConfig;
use crate::hub::{DataSet, Fetched};
use crate::reward::Reward;

/// What is to be evaluated.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name, as results give it.
    pub name: String,
    /// Prompts and directories.
    pub prompt: PromptConfig,
    /// How answers are scored.
    pub scorer: Scorer,
    /// How a model without a sandbox is asked.
    pub vanilla: Vanilla,
    /// The data, in order.
    pub rows: Vec<Row>,
    /// Digest of prompts, scorer and Python files.
    pub digest: String,
    /// Digest of the rows.
    pub data_digest: String,
    /// What the person should know.
    pub notes: Vec<String>,
}

/// How answers are scored.
#[derive(Debug, Clone, PartialEq)]
pub enum Scorer {
    /// By a reward of ours.
    Native(Reward),
    /// By `compute_score` of the task's `reward.py`; the directory that holds it.
    Python(PathBuf),
    /// By tests of the state that the model leaves; one for each row.
    Tests(Vec<Harbor>),
}

/// Which task, and what of it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Name of a built-in task, or a directory.
    pub task: String,
    /// File of rows instead of the task's own.
    pub data: Option<PathBuf>,
    /// What was fetched from a hub, for a task whose rows are there.
    pub fetched: Option<Fetched>,
    /// Documents stand in the prompt instead of in files.
    pub context_in_prompt: bool,
    /// Reward instead of the task's own.
    pub reward: Option<Reward>,
    /// First row.
    pub start: Option<usize>,
    /// Row after the last.
    pub end: Option<usize>,
}

/// A task cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// Neither built in nor a directory.
    #[error("there is no task {0:?}: name a directory, or one of {names}", names = NAMES.join(", "))]
    Unknown(String),
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing to work on.
    #[error("the task {task} has no data: {problem}")]
    NoData {
        /// Its name.
        task: String,
        /// What is missing, and what to do.
        problem: String,
    },
}

impl Task {
    /// Reads a task and its data.
    ///
    /// # Errors
    /// [`TaskError`] for everything that cannot be used.
    pub fn load(wanted: &Wanted) -> Result<Self, TaskError> {
        let directory = Path::new(&wanted.task);
        if is_harbor(wanted) {
            return harbor::load(wanted);
        }
        let mut notes = Vec::new();
        let source = source(wanted, &mut notes)?;
        let scorer = match (wanted.reward.or(source.reward), &source.reward_py) {
            (Some(native), _) => Scorer::Native(native),
            (None, Some(directory)) => Scorer::Python(directory.clone()),
            (None, None) => {
                return Err(TaskError::Malformed {
                    path: directory.to_owned(),
                    problem: "it has neither reward.py nor a `reward` in config.yaml".into(),
                });
            }
        };
        let all = match (&wanted.data, &source.data) {
            (Some(file), _) => data::read(std::slice::from_ref(file))?,
            (None, config::Data::Text(path, text)) => data::parse(Path::new(path), text)?,
            (None, config::Data::Files(files)) => data::read(files)?,
            (None, config::Data::Hub(set)) => match &wanted.fetched {
                Some(fetched) => data::read(&fetched.files)?,
                None => {
                    return Err(TaskError::NoData {
                        task: source.name,
                        problem: format!("those of {} were not fetched", set.name),
                    });
                }
            },
            (None, config::Data::Missing(problem)) => {
                return Err(TaskError::NoData {
                    task: source.name,
                    problem: problem.clone(),
                });
            }
        };
        let total = all.len();
        let mut rows = slice(all, wanted.start, wanted.end);
        if rows.is_empty() {
            return Err(TaskError::NoData {
                task: source.name,
                problem: format!("none of its {total} rows is chosen"),
            });
        }
        row::check(&rows, &source.name)?;
        if wanted.context_in_prompt {
            rows.iter_mut().for_each(prompt::with_documents);
        }
        let mut hash = Sha256::new();
        hash.update(source.digest.as_bytes());
        hash.update(format!("{scorer:?}").as_bytes());
        Ok(Self {
            digest: hex(&hash.finalize()),
            data_digest: row::digest(&rows),
            name: source.name,
            prompt: source.prompt,
            vanilla: source.vanilla,
            scorer,
            rows,
            notes,
        })
    }
}

impl Task {
    /// What a row's tests need, where it has any.
    #[must_use]
    pub fn harbor(&self, row: usize) -> Option<&Harbor> {
        match &self.scorer {
            Scorer::Tests(tasks) => tasks.get(row),
            Scorer::Native(_) | Scorer::Python(_) => None,
        }
    }

    /// Prompts and directories of a row.
    #[must_use]
    pub fn prompt(&self, row: usize) -> PromptConfig {
        let mut prompt = self.prompt.clone();
        if let Some(harbor) = self.harbor(row) {
            prompt.working_dir.clone_from(&harbor.workdir);
        }
        prompt
    }
}

fn is_harbor(wanted: &Wanted) -> bool {
    let directory = Path::new(&wanted.task);
    let own = builtin::config(&wanted.task).is_some() || directory.join("config.yaml").is_file();
    !own && harbor::is_task(directory)
}

/// The data set of a hub that holds the rows of a task, unless they are given.
///
/// # Errors
/// [`TaskError`] when there is no such task.
pub fn data_set(wanted: &Wanted) -> Result<Option<DataSet>, TaskError> {
    if is_harbor(wanted) {
        return Ok(None);
    }
    let source = source(wanted, &mut Vec::new())?;
    Ok(
        if let (config::Data::Hub(set), None) = (source.data, &wanted.data) {
            Some(set)
        } else {
            None
        },
    )
}

fn source(wanted: &Wanted, notes: &mut Vec<String>) -> Result<config::Source, TaskError> {
    let directory = Path::new(&wanted.task);
    if let Some(text) = builtin::config(&wanted.task) {
        config::Source::built_in(&wanted.task, text)
    } else if directory.join("config.yaml").is_file() {
        config::Source::directory(directory, notes)
    } else {
        Err(TaskError::Unknown(wanted.task.clone()))
    }
}

/// As Python slices a list, without negative numbers; an end of 0 is an end.
fn slice<T>(rows: Vec<T>, start: Option<usize>, end: Option<usize>) -> Vec<T> {
    let start = start.unwrap_or(0);
    let count = end.map_or(usize::MAX, |end| end.saturating_sub(start));
    rows.into_iter().skip(start).take(count).collect()
}

/// A digest as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
