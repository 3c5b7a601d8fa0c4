//! The zygote: the one process from which all sandboxes are cloned.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, sched_getaffinity, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::begun::Begun;
use super::networks::Networks;
use super::{failure, init, seccomp};
use crate::sys::channel::{Channel, Received};
use crate::sys::fork::{Forked, SingleThread, clone_into, fork, run_beside_us};
use crate::sys::{mount as mounts, process};
use crate::wire::{
    CgroupEntry, DEVICE_STEP, FromInit, FromZygote, Groundwork, IdMap, Mounts, NetworkSource,
    RequestId, SetupFailure, ToZygote, decode, encode,
};

/// Entry point of `__zygote ARGUMENT`: `enter-host` and `enter-user` prepare its namespaces and
/// start the program anew as `serve`; `forked`, of root's one-shot hosts, does without the new
/// program. Returns the exit code; the control socket is its stdin.
///
/// `:unfiltered` behind the argument leaves the inherited filter out: where PID 1 installs all in
/// one to report refusals, and for tests that show what these filters stop. Whoever can say it has
/// the host's rights anyway.
#[must_use]
pub fn main(argument: &str) -> u8 {
    let control = Channel::stdin();
    let (stage, filtered) = match argument.strip_suffix(":unfiltered") {
        Some(stage) => (stage, false),
        None => (argument, true),
    };
    let result = match stage {
        "enter-host" => enter(&control, /*new_user_namespace*/ false)
            .and_then(|()| serve_read_only(&control, filtered)),
        "enter-user" => enter(&control, /*new_user_namespace*/ true)
            .and_then(|()| serve_read_only(&control, filtered)),
        "forked" => {
            enter(&control, /*new_user_namespace*/ false)
                .and_then(|()| serve(&control, filtered, /*one_sandbox*/ true))
        }
        "serve" => serve(&control, filtered, /*one_sandbox*/ false),
        _ => return 64,
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            let _ = say(
                &control,
                &FromZygote::SpawnFailed { id: None, failure },
                &[],
            );
            70
        }
    }
}

fn say(control: &Channel, message: &FromZygote, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    control.send(&encode(message)?, fds)
}

/// Moves into namespaces of its own.
fn enter(control: &Channel, new_user_namespace: bool) -> Result<(), SetupFailure> {
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
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|e| failure("make mounts private", &e.into()))
}

/// Serves, and unless it runs from one, starts this program again from a read-only bind first.
///
/// PID 1 of every sandbox shares the zygote's executable: through `/proc/1/exe` a sandbox must never
/// be able to write it (CVE-2019-5736).
fn serve_read_only(control: &Channel, filtered: bool) -> Result<(), SetupFailure> {
    if runs_read_only() {
        return serve(control, filtered, /*one_sandbox*/ false);
    }
    let program = read_only_program().map_err(|e| failure("bind this program read-only", &e))?;
    let serve = if filtered {
        c"serve"
    } else {
        c"serve:unfiltered"
    };
    let argv = [c"llm-in-sandbox".into(), c"__zygote".into(), serve.into()];
    let error = process::exec_fd(program.as_fd(), &argv, &[]);
    Err(failure("start the zygote again", &error))
}

fn wait_for_maps(control: &Channel) -> io::Result<()> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    say(control, &FromZygote::NeedMaps { pid }, &[])?;
    match control
        .receive()?
        .map(|m| decode::<ToZygote>(&m.bytes))
        .transpose()?
    {
        Some(ToZygote::MapsWritten) => Ok(()),
        _ => Err(io::Error::other("the host went away")),
    }
}

fn runs_read_only() -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    statvfs("/proc/self/exe").is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY))
}

fn read_only_program() -> io::Result<OwnedFd> {
    let mut running = fs::File::open("/proc/self/exe")?;
    // The running file belongs to the old mount namespace; its path leads to the same one in ours.
    let bind = fs::read_link("/proc/self/exe")
        .and_then(fs::File::open)
        .and_then(|program| {
            let (one, other) = (running.metadata()?, program.metadata()?);
            if (one.dev(), one.ino()) != (other.dev(), other.ino()) {
                return Err(io::Error::other("another file took its place"));
            }
            let bind = mounts::clone_tree(program.as_fd(), c"")?;
            mounts::set_attributes(
                bind.as_fd(),
                mounts::RDONLY | mounts::NOSUID | mounts::NODEV,
            )?;
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
    /// Those without their mounts.
    begun: HashMap<RequestId, Begun>,
    /// Mounts that have served. To close one takes the kernel 0.05 ms, in which nobody else can mount:
    /// it waits until nothing starts, and that of the only sandbox until we end. So does the network of that one: the kernel takes
    /// it apart when the last holder lets go, for 0.3 ms and on the processor that its host would go on.
    served: Vec<OwnedFd>,
    one_sandbox: bool,
    networks: Networks,
    /// Until it is time to tidy up and to make a network. None at all for the first, which is made while the host prepares its first
    /// request, nor for the one after each sandbox, which is made beside its PID 1: later it would be in the way of what runs there.
    pause: PollTimeout,
}

/// How many served mounts wait at most for a quiet moment.
const MOST_SERVED: usize = 32;

/// Without a request for so long it is time, in milliseconds.
const IDLE: u8 = 2;

fn serve(control: &Channel, filtered: bool, one_sandbox: bool) -> Result<(), SetupFailure> {
    let thread = SingleThread::claim().map_err(|e| failure("count threads", &e))?;
    let _ = nix::sys::prctl::set_name(c"lis-zygote");
    nix::sys::prctl::set_no_new_privs().map_err(|e| failure("set no_new_privs", &e.into()))?;
    if filtered {
        seccomp::install_inherited().map_err(|e| failure("install seccomp filters", &e))?;
    }
    // What this program ignores would be ignored in every program inside.
    process::reset_signals();
    let signals = child_signals().map_err(|e| failure("watch for children", &e))?;
    let mut zygote = Zygote {
        control,
        thread,
        children: HashMap::new(),
        begun: HashMap::new(),
        served: Vec::new(),
        one_sandbox,
        networks: Networks::new(one_sandbox)
            .map_err(|e| failure("open the network namespace", &e))?,
        pause: PollTimeout::ZERO,
    };
    // Nobody waits for that of a fork.
    if !one_sandbox {
        say(control, &FromZygote::Ready, &[]).map_err(|e| failure("report ready", &e))?;
    }
    loop {
        let mut fds = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let untidy = !zygote.one_sandbox && !zygote.served.is_empty();
        let pause = match zygote.networks.is_short() || untidy {
            true => zygote.pause,
            false => PollTimeout::NONE,
        };
        match poll(&mut fds, pause) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(failure("wait for requests", &error.into())),
            Ok(0) => {
                if pause != PollTimeout::ZERO {
                    zygote.served.clear();
                }
                if zygote.networks.is_short() {
                    zygote.networks.refill();
                }
                zygote.pause = PollTimeout::from(IDLE);
                continue;
            }
            Ok(_) => {}
        }
        let [request, child] = fds.map(|fd| fd.any().unwrap_or(true));
        if child {
            zygote.reap(&signals);
        }
        if request {
            match control.receive() {
                Ok(Some(message)) => {
                    zygote.pause = PollTimeout::from(IDLE);
                    zygote.request(message);
                }
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
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

impl Zygote<'_> {
    fn request(&mut self, message: Received) {
        let done = match decode(&message.bytes) {
            Ok(ToZygote::Begin {
                id,
                groundwork,
                cgroup,
                mounts,
            }) => {
                let begun = self.begin(id, &groundwork, cgroup, message.fds, mounts.as_ref());
                (id, begun)
            }
            Ok(ToZygote::Mount { id, mounts }) => (id, self.mount(id, &mounts)),
            Ok(ToZygote::Remove { id, path }) => return self.remove(id, &path),
            Ok(ToZygote::Prepare { device }) => return self.networks.expect(device.as_ref()),
            Ok(ToZygote::MapsWritten) | Err(_) => return,
        };
        if let (id, Err(failure)) = done {
            let id = Some(id);
            let _ = say(self.control, &FromZygote::SpawnFailed { id, failure }, &[]);
        }
    }

    fn begin(
        &mut self,
        id: RequestId,
        groundwork: &Groundwork,
        cgroup: CgroupEntry,
        fds: Vec<OwnedFd>,
        mounts: Option<&Mounts>,
    ) -> Result<(), SetupFailure> {
        let mut fds = fds.into_iter();
        let missing = || {
            failure(
                "read the request",
                &io::Error::other("a descriptor is missing"),
            )
        };
        let init_control = Channel::from_fd(fds.next().ok_or_else(missing)?);
        let (born_in, tasks) = match cgroup {
            CgroupEntry::None => (None, Vec::new()),
            CgroupEntry::Born => (Some(fds.next().ok_or_else(missing)?), Vec::new()),
            CgroupEntry::Writes => (None, fds.collect()),
        };
        let (ours, theirs) = Channel::pair().map_err(|e| failure("make a socket pair", &e))?;
        let mut namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        if matches!(groundwork.network, NetworkSource::New { .. }) {
            namespaces |= libc::CLONE_NEWNET;
        }
        let network = self.networks.take(groundwork);
        let network = network.map_err(|e| failure(DEVICE_STEP, &e))?;
        let (thread, born_in) = (self.thread, born_in.as_ref().map(AsFd::as_fd));
        let cloned = patiently(|| {
            self.networks.inside(network.as_ref(), || {
                // The child drops it, too: it has no other user to go back to.
                let _owner = namespace_owner(groundwork.ids)?;
                clone_into(thread, namespaces, born_in)
            })
        })
        .map_err(|e| failure("clone the sandbox", &e))?;
        match cloned {
            Forked::Child => {
                let keep = [init_control.as_raw_fd(), theirs.as_raw_fd()];
                let entered = enter_cgroups(&tasks).and_then(|()| process::close_all_but(&keep));
                let code = match entered {
                    Ok(()) => init::main(&init_control, &theirs, groundwork, self.thread),
                    Err(error) => {
                        let failed = FromInit::Failed(failure("enter the cgroup", &error));
                        let _ = encode(&failed).map(|message| init_control.send(&message, &[]));
                        70
                    }
                };
                // No destructor may run: the descriptors they would close are gone.
                exit_now(code)
            }
            Forked::Parent(child) => {
                self.children.insert(child.pid, id);
                self.pause = PollTimeout::ZERO;
                drop(theirs);
                let pid = child.pid;
                let (network, device) = network.unzip();
                if self.one_sandbox {
                    // Where the host may run: see `keep_beside_us`.
                    let _ = sched_getaffinity(Pid::parent())
                        .and_then(|all| run_beside_us(Pid::from_raw(pid), &all));
                    self.served.extend(network.map(OwnedFd::from));
                }
                let begun = Begun::new(child, groundwork.ids, ours)?;
                if let Some(mounts) = mounts {
                    self.give_mounts(&begun, mounts)?;
                }
                let said = FromZygote::Begun { id, pid };
                let device = device.flatten();
                let fds = std::iter::once(begun.pidfd()).chain(device.as_ref().map(AsFd::as_fd));
                let _ = say(self.control, &said, &fds.collect::<Vec<_>>());
                if mounts.is_none() {
                    self.begun.insert(id, begun);
                }
                Ok(())
            }
        }
    }

    fn mount(&mut self, id: RequestId, mounts: &Mounts) -> Result<(), SetupFailure> {
        // One that has died meanwhile: its end was told.
        let Some(begun) = self.begun.remove(&id) else {
            return Ok(());
        };
        self.give_mounts(&begun, mounts)
    }

    fn give_mounts(&mut self, begun: &Begun, mounts: &Mounts) -> Result<(), SetupFailure> {
        if self.served.len() > MOST_SERVED {
            self.served.clear();
        }
        self.served.extend(begun.give_mounts(mounts)?);
        Ok(())
    }

    /// In a child: a large tree must not hold up the next start.
    fn remove(&mut self, id: RequestId, path: &Path) {
        // A layer that is still mounted would keep its room on the disk.
        self.served.clear();
        let answer = |result: io::Result<()>| {
            let error = result.err().map(|e| e.to_string());
            let _ = say(self.control, &FromZygote::Removed { id, error }, &[]);
        };
        match fork(self.thread) {
            Ok(Forked::Parent(_)) => {}
            Ok(Forked::Child) => {
                answer(crate::tree::remove(path));
                exit_now(0)
            }
            Err(error) => answer(Err(error)),
        }
    }

    fn reap(&mut self, signals: &SignalFd) {
        while let Ok(Some(_)) = signals.read_signal() {}
        while let Some((pid, _, cpu_us)) = super::processes::reap_one() {
            if let Some(id) = self.children.remove(&pid) {
                self.begun.remove(&id);
                let _ = say(self.control, &FromZygote::Exited { id, cpu_us }, &[]);
            }
        }
    }
}

/// What the kernel counts for each user (inotify instances, queued signals, bytes of message queues)
/// it counts for the owner of a user namespace, too. Were that root, one sandbox could take it all from
/// the others and from the host; so each of root's belongs to its own first id.
fn namespace_owner(ids: IdMap) -> io::Result<Option<process::ActingAs>> {
    match ids.base {
        0 => Ok(None),
        base => process::act_as(base).map(Some),
    }
}

/// Tries again where the kernel has no process to give just now: others may be ending.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for milliseconds in [1, 4, 16, 64] {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                std::thread::sleep(std::time::Duration::from_millis(milliseconds));
            }
            done => return done,
        }
    }
    attempt()
}

/// Moves this process into its cgroups, and then hides all but what is below them.
fn enter_cgroups(tasks: &[OwnedFd]) -> io::Result<()> {
    for file in tasks {
        nix::unistd::write(file, b"0")?;
    }
    // Not a flag of the clone: the root of the view would be the zygote's cgroup.
    Ok(unshare(CloneFlags::CLONE_NEWCGROUP)?)
}

/// Ends this process without destructors or exit handlers.
#[expect(clippy::exit, reason = "a forked child has nothing to return to")]
pub(super) fn exit_now(code: u8) -> ! {
    std::process::exit(code.into())
}
