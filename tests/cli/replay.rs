//! `run` with a recorded model in a real sandbox.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{code, collect, command, ended, eventually, stderr};

/// A run of recorded answers, in a directory of its own.
pub(crate) struct Replay {
    directory: TempDir,
}

impl Replay {
    pub(crate) fn new(answers: &[Value]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lines: Vec<String> = answers.iter().map(Value::to_string).collect();
        std::fs::write(directory.path().join("answers.jsonl"), lines.join("\n")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let base = [
            "run",
            "add two numbers",
            "--llm_name",
            "replay:answers.jsonl",
            "--output_dir",
            "out",
        ];
        let mut command = command(&[&base[..], flags].concat());
        command
            .current_dir(self.directory.path())
            // A settings file of the person's must not count.
            .env("HOME", self.directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if std::env::var_os("LLM_IN_SANDBOX_HOME").is_none() {
            let state = llm_in_sandbox::image::state_dir(None).unwrap();
            command.env("LLM_IN_SANDBOX_HOME", state);
        }
        command
    }

    fn start(&self, flags: &[&str]) -> Child {
        self.command(flags).spawn().unwrap()
    }

    fn run(&self, flags: &[&str]) -> Output {
        collect(self.start(flags))
    }

    /// The one run folder.
    fn folder(&self) -> PathBuf {
        let folders: Vec<_> = std::fs::read_dir(self.path("out")).unwrap().collect();
        assert_eq!(folders.len(), 1, "{folders:?}");
        folders[0].as_ref().unwrap().path()
    }

    /// The lines of the record; the last may be incomplete while the run goes on.
    pub(crate) fn record(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder().join("trajectory.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn end(&self) -> Value {
        let end = self.record().pop().unwrap()["event"].take();
        assert_eq!(end["type"], "end");
        end
    }

    /// Waits until the file `trajectory.jsonl` holds this text.
    pub(crate) fn wait_for_record(&self, text: &str) {
        let there = eventually(|| {
            let Ok(folders) = std::fs::read_dir(self.path("out")) else {
                return false;
            };
            folders.flatten().any(|folder| {
                let record = std::fs::read_to_string(folder.path().join("trajectory.jsonl"));
                record.is_ok_and(|record| record.contains(text))
            })
        });
        assert!(there, "the record never held {text}");
    }
}

pub(crate) fn calls(content: &str, calls: &[(&str, Value)]) -> Value {
    let calls: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(at, (name, arguments))| {
            let function = json!({"name": name, "arguments": arguments.to_string()});
            json!({"id": format!("call_{at}"), "type": "function", "function": function})
        })
        .collect();
    json!({"role": "assistant", "content": content, "reasoning_content": "hm", "tool_calls": calls})
}

pub(crate) fn bash(command: &str) -> (&'static str, Value) {
    ("execute_bash", json!({"command": command}))
}

pub(crate) fn submit() -> (&'static str, Value) {
    ("submit", json!({}))
}

fn editor(arguments: Value) -> (&'static str, Value) {
    ("str_replace_editor", arguments)
}

fn names(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn a_run_tells_and_records_which_rule_refused_which_call() {
    let answers = [
        calls("", &[bash("unshare -r true; true")]),
        calls("", &[submit()]),
    ];
    let replay = Replay::new(&answers);
    let output = replay.run(&["--seccomp-log"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = "seccomp:    refused 1 times: unshare (EPERM): namespaces";
    assert!(told.contains(line), "{told}");
    let end = replay.end();
    let refused = end["sandbox"]["refused"].as_array().unwrap();
    let unshare = refused.iter().find(|one| one["call"] == "unshare").unwrap();
    assert_eq!(
        (&unshare["errno"], &unshare["count"]),
        (&"EPERM".into(), &1.into())
    );

    let replay = Replay::new(&answers);
    replay.run(&[]);
    assert!(replay.end()["sandbox"].get("refused").is_none());
}

/// What a limit kept from coming out is no silent loss.
#[test]
fn a_limit_of_the_copy_out_is_told_and_recorded() {
    let replay = Replay::new(&[
        calls(
            "",
            &[bash(
                "cd output; echo 42 > answer.txt; truncate -s 11G huge",
            )],
        ),
        calls("", &[submit()]),
    ]);
    let output = replay.run(&[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = "limit:      limit 10g of what is copied out struck: 1 file left out";
    assert!(told.contains(line), "{told}");
    assert!(stderr(&output).contains("not copied out: huge (TooLarge)"));
    let struck = json!([{"limit": "copied_bytes", "max_bytes": 10_u64 << 30, "left_out": 1}]);
    assert_eq!(replay.end()["sandbox"]["struck"], struck);
}

#[test]
fn a_conversation_ends_with_files_and_both_records() {
    let file = json!({"command": "create", "path": "/testbed/add.py", "file_text": "import sys\nprint(sum(map(int, sys.argv[1:])))\n"});
    let view = json!({"command": "view", "path": "/testbed/add.py"});
    let write =
        "cd /testbed && read a b < input/numbers && python3 add.py $a $b | tee output/answer.txt";
    let replay = Replay::new(&[
        calls("I look first.", &[bash("ls -l input && x=42")]),
        calls(
            "I write a program.",
            &[editor(file), editor(view), bash("echo $x")],
        ),
        calls("I run it.", &[bash(write)]),
        calls("Done.", &[submit()]),
    ]);
    std::fs::create_dir(replay.path("in")).unwrap();
    std::fs::write(replay.path("in/numbers"), "17 25\n").unwrap();
    let output = replay.run(&["--input_dir", "in"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("42") && told.contains("submitted"), "{told}");
    assert!(told.ends_with("left behind: 0\n"), "{told}");

    let folder = replay.folder();
    let answer = std::fs::read_to_string(folder.join("files/answer.txt")).unwrap();
    assert_eq!(answer, "42\n");
    assert!(
        told.contains(folder.file_name().unwrap().to_str().unwrap()),
        "{told}"
    );

    check_original(&folder);
    check_record(&replay);
}

/// The summary, exactly as the original system writes it.
fn check_original(folder: &Path) {
    let text = std::fs::read_to_string(folder.join("trajectory.json")).unwrap();
    let original: Value = serde_json::from_str(&text).unwrap();
    assert!(text.starts_with("{\n  \"problem_statement\": \"add two numbers\",\n  \"steps\": ["));
    assert_eq!(names(&original), ["problem_statement", "steps", "metadata"]);
    assert_eq!(names(&original["metadata"]), ["total_steps"]);
    let steps = original["steps"].as_array().unwrap();
    assert_eq!(original["metadata"]["total_steps"], 6);
    let turns: Vec<i64> = steps
        .iter()
        .map(|s| s["metadata"]["step"].as_i64().unwrap())
        .collect();
    assert_eq!(
        turns,
        [1, 2, 2, 2, 3, 4],
        "parallel calls are steps of one turn"
    );
    for step in steps {
        assert_eq!(
            names(step),
            [
                "thought",
                "reasoning_content",
                "action",
                "observation",
                "metadata"
            ]
        );
        assert_eq!(names(&step["action"]), ["function", "parameters"]);
        assert_eq!(names(&step["metadata"]), ["step", "exec_time"]);
        assert_eq!(step["reasoning_content"], "hm");
        assert!(step["metadata"]["exec_time"].is_f64());
    }
    let seen = |at: usize| steps[at]["observation"].as_str().unwrap();
    assert!(seen(0).contains("numbers"), "{}", seen(0));
    assert!(seen(2).contains("import sys"), "{}", seen(2));
    assert!(
        seen(3).contains("42"),
        "the shell kept its variable: {}",
        seen(3)
    );
    assert_eq!(steps[5]["action"]["function"], "submit");
}

fn check_record(replay: &Replay) {
    let record = replay.record();
    assert_eq!(record[0]["schema"], "llm-in-sandbox/trajectory");
    assert_eq!(record[0]["image_digest"].as_str().unwrap().len(), 64);
    let ordinals: Vec<u64> = record[1..]
        .iter()
        .map(|line| line["n"].as_u64().unwrap())
        .collect();
    assert!(
        ordinals.iter().copied().eq(1..=ordinals.len() as u64),
        "{ordinals:?}"
    );
    let end = replay.end();
    assert_eq!(
        (&end["stop"], &end["steps"]),
        (&"submitted".into(), &4.into())
    );
    assert!(end["usage"]["prompt_tokens"].is_u64(), "{end}");
    assert!(end["sandbox"]["wall"].is_object(), "{end}");
}

#[test]
fn a_run_without_submission_is_1() {
    let replay = Replay::new(&[calls("", &[bash("echo a")]), calls("", &[bash("echo b")])]);
    let output = replay.run(&["--max-steps", "1"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert_eq!(replay.end()["stop"], "max_steps");
    assert!(replay.folder().join("trajectory.json").exists());
}

#[test]
fn a_fresh_shell_for_each_command_forgets() {
    let replay = Replay::new(&[
        calls("", &[bash("x=42; cd /tmp")]),
        calls("", &[bash("echo \"<$x> $PWD\"")]),
        calls("", &[submit()]),
    ]);
    let output = replay.run(&["--shell", "fresh"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = std::fs::read_to_string(replay.folder().join("trajectory.json")).unwrap();
    assert!(text.contains("<> /testbed"), "{text}");
}

#[test]
fn one_interrupt_ends_the_run_and_keeps_its_record() {
    let replay = Replay::new(&[calls(
        "",
        &[bash("echo kept > output/answer.txt; echo begun; sleep 600")],
    )]);
    let child = replay.start(&["--cmd_timeout", "500"]);
    replay.wait_for_record("\"tool_call\"");
    interrupt(&child);
    let output = collect(child);
    assert_eq!(code(&output), 130, "{}", stderr(&output));
    assert_eq!(replay.end()["stop"], "interrupted");
    for (signal, expected) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let replay = Replay::new(&[calls("", &[bash("sleep 600")])]);
        let child = replay.start(&["--cmd_timeout", "500"]);
        replay.wait_for_record("\"tool_call\"");
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let output = collect(child);
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert_eq!(replay.end()["stop"], "interrupted");
    }
    let text = std::fs::read_to_string(replay.folder().join("trajectory.json")).unwrap();
    assert!(
        text.contains("sleep 600"),
        "the call that was cut is shown: {text}"
    );
}

#[test]
fn an_interrupt_during_the_preparation_keeps_a_record() {
    let replay = Replay::new(&[calls("", &[bash("sleep 600")])]);
    let child = replay.start(&[]);
    // The folder is made before the sandbox is started.
    assert!(eventually(|| replay.path("out").exists()));
    interrupt(&child);
    let output = collect(child);
    assert_eq!(code(&output), 130, "{}", stderr(&output));
}

#[test]
fn two_interrupts_end_it_at_once() {
    let replay = Replay::new(&[calls("", &[bash("trap '' INT TERM; sleep 600")])]);
    let mut child = replay.start(&["--cmd_timeout", "500"]);
    replay.wait_for_record("\"tool_call\"");
    // A signal that comes before the first was taken is the same as the first: until it ends.
    let over = eventually(|| {
        interrupt(&child);
        child.try_wait().unwrap().is_some()
    });
    assert!(over);
    assert_eq!(code(&collect(child)), 130);
}

#[test]
fn a_kept_sandbox_lives_until_the_first_interrupt() {
    let replay = Replay::new(&[calls("", &[bash("echo 1 > output/answer.txt"), submit()])]);
    let mut child = replay.start(&["--keep"]);
    let told = crate::live::lines_until(child.stderr.take().unwrap(), "is kept");
    assert!(told.contains("shell --in"), "{told}");
    assert!(child.try_wait().unwrap().is_none());
    let files = replay.folder().join("files/answer.txt");
    assert!(Path::new(&files).exists(), "the results are out already");
    interrupt(&child);
    // The model had submitted before.
    assert_eq!(ended(&mut child).code(), Some(0));
    assert_eq!(replay.end()["stop"], "submitted");
    assert!(replay.folder().join("trajectory.json").exists());
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let _ = kill(pid, Signal::SIGINT);
}
