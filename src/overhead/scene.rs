//! Whole processes beside each other: `exec` of this program, and each peer that is there.
//!
//! All of it blocks, and runs on a thread that has left the mount namespace of the others: what is
//! mounted for a peer goes with that thread at the latest.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::OverheadError;
use super::conformance::{Conformance, LOOK};
use super::peers::{Layer, Peer, Visit};
use super::sample::whole;

/// In the template of a bundle, for its root.
const ROOT: &str = "@root@";

/// A peer on this machine, proven to run commands in the image.
pub(super) struct Scene {
    pub(super) peer: &'static Peer,
    program: PathBuf,
    rootfs: PathBuf,
    place: PathBuf,
    /// An OCI configuration without its command.
    template: Option<serde_json::Value>,
    count: AtomicUsize,
}

/// What exists while a peer runs.
struct Stage {
    id: String,
    directory: PathBuf,
}

impl Scene {
    /// Finds it, and lets it run something.
    pub(super) fn find(
        peer: &'static Peer,
        rootfs: &Path,
        place: &Path,
    ) -> Result<(Self, Conformance), String> {
        let program = find(peer).ok_or_else(|| format!("no {} on the path", peer.program))?;
        if peer.layer != Layer::Own && !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        let mut scene = Self {
            peer,
            program,
            rootfs: rootfs.to_owned(),
            place: place.join(peer.name),
            template: None,
            count: AtomicUsize::new(0),
        };
        fs::create_dir_all(&scene.place).map_err(|e| e.to_string())?;
        if let Some((arguments, hint)) = peer.ready {
            let mut command = scene.command();
            scene
                .captured(command.args(arguments))
                .map_err(|_| hint.to_owned())?;
        }
        if peer.layer == Layer::Bundle {
            scene.template = Some(scene.template()?);
        }
        let look = ["/bin/sh", "-c", LOOK];
        let seen = scene.on_stage(&look, |stage| {
            let mut command = scene.command();
            command.args(stage.fill(&scene, peer.run));
            scene.captured(scene.with_command(&mut command, &look))
        });
        let seen = seen.map_err(|e| e.to_string())??;
        if !seen.contains("ns/user:") {
            return Err(format!("a shell in it said {:?}", seen.lines().next()));
        }
        let checked = Conformance::of_peer(peer.name, &seen);
        Ok((scene, checked))
    }

    /// From nothing to nothing, with a command that has to succeed.
    pub(super) fn cycle(&self, command: &[&str]) -> Result<Duration, OverheadError> {
        let began = Instant::now();
        self.on_stage(command, |stage| {
            let mut run = self.command();
            run.args(stage.fill(self, self.peer.run));
            // Some have remarks at every run.
            whole(self.with_command(&mut run, command).stderr(Stdio::null()))
        })??;
        Ok(began.elapsed())
    }

    /// A sandbox that goes on, with `visits` commands in it: the times of its start, of these, of its end.
    pub(super) fn visit(
        &self,
        visit: &Visit,
        visits: usize,
        command: &[&str],
    ) -> Result<(Duration, Vec<Duration>, Duration), OverheadError> {
        let stay = ["/bin/sleep", "1000"];
        let run = |stage: &Stage, arguments: &[&str], command: &[&str]| {
            let mut run = self.command();
            run.args(stage.fill(self, arguments)).args(command);
            // It prints the name of what it began.
            whole(run.stdout(Stdio::null()).stderr(Stdio::null()))
        };
        self.on_stage(&stay, |stage| {
            let stay = if self.template.is_some() {
                &[][..]
            } else {
                &stay
            };
            let begun = run(stage, visit.begin, stay)?;
            let execs = (0..visits).map(|_| run(stage, visit.exec, command));
            let execs: Result<Vec<_>, _> = execs.collect();
            let ended = run(stage, visit.end, &[])?;
            Ok((begun, execs?, ended))
        })?
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null());
        command
    }

    /// A bundle holds its command already.
    fn with_command<'a>(&self, run: &'a mut Command, command: &[&str]) -> &'a mut Command {
        if self.template.is_none() {
            run.args(command);
        }
        run
    }

    fn captured(&self, command: &mut Command) -> Result<String, String> {
        let output = command.output().map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        Err(format!(
            "{} fails here ({}): {last}",
            self.peer.name, output.status
        ))
    }

    /// Mounts what it needs, does `work`, and takes it away.
    fn on_stage<T>(
        &self,
        command: &[&str],
        work: impl FnOnce(&Stage) -> T,
    ) -> Result<T, OverheadError> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("lis-peer-{}-{number}", std::process::id());
        let stage = Stage {
            directory: self.place.join(&id),
            id,
        };
        if self.peer.layer == Layer::Own {
            return Ok(work(&stage));
        }
        let failed = |e: std::io::Error| OverheadError::Io("mount a layer for a peer".into(), e);
        let parts = ["upper", "work", "merged"].map(|name| stage.directory.join(name));
        for part in &parts {
            fs::create_dir_all(part).map_err(failed)?;
        }
        let [upper, work_directory, merged] = &parts;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.rootfs.display(),
            upper.display(),
            work_directory.display()
        );
        let (kind, flags) = (Some("overlay"), MsFlags::empty());
        mount(kind, merged, kind, flags, Some(options.as_str())).map_err(|e| failed(e.into()))?;
        if let Some(template) = &self.template {
            let mut config = template.clone();
            if let Some(args) = config.pointer_mut("/process/args") {
                *args = command.iter().copied().collect();
            }
            let text = config
                .to_string()
                .replace(ROOT, &merged.display().to_string());
            fs::write(stage.directory.join("config.json"), text).map_err(failed)?;
        }
        let done = work(&stage);
        umount2(merged, MntFlags::MNT_DETACH).map_err(|e| failed(e.into()))?;
        fs::remove_dir_all(&stage.directory).map_err(failed)?;
        Ok(done)
    }

    /// What its own `spec` makes, with a root to be filled in and no terminal.
    fn template(&self) -> Result<serde_json::Value, String> {
        let mut spec = self.command();
        self.captured(spec.arg("spec").current_dir(&self.place))?;
        let path = self.place.join("config.json");
        let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
        let mut config: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| e.to_string())?;
        for (pointer, value) in [
            ("/process/terminal", false.into()),
            ("/root/readonly", false.into()),
            ("/root/path", ROOT.into()),
        ] {
            // What it leaves out has the value that it should.
            if let Some(place) = config.pointer_mut(pointer) {
                *place = value;
            }
        }
        Ok(config)
    }
}

impl Stage {
    fn fill(&self, scene: &Scene, arguments: &[&str]) -> Vec<String> {
        let merged = self.directory.join("merged").display().to_string();
        let (root, bundle) = (scene.rootfs.display(), self.directory.display());
        arguments
            .iter()
            .map(|argument| {
                argument
                    .replace("{root}", &root.to_string())
                    .replace("{merged}", &merged)
                    .replace("{bundle}", &bundle.to_string())
                    .replace("{id}", &self.id)
            })
            .collect()
    }
}

/// A directory for peers, in a mount namespace that the calling thread has for itself.
pub(super) struct Place(tempfile::TempDir);

impl Place {
    pub(super) fn new() -> Result<Self, OverheadError> {
        let directory = tempfile::Builder::new()
            .prefix("lis-overhead-")
            .tempdir()
            .map_err(OverheadError::io("make a directory"))?;
        let place = Self(directory);
        if nix::unistd::geteuid().is_root() {
            let failed = |e: Errno| OverheadError::Io("mount a place for peers".into(), e.into());
            place.mount().map_err(failed)?;
        }
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Peers' layers are in memory, as ours are.
    fn mount(&self) -> nix::Result<()> {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let (none, tmpfs) = (None::<&str>, Some("tmpfs"));
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, private, none)?;
        // crun refuses a hierarchy of version 2 beside those of version 1: nobody here needs it.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let of = |kind: &str| {
            let lines = mounts
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>());
            let found = lines.filter(|words| words.get(2) == Some(&kind));
            found
                .filter_map(|words| words.get(1).copied())
                .collect::<Vec<_>>()
        };
        if !of("cgroup").is_empty() {
            for at in of("cgroup2") {
                umount2(at, MntFlags::MNT_DETACH)?;
            }
        }
        mount(tmpfs, self.path(), tmpfs, MsFlags::empty(), none)
    }
}

impl Drop for Place {
    /// The directory below can be removed only then.
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

fn find(peer: &Peer) -> Option<PathBuf> {
    if let Some(named) = peer.variable.and_then(env::var_os) {
        return Some(named.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|d| d.join(peer.program))
        .find(|program| {
            fs::metadata(program).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}
