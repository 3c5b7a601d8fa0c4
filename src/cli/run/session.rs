//! One run around a sandbox that somebody else starts: its folder, its record, its display and its end.

use std::fs::DirBuilder;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{EXIT_NOT_SUBMITTED, EXIT_SUBMITTED, RunError, RunSettings};
use crate::agent::{self, AgentConfig, Cancel, Outcome, SandboxFacts, StopReason};
use crate::cli::display::Display;
use crate::cli::output::{note, result};
use crate::env::{Env, GuestPath};
use crate::llm::Model;
use crate::settings::Environment;
use crate::spec::Usage;
use crate::trajectory::{Event, Recorder};

/// Runs that may begin in the same second.
const MAX_FOLDERS: u32 = 1000;
/// Bytes of an answer that are shown.
const MAX_ANSWER: u64 = 64 << 10;
/// Characters of an error that are shown.
const MAX_DETAIL: usize = 2000;

/// One run.
#[derive(Debug)]
pub struct Session {
    settings: RunSettings,
    model: Model,
    folder: PathBuf,
    display: Display,
    recorder: Option<Recorder>,
    outcome: Option<Outcome>,
}

impl Session {
    /// Prepares the model and makes the run folder.
    ///
    /// # Errors
    /// [`RunError`] when either cannot be.
    pub fn begin(settings: RunSettings, environment: Environment<'_>) -> Result<Self, RunError> {
        let model = Model::open(&settings.agent.model)?;
        let folder = make_folder(&settings.agent.output_dir, SystemTime::now(), "")?;
        Ok(Self {
            display: Display::new(settings.agent.limits.max_steps, environment),
            settings,
            model,
            folder,
            recorder: None,
            outcome: None,
        })
    }

    /// The settled settings.
    #[must_use]
    pub fn settings(&self) -> &RunSettings {
        &self.settings
    }

    /// The run folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the sandbox's output directory is to be copied.
    #[must_use]
    pub fn files_dir(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// The sandbox's input directory.
    #[must_use]
    pub fn input_dir(&self) -> GuestPath {
        GuestPath::from(self.settings.prompt.input_dir.as_str())
    }

    /// The sandbox's output directory.
    #[must_use]
    pub fn output_dir(&self) -> GuestPath {
        GuestPath::from(self.settings.prompt.output_dir.as_str())
    }

    /// Makes the directories of the prompt configuration, and the working directory a git repository where git is there.
    ///
    /// # Errors
    /// [`RunError::Sandbox`] when the sandbox is gone or its directories cannot be made.
    pub async fn prepare<E: Env>(&self, env: &E) -> Result<(), RunError> {
        agent::prepare(env, &self.settings.prompt)
            .await
            .map_err(|source| RunError::Sandbox {
                doing: "prepare the run".to_owned(),
                source: source.into(),
                exit: EXIT_NOT_SUBMITTED,
            })
    }

    /// Lets the agent work in the sandbox, showing and recording its turns.
    ///
    /// # Errors
    /// [`RunError::Record`] when the record cannot be begun; how the work went is told by [`Session::finish`].
    pub async fn work<E: Env>(
        &mut self,
        env: &E,
        facts: SandboxFacts,
        cancel: Cancel,
    ) -> Result<StopReason, RunError> {
        let RunSettings {
            query,
            agent,
            prompt,
            ..
        } = &self.settings;
        let config = AgentConfig {
            system: prompt.system(),
            instance: prompt.instance(query),
            limits: agent.limits.clone(),
            style: agent.style,
            shell: agent.shell,
            ablations: Vec::new(),
        };
        let header = agent::header(&agent.model, &config, prompt, query, facts);
        let mut recorder = Recorder::create(&self.folder, &header, agent.save_exchanges)?;
        let record = (&mut recorder, &header);
        let mut show = |event: &Event| self.display.show(event);
        let outcome =
            agent::run_recorded(env, &self.model, &config, record, &mut show, cancel).await;
        let stop = outcome.stop;
        self.recorder = Some(recorder);
        self.outcome = Some(outcome);
        Ok(stop)
    }

    /// Completes the record, prints the answer and where everything is, and returns the exit code.
    ///
    /// # Errors
    /// [`RunError::Record`] when the record is incomplete.
    pub fn finish(self, mut usage: Option<Usage>) -> Result<u8, RunError> {
        // Interrupted before the sandbox ran.
        let Some(outcome) = &self.outcome else {
            return Ok(super::EXIT_INTERRUPTED);
        };
        let told = usage.as_ref().map(about_sandbox);
        let connections = usage
            .as_mut()
            .map(|usage| std::mem::take(&mut usage.connections));
        let recorded = match self.recorder {
            Some(mut recorder) => {
                recorder.connections(connections.unwrap_or_default());
                recorder.finish(&outcome.to_event(usage))
            }
            None => Ok(()),
        };
        let files = self.folder.join("files");
        let answer = files.join("answer.txt");
        if let Some(text) = read_answer(&answer) {
            result(&format!("answer:     {}", answer.display()));
            result(&text);
        } else {
            note("there is no answer.txt in the output directory");
        }
        result(&format!("files:      {}", files.display()));
        result(&format!(
            "trajectory: {}",
            self.folder.join("trajectory.json").display()
        ));
        result(&format!(
            "stopped:    {} after {} turns",
            outcome.stop.as_str(),
            outcome.steps
        ));
        if let Some(detail) = &outcome.detail {
            note(&detail.chars().take(MAX_DETAIL).collect::<String>());
        }
        note(&format!(
            "tokens {} in, {} out; model {:.1} s, tools {:.1} s, in all {:.1} s",
            outcome.usage.prompt_tokens,
            outcome.usage.completion_tokens,
            outcome.model_time.as_secs_f64(),
            outcome.tool_time.as_secs_f64(),
            outcome.total_time.as_secs_f64()
        ));
        for line in told.unwrap_or_default() {
            result(&line);
        }
        recorded?;
        Ok(match outcome.stop {
            StopReason::Submitted => EXIT_SUBMITTED,
            StopReason::MaxSteps
            | StopReason::TokenLimit
            | StopReason::ContextOverflow
            | StopReason::Timeout
            | StopReason::LlmError
            | StopReason::SandboxDied => EXIT_NOT_SUBMITTED,
            StopReason::Interrupted => super::EXIT_INTERRUPTED,
        })
    }
}

/// What a person should know of a sandbox after its end.
fn about_sandbox(usage: &Usage) -> Vec<String> {
    let struck = usage.struck.iter().filter(|hit| hit.can_end());
    let left = usage.left_behind.unwrap_or_default();
    let refused = usage.refused.iter().flatten();
    struck
        .map(|hit| format!("limit:      {hit}"))
        .chain(refused.map(|refused| format!("seccomp:    {refused}")))
        .chain([format!("left behind: {left}")])
        .collect()
}

/// Makes `<parent>/YYYYMMDD_HHMMSS<suffix>` (UTC), or the same with `_2`, `_3`… where that is taken: no two runs share one.
pub(in crate::cli) fn make_folder(
    parent: &Path,
    now: SystemTime,
    suffix: &str,
) -> Result<PathBuf, RunError> {
    let error = |path: &Path, source| RunError::Folder {
        path: path.to_owned(),
        source,
    };
    std::fs::create_dir_all(parent).map_err(|source| error(parent, source))?;
    let parent = parent
        .canonicalize()
        .map_err(|source| error(parent, source))?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = format!("{}{suffix}", timestamp(now.as_secs()));
    for number in 1..=MAX_FOLDERS {
        let name = if number == 1 {
            stamp.clone()
        } else {
            format!("{stamp}_{number}")
        };
        let path = parent.join(name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => return Ok(path),
            Err(source) if source.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(error(&path, source)),
        }
    }
    Err(error(&parent.join(stamp), ErrorKind::AlreadyExists.into()))
}

/// `YYYYMMDD_HHMMSS` of a time in seconds since the epoch, in UTC.
fn timestamp(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // The civil date of a day number, with years that begin in March so that the leap day is their last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}_{:02}{:02}{:02}",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// The answer, if there is a file that holds one. No link is followed: the files come from the sandbox.
fn read_answer(path: &Path) -> Option<String> {
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_ANSWER).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_civil() {
        for (seconds, text) in [
            (0, "19700101_000000"),
            (951_782_399, "20000228_235959"),
            (951_782_400, "20000229_000000"),
            (1_795_381_323, "20261122_210203"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn folders_are_never_shared() {
        let parent = tempfile::tempdir().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(951_782_400);
        let names: Vec<_> = (0..3)
            .map(|_| make_folder(&parent.path().join("new/out"), now, "").unwrap())
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            ["20000229_000000", "20000229_000000_2", "20000229_000000_3"]
        );
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(make_folder(&file, now, "").is_err());
    }

    #[test]
    fn an_answer_is_read_only_from_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answer.txt");
        assert_eq!(read_answer(&path), None);
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read_answer(&path), None);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, " 42\n").unwrap();
        assert_eq!(read_answer(&path).as_deref(), Some("42"));
    }
}
