//! The zygote: the one process from which all sandboxes are cloned.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{failure, init, root, seccomp};
use crate::sys::channel::{Channel, Received};
use crate::sys::fork::{Cloned, Forked, SingleThread, clone_into};
use crate::sys::{mount as mounts, process};
use crate::wire::{
    FromZygote, IdMap, RequestId, SetupFailure, SetupPlan, ToZygote, decode, encode,
};

/// Entry point of `__zygote ARGUMENT`: `enter-host` and `enter-user` prepare its namespaces and
/// start the program anew as `serve`. Returns the exit code; the control socket is its stdin.
///
/// `:unfiltered` behind the argument leaves the inherited filters out: for tests that show what
/// these filters stop. Whoever can say it has the host's rights anyway.
#[must_use]
pub fn main(argument: &str) -> u8 {
    let control = Channel::stdin();
    let (stage, filtered) = match argument.strip_suffix(":unfiltered") {
        Some(stage) => (stage, false),
        None => (argument, true),
    };
    let result = match stage {
        "enter-host" => enter(&control, /*new_user_namespace*/ false, filtered),
        "enter-user" => enter(&control, /*new_user_namespace*/ true, filtered),
        "serve" => serve(&control, filtered),
        _ => return 64,
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            let _ = say(&control, &FromZygote::SpawnFailed { id: None, failure }, &[]);
            70
        }
    }
}

fn say(control: &Channel, message: &FromZygote, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    control.send(&encode(message)?, fds)
}

/// Moves into namespaces of its own and starts this program again from a read-only bind.
///
/// PID 1 of every sandbox shares the zygote's executable: through `/proc/1/exe` a sandbox must never
/// be able to write it (CVE-2019-5736).
fn enter(
    control: &Channel,
    new_user_namespace: bool,
    filtered: bool,
) -> Result<(), SetupFailure> {
    // What the caller of our host left open is not ours to hand on.
    process::close_all_but(&[0, 1, 2]).map_err(|e| failure("close descriptors", &e))?;
    // Away from the terminal of the caller: an interrupt there is the host's business.
    let _ = nix::unistd::setsid();
    let mut namespaces = CloneFlags::CLONE_NEWNS;
    if new_user_namespace {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(namespaces).map_err(|e| failure("make the zygote's namespaces", &e.into()))?;
    if new_user_namespace {
        wait_for_maps(control).map_err(|e| failure("wait for id maps", &e))?;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| failure("make mounts private", &e.into()))?;
    let program = read_only_program().map_err(|e| failure("bind this program read-only", &e))?;
    let serve = if filtered { c"serve" } else { c"serve:unfiltered" };
    let argv = [c"llm-in-sandbox".into(), c"__zygote".into(), serve.into()];
    let error = process::exec_fd(program.as_fd(), &argv, &[]);
    Err(failure("start the zygote again", &error))
}

fn wait_for_maps(control: &Channel) -> io::Result<()> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    say(control, &FromZygote::NeedMaps { pid }, &[])?;
    match control.receive()?.map(|m| decode::<ToZygote>(&m.bytes)).transpose()? {
        Some(ToZygote::MapsWritten) => Ok(()),
        _ => Err(io::Error::other("the host went away")),
    }
}

fn read_only_program() -> io::Result<OwnedFd> {
    let mut running = fs::File::open("/proc/self/exe")?;
    // The running file belongs to the old mount namespace; its path leads to the same one in ours.
    let bind = fs::read_link("/proc/self/exe").and_then(fs::File::open).and_then(|program| {
        let (one, other) = (running.metadata()?, program.metadata()?);
        if (one.dev(), one.ino()) != (other.dev(), other.ino()) {
            return Err(io::Error::other("another file took its place"));
        }
        let bind = mounts::clone_tree(program.as_fd(), c"")?;
        mounts::set_attributes(bind.as_fd(), mounts::RDONLY | mounts::NOSUID | mounts::NODEV)?;
        Ok(bind)
    });
    bind.or_else(|_| {
        let mut content = Vec::new();
        running.read_to_end(&mut content)?;
        process::sealed_memfd(c"llm-in-sandbox", &content)
    })
}

struct Zygote<'a> {
    control: &'a Channel,
    thread: SingleThread,
    children: HashMap<i32, RequestId>,
}

fn serve(control: &Channel, filtered: bool) -> Result<(), SetupFailure> {
    let thread = SingleThread::claim().map_err(|e| failure("count threads", &e))?;
    let _ = nix::sys::prctl::set_name(c"lis-zygote");
    nix::sys::prctl::set_no_new_privs().map_err(|e| failure("set no_new_privs", &e.into()))?;
    if filtered {
        seccomp::install_inherited().map_err(|e| failure("install seccomp filters", &e))?;
    }
    let signals = child_signals().map_err(|e| failure("watch for children", &e))?;
    let mut zygote = Zygote { control, thread, children: HashMap::new() };
    say(control, &FromZygote::Ready, &[]).map_err(|e| failure("report ready", &e))?;
    loop {
        let mut fds = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(failure("wait for requests", &error.into())),
            Ok(_) => {}
        }
        let ready = fds.map(|fd| fd.any().unwrap_or(true));
        if ready == [false, true] || ready == [true, true] {
            zygote.reap(&signals);
        }
        if ready.first() == Some(&true) {
            match control.receive() {
                Ok(Some(message)) => zygote.request(message),
                // The host is gone: so are we, and by PDEATHSIG every sandbox.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }
}

/// A descriptor that becomes readable when a child ends.
pub(super) fn child_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    SigSet::all().thread_set_mask()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl Zygote<'_> {
    fn request(&mut self, message: Received) {
        let Ok(ToZygote::Spawn { id, plan, into_cgroup }) = decode(&message.bytes) else {
            return;
        };
        let reply = match self.spawn(id, &plan, into_cgroup, message.fds) {
            Ok(child) => {
                self.children.insert(child.pid, id);
                let spawned = FromZygote::Spawned { id, pid: child.pid };
                return drop(say(self.control, &spawned, &[child.pidfd.as_fd()]));
            }
            Err(failure) => FromZygote::SpawnFailed { id: Some(id), failure },
        };
        let _ = say(self.control, &reply, &[]);
    }

    fn spawn(
        &mut self,
        id: RequestId,
        plan: &SetupPlan,
        into_cgroup: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<Cloned, SetupFailure> {
        let mut fds = fds.into_iter();
        let missing = || failure("read the request", &io::Error::other("a descriptor is missing"));
        let init_control = Channel::from_fd(fds.next().ok_or_else(missing)?);
        let cgroup = if into_cgroup { Some(fds.next().ok_or_else(missing)?) } else { None };
        let (ours, theirs) =
            Channel::pair().map_err(|e| failure("make a socket pair", &e))?;
        let mut namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        if plan.own_network {
            namespaces |= libc::CLONE_NEWNET;
        }
        let cloned = clone_into(self.thread, namespaces, cgroup.as_ref().map(AsFd::as_fd))
            .map_err(|e| failure("clone the sandbox", &e))?;
        match cloned {
            Forked::Child => {
                let keep = [init_control.as_raw_fd(), theirs.as_raw_fd()];
                let code = match process::close_all_but(&keep) {
                    Ok(()) => init::main(&init_control, &theirs, plan, self.thread),
                    Err(_) => 70,
                };
                // No destructor may run: the descriptors they would close are gone.
                exit_now(code)
            }
            Forked::Parent(child) => {
                drop(theirs);
                let prepared = prepare(plan, &child, &ours);
                if let Err(failure) = prepared {
                    let _ = process::signal_pidfd(child.pidfd.as_fd(), libc::SIGKILL);
                    self.children.insert(child.pid, id);
                    return Err(failure);
                }
                Ok(child)
            }
        }
    }

    fn reap(&mut self, signals: &SignalFd) {
        while let Ok(Some(_)) = signals.read_signal() {}
        while let Some((pid, _, cpu_us)) = super::processes::reap_one() {
            if let Some(id) = self.children.remove(&pid) {
                let _ = say(self.control, &FromZygote::Exited { id, cpu_us }, &[]);
            }
        }
    }
}

/// Gives a new sandbox what it cannot make itself: its id maps and the mounts of host paths.
fn prepare(plan: &SetupPlan, child: &Cloned, channel: &Channel) -> Result<(), SetupFailure> {
    write_maps(child.pid, plan.ids).map_err(|e| failure("write id maps", &e))?;
    let namespace = fs::File::open(format!("/proc/{}/ns/user", child.pid))
        .map_err(|e| failure("open the user namespace", &e))?;
    let mut mounts = vec![root::prepare(plan, namespace.as_fd())?];
    for bind in &plan.binds {
        mounts.push(root::bind(&bind.path)?);
    }
    for group in mounts.chunks(crate::sys::channel::FDS_MAX) {
        let fds: Vec<_> = group.iter().map(AsFd::as_fd).collect();
        channel.send(b"mounts", &fds).map_err(|e| failure("hand over mounts", &e))?;
    }
    Ok(())
}

fn write_maps(pid: i32, ids: IdMap) -> io::Result<()> {
    let mut lines = format!("0 {} 1\n", ids.base);
    if ids.count > 1 {
        // An ordinary user's own id and his subordinate ids are two extents of the zygote's map, and
        // the kernel takes no line that reaches over two.
        lines.push_str(&format!("1 {} {}\n", ids.base + 1, ids.count - 1));
    }
    fs::write(format!("/proc/{pid}/uid_map"), &lines)?;
    fs::write(format!("/proc/{pid}/gid_map"), &lines)
}

/// Ends this process without destructors or exit handlers.
#[expect(clippy::exit, reason = "a forked child has nothing to return to")]
pub(super) fn exit_now(code: u8) -> ! {
    std::process::exit(code.into())
}
