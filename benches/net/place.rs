//! A thread in a network namespace of its own, which starts others there.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use llm_in_sandbox::sys::process;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Nothing takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Place {
    jobs: Sender<Job>,
    /// The namespace, as other programs find it: by its thread, or by a file of a directory that goes with this.
    pub(crate) thread: String,
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        let (jobs, received) = channel::<Job>();
        let (entered, place) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            process::loopback_up().unwrap();
            let thread = nix::unistd::gettid().to_string();
            // Who gives up his rights before he looks for a namespace finds none by way of /proc.
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("net");
            std::fs::write(&path, "").unwrap();
            let (own, flags) = ("/proc/thread-self/ns/net", MsFlags::MS_BIND);
            mount(Some(own), &path, None::<&str>, flags, None::<&str>).unwrap();
            entered.send((thread, path, directory)).unwrap();
            received.iter().for_each(|job| job());
        });
        let (thread, path, directory) = place.recv_timeout(DEADLINE).unwrap();
        Self {
            jobs,
            thread,
            path,
            _directory: directory,
        }
    }

    pub(crate) fn start<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (started, handle) = channel();
        let job = move || started.send(thread::spawn(what)).unwrap();
        self.jobs.send(Box::new(job)).unwrap();
        handle.recv_timeout(DEADLINE).unwrap()
    }

    /// In the very thread, which may leave its namespace for another one.
    pub(crate) fn run_here<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done, result) = channel();
        let job = move || done.send(what()).unwrap_or_default();
        self.jobs.send(Box::new(job)).unwrap();
        result.recv_timeout(DEADLINE).unwrap()
    }

    pub(crate) fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(what).join().unwrap()
    }
}
