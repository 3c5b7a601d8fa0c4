//! The program is killed at any moment, or interrupted: the kernel takes the rest along.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::fixture::{alive, block_on, kill, program, until};
use crate::traces::{Own, Traces, mounts};

/// A copy of the program, so that every process of it can be told from those of other tests, and a
/// directory of running sandboxes.
struct Host {
    directory: tempfile::TempDir,
}

/// The program, running `sleep` with a number that nobody else sleeps for.
struct Run {
    child: Child,
    marker: String,
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its directory goes, and with it all knowledge of what a killed program has left.
        let _ = self.command().arg("gc").status();
    }
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Not by this process: a child that another test starts meanwhile would hold the file open
        // for writing, and then nobody could run it.
        let copied = Command::new("cp")
            .arg(program())
            .arg(directory.path().join("program"))
            .status();
        assert!(copied.unwrap().success());
        Self { directory }
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("program")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command
            .env("LLM_IN_SANDBOX_RUNTIME_DIR", self.registry())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn registry(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Sleeps for a number of seconds that no other run has: it is seen in the list of processes.
    fn sleep(&self) -> Run {
        static RUNS: AtomicU32 = AtomicU32::new(1);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let marker = format!("1000.{}{number:05}", std::process::id());
        let child = self
            .command()
            .args(["exec", "--", "sleep", &marker])
            .spawn()
            .unwrap();
        Run { child, marker }
    }

    fn gc(&self) {
        assert!(self.command().arg("gc").status().unwrap().success());
    }

    /// No process within two seconds; the cgroups and directories go with the next clean-up.
    fn nothing_left(&self, marker: &str) {
        let processes = || Traces::of(&self.program(), marker);
        until(2, || processes().is_empty())
            .unwrap_or_else(|e| panic!("{e}: {:?} are left of {marker}", described(&processes())));
    }

    fn entries(&self) -> Vec<PathBuf> {
        if self.registry().exists() {
            Own::entries(&self.registry())
        } else {
            Vec::new()
        }
    }
}

impl Run {
    /// Waits until its command runs.
    fn running(&self, host: &Host) -> i32 {
        let mut found = None;
        // In the middle of its exec a process has its new name and no arguments yet.
        let sleeps = |pid: &i32| comm(*pid) == "sleep" && Traces::has_argument(*pid, &self.marker);
        until(10, || {
            found = Traces::of(&host.program(), &self.marker)
                .into_iter()
                .find(sleeps);
            found.is_some()
        })
        .expect("the command did not start");
        found.unwrap()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn ended(&mut self, seconds: u64) -> ExitStatus {
        let mut status = None;
        until(seconds, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .expect("the program did not end");
        status.unwrap()
    }
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn described(pids: &[i32]) -> Vec<(i32, String)> {
    pids.iter().map(|pid| (*pid, comm(*pid))).collect()
}

/// Directories named like one of these below any directory of our cgroups.
fn cgroups_named(names: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if names.contains(&name) {
                    found.push(entry.path());
                }
                pending.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_kill_at_any_moment_leaves_nothing() {
    let host = Host::new();
    let (before, mut names) = (mounts(), Vec::new());
    let began = Instant::now();
    let run = host.sleep();
    run.running(&host);
    let usual = began.elapsed();
    drop(run);
    let mut started = 0;
    for number in 1..=50_u32 {
        let run = host.sleep();
        // From the first instant to a while after the command has begun, in no regular steps.
        let jitter = Duration::from_nanos(u64::from(began.elapsed().subsec_nanos() % 400_000));
        let moment = usual * number / 40 + jitter;
        std::thread::sleep(moment);
        let marker = run.marker.clone();
        started += usize::from(!host.entries().is_empty());
        drop(run);
        for entry in host.entries() {
            names.push(entry.file_name().unwrap().to_string_lossy().into_owned());
        }
        host.nothing_left(&marker);
    }
    assert!(started > 5, "only {started} runs got as far as a sandbox");
    names.sort();
    names.dedup();
    assert_eq!(mounts(), before, "the host's mounts");
    host.gc();
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
    assert_eq!(cgroups_named(&names), Vec::<PathBuf>::new());
}

#[test]
fn a_kill_during_a_command_needs_no_clean_up_to_end_it() {
    let host = Host::new();
    let mut run = host.sleep();
    run.running(&host);
    let all = Traces::of(&host.program(), &run.marker);
    let names: Vec<String> = all.iter().map(|pid| comm(*pid)).collect();
    for name in ["lis-zygote", "lis-init", "sleep"] {
        assert!(
            names.iter().any(|found| found == name),
            "{name} in {names:?}"
        );
    }
    run.signal(nix::sys::signal::Signal::SIGKILL);
    run.ended(2);
    until(2, || !all.iter().any(|pid| alive(*pid))).unwrap();
    assert_eq!(
        host.entries().len(),
        1,
        "a directory waits for the clean-up"
    );
    // The next start is one.
    assert!(
        host.command()
            .args(["exec", "--", "true"])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}

#[test]
fn the_program_tells_when_its_zygote_was_killed() {
    let host = Host::new();
    let mut run = host.sleep();
    let command = run.running(&host);
    let all = Traces::of(&host.program(), &run.marker);
    kill(*all.iter().find(|pid| comm(**pid) == "lis-zygote").unwrap());
    let status = run.ended(5);
    assert_eq!(status.code(), Some(125), "{status:?}");
    assert!(!alive(command));
    host.nothing_left(&run.marker);
    host.gc();
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let host = Host::new();
    let mut run = host.sleep();
    run.running(&host);
    run.signal(nix::sys::signal::Signal::SIGINT);
    let status = run.ended(5);
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    host.nothing_left(&run.marker);
    assert_eq!(
        host.entries(),
        Vec::<PathBuf>::new(),
        "without any clean-up"
    );
}

#[test]
fn one_programs_death_is_not_the_others() {
    let host = Host::new();
    let (mut one, mut other) = (host.sleep(), host.sleep());
    one.running(&host);
    let stays = other.running(&host);
    assert_eq!(host.entries().len(), 2);
    one.signal(nix::sys::signal::Signal::SIGKILL);
    one.ended(2);
    until(3, || {
        host.gc();
        host.entries().len() == 1
    })
    .unwrap();
    assert!(alive(stays));
    other.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(other.ended(5).code(), Some(130));
    host.nothing_left(&one.marker);
    host.nothing_left(&other.marker);
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}

/// A library's host process dies as the program does: the launcher is dropped with sandboxes alive.
#[test]
fn a_dropped_launcher_keeps_its_sandboxes_until_they_go() {
    block_on(async {
        let scene = crate::fixture::Scene::new().await;
        let sandbox = scene.start(crate::fixture::spec()).await;
        let (pid, zygote) = (scene.init_pid(&sandbox), scene.zygote_pid(&sandbox));
        let (launcher, directory) = scene.take_apart();
        drop(launcher);
        assert_eq!(crate::fixture::out(&sandbox, "echo lives").await, "lives\n");
        sandbox.close().await.unwrap();
        until(2, || !alive(pid) && !alive(zygote)).unwrap();
        assert!(Own::entries(&directory.path().join("run")).is_empty());
    });
}
