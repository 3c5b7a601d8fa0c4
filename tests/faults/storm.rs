//! `kill -9` of host, zygote, PID 1 and shell at random moments of a whole life under load.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use llm_in_sandbox::env::{Env, EnvError, GuestPath};
use llm_in_sandbox::host::{HostError, Launcher, LauncherConfig, Registry};

use crate::fixture::{alive, block_on, program, spec, text, until};
use crate::traces::{Own, Traces, mounts};
use crate::{Random, collect, stderr};

const ROLE: &str = "LIS_STORM_HOST";
/// What a life goes through, each told as it begins.
const PHASES: [&str; 7] = [
    "launch", "start", "idle", "command", "copy-in", "copy-out", "close",
];
const VICTIMS: [&str; 4] = ["host", "lis-zygote", "lis-init", "bash"];
/// The life met the death of its zygote or PID 1, and was told so.
const TOLD: i32 = 10;

fn phase(name: &str) {
    println!("phase {name}");
    std::io::stdout().flush().unwrap();
}

/// What may end a life: nothing else than the death of the sandbox, by its name.
#[expect(clippy::exit, reason = "its exit code is what this process has to say")]
fn told(error: &dyn std::fmt::Display) -> ! {
    println!("told: {error}");
    std::process::exit(TOLD);
}

fn env_error<T>(result: Result<T, EnvError>) -> T {
    match result {
        Ok(value) => value,
        Err(error @ EnvError::Died(_)) => told(&error),
        Err(error) => panic!("not as a death: {error:?}"),
    }
}

fn host_error<T>(result: Result<T, HostError>) -> T {
    match result {
        Ok(value) => value,
        Err(error @ HostError::TimedOut(..)) => panic!("it hung: {error}"),
        Err(error) => told(&error),
    }
}

/// One life in this process, which is the host.
async fn life(directory: &Path) {
    let config = LauncherConfig {
        program: Some(directory.join("program")),
        registry: Some(Registry::at(directory.join("run")).unwrap()),
        ahead: Some(2),
        ..LauncherConfig::default()
    };
    let (from, to) = (
        directory.join("in"),
        tempfile::tempdir_in(directory).unwrap(),
    );
    phase("launch");
    let launcher = host_error(Launcher::start(config).await);
    phase("start");
    let sandbox = host_error(launcher.sandbox(spec()).await);
    let sh = async |command: &str| {
        let result = env_error(sandbox.shell(command, Duration::from_secs(20)).await);
        if let Some(notice) = &result.restarted {
            println!("restarted: {notice}");
        }
        result
    };
    sh("true").await;
    phase("idle");
    tokio::time::sleep(Duration::from_millis(30)).await;
    let marker = directory.file_name().unwrap().to_str().unwrap();
    let busy = format!(
        "sh -c 'sleep 1000; : {marker}' & for n in 1 2 3; do head -c 10M /dev/zero | md5sum; done"
    );
    phase("command");
    let busy = sh(&busy).await;
    assert!(busy.status.is_some(), "{busy:?}");
    phase("copy-in");
    env_error(
        sandbox
            .copy_in(&from, &GuestPath::from("/testbed/in"))
            .await,
    );
    phase("copy-out");
    env_error(
        sandbox
            .copy_out(&GuestPath::from("/testbed/in"), to.path())
            .await,
    );
    // Whatever was killed before: a shell is there again.
    let last = sh("echo last").await;
    assert!(
        text(&last.stdout) == "last\n" || last.restarted.is_some(),
        "{last:?}"
    );
    phase("close");
    host_error(sandbox.close().await);
}

/// A host process, at the beginning of a phase.
struct Life {
    child: Child,
    said: BufReader<ChildStdout>,
    heard: String,
}

impl Life {
    fn begin(directory: &Path) -> Self {
        let name = "storm::a_kill_of_anyone_at_any_moment_leaves_nothing";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ROLE, directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            said,
            heard: String::new(),
        }
    }

    /// Waits for a phase; false when the life ended before.
    fn reach(&mut self, phase: &str) -> bool {
        loop {
            let before = self.heard.len();
            if self.said.read_line(&mut self.heard).unwrap() == 0 {
                return false;
            }
            if self.heard[before..]
                .trim_end()
                .ends_with(&format!("phase {phase}"))
            {
                return true;
            }
        }
    }

    fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }
}

fn name_of(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim().to_owned()
}

/// One of `family` by its name; the first, as the shell begins before what it runs.
fn find(family: &[i32], victim: &str) -> Option<i32> {
    family
        .iter()
        .copied()
        .find(|pid| name_of(*pid) == victim && alive(*pid))
}

/// Kills; false when the victim was not there at this moment.
fn strike(life: &mut Life, victim: &str, family: &[i32]) -> bool {
    if victim == "host" {
        return life.child.kill().is_ok();
    }
    let Some(pid) = find(family, victim) else {
        return false;
    };
    let signal = nix::sys::signal::Signal::SIGKILL;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).is_ok()
}

/// A directory with a program, a registry, and files to copy.
fn place() -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("lis-storm-")
        .tempdir()
        .unwrap();
    // By another process: a child that starts meanwhile would hold the file open for writing.
    let mut cp = Command::new("cp");
    cp.arg(program()).arg(directory.path().join("program"));
    assert!(cp.status().unwrap().success());
    let from = directory.path().join("in");
    std::fs::create_dir(&from).unwrap();
    for number in 0..100 {
        std::fs::write(from.join(number.to_string()), vec![b'x'; 50_000]).unwrap();
    }
    directory
}

/// One moment: a life, a death, and what is left. False when there was nobody to kill.
fn moment(directory: &Path, random: &mut Random) -> bool {
    let victim = VICTIMS[usize::try_from(random.below(4)).unwrap()];
    let phase = PHASES[usize::try_from(random.below(7)).unwrap()];
    let delay = Duration::from_micros(random.below(20_000));
    let what = format!("{victim} {delay:?} after {phase}");
    let mut life = Life::begin(directory);
    if !life.reach(phase) {
        panic!("{what}: {}{}", life.heard, stderr(&collect(life.child, 20)));
    }
    std::thread::sleep(delay);
    let family = Traces::of_init(life.pid());
    let registry = directory.join("run");
    let groups = Own::cgroups(&Own::entries(&registry));
    let struck = strike(&mut life, victim, &family);
    let mut rest = String::new();
    let ended = collect(life.child, 20);
    let _ = std::io::Read::read_to_string(&mut life.said, &mut rest);
    let said = format!("{}{rest}{}", life.heard, stderr(&ended));
    match (victim, ended.status.code()) {
        ("host", _) => {}
        (_, Some(0)) => {}
        ("lis-zygote" | "lis-init", Some(TOLD)) => {}
        (_, code) => panic!("{what}: {code:?}: {said}"),
    }
    if struck && victim == "bash" && ["idle", "command"].contains(&phase) {
        // A subshell of the command may have been the one that was hit: then its shell lives.
        assert!(
            said.contains("restarted: ") || phase == "command",
            "{what}: {said}"
        );
    }
    let marker = directory.file_name().unwrap().to_str().unwrap();
    let left = || {
        let ours = |pid: &i32| *pid != family[0] && alive(*pid);
        let mut left: Vec<i32> = family.iter().copied().filter(ours).collect();
        left.extend(Traces::of(&directory.join("program"), marker));
        left
    };
    until(2, || left().is_empty()).unwrap_or_else(|e| panic!("{what}: {e}: {:?}", left()));
    let registry = Registry::at(registry).unwrap();
    until(3, || {
        registry.reclaim().unwrap();
        Own::entries(registry.directory()).is_empty()
    })
    .unwrap_or_else(|e| panic!("{what}: {e}: directories are left"));
    assert!(
        groups.iter().all(|group| !group.exists()),
        "{what}: {groups:?}"
    );
    struck
}

#[test]
fn a_kill_of_anyone_at_any_moment_leaves_nothing() {
    if let Some(directory) = std::env::var_os(ROLE) {
        return block_on(life(&PathBuf::from(directory)));
    }
    // Root alone can kill PID 1 of its own sandboxes and has cgroups everywhere: there it counts most.
    let moments = if nix::unistd::geteuid().is_root() {
        200
    } else {
        60
    };
    let random = Random::new("storm");
    let before = mounts();
    // Several at once are the load.
    let lanes: Vec<_> = (0..4)
        .map(|lane| {
            let mut random = random.lane(lane);
            std::thread::spawn(move || {
                let place = place();
                let mut struck = 0;
                while struck < moments / 4 {
                    struck += usize::from(moment(place.path(), &mut random));
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.join().unwrap();
    }
    assert_eq!(mounts(), before, "the host's mounts");
}
