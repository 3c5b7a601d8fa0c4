//! The program as a child process of a test.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use llm_in_sandbox::image::{Store, state_dir};

/// No command of these tests takes longer on a working host.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn program() -> PathBuf {
    std::env::var_os("LIS_TEST_BIN").map_or_else(
        || env!("CARGO_BIN_EXE_llm-in-sandbox").into(),
        PathBuf::from,
    )
}

/// [`bare`], after a look at the image: without one every command would begin to build it.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let store = Store::open(&state_dir(None).unwrap()).unwrap();
    let image = store.find("default").unwrap();
    assert!(
        image.is_some(),
        "no default image: run scripts/test.sh, or `llm-in-sandbox image build`"
    );
    bare(arguments)
}

/// The program with these arguments, an empty stdin, and no settings of the person who runs the tests.
pub(crate) fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::path::absolute(program()).unwrap());
    command.args(arguments).stdin(Stdio::null());
    let foreign = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        (name.starts_with("LLM_") && name != "LLM_IN_SANDBOX_HOME")
            || name.ends_with("_API_KEY")
            || name == "COLUMNS"
    });
    for name in foreign.collect::<Vec<_>>() {
        command.env_remove(name);
    }
    // Not every user may make network devices; what needs one says so.
    command.env("LLM_IN_SANDBOX_NET", "none");
    if let Some(state) = std::env::var_os("LLM_IN_SANDBOX_HOME") {
        command.env("LLM_IN_SANDBOX_HOME", std::path::absolute(state).unwrap());
    }
    command
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    finish(command(arguments))
}

pub(crate) fn finish(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    collect(command.spawn().unwrap())
}

/// Waits for the end of a program and takes what it wrote; kills it when it is late.
pub(crate) fn collect(child: Child) -> Output {
    collect_within(child, DEADLINE)
}

/// The same with another deadline.
pub(crate) fn collect_within(mut child: Child, deadline: Duration) -> Output {
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = ended_within(&mut child, deadline);
    let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        reader.map_or_else(Vec::new, |reader| reader.join().unwrap())
    };
    Output {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    })
}

pub(crate) fn ended(child: &mut Child) -> std::process::ExitStatus {
    ended_within(child, DEADLINE)
}

fn ended_within(child: &mut Child, deadline: Duration) -> std::process::ExitStatus {
    let mut status = None;
    let in_time = within(deadline, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if !in_time {
        child.kill().unwrap();
        panic!("the program did not end within {deadline:?}");
    }
    status.unwrap()
}

/// Looks again and again until something holds or the deadline is over.
pub(crate) fn eventually(holds: impl FnMut() -> bool) -> bool {
    within(DEADLINE, holds)
}

fn within(deadline: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < deadline {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Stdout of a command that has to succeed.
pub(crate) fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits by itself")
}
