//! Harbor task directories: `instruction.md`, `task.toml`, `environment/`, `tests/`. Each is one sample.
//!
//! What a `task.toml` asks for and nobody here can hold is an error by its key; keys that nobody knows are told.

mod dockerfile;
mod settings;
mod values;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use dockerfile::{Dockerfile, Instruction, expand, join};

use super::{Row, Scorer, Task, TaskError, Vanilla, Wanted, hex, row, slice};
use crate::agent::PromptConfig;

/// Prompts of our own.
const PROMPTS: &str = include_str!("prompts.yaml");
/// Largest instruction and `task.toml`.
const MAX_TEXT: u64 = 4 << 20;
/// Most task directories of a data set.
const MAX_TASKS: usize = 100_000;
/// Most files of one task, and bytes of all of them.
const MAX_FILES: usize = 20_000;
const MAX_BYTES: u64 = 2 << 30;
/// Directories below each other.
const MAX_DEPTH: usize = 64;

/// One task directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Harbor {
    /// Where it is.
    pub directory: PathBuf,
    /// What its sandboxes stand on.
    pub image: HarborImage,
    /// Where commands start.
    pub workdir: String,
    /// Variables of all processes.
    pub env: Vec<(String, String)>,
    /// CPUs' worth of time, if it says.
    pub cpus: Option<f64>,
    /// Bytes of memory, if it says.
    pub memory: Option<u64>,
    /// Bytes that may be written, if it says.
    pub storage: Option<u64>,
    /// Time for the building of its image.
    pub build_timeout: Duration,
    /// While the model works.
    pub agent: Phase,
    /// While the tests run.
    pub verifier: Phase,
}

/// What holds at one time of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// For all of it.
    pub timeout: Option<Duration>,
    /// As `--net` takes it.
    pub network: String,
    /// Further variables.
    pub env: Vec<(String, String)>,
}

/// What the sandboxes of a task stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HarborImage {
    /// The default.
    Default,
    /// An image by name.
    Named(String),
    /// What a Dockerfile makes, with the directory of its files.
    Built(Dockerfile, PathBuf),
}

impl Harbor {
    /// The script that judges.
    pub const SCRIPT: &str = "tests/test.sh";

    /// The tests.
    #[must_use]
    pub fn tests(&self) -> PathBuf {
        self.directory.join("tests")
    }
}

/// Whether this is a task directory, or one of task directories.
pub(super) fn is_task(directory: &Path) -> bool {
    is_one(directory) || !found(directory).unwrap_or_default().is_empty()
}

fn is_one(directory: &Path) -> bool {
    ["task.toml", "instruction.md"]
        .iter()
        .all(|name| directory.join(name).is_file())
}

/// The task directories below, in the order of their names.
fn found(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.take(MAX_TASKS) {
        let path = entry?.path();
        if is_one(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn load(wanted: &Wanted) -> Result<Task, TaskError> {
    let root = Path::new(&wanted.task);
    let failed = |source| TaskError::Read {
        path: root.to_owned(),
        source,
    };
    let root = &root.canonicalize().map_err(failed)?;
    let directories = match is_one(root) {
        true => vec![root.clone()],
        false => found(root).map_err(failed)?,
    };
    let refused = |what: &str| {
        let problem = format!("{what} does not go with the tests of Harbor's tasks");
        malformed(root, problem)
    };
    if wanted.data.is_some() {
        return Err(refused("--data"));
    }
    if wanted.reward.is_some() {
        return Err(refused("--reward"));
    }
    if wanted.context_in_prompt {
        return Err(refused("--context prompt"));
    }
    let mut notes = Vec::new();
    let mut all = Vec::new();
    for (at, directory) in slice(directories, wanted.start, wanted.end)
        .into_iter()
        .enumerate()
    {
        let task = settings::read(&directory, &mut notes)?;
        all.push((row_of(&directory, at)?, task));
    }
    let name = file_name(root);
    let (rows, tasks): (Vec<Row>, Vec<Harbor>) = all.into_iter().unzip();
    if rows.is_empty() {
        let problem = "no task directory is chosen".to_owned();
        return Err(TaskError::NoData {
            task: name,
            problem,
        });
    }
    row::check(&rows, &name)?;
    notes.sort();
    notes.dedup();
    let prompt = PromptConfig::parse(Path::new("prompts.yaml"), PROMPTS)
        .map_err(|error| malformed(root, error.to_string()))?;
    Ok(Task {
        digest: hex(&Sha256::digest(PROMPTS)),
        data_digest: row::digest(&rows),
        name,
        prompt,
        scorer: Scorer::Tests(tasks),
        vanilla: Vanilla::Plain,
        rows,
        notes,
    })
}

/// The sample: what the model is told, and a digest of all that decides its score.
fn row_of(directory: &Path, at: usize) -> Result<Row, TaskError> {
    let mut row = Map::new();
    row.insert("id".into(), file_name(directory).into());
    let instruction = read_text(&directory.join("instruction.md"))?;
    row.insert("problem_statement".into(), Value::String(instruction));
    row.insert("files".into(), Value::String(digest(directory)?));
    Ok(Row::new(row, at))
}

fn file_name(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Of everything but the solution: names, kinds, rights to execute and contents.
fn digest(directory: &Path) -> Result<String, TaskError> {
    let mut hash = Sha256::new();
    let (mut files, mut bytes) = (0, 0);
    let mut stack = vec![(directory.to_owned(), 0)];
    while let Some((path, depth)) = stack.pop() {
        let error = |source| TaskError::Read {
            path: path.clone(),
            source,
        };
        let metadata = fs::symlink_metadata(&path).map_err(error)?;
        files += 1;
        bytes += metadata.len();
        if files > MAX_FILES || bytes > MAX_BYTES || depth > MAX_DEPTH {
            let problem = format!(
                "it has more than {MAX_FILES} files, {MAX_BYTES} bytes or {MAX_DEPTH} levels"
            );
            return Err(malformed(directory, problem));
        }
        let below = path.strip_prefix(directory).unwrap_or(&path);
        hash.update(format!("{below:?}\0").as_bytes());
        if metadata.is_dir() {
            let entries: Result<Vec<_>, _> = fs::read_dir(&path).map_err(error)?.collect();
            let mut paths: Vec<_> = entries
                .map_err(error)?
                .into_iter()
                .map(|entry| entry.path())
                .filter(|path| depth > 0 || !path.ends_with("solution"))
                .collect();
            paths.sort();
            hash.update(format!("directory {}\0", paths.len()));
            stack.extend(paths.into_iter().rev().map(|path| (path, depth + 1)));
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(error)?;
            hash.update(format!("link {target:?}\0"));
        } else if metadata.is_file() {
            use std::os::unix::fs::PermissionsExt as _;
            let executable = metadata.permissions().mode() & 0o111 != 0;
            let mut content = Sha256::new();
            let copied = fs::File::open(&path)
                .and_then(|file| std::io::copy(&mut file.take(MAX_BYTES), &mut content));
            copied.map_err(error)?;
            hash.update(format!("file {executable} {}\0", hex(&content.finalize())));
        } else {
            return Err(malformed(
                &path,
                "it is neither a file nor a directory".into(),
            ));
        }
    }
    Ok(hex(&hash.finalize()))
}

fn read_text(path: &Path) -> Result<String, TaskError> {
    let error = |source| TaskError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::symlink_metadata(path).map_err(error)?;
    // What a data set of somebody else's links to is a file of this host's.
    if !metadata.is_file() {
        return Err(malformed(path, "it is a link, or no file".to_owned()));
    }
    let size = metadata.len();
    if size > MAX_TEXT {
        let problem = format!("it has {size} bytes, more than {MAX_TEXT}");
        return Err(malformed(path, problem));
    }
    fs::read_to_string(path).map_err(error)
}

fn malformed(path: &Path, problem: String) -> TaskError {
    TaskError::Malformed {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests;
