//! PID 1 of a sandbox: builds it, then serves its host until either goes away.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::apply::Stage;
use super::effects::{Account, Layers};
use super::exec::{self, Context};
use super::shell::Shell;
use super::{failure, files, processes, used_up, zygote};
use crate::sys::channel::{Channel, Received};
use crate::sys::fork::SingleThread;
use crate::sys::{process, pty};
use crate::wire::{
    Exec, FileOp, FromInit, Groundwork, RequestId, Setup, SetupFailure, SetupOp, ToInit, decode,
    encode,
};

/// The kernel ends killed processes within this time, unless one waits for a device.
const END_ALL: Duration = Duration::from_secs(10);

/// Runs as the first process of a new set of namespaces. Returns an exit code: nobody inside sees it.
pub(super) fn main(
    control: &Channel,
    zygote: &Channel,
    groundwork: &Groundwork,
    thread: SingleThread,
) -> u8 {
    let _ = nix::sys::prctl::set_name(c"lis-init");
    match set_up(control, zygote, groundwork) {
        Ok(Some(Done {
            setup,
            for_host,
            layers,
        })) => {
            let fds: Vec<_> = for_host.iter().map(AsFd::as_fd).collect();
            let ready = say(control, &FromInit::Ready, &fds);
            drop(for_host);
            ready
                .and_then(|()| serve(control, &setup, layers, thread))
                .map_or(70, |()| 0)
        }
        // Nobody needed it.
        Ok(None) => 0,
        Err(failure) => {
            let _ = say(control, &FromInit::Failed(failure), &[]);
            70
        }
    }
}

fn say(control: &Channel, message: &FromInit, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    control.send(&encode(message)?, fds)
}

/// A sandbox that is set up.
struct Done {
    setup: Setup,
    /// The network device, the listener for refused calls.
    for_host: Vec<OwnedFd>,
    layers: Option<Layers>,
}

fn set_up(
    control: &Channel,
    zygote: &Channel,
    groundwork: &Groundwork,
) -> Result<Option<Done>, SetupFailure> {
    null_stdio().map_err(|e| failure("open /dev/null", &e))?;
    receive(zygote).map_err(|e| failure("wait for id maps", &e))?;
    let mut stage = Stage::new().map_err(|e| failure("open the old root", &e))?;
    for op in &groundwork.steps {
        stage.apply(op).map_err(|e| failure(op.step().0, &e))?;
    }
    let setup = loop {
        let order = await_order(control).map_err(|e| failure("read the plan", &e))?;
        let Some(order) = order else {
            return Ok(None);
        };
        if let ToInit::Prepare(steps) = order {
            perform(&mut stage, zygote, &steps)?;
        } else if let ToInit::SetUp(setup) = order {
            break setup;
        } else {
            let early = io::Error::other(format!("{order:?} came first"));
            return Err(failure("read the plan", &early));
        }
    };
    perform(&mut stage, zygote, &setup.steps)?;
    let for_host = [stage.device.take(), stage.listener.take()];
    let for_host: Vec<_> = for_host.into_iter().flatten().collect();
    let layers = stage.layers.take();
    drop(stage);
    // The old ones are the host's nodes; PID 1 keeps no descriptor of the host but its control socket and, where it
    // keeps account of changes, its own layers.
    null_stdio().map_err(|e| failure("open the sandbox's /dev/null", &e))?;
    let mut keep = vec![0, 1, 2, control.as_raw_fd()];
    keep.extend(for_host.iter().map(AsRawFd::as_raw_fd));
    if let Some(layers) = &layers {
        keep.extend(layers.descriptors());
    }
    process::close_all_but(&keep).map_err(|e| failure("close descriptors", &e))?;
    Ok(Some(Done {
        setup,
        for_host,
        layers,
    }))
}

/// Carries out these steps, with the mounts that the zygote makes for them.
fn perform(stage: &mut Stage, zygote: &Channel, steps: &[SetupOp]) -> Result<(), SetupFailure> {
    let count = |takes: fn(&SetupOp) -> bool| steps.iter().filter(|op| takes(op)).count();
    let mounts = count(|op| matches!(op, SetupOp::EnterRoot | SetupOp::Bind { .. }))
        + 2 * count(|op| matches!(op, SetupOp::Layers));
    while stage.mounts.len() < mounts {
        let made = receive(zygote).map_err(|e| failure("receive mounts from the zygote", &e))?;
        stage.mounts.extend(made.fds);
    }
    for op in steps {
        stage.apply(op).map_err(|e| failure(op.step().0, &e))?;
    }
    Ok(())
}

/// What the host wants of this sandbox; `None` when it wants none.
fn await_order(control: &Channel) -> io::Result<Option<ToInit>> {
    let message = control.receive()?;
    Ok(message.map(|m| decode(&m.bytes)).transpose()?)
}

fn null_stdio() -> io::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    for fd in 0..3 {
        process::duplicate_to(null.as_fd(), fd)?;
    }
    if null.as_raw_fd() < 3 {
        std::mem::forget(null);
    }
    Ok(())
}

fn receive(zygote: &Channel) -> io::Result<Received> {
    let message = zygote.receive()?;
    message.ok_or_else(|| io::Error::other("the zygote went away"))
}

struct Init<'a> {
    control: &'a Channel,
    context: Context<'a>,
    running: HashMap<i32, RequestId>,
    /// With this program we end.
    only: Option<RequestId>,
    over: bool,
    shell: Option<Shell>,
    account: Option<Account>,
}

fn serve(
    control: &Channel,
    setup: &Setup,
    layers: Option<Layers>,
    thread: SingleThread,
) -> io::Result<()> {
    let signals = zygote::child_signals()?;
    let mut init = Init {
        control,
        context: Context {
            thread,
            env: &setup.env,
            workdir: &setup.workdir,
        },
        running: HashMap::new(),
        only: None,
        over: false,
        shell: None,
        account: layers.map(Account::new),
    };
    loop {
        let mut fds = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let account = init.account.as_ref();
        match poll(
            &mut fds,
            account.map_or(PollTimeout::NONE, Account::patience),
        ) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        let [request, child] = fds.map(|fd| fd.any().unwrap_or(true));
        let shell = init.shell();
        if let Some(account) = &mut init.account {
            account.glance(shell);
        }
        if child {
            while let Ok(Some(_)) = signals.read_signal() {}
            init.reap()?;
        }
        if init.over {
            return Ok(());
        }
        if request {
            match control.receive()? {
                Some(message) => init.request(message)?,
                None => return Ok(()),
            }
        }
    }
}

impl Init<'_> {
    fn say(&self, message: &FromInit, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        say(self.control, message, fds)
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some((pid, status, _)) = processes::reap_one() {
            if self.shell.as_ref().is_some_and(|shell| shell.pid == pid) {
                self.shell = None;
            }
            // The rest are orphans that came to us because we are PID 1.
            if let Some(id) = self.running.remove(&pid) {
                let used_up = used_up::now(/*processes*/ status != Ok(0));
                let exited = FromInit::Exited {
                    id,
                    status,
                    used_up,
                };
                self.say(&exited, &[])?;
                self.over |= self.only == Some(id);
            }
        }
        Ok(())
    }

    fn shell(&self) -> Option<i32> {
        self.shell.as_ref().map(|shell| shell.pid)
    }

    /// A host that reads no more is none of our business.
    fn tell_effects(&mut self, reply: Vec<OwnedFd>) {
        let shell = self.shell();
        let effects = self.account.as_mut().map(|account| account.settle(shell));
        let effects = effects.and_then(|effects| encode(&effects).ok());
        if let (Some(effects), Some(reply)) = (effects, reply.into_iter().next()) {
            let _ = File::from(reply).write_all(&effects);
        }
    }

    fn request(&mut self, message: Received) -> io::Result<()> {
        let fds = message.fds;
        match decode(&message.bytes)? {
            ToInit::Prepare(_) | ToInit::SetUp(_) => {
                Err(io::Error::other("this sandbox is set up"))
            }
            ToInit::Effects { .. } => {
                self.tell_effects(fds);
                Ok(())
            }
            ToInit::Exec(request) => self.run(&request, &fds),
            ToInit::ExecOnly(request) => {
                self.only = Some(request.id);
                self.run(&request, &fds)
            }
            ToInit::File { id, op } => {
                let ended = if matches!(op, FileOp::Seal { .. }) {
                    self.end_all()?
                } else {
                    Ok(())
                };
                let layers = self.account.as_ref().map(Account::layers);
                let started = ended.and_then(|()| files::start(&self.context, &op, fds, layers));
                self.started(id, started)
            }
            ToInit::Kill { id, signal } => {
                self.kill(id, signal);
                Ok(())
            }
            ToInit::StartShell { id, env, cwd } => {
                match Shell::start(&self.context, &env, &cwd, fds) {
                    Ok((shell, fds)) => {
                        self.running.insert(shell.pid, id);
                        self.shell = Some(shell);
                        let fds = fds.each_ref().map(AsFd::as_fd);
                        self.say(&FromInit::ShellStarted { id }, &fds)
                    }
                    Err(error) => self.refuse(id, &error),
                }
            }
            ToInit::CommandBegins => {
                self.account.iter_mut().for_each(Account::begin);
                Ok(())
            }
            ToInit::PrepareCommand {
                id,
                pipes,
                processes,
            } => self.prepare_command(id, pipes, processes),
            ToInit::KillCommand {
                id,
                began,
                signal,
                shell,
            } => {
                if let Some(running) = &self.shell {
                    running.kill_command(began, signal, shell);
                }
                self.say(&FromInit::Killed { id }, &[])
            }
            ToInit::IsShellIdle { id } => {
                let idle = self.shell.as_ref().is_some_and(Shell::is_idle);
                self.say(&FromInit::ShellIdle { id, idle }, &[])
            }
            ToInit::Usage { id } => {
                let usage = FromInit::Usage {
                    id,
                    written_bytes: written_bytes().unwrap_or(0),
                    used_up: used_up::now(/*processes*/ false),
                };
                self.say(&usage, &[])
            }
            ToInit::CpuTime { id } => {
                let ticks = processes::cpu_ticks();
                self.say(&FromInit::CpuTime { id, ticks }, &[])
            }
        }
    }

    /// Kills every process and waits for the last: as PID 1 it is, or becomes, the parent of all. The outer error is the
    /// host's silence.
    fn end_all(&mut self) -> io::Result<io::Result<()>> {
        let deadline = Instant::now() + END_ALL;
        loop {
            match processes::kill_all() {
                Ok(true) if Instant::now() > deadline => {
                    return Ok(Err(io::Error::other("a process does not end")));
                }
                Ok(true) => {}
                Ok(false) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
            self.reap()?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn run(&mut self, request: &Exec, fds: &[OwnedFd]) -> io::Result<()> {
        self.account.iter_mut().for_each(Account::begin);
        let started = self.exec(request, fds);
        self.started(request.id, started)
    }

    fn exec(&self, request: &Exec, fds: &[OwnedFd]) -> io::Result<i32> {
        if !request.terminal {
            return exec::start(&self.context, request, fds);
        }
        let (pid, master) = exec::start_on_terminal(&self.context, request)?;
        self.say(&FromInit::Terminal { id: request.id }, &[master.as_fd()])?;
        Ok(pid)
    }

    fn started(&mut self, id: RequestId, started: io::Result<i32>) -> io::Result<()> {
        match started {
            Ok(pid) => {
                self.running.insert(pid, id);
                Ok(())
            }
            Err(error) => self.refuse(id, &error),
        }
    }

    fn refuse(&self, id: RequestId, error: &io::Error) -> io::Result<()> {
        self.say(
            &FromInit::Refused {
                id,
                reason: error.to_string(),
                errno: pty::errno(error),
                used_up: used_up::now(/*processes*/ true),
            },
            &[],
        )
    }

    fn kill(&self, id: RequestId, signal: i32) {
        if let Some((pid, _)) = self.running.iter().find(|(_, running)| **running == id) {
            for member in processes::family(&processes::all(), *pid) {
                processes::signal(member, signal);
            }
        }
    }

    fn prepare_command(&mut self, id: RequestId, pipes: bool, processes: bool) -> io::Result<()> {
        let Some(shell) = self.shell.as_mut() else {
            return self.refuse(id, &io::Error::other("no shell runs"));
        };
        let used_up = used_up::now(processes);
        match shell.prepare(pipes) {
            Ok(pipes) => {
                let fds: Vec<_> = pipes.iter().map(AsFd::as_fd).collect();
                self.say(&FromInit::CommandPrepared { id, used_up }, &fds)
            }
            Err(error) => self.refuse(id, &error),
        }
    }
}

/// What the writable layer holds: overlayfs answers for its upper file system.
fn written_bytes() -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs("/")?;
    Ok((stat.blocks() - stat.blocks_free()).saturating_mul(stat.fragment_size()))
}
