//! `benchmark`: what a replayed run scores, what a crash loses, whom a broken server harms.
//!
//! Most of it needs an image; `scripts/test.sh` builds one and names its state directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::float_cmp,
    reason = "all of this crate is tests: a panic is how they fail"
)]

mod ablations;
#[path = "../image/archive.rs"]
#[allow(dead_code, reason = "shared with tests/image, which uses the rest")]
mod archive;
mod browser;
mod crash;
mod faulty;
mod goldens;
mod harbor;
mod hub;
mod instructions;
mod judge;
mod load;
mod made;
#[path = "../agent/memory_env.rs"]
#[allow(dead_code, reason = "shared with tests/agent, which uses the rest")]
mod memory_env;
mod page;
#[path = "../cli/program.rs"]
#[allow(dead_code, reason = "shared with tests/cli, which uses the rest")]
mod program;
mod python;
mod real;
mod report;
mod scores;
#[path = "../agent/server.rs"]
#[allow(dead_code, reason = "shared with tests/agent, which uses the rest")]
mod server;
#[path = "../image/small_system.rs"]
mod small_system;
#[path = "../agent/validator.rs"]
mod validator;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use program::{bare, code, collect, command, stderr};
use server::{Reply, Server};

/// A directory for recorded answers, results and a registry of its own.
pub(crate) struct Bench {
    directory: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("answers")).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Records what the model says in one sample.
    pub(crate) fn record(&self, name: &str, messages: &[Value]) {
        let lines: Vec<String> = messages.iter().map(Value::to_string).collect();
        let path = self.path("answers").join(format!("{name}.jsonl"));
        std::fs::write(path, lines.join("\n")).unwrap();
    }

    /// The program with these flags; those of the model too, unless it is the flags' own.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let plain = flags.windows(2).any(|pair| pair == ["--mode", "llm"]);
        self.verb(
            &[&["benchmark"], flags, &["--output_dir", "out"]].concat(),
            plain,
        )
    }

    /// The program with these arguments; without `plain` it needs the image.
    pub(crate) fn verb(&self, all: &[&str], plain: bool) -> Command {
        // Only sandboxes need an image.
        let mut command = if plain { bare(all) } else { command(all) };
        command
            .current_dir(self.directory.path())
            .env("HOME", self.directory.path())
            .env("LLM_IN_SANDBOX_RUNTIME_DIR", self.path("registry"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if std::env::var_os("LLM_IN_SANDBOX_HOME").is_none() {
            let state = llm_in_sandbox::image::state_dir(None).unwrap();
            command.env("LLM_IN_SANDBOX_HOME", state);
        }
        command
    }

    pub(crate) fn start(&self, flags: &[&str]) -> Child {
        self.command(flags).spawn().unwrap()
    }

    pub(crate) fn run(&self, flags: &[&str]) -> Output {
        collect(self.start(flags))
    }

    /// Runs with recorded answers to its end, which must have this exit code.
    pub(crate) fn replay(&self, flags: &[&str], expected: i32) -> Output {
        let output = self.run(&[flags, &["--llm_name", "replay:answers"]].concat());
        assert_eq!(code(&output), expected, "{flags:?}: {}", stderr(&output));
        output
    }

    /// Writes rows into a file.
    pub(crate) fn write_rows(&self, name: &str, rows: &[Value]) {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        std::fs::write(self.path(name), lines.join("\n")).unwrap();
    }

    /// The last run folder, once there is one.
    pub(crate) fn begun(&self) -> Option<PathBuf> {
        let folders = std::fs::read_dir(self.path("out")).ok()?;
        folders.map(|folder| folder.unwrap().path()).max()
    }

    /// The last run folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.begun().unwrap()
    }

    /// All whole lines of the results.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder().join("results.jsonl")).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The scores by id.
    pub(crate) fn scores(&self) -> BTreeMap<String, Value> {
        let lines = self.lines();
        let scores = lines
            .iter()
            .map(|line| (text(line, "id"), line["score"].clone()));
        scores.collect()
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        read_json(&self.folder().join(name))
    }
}

/// Whether the image with the packages of graders is there.
pub(crate) fn grader_is_built() -> bool {
    let state = llm_in_sandbox::image::state_dir(None).unwrap();
    let store = llm_in_sandbox::image::Store::open(&state).unwrap();
    store.find("grader").unwrap().is_some()
}

/// The rows of a task that ship with the tests, and where they are.
pub(crate) fn real_rows(name: &str) -> Option<(String, Vec<Value>)> {
    let file = match name {
        "demo" => "src/task/builtin/demo.jsonl".to_owned(),
        name => format!("tests/data/benchmark/{name}.jsonl"),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let Ok(rows) = std::fs::read_to_string(&path) else {
        println!("SKIP real rows: those of the repository are not readable here");
        return None;
    };
    let rows = rows.lines().map(|row| serde_json::from_str(row).unwrap());
    Some((path.to_str().unwrap().to_owned(), rows.collect()))
}

/// The tasks that are built in.
pub(crate) const TASKS: [&str; 8] = llm_in_sandbox::task::NAMES;

pub(crate) fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap().to_owned()
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A model server for the program, and what keeps it alive.
pub(crate) fn serve(
    answer: impl Fn(&Value) -> Reply + Send + Sync + 'static,
) -> (Server, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    (runtime.block_on(Server::answering(answer)), runtime)
}

/// An assistant message with one call.
pub(crate) fn call(name: &str, arguments: &Value) -> Value {
    let function = json!({"name": name, "arguments": arguments.to_string()});
    json!({"content": "", "tool_calls": [{"id": "call", "type": "function", "function": function}]})
}

pub(crate) fn bash(command: &str) -> Value {
    call("execute_bash", &json!({"command": command}))
}

/// Writes this text, byte for byte, as the answer below `directory`, then submits.
pub(crate) fn answering(directory: &str, answer: &str) -> Vec<Value> {
    let write = json!({"command": "create", "path": format!("{directory}/answer.txt"), "file_text": answer});
    vec![
        call("str_replace_editor", &write),
        call("submit", &json!({})),
    ]
}

/// A task directory as the original has it, with these rows.
pub(crate) fn task(path: &Path, config: &str, rows: &[Value]) {
    std::fs::create_dir_all(path).unwrap();
    let config = format!("dataset: json\ndata_files: rows.jsonl\n{config}");
    std::fs::write(path.join("config.yaml"), config).unwrap();
    let rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(path.join("rows.jsonl"), rows.join("\n")).unwrap();
}

/// `count` rows whose answer is `yes`.
pub(crate) fn rows(count: usize) -> Vec<Value> {
    (0..count)
        .map(|at| json!({"id": format!("r{at:03}"), "problem_statement": "Say yes.", "ground_truth": "yes"}))
        .collect()
}
