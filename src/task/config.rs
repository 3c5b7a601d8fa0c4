//! `config.yaml` of a task directory, and where its data are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::prompt::Vanilla;
use super::{TaskError, builtin, hex};
use crate::agent::PromptConfig;
use crate::hub::DataSet;
use crate::reward::Reward;

/// Largest configuration or Python file.
const MAX_BYTES: u64 = 4 << 20;

/// `config.yaml`. What the original does not know is `revision`, `reward` and `vanilla`.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    dataset: Option<String>,
    config: Option<String>,
    split: Option<String>,
    revision: Option<String>,
    data_files: Option<Value>,
    system_prompt: Option<String>,
    instance_prompt: Option<String>,
    working_dir: Option<String>,
    input_dir: Option<String>,
    output_dir: Option<String>,
    prompt_config: Option<PathBuf>,
    reward: Option<Reward>,
    vanilla: Option<Vanilla>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// Where the rows are.
#[derive(Debug)]
pub(super) enum Data {
    /// In files.
    Files(Vec<PathBuf>),
    /// Here, under this name.
    Text(&'static str, &'static str),
    /// On a hub.
    Hub(DataSet),
    /// Nowhere within reach, and why.
    Missing(String),
}

/// A task before its data are read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) prompt: PromptConfig,
    pub(super) reward: Option<Reward>,
    pub(super) reward_py: Option<PathBuf>,
    pub(super) vanilla: Vanilla,
    pub(super) data: Data,
    pub(super) digest: String,
}

impl Source {
    pub(super) fn built_in(name: &str, text: &str) -> Result<Self, TaskError> {
        let path = PathBuf::from(format!("{name}.yaml"));
        let file = parse(&path, text)?;
        let data = match data_set(&file) {
            None => Data::Text("demo.jsonl", builtin::DEMO),
            Some(set) => Data::Hub(set),
        };
        let mut hash = Sha256::new();
        hash.update(text);
        Ok(Self {
            name: name.to_owned(),
            prompt: prompts(&path, &file)?,
            reward: file.reward,
            reward_py: None,
            vanilla: file.vanilla.unwrap_or_default(),
            data,
            digest: hex(&hash.finalize()),
        })
    }

    pub(super) fn directory(directory: &Path, notes: &mut Vec<String>) -> Result<Self, TaskError> {
        let path = directory.join("config.yaml");
        let directory = directory.canonicalize().map_err(|source| TaskError::Read {
            path: directory.to_owned(),
            source,
        })?;
        let text = read(&path)?;
        let mut file = parse(&path, &text)?;
        let mut hash = Sha256::new();
        hash.update(&text);
        if !file.unknown.is_empty() {
            let names: Vec<&str> = file.unknown.keys().map(String::as_str).collect();
            notes.push(format!(
                "{}: unknown keys are passed over: {}",
                path.display(),
                names.join(", ")
            ));
        }
        if let Some(other) = file.prompt_config.take() {
            let other = near(&directory, &other);
            let text = read(&other)?;
            hash.update(&text);
            let prompts = parse(&other, &text)?;
            file = ConfigFile {
                system_prompt: file.system_prompt.or(prompts.system_prompt),
                instance_prompt: file.instance_prompt.or(prompts.instance_prompt),
                working_dir: file.working_dir.or(prompts.working_dir),
                input_dir: file.input_dir.or(prompts.input_dir),
                output_dir: file.output_dir.or(prompts.output_dir),
                ..file
            };
        }
        let mut has = |name: &str| -> Result<bool, TaskError> {
            let path = directory.join(name);
            let found = path.is_file();
            if found {
                hash.update(read(&path)?);
            }
            Ok(found)
        };
        let reward_py = has("reward.py")?;
        let vanilla = match (file.vanilla.clone(), has("vanilla_llm_prompt.py")?) {
            (Some(vanilla), _) => vanilla,
            (None, true) => Vanilla::Python(directory.clone()),
            (None, false) => Vanilla::default(),
        };
        Ok(Self {
            name: directory.file_name().map_or_else(
                || "task".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            ),
            prompt: prompts(&path, &file)?,
            reward: file.reward,
            reward_py: reward_py.then(|| directory.clone()),
            vanilla,
            data: data(&directory, &path, &file)?,
            digest: hex(&hash.finalize()),
        })
    }
}

fn parse(path: &Path, text: &str) -> Result<ConfigFile, TaskError> {
    serde_saphyr::from_str(text).map_err(|e| malformed(path, e.to_string()))
}

/// The original's defaults of a task: all work and the answer in one place.
fn prompts(path: &Path, file: &ConfigFile) -> Result<PromptConfig, TaskError> {
    let directory = |value: &Option<String>, default: &str, name: &str| {
        let value = value.as_deref().unwrap_or(default);
        if value.starts_with('/') && !value.contains('\0') {
            Ok(value.to_owned())
        } else {
            let problem = format!("{name} must be an absolute path, not {value:?}");
            Err(malformed(path, problem))
        }
    };
    Ok(PromptConfig {
        system_prompt: file.system_prompt.clone().unwrap_or_default(),
        instance_prompt: file.instance_prompt.clone().unwrap_or_default(),
        working_dir: directory(&file.working_dir, "/testbed", "working_dir")?,
        input_dir: directory(&file.input_dir, "/testbed/documents", "input_dir")?,
        output_dir: directory(&file.output_dir, "/testbed", "output_dir")?,
    })
}

fn data(directory: &Path, path: &Path, file: &ConfigFile) -> Result<Data, TaskError> {
    if let Some(set) = data_set(file) {
        return Ok(Data::Hub(set));
    }
    let wrong = || {
        malformed(
            path,
            "data_files must be a path, or a list or map of paths".into(),
        )
    };
    let names = match &file.data_files {
        None => return Ok(Data::Missing("config.yaml names no data_files".into())),
        Some(files) => paths(files).ok_or_else(wrong)?,
    };
    Ok(Data::Files(
        names.iter().map(|name| near(directory, name)).collect(),
    ))
}

/// The data set of a hub, unless `dataset` is missing or names a kind of file.
fn data_set(file: &ConfigFile) -> Option<DataSet> {
    let name = file.dataset.as_deref()?;
    let kinds = ["json", "csv", "parquet"];
    (!kinds.contains(&name)).then(|| DataSet {
        name: name.to_owned(),
        config: file.config.clone(),
        split: file.split.clone(),
        revision: file.revision.clone(),
    })
}

/// The paths of a text, a list, or a map from splits to either.
fn paths(files: &Value) -> Option<Vec<PathBuf>> {
    match files {
        Value::String(path) => Some(vec![PathBuf::from(path)]),
        Value::Array(items) => items
            .iter()
            .map(paths)
            .collect::<Option<Vec<_>>>()
            .map(|all| all.concat()),
        Value::Object(map) => map
            .values()
            .map(paths)
            .collect::<Option<Vec<_>>>()
            .map(|all| all.concat()),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// In the task directory, else beside it.
fn near(directory: &Path, name: &Path) -> PathBuf {
    let inside = directory.join(name);
    match directory.parent().map(|parent| parent.join(name)) {
        Some(beside) if !inside.exists() && beside.exists() => beside,
        _ => inside,
    }
}

fn read(path: &Path) -> Result<String, TaskError> {
    let error = |source| TaskError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(error)?.len();
    if size > MAX_BYTES {
        return Err(malformed(
            path,
            format!("it has {size} bytes, more than {MAX_BYTES}"),
        ));
    }
    std::fs::read_to_string(path).map_err(error)
}

fn malformed(path: &Path, problem: String) -> TaskError {
    TaskError::Malformed {
        path: path.to_owned(),
        problem,
    }
}
