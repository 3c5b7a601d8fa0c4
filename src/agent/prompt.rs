//! Prompt configurations: the original's YAML keys and placeholders.
//!
//! `{working_dir}`, `{input_dir}` and `{output_dir}` stand for the directories, `{problem_statement}` for the task;
//! `{command_docs}` and `{demo}` are always empty. `{{` and `}}` are single braces. Any other brace stays as it is.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The configuration that is used when none is named.
const GENERAL: &str = include_str!("prompts/general.yaml");
/// Largest prompt file.
const MAX_BYTES: u64 = 4 << 20;

/// Prompts and directories of a kind of task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptConfig {
    /// Template of the system message.
    pub system_prompt: String,
    /// Template of the first user message; empty means the bare task.
    pub instance_prompt: String,
    /// Where commands start.
    pub working_dir: String,
    /// Where input files are put.
    pub input_dir: String,
    /// What is copied out in the end.
    pub output_dir: String,
}

/// A prompt configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// It cannot be read.
    #[error("read the prompt configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("the prompt configuration {path} is malformed: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        problem: String,
    },
}

/// The file. Benchmark configurations hold the prompts too, so their keys are known here and passed over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptFile {
    #[serde(default)]
    system_prompt: String,
    #[serde(default)]
    instance_prompt: String,
    working_dir: Option<String>,
    input_dir: Option<String>,
    output_dir: Option<String>,
    #[serde(default, rename = "dataset")]
    _dataset: Option<IgnoredAny>,
    #[serde(default, rename = "config")]
    _config: Option<IgnoredAny>,
    #[serde(default, rename = "split")]
    _split: Option<IgnoredAny>,
    #[serde(default, rename = "data_files")]
    _data_files: Option<IgnoredAny>,
}

impl PromptConfig {
    /// The built-in configuration for any kind of task.
    ///
    /// # Errors
    /// None in practice; a test reads it.
    pub fn general() -> Result<Self, PromptError> {
        Self::parse(Path::new("general.yaml"), GENERAL)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`PromptError`] naming the file and the place in it.
    pub fn load(path: &Path) -> Result<Self, PromptError> {
        let read_error = |source| PromptError::Read {
            path: path.to_owned(),
            source,
        };
        let size = std::fs::metadata(path).map_err(read_error)?.len();
        if size > MAX_BYTES {
            return Err(PromptError::Malformed {
                path: path.to_owned(),
                problem: format!("it has {size} bytes, more than {MAX_BYTES}"),
            });
        }
        let text = std::fs::read_to_string(path).map_err(read_error)?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file called `path`.
    ///
    /// # Errors
    /// [`PromptError::Malformed`] with the place of the mistake.
    pub fn parse(path: &Path, text: &str) -> Result<Self, PromptError> {
        let malformed = |problem: String| PromptError::Malformed {
            path: path.to_owned(),
            problem,
        };
        let file: PromptFile =
            serde_saphyr::from_str(text).map_err(|e| malformed(e.to_string()))?;
        let directory = |value: Option<String>, default: &str, name: &str| {
            let value = value.unwrap_or_else(|| default.to_owned());
            if value.starts_with('/') && !value.contains('\0') {
                Ok(value)
            } else {
                Err(malformed(format!(
                    "{name} must be an absolute path, not {value:?}"
                )))
            }
        };
        Ok(Self {
            system_prompt: file.system_prompt,
            instance_prompt: file.instance_prompt,
            working_dir: directory(file.working_dir, "/testbed", "working_dir")?,
            input_dir: directory(file.input_dir, "/testbed/input", "input_dir")?,
            output_dir: directory(file.output_dir, "/testbed/output", "output_dir")?,
        })
    }

    /// The system message.
    #[must_use]
    pub fn system(&self) -> String {
        self.fill(&self.system_prompt, &[("command_docs", ""), ("demo", "")])
    }

    /// The first user message.
    #[must_use]
    pub fn instance(&self, problem: &str) -> String {
        if self.instance_prompt.trim().is_empty() {
            return problem.to_owned();
        }
        self.fill(&self.instance_prompt, &[("problem_statement", problem)])
    }

    /// One pass from left to right: what is filled in is not looked at again.
    fn fill(&self, template: &str, values: &[(&str, &str)]) -> String {
        let directories = [
            ("working_dir", self.working_dir.as_str()),
            ("input_dir", self.input_dir.as_str()),
            ("output_dir", self.output_dir.as_str()),
        ];
        let mut out = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
            out.push_str(before);
            let name = from.strip_prefix('{').and_then(|tail| tail.split_once('}'));
            let known = name.and_then(|(name, after)| {
                let mut all = directories.iter().chain(values);
                all.find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value, after))
            });
            if let Some((value, after)) = known {
                out.push_str(value);
                rest = after;
            } else if let Some(after) = from.strip_prefix("{{") {
                out.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                out.push('}');
                rest = after;
            } else {
                let mut chars = from.chars();
                out.extend(chars.next());
                rest = chars.as_str();
            }
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(system: &str, instance: &str) -> PromptConfig {
        PromptConfig {
            system_prompt: system.into(),
            instance_prompt: instance.into(),
            working_dir: "/w".into(),
            input_dir: "/w/in".into(),
            output_dir: "/w/out".into(),
        }
    }

    #[test]
    fn placeholders_are_filled_and_stray_braces_stay() {
        let config = config(
            "{working_dir} {command_docs}{demo}|{{x}} \\boxed{{}} {unknown} { } }{ {",
            "<{problem_statement}> {input_dir} {output_dir} {{problem_statement}}",
        );
        assert_eq!(config.system(), "/w |{x} \\boxed{} {unknown} { } }{ {");
        assert_eq!(
            config.instance("a {working_dir} {{b}}"),
            "<a {working_dir} {{b}}> /w/in /w/out {problem_statement}"
        );
    }

    #[test]
    fn an_empty_instance_prompt_gives_the_bare_task() {
        assert_eq!(config("", " \n").instance("{task}"), "{task}");
    }

    #[test]
    fn the_built_in_configuration_is_complete() {
        let general = PromptConfig::general().unwrap();
        assert_eq!(general.working_dir, "/testbed");
        assert_eq!(general.output_dir, "/testbed/output");
        let (system, instance) = (general.system(), general.instance("THE TASK"));
        for text in [&system, &instance] {
            assert!(!text.contains('{') && !text.contains('}'), "{text}");
            assert!(text.contains("/testbed/output"));
        }
        assert!(instance.contains("THE TASK") && system.contains("submit"));
    }

    #[test]
    fn mistakes_are_named() {
        let parse =
            |text| PromptConfig::parse(Path::new("p.yaml"), text).map_err(|e| e.to_string());
        assert!(
            parse("sytem_prompt: x\n")
                .unwrap_err()
                .contains("sytem_prompt")
        );
        assert!(
            parse("working_dir: relative\n")
                .unwrap_err()
                .contains("working_dir")
        );
        assert!(parse("a: [").is_err());
        let benchmark = "dataset: json\nconfig: null\nsplit: test\ndata_files: {a: [b]}\nsystem_prompt: |\n  s\ninput_dir: /d\n";
        assert_eq!(parse(benchmark).unwrap().input_dir, "/d");
    }
}
