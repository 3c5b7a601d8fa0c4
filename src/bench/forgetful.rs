//! The ablation `no-files`: every command has a sandbox of its own, and only the answer goes from one to the next.
//!
//! A sandbox starts in a millisecond or two, so what would else be a promise of the prompt is kept by the kernel.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Sandboxes;
use super::sandboxed::ANSWER;
use crate::agent::{self, PromptConfig};
use crate::env::{
    Env, EnvError, ExecRequest, ExecResult, FileError, FileStat, GuestPath, Listing, ShellResult,
};
use crate::outcome::{Connections, Outcome};
use crate::spec::{Effects, Usage};

/// Time for one step from a sandbox to the next.
const DEADLINE: Duration = Duration::from_secs(60);
/// Largest answer that goes along.
const MAX_ANSWER: u64 = 1 << 20;

/// An environment whose sandbox is a new one after each command.
pub(super) struct Forgetful<'a, S: Sandboxes> {
    sandboxes: &'a S,
    row: usize,
    prompt: &'a PromptConfig,
    answer: GuestPath,
    /// Absent once one has ended and no other could be started.
    current: Mutex<Option<S::Env>>,
    /// Of the sandbox that has just ended: what is still to be told.
    seen: std::sync::Mutex<(Connections, Option<Effects>)>,
    /// Of all sandboxes that have ended.
    used: std::sync::Mutex<Option<Usage>>,
}

impl<'a, S: Sandboxes> Forgetful<'a, S> {
    /// Begins with a sandbox that is ready.
    pub(super) fn new(
        (sandboxes, row): (&'a S, usize),
        prompt: &'a PromptConfig,
        first: S::Env,
    ) -> Self {
        Self {
            sandboxes,
            row,
            prompt,
            answer: GuestPath::from(prompt.output_dir.as_str()).join(ANSWER),
            current: Mutex::new(Some(first)),
            seen: std::sync::Mutex::default(),
            used: std::sync::Mutex::default(),
        }
    }

    /// The sandbox that is there now, and what those before it used.
    pub(super) fn into_last(self) -> (Option<S::Env>, Option<Usage>) {
        let used = self.used.into_inner();
        let used = used.unwrap_or_else(PoisonError::into_inner);
        (self.current.into_inner(), used)
    }

    /// Ends a sandbox, and makes another one ready that has nothing of it but the answer.
    async fn replace(&self, used: S::Env, answer: Option<Vec<u8>>) -> Result<S::Env, EnvError> {
        let host = |outcome: Outcome| EnvError::Infrastructure(format!("{outcome:?}"));
        let effects = used.effects().await;
        let mut connections = used.connections();
        let mut usage = self.sandboxes.end(used).await.map_err(host)?;
        let cut = std::mem::take(&mut usage.connections);
        connections.listed.extend(cut.listed);
        connections.omitted += cut.omitted;
        self.add(usage);
        *self.seen() = (connections, effects);
        let new = self.sandboxes.start(self.row).await.map_err(host)?;
        let ready = agent::prepare(&new, self.prompt).await;
        ready.map_err(|error| EnvError::Infrastructure(error.to_string()))?;
        if let Some(answer) = answer {
            new.write_file(&self.answer, &answer, /*exclusive*/ false)
                .await?;
        }
        // What made it ready is nobody's doing.
        let _ = new.effects().await;
        Ok(new)
    }

    fn add(&self, usage: Usage) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = Some(usage.after(used.take()));
    }

    fn seen(&self) -> MutexGuard<'_, (Connections, Option<Effects>)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> EnvError {
    EnvError::Infrastructure("there is no sandbox any more".to_owned())
}

impl<S: Sandboxes> Env for Forgetful<'_, S>
where
    S::Env: Send + Sync,
{
    async fn shell(&self, command: &str, limit: Duration) -> Result<ShellResult, EnvError> {
        let mut current = self.current.lock().await;
        let sandbox = current.as_ref().ok_or_else(gone)?;
        let mut result = sandbox.shell(command, limit).await?;
        // What it lost with its shell it would have lost anyway.
        result.restarted = None;
        let answer = match sandbox.read_file(&self.answer, MAX_ANSWER).await {
            Ok(answer) => Some(answer),
            Err(EnvError::File { .. }) => None,
            Err(error) => return Err(error),
        };
        let used = current.take().ok_or_else(gone)?;
        let replaced = timeout(DEADLINE, self.replace(used, answer)).await;
        let late = || EnvError::Infrastructure(format!("no new sandbox within {DEADLINE:?}"));
        *current = Some(replaced.unwrap_or_else(|_| Err(late()))?);
        Ok(result)
    }

    fn connections(&self) -> Connections {
        std::mem::take(&mut self.seen().0)
    }

    async fn effects(&self) -> Option<Effects> {
        let ended = self.seen().1.take();
        if ended.is_some() {
            return ended;
        }
        self.current.lock().await.as_ref()?.effects().await
    }

    async fn exec(&self, request: &ExecRequest) -> Result<ExecResult, EnvError> {
        let current = self.current.lock().await;
        current.as_ref().ok_or_else(gone)?.exec(request).await
    }

    async fn read_file(&self, path: &GuestPath, max_bytes: u64) -> Result<Vec<u8>, EnvError> {
        let current = self.current.lock().await;
        let sandbox = current.as_ref().ok_or_else(gone)?;
        sandbox.read_file(path, max_bytes).await
    }

    async fn write_file(
        &self,
        path: &GuestPath,
        content: &[u8],
        exclusive: bool,
    ) -> Result<(), EnvError> {
        if *path != self.answer {
            return Err(EnvError::File {
                path: path.clone(),
                error: FileError::Permission,
            });
        }
        let current = self.current.lock().await;
        let sandbox = current.as_ref().ok_or_else(gone)?;
        sandbox.write_file(path, content, exclusive).await
    }

    async fn stat(&self, path: &GuestPath) -> Result<FileStat, EnvError> {
        let current = self.current.lock().await;
        current.as_ref().ok_or_else(gone)?.stat(path).await
    }

    async fn list(
        &self,
        path: &GuestPath,
        depth: u32,
        max_entries: usize,
    ) -> Result<Listing, EnvError> {
        let current = self.current.lock().await;
        let sandbox = current.as_ref().ok_or_else(gone)?;
        sandbox.list(path, depth, max_entries).await
    }
}
