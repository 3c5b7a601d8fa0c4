//! `task.toml`: limits, deadlines and networks of a task.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Value;

use super::values::{network, seconds, size, variables};
use super::{Dockerfile, Harbor, HarborImage, Phase, malformed, read_text};
use crate::task::TaskError;

/// Of the tests, where nothing is said.
const VERIFIER_TIMEOUT: f64 = 600.0;
/// Of the building of an image, where nothing is said.
const BUILD_TIMEOUT: f64 = 600.0;

type Unknown = BTreeMap<String, Value>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    environment: Environment,
    agent: Section,
    verifier: Section,
    #[serde(flatten)]
    rest: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Environment {
    docker_image: Option<String>,
    workdir: Option<String>,
    build_timeout_sec: Option<f64>,
    cpus: Option<f64>,
    memory: Option<String>,
    memory_mb: Option<u64>,
    storage: Option<String>,
    storage_mb: Option<u64>,
    allow_internet: Option<bool>,
    network_mode: Option<String>,
    allowed_hosts: Vec<String>,
    env: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    timeout_sec: Option<f64>,
    network_mode: Option<String>,
    allowed_hosts: Vec<String>,
    env: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Unknown,
}

/// Says nothing to a run.
const TOP: [&str; 6] = [
    "version",
    "schema_version",
    "task",
    "metadata",
    "solution",
    "source",
];
/// What cannot be had here, by the place where it is asked for; a value that asks for nothing is let through.
const REFUSED: [(&str, &str); 12] = [
    ("", "steps"),
    ("", "artifacts"),
    ("environment", "gpus"),
    ("environment", "gpu_types"),
    ("environment", "tpu"),
    ("environment", "mcp_servers"),
    ("environment", "healthcheck"),
    ("environment", "skills_dir"),
    ("environment", "os"),
    ("agent", "user"),
    ("verifier", "user"),
    ("verifier", "environment_mode"),
];

/// Reads a task directory, but for its instruction.
pub(super) fn read(directory: &Path, notes: &mut Vec<String>) -> Result<Harbor, TaskError> {
    let path = directory.join("task.toml");
    let text = read_text(&path)?;
    let wrong = |problem: String| malformed(&path, problem);
    let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if !directory.join(Harbor::SCRIPT).is_file() {
        let problem = format!("it has no {}, which judges", Harbor::SCRIPT);
        return Err(malformed(directory, problem));
    }
    for name in ["tests", "environment"] {
        let path = directory.join(name);
        if path.is_symlink() {
            return Err(malformed(&path, "it is a link".to_owned()));
        }
    }
    let rest = [
        ("", &file.rest),
        ("environment", &file.environment.rest),
        ("agent", &file.agent.rest),
        ("verifier", &file.verifier.rest),
    ];
    for (section, keys) in rest {
        for (key, value) in keys {
            check(section, key, value, notes).map_err(wrong)?;
        }
    }
    let (image, workdir) = image(directory, &file.environment)?;
    let harbor = file.harbor(directory, image, workdir);
    harbor.map_err(wrong)
}

impl File {
    fn harbor(
        &self,
        directory: &Path,
        image: HarborImage,
        workdir: Option<String>,
    ) -> Result<Harbor, String> {
        let environment = &self.environment;
        let workdir = environment.workdir.clone().or(workdir);
        let workdir = workdir.unwrap_or_else(|| "/".to_owned());
        if !workdir.starts_with('/') || workdir.split('/').any(|part| part == "..") {
            return Err(format!(
                "environment.workdir is no absolute path: {workdir:?}"
            ));
        }
        if let Some(cpus) = environment.cpus
            && !(cpus.is_finite() && cpus >= 0.01)
        {
            return Err(format!("environment.cpus cannot be {cpus}"));
        }
        let baseline = environment.network()?;
        let build_timeout = environment.build_timeout_sec.unwrap_or(BUILD_TIMEOUT);
        Ok(Harbor {
            directory: directory.to_owned(),
            image,
            workdir,
            env: variables("environment", &environment.env)?,
            cpus: environment.cpus,
            memory: size(
                "memory",
                environment.memory.as_deref(),
                environment.memory_mb,
            )?,
            storage: size(
                "storage",
                environment.storage.as_deref(),
                environment.storage_mb,
            )?,
            build_timeout: seconds("environment.build_timeout_sec", build_timeout)?,
            agent: self.agent.phase("agent", None, &baseline)?,
            verifier: self
                .verifier
                .phase("verifier", Some(VERIFIER_TIMEOUT), &baseline)?,
        })
    }
}

impl Environment {
    /// What holds where a phase says nothing else.
    fn network(&self) -> Result<String, String> {
        if self.network_mode.is_none()
            && self.allowed_hosts.is_empty()
            && self.allow_internet == Some(false)
        {
            return Ok("none".to_owned());
        }
        let mode = self.network_mode.as_deref();
        let own = network("environment", mode, &self.allowed_hosts)?;
        Ok(own.unwrap_or_else(|| "internet".to_owned()))
    }
}

impl Section {
    fn phase(&self, name: &str, usual: Option<f64>, baseline: &str) -> Result<Phase, String> {
        let timeout = self.timeout_sec.or(usual);
        let key = format!("{name}.timeout_sec");
        let own = network(name, self.network_mode.as_deref(), &self.allowed_hosts)?;
        Ok(Phase {
            timeout: timeout.map(|s| seconds(&key, s)).transpose()?,
            network: own.unwrap_or_else(|| baseline.to_owned()),
            env: variables(name, &self.env)?,
        })
    }
}

/// A key that is no limit or deadline.
fn check(section: &str, key: &str, value: &Value, notes: &mut Vec<String>) -> Result<(), String> {
    if section.is_empty() && TOP.contains(&key) {
        return Ok(());
    }
    let name = match section {
        "" => key.to_owned(),
        _ => format!("{section}.{key}"),
    };
    if REFUSED.contains(&(section, key)) {
        let nothing = match (value, key) {
            (Value::Integer(number), _) => *number == 0,
            (Value::Array(items), _) => items.is_empty(),
            (Value::String(text), "user") => text == "root",
            (Value::String(text), "os") => text == "linux",
            (Value::String(text), "environment_mode") => text == "shared",
            _ => false,
        };
        return match nothing {
            true => Ok(()),
            false => Err(format!("{name} = {value} cannot be had here")),
        };
    }
    // An environment of the tests' own would be another image.
    if (section, key) == ("verifier", "environment") {
        return Err(format!(
            "{name} cannot be had here: tests run over what the model left"
        ));
    }
    notes.push(format!("task.toml: an unknown key is passed over: {name}"));
    Ok(())
}

/// The image, and the directory in which its Dockerfile leaves off.
fn image(
    directory: &Path,
    environment: &Environment,
) -> Result<(HarborImage, Option<String>), TaskError> {
    let context = directory.join("environment");
    let services = ["docker-compose.yaml", "docker-compose.yml"];
    if let Some(name) = services.iter().find(|name| context.join(name).exists()) {
        let problem = "several containers at once cannot be had here".to_owned();
        return Err(malformed(&context.join(name), problem));
    }
    let path = context.join("Dockerfile");
    let text = path.is_file().then(|| read_text(&path)).transpose()?;
    let ignored = context.join(".dockerignore");
    if environment.docker_image.is_none() && ignored.exists() {
        let problem = "it is not read here: take away what is not to be copied".to_owned();
        return Err(malformed(&ignored, problem));
    }
    match (&environment.docker_image, text) {
        (None, None) => Ok((HarborImage::Default, None)),
        // It was built of a Dockerfile elsewhere: of ours only its directory is of interest.
        (Some(name), text) => {
            let file = text.and_then(|text| Dockerfile::parse(&text).ok());
            let workdir = file.and_then(|file| file.workdir());
            Ok((HarborImage::Named(name.clone()), workdir))
        }
        (None, Some(text)) => {
            let file = Dockerfile::parse(&text).map_err(|problem| malformed(&path, problem))?;
            let workdir = file.workdir();
            Ok((HarborImage::Built(file, context), workdir))
        }
    }
}
