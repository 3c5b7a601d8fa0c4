//! Faults of host, sandbox, command and disk, each with the behaviour that is demanded; see docs/faults.md.
//!
//! Needs an image; `scripts/test.sh` builds one and names its state directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this crate is tests: a panic is how they fail"
)]

#[path = "../image/archive.rs"]
#[allow(dead_code, reason = "shared with tests/image, which uses the rest")]
mod archive;
mod commands;
mod copying;
mod damage;
mod directories;
mod endurance;
#[path = "../sandbox/fixture.rs"]
#[allow(dead_code, reason = "shared with tests/sandbox, which uses the rest")]
mod fixture;
mod resources;
mod shim;
mod signals;
#[path = "../image/small_system.rs"]
mod small_system;
mod storm;
#[path = "../sandbox/traces.rs"]
#[allow(dead_code, reason = "shared with tests/sandbox, which uses the rest")]
mod traces;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fixture::{program, until};

/// The program with a registry of its own.
pub(crate) struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        // A parent that somebody else may read, as the home of a user is.
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn registry(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The program.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.prepare(
            Command::new(std::path::absolute(program()).unwrap()),
            arguments,
        )
    }

    /// `sh -c script` with the program as `$0` and the arguments as `$@`.
    pub(crate) fn sh(&self, script: &str, arguments: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .arg(std::path::absolute(program()).unwrap());
        self.prepare(shell, arguments)
    }

    /// The same in a mount namespace of its own: as root.
    pub(crate) fn unshared(&self, script: &str, arguments: &[&str]) -> Command {
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-euc", script]);
        shell.arg(std::path::absolute(program()).unwrap());
        self.prepare(shell, arguments)
    }

    fn prepare(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .env("LLM_IN_SANDBOX_RUNTIME_DIR", self.registry())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Directories of sandboxes that are there without any clean-up.
    pub(crate) fn entries(&self) -> Vec<PathBuf> {
        if self.registry().join("sandboxes").exists() {
            traces::Own::entries(&self.registry())
        } else {
            Vec::new()
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.command(&["gc"]).output();
    }
}

/// Runs to the end, which has to come.
pub(crate) fn finish(mut command: Command) -> Output {
    collect(command.spawn().unwrap(), 30)
}

pub(crate) fn collect(mut child: Child, seconds: u64) -> Output {
    let drain = |from: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            if let Some(mut from) = from {
                from.read_to_end(&mut all).unwrap();
            }
            all
        })
    };
    let stdout = drain(
        child
            .stdout
            .take()
            .map(|s| Box::new(s) as Box<dyn Read + Send>),
    );
    let stderr = drain(
        child
            .stderr
            .take()
            .map(|s| Box::new(s) as Box<dyn Read + Send>),
    );
    let mut status = None;
    let ended = until(seconds, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if ended.is_err() {
        let _ = child.kill();
        panic!(
            "it hangs: {}",
            String::from_utf8_lossy(&stderr.join().unwrap())
        );
    }
    Output {
        status: status.unwrap(),
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It failed as a failure of ours does, and said why in one line that holds all of this.
pub(crate) fn refused(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(125), "{said}");
    let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    for word in words {
        assert!(errors[0].contains(word), "no {word:?} in {said}");
    }
}

/// Numbers that a test can repeat: `LIS_TEST_SEED` is the seed that it printed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(test: &str) -> Self {
        let given = std::env::var("LIS_TEST_SEED").ok();
        let seed = given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::from(now.unwrap().subsec_nanos())
        });
        println!("{test}: LIS_TEST_SEED={seed}");
        Self(seed)
    }

    /// Another sequence for each lane.
    pub(crate) fn lane(&self, number: u64) -> Self {
        Self(self.0 ^ (number << 40))
    }

    /// splitmix64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
