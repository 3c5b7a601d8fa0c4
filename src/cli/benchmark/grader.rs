//! The grader: a sandbox of its own in which the Python of a task, and computer algebra, score answers.
//!
//! It is started when it is first needed and stays warm. What it is asked it answers within a deadline, or it is ended and the next
//! question finds a new one. The model's sandboxes never see it, nor the expected answers.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::super::error::CliError;
use super::super::sandbox::{Ground, SandboxArgs, launcher_config};
use super::settle::Error;
use crate::bench::{Grader, Mode};
use crate::env::{Env, GuestPath};
use crate::host::{Process, Sandbox, Spawn};
use crate::image::{self, DEFAULT_NAME, Store};
use crate::reward::Reward;
use crate::task::{Row, Scorer, Task, Vanilla};

/// Image with math-verify, rouge-score and the verifiers of instructions, if it was built.
const IMAGE: &str = "grader";
/// What runs inside.
const PROGRAM: &str = include_str!("grader.py");
/// Time for one question.
const DEADLINE: Duration = Duration::from_secs(120);
/// Longest answer.
const MAX_ANSWER: u64 = 8 << 20;
/// Bytes of what it complains of that are kept.
const MAX_COMPLAINT: usize = 4096;

/// The grader of one run.
#[derive(Debug)]
pub(super) struct PythonGrader {
    ground: Ground,
    /// The task, where it has Python.
    task: Option<PathBuf>,
    at_work: Mutex<Option<Worker>>,
}

/// The sandbox while it is warm.
#[derive(Debug)]
struct Worker {
    sandbox: Sandbox,
    _process: Process,
    questions: pipe::Sender,
    answers: BufReader<pipe::Receiver>,
    complaints: Arc<Plain<Vec<u8>>>,
}

impl PythonGrader {
    /// The grader that a task needs, if any: for its Python, or for what only computer algebra or verifiers of instructions can tell.
    ///
    /// Without a name it is the image `grader` where that was built; Python of a task else gets the default image.
    pub(super) async fn needed(
        task: &Task,
        mode: Mode,
        image: Option<&str>,
        state: Option<&Path>,
    ) -> Result<Option<Self>, Error> {
        let asks = matches!(task.vanilla, Vanilla::Python(_)) && mode == Mode::Llm;
        let directory = match (&task.scorer, &task.vanilla) {
            (Scorer::Python(directory), _) => Some(directory),
            (Scorer::Native(_), Vanilla::Python(directory)) if asks => Some(directory),
            (Scorer::Native(_) | Scorer::Tests(_), _) => None,
        };
        let packages = matches!(
            task.scorer,
            Scorer::Native(Reward::Math | Reward::Composite | Reward::Instructions)
        );
        let image = match image {
            Some(image) => image,
            None if directory.is_none() && !packages => return Ok(None),
            None if built(state)? => IMAGE,
            None if directory.is_none() => return Ok(None),
            None => DEFAULT_NAME,
        };
        let grader = Self::open(image, directory.cloned(), state).await?;
        let scores = matches!(task.scorer, Scorer::Python(_));
        let follows = task.scorer == Scorer::Native(Reward::Instructions);
        for (what, needed) in [("score", scores), ("prompt", asks), ("follows", follows)] {
            if needed {
                grader.check(what).await.map_err(|problem| Error::Grader {
                    image: image.to_owned(),
                    problem,
                })?;
            }
        }
        Ok(Some(grader))
    }

    /// Starts the zygote, and builds the image when it is missing.
    async fn open(
        image: &str,
        task: Option<PathBuf>,
        state: Option<&Path>,
    ) -> Result<Self, CliError> {
        let arguments = SandboxArgs::defaults(image.to_owned());
        let ground = Box::pin(arguments.prepare(state, "grader", launcher_config())).await?;
        Ok(Self {
            ground,
            task,
            at_work: Mutex::new(None),
        })
    }

    /// Whether a function can be loaded; `what` is `score` or `prompt` of the task, or `follows`.
    async fn check(&self, what: &str) -> Result<(), String> {
        self.ask(&json!({"do": "check", "what": what}))
            .await
            .map(|_| ())
    }

    /// Ends the sandbox.
    pub(super) async fn close(&self) {
        if let Some(worker) = self.at_work.lock().await.take() {
            worker.end().await;
        }
    }

    async fn ask(&self, question: &Value) -> Result<Value, String> {
        let mut at_work = self.at_work.lock().await;
        let worker = match at_work.take() {
            Some(worker) => worker,
            None => self.start().await?,
        };
        // Whoever is dropped while waiting takes the worker along: its next answer would be to another question.
        let mut worker = worker;
        let asked = timeout(DEADLINE, worker.ask(question)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let why = worker.complaint();
                worker.end().await;
                return Err(format!("the grader ended: {error}{why}"));
            }
            Err(_) => {
                worker.end().await;
                return Err(format!("the grader gave no answer within {DEADLINE:?}"));
            }
        };
        *at_work = Some(worker);
        match (
            answer.get("ok"),
            answer.get("error").and_then(Value::as_str),
        ) {
            (Some(ok), _) => Ok(ok.clone()),
            (None, Some(error)) => Err(error.chars().take(MAX_COMPLAINT).collect()),
            (None, None) => Err("the grader answered neither a score nor an error".to_owned()),
        }
    }

    async fn number(&self, question: &Value) -> Result<f64, String> {
        let score = self.ask(question).await?;
        score.as_f64().ok_or_else(|| format!("{score} is no score"))
    }

    async fn start(&self) -> Result<Worker, String> {
        let spec = self.ground.spec.clone();
        let sandbox = self.ground.launcher.sandbox(spec).await;
        let sandbox = sandbox.map_err(|error| format!("start the grader: {error}"))?;
        let mut argv = vec!["python3", "/grader.py"];
        let program = GuestPath::from("/grader.py");
        let written = sandbox
            .write_file(&program, PROGRAM.as_bytes(), false)
            .await;
        written.map_err(|error| format!("write the grader: {error}"))?;
        if let Some(task) = &self.task {
            let copied = sandbox.copy_in(task, &GuestPath::from("/task")).await;
            copied.map_err(|error| format!("copy the task into the grader: {error}"))?;
            argv.push("/task");
        }
        Worker::start(sandbox, &argv)
            .await
            .map_err(|error| format!("start the grader: {error}"))
    }
}

/// Whether the image for graders is there.
fn built(state: Option<&Path>) -> Result<bool, Error> {
    let directory = image::state_dir(state).map_err(CliError::from)?;
    let store = Store::open(&directory).map_err(CliError::from)?;
    Ok(store.find(IMAGE).map_err(CliError::from)?.is_some())
}

impl Worker {
    async fn start(sandbox: Sandbox, argv: &[&str]) -> io::Result<Self> {
        let (stdin, questions) = pipe()?;
        let (answers, stdout) = pipe()?;
        let (errors, stderr) = pipe()?;
        let process = sandbox.spawn(Spawn {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: Vec::new(),
            cwd: None,
            stdin: Some(stdin),
            stdout,
            stderr,
        });
        let process = process.await.map_err(io::Error::other)?;
        let complaints = Arc::new(Plain::new(Vec::new()));
        tokio::spawn(keep_tail(
            pipe::Receiver::from_owned_fd(errors)?,
            Arc::clone(&complaints),
        ));
        Ok(Self {
            sandbox,
            _process: process,
            questions: pipe::Sender::from_owned_fd(questions)?,
            answers: BufReader::new(pipe::Receiver::from_owned_fd(answers)?),
            complaints,
        })
    }

    async fn ask(&mut self, question: &Value) -> io::Result<Value> {
        let line = format!("{question}\n");
        self.questions.write_all(line.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut bounded = (&mut self.answers).take(MAX_ANSWER);
        bounded.read_until(b'\n', &mut answer).await?;
        if !answer.ends_with(b"\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }

    /// The last line of what it complained of.
    fn complaint(&self) -> String {
        let kept = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        last.map_or_else(String::new, |line| format!(": {line}"))
    }

    async fn end(self) {
        if let Err(error) = self.sandbox.discard().await {
            tracing::warn!(%error, "the grader did not end well");
        }
    }
}

/// Two ends that no other program of ours inherits.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Reads to the end and keeps the last bytes.
async fn keep_tail(mut from: pipe::Receiver, kept: Arc<Plain<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(buffer.iter().take(size));
        let surplus = kept.len().saturating_sub(MAX_COMPLAINT);
        kept.drain(..surplus);
    }
}

impl Grader for PythonGrader {
    async fn math(&self, answer: &str, truth: &str) -> Result<bool, String> {
        let question = json!({"do": "math", "answer": answer, "truth": truth});
        let equal = self.ask(&question).await?;
        equal
            .as_bool()
            .ok_or_else(|| format!("{equal} is neither true nor false"))
    }

    async fn follows(&self, row: &Row, answer: &str) -> Result<f64, String> {
        self.number(&json!({"do": "follows", "row": row, "answer": answer}))
            .await
    }

    async fn score(&self, row: &Row, answer: &str) -> Result<f64, String> {
        self.number(&json!({"do": "score", "row": row, "answer": answer}))
            .await
    }

    async fn prompt(&self, row: &Row) -> Result<String, String> {
        let text = self.ask(&json!({"do": "prompt", "row": row})).await?;
        let plain = text.as_str().map(str::to_owned);
        plain.ok_or_else(|| format!("create_prompt gave {text}, which is no text"))
    }
}
