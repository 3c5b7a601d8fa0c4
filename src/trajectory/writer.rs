//! The one writer of a run folder's records.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use super::event::{Event, Header};
use super::original::OriginalTrajectory;
use crate::llm::{Completion, Message};
use crate::outcome::Connections;

/// A record could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// A file of the run folder could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An event could not be encoded.
    #[error("encode an event")]
    Encode(#[from] serde_json::Error),
}

/// A [`Line`](super::event::Line) that is only written.
#[derive(Serialize)]
struct BorrowedLine<'a> {
    n: u64,
    t_us: u64,
    event: &'a Event,
}

/// Connections of one run that become lines; a scan of ports could make millions.
const MAX_CONNECTIONS: usize = 20_000;

/// Writes `trajectory.jsonl` as things happen, and `trajectory.json` at the end.
///
/// A write that fails does not stop the run: the first failure is kept and told by [`Recorder::finish`].
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    start: Instant,
    ordinal: u64,
    exchanges: Option<u32>,
    original: OriginalTrajectory,
    failure: Option<RecorderError>,
    /// When each call began, with its turn and id.
    calls: Vec<(Instant, u32, Option<String>)>,
    connections: usize,
    omitted: u64,
}

impl Recorder {
    /// Begins the record in `dir`, which must not hold one yet. With `save_exchanges`, every request and its answer become
    /// files of their own.
    ///
    /// # Errors
    /// [`RecorderError`] when the first line cannot be written.
    pub fn create(
        dir: &Path,
        header: &Header,
        save_exchanges: bool,
    ) -> Result<Self, RecorderError> {
        let path = dir.join("trajectory.jsonl");
        let opened = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = opened.map_err(|source| write_error(&path, source))?;
        let mut recorder = Self {
            dir: dir.to_owned(),
            path,
            file,
            start: Instant::now(),
            ordinal: 0,
            exchanges: save_exchanges.then_some(0),
            original: OriginalTrajectory::new(&header.problem_statement),
            failure: None,
            calls: Vec::new(),
            connections: 0,
            omitted: 0,
        };
        recorder.write_line(header)?;
        Ok(recorder)
    }

    /// Records one event.
    pub fn event(&mut self, event: &Event) {
        if let Event::ToolCall { step, call_id, .. } = event {
            self.calls.push((Instant::now(), *step, call_id.clone()));
        }
        self.original.push(event);
        self.ordinal += 1;
        let elapsed = self.start.elapsed().as_micros();
        let line = BorrowedLine {
            n: self.ordinal,
            t_us: u64::try_from(elapsed).unwrap_or(u64::MAX),
            event,
        };
        let written = self.write_line(&line);
        self.keep(written);
    }

    /// Records connections, each with the call during which it began: one that goes on in the background ends in a later one.
    pub fn connections(&mut self, connections: Connections) {
        self.omitted += connections.omitted;
        for connection in connections.listed {
            self.connections += 1;
            if self.connections > MAX_CONNECTIONS {
                self.omitted += 1;
                continue;
            }
            let began = connection.started.unwrap_or_else(Instant::now);
            let before = self.calls.partition_point(|(call, ..)| *call <= began);
            let call = before.checked_sub(1).and_then(|at| self.calls.get(at));
            let event = Event::Connection {
                step: call.map(|(_, step, _)| *step),
                call_id: call.and_then(|(.., id)| id.clone()),
                connection,
            };
            self.event(&event);
        }
    }

    /// Saves one request and its answer as `request_NNN.json` and `response_NNN.json`, when that was asked for.
    pub fn exchange(
        &mut self,
        model: &str,
        base_url: Option<&str>,
        messages: &[Message],
        tools: &[Value],
        completion: &Completion,
    ) {
        let Some(count) = &mut self.exchanges else {
            return;
        };
        *count += 1;
        let id = *count;
        let request = json!({
            "call_id": id,
            "model": model,
            "api_base": base_url,
            "messages": messages,
            "extra_params": {"tools": tools},
            "kwargs": completion.params,
        });
        let response = json!({"call_id": id, "response": completion.response});
        for (name, value) in [("request", request), ("response", response)] {
            let path = self.dir.join(format!("{name}_{id:03}.json"));
            let text = serde_json::to_string_pretty(&value).map_err(RecorderError::from);
            let written = text.and_then(|text| replace(&path, &text));
            self.keep(written);
        }
    }

    /// Writes the last line and `trajectory.json`.
    ///
    /// # Errors
    /// The first [`RecorderError`] of the whole run.
    pub fn finish(mut self, end: &Event) -> Result<(), RecorderError> {
        if self.omitted > 0 {
            let text = format!("{} connections are not in this record", self.omitted);
            self.event(&Event::Warning { text });
        }
        self.event(end);
        let text = self.original.to_json().map_err(RecorderError::from);
        let path = self.dir.join("trajectory.json");
        let written = text.and_then(|text| replace(&path, &text));
        self.keep(written);
        self.failure.map_or(Ok(()), Err)
    }

    fn write_line(&mut self, line: &impl Serialize) -> Result<(), RecorderError> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.file
            .write_all(&bytes)
            .map_err(|source| write_error(&self.path, source))
    }

    fn keep(&mut self, result: Result<(), RecorderError>) {
        if let Err(error) = result {
            tracing::warn!(%error, "the record of this run is incomplete");
            self.failure.get_or_insert(error);
        }
    }
}

/// Writes a whole file under a temporary name and renames it: a reader never sees half of it.
fn replace(path: &Path, text: &str) -> Result<(), RecorderError> {
    let partial = path.with_extension("json.partial");
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(|source| write_error(path, source))
}

fn write_error(path: &Path, source: io::Error) -> RecorderError {
    RecorderError::Write {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
