//! The times, phase by phase.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::conformance::Conformance;
use super::sample::{AHEAD, Series, alternate, e, filled, settle, spread};
use super::{Figure, Options, OverheadError, Phase, Skipped};
use crate::env::{Env, ExecRequest, ExitStatus, GuestPath};
use crate::host::{Launcher, LauncherConfig, Sandbox};
use crate::spec::SandboxSpec;

/// No command that is timed takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Between arrivals that are sparse.
pub(super) const GAP: Duration = Duration::from_millis(100);

const MEGABYTE: usize = 1 << 20;

/// What a whole run shares.
pub(super) struct Run<'a> {
    pub(super) options: &'a Options,
    pub(super) launcher: Arc<Launcher>,
    pub(super) figures: Vec<Figure>,
    pub(super) conformance: Vec<Conformance>,
    pub(super) skipped: Vec<Skipped>,
    /// Cold starts so far.
    cold: Cell<u64>,
}

/// How far a start goes.
#[derive(Clone, Copy)]
enum To {
    Ready,
    Exec(&'static [&'static str]),
    Shell,
}

const TRUE: To = To::Exec(&["/bin/true"]);
const PYTHON: To = To::Exec(&["python3", "-c", "pass"]);

impl<'a> Run<'a> {
    /// Starts the zygote, and looks at the walls of a sandbox of it.
    pub(super) async fn start(options: &'a Options) -> Result<Self, OverheadError> {
        let config = LauncherConfig {
            program: Some(options.program.clone()),
            upper_directory: Some(options.upper_directory.clone()),
            without: options.without.clone(),
            ahead: Some(AHEAD),
            ..LauncherConfig::default()
        };
        let launcher = Arc::new(Launcher::start(config).await?);
        let mut run = Self {
            options,
            launcher,
            figures: Vec::new(),
            conformance: Vec::new(),
            skipped: Vec::new(),
            cold: Cell::new(0),
        };
        let sandbox = run.sandbox().await?;
        let checked = Conformance::of(&run.launcher, &sandbox, "the library's sandboxes").await?;
        sandbox.close_and_search().await?;
        run.conformance.push(checked);
        Ok(run)
    }

    pub(super) async fn phase(&mut self, phase: Phase) -> Result<(), OverheadError> {
        match phase {
            Phase::Noise => self.noise().await,
            Phase::Start => self.starts().await,
            Phase::Warm => self.warm().await,
            Phase::Exec => self.commands().await,
            Phase::Floor => self.floor().await,
            Phase::Data => self.data().await,
            Phase::Teardown => self.teardown().await,
            Phase::Process => self.processes().await,
            Phase::Sparse => self.sparse().await,
            Phase::Rate => self.rates().await,
            Phase::Host => self.host().await,
            Phase::Disk => self.disk().await,
            Phase::Density => self.densities().await,
        }
    }

    pub(super) async fn sandbox(&self) -> Result<Sandbox, OverheadError> {
        Ok(self.launcher.sandbox(self.options.spec.clone()).await?)
    }

    pub(super) fn skip(&mut self, what: &str, why: impl Into<String>) {
        self.skipped.push(Skipped {
            what: what.to_owned(),
            why: why.into(),
        });
    }

    /// A sandbox of which nothing is there when it is asked for: its limits and its environment are no other's, so that only
    /// what all have in common can have been made ahead.
    pub(super) fn unlike_others(&self) -> SandboxSpec {
        let mut spec = self.options.spec.clone();
        let number = self.cold.get() + 1;
        self.cold.set(number);
        spec.limits.pids = spec.limits.pids.map(|pids| pids + number);
        spec.env.push(("NUMBER".into(), number.to_string()));
        spec
    }

    /// One whose root is no other's either: its writable layer is of another size.
    fn of_another_root(&self) -> SandboxSpec {
        let mut spec = self.unlike_others();
        let bytes = spec
            .limits
            .disk_bytes
            .map(|most| most - (self.cold.get() << 12));
        spec.limits.disk_bytes = bytes;
        spec
    }

    async fn cold(&self, to: To) -> Result<Duration, OverheadError> {
        self.start_of(self.unlike_others(), to).await
    }

    async fn start_of(&self, spec: SandboxSpec, to: To) -> Result<Duration, OverheadError> {
        let began = Instant::now();
        let sandbox = self.launcher.sandbox(spec).await?;
        match to {
            To::Ready => {}
            To::Exec(argv) => exec(&sandbox, argv).await?,
            To::Shell => shell(&sandbox, ":").await?,
        }
        let time = began.elapsed();
        sandbox.discard().await?;
        Ok(time)
    }

    /// The same twice in turn: what differs is noise.
    async fn noise(&mut self) -> Result<(), OverheadError> {
        let n = self.options.runs;
        let alone = alternate(&self.launcher, n, async || e()).await?;
        self.figures
            .push(alone.figure("noise.e", "A/A: E against E"));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..n {
            for times in [&mut first, &mut second] {
                filled(&self.launcher).await?;
                settle()?;
                e()?;
                times.push(self.cold(To::Ready).await?);
            }
        }
        for (key, what, mut times) in [
            ("noise.first", "A/A: cold to ready, every first", first),
            ("noise.second", "A/A: cold to ready, every second", second),
        ] {
            self.figures.push(Figure::times(key, what, &mut times));
        }
        Ok(())
    }

    async fn starts(&mut self) -> Result<(), OverheadError> {
        for (key, what, to) in [
            ("start.ready", "cold to ready", To::Ready),
            ("start.true", "cold to /bin/true done", TRUE),
            (
                "start.shell",
                "cold to the shell's first answer (a builtin)",
                To::Shell,
            ),
            ("start.python", "cold to python3 -c pass done", PYTHON),
        ] {
            let series = alternate(&self.launcher, self.options.runs, async || {
                self.cold(to).await
            })
            .await?;
            self.figures.push(series.figure(key, what));
        }
        for (key, what, to) in [
            ("like.ready", "like those before, to ready", To::Ready),
            ("like.true", "like those before, to /bin/true done", TRUE),
            (
                "like.shell",
                "like those before, to the shell's first answer",
                To::Shell,
            ),
        ] {
            let series = alternate(&self.launcher, self.options.runs, async || {
                self.start_of(self.options.spec.clone(), to).await
            })
            .await?;
            self.figures.push(series.figure(key, what));
        }
        for (key, what, to) in [
            ("root.ready", "of another root, to ready", To::Ready),
            ("root.true", "of another root, to /bin/true done", TRUE),
        ] {
            let series = alternate(&self.launcher, self.options.runs, async || {
                self.start_of(self.of_another_root(), to).await
            })
            .await?;
            self.figures.push(series.figure(key, what));
        }
        Ok(())
    }

    async fn sparse(&mut self) -> Result<(), OverheadError> {
        let n = self.options.runs;
        for (key, what, to) in [
            ("sparse.ready", "100 ms apart: cold to ready", To::Ready),
            ("sparse.true", "100 ms apart: cold to /bin/true done", TRUE),
        ] {
            let series = spread(&self.launcher, n, GAP, async || self.cold(to).await).await?;
            self.figures.push(series.figure(key, what));
        }
        Ok(())
    }

    /// Each sample has a sandbox of its own, whose shell nobody has used.
    async fn warm(&mut self) -> Result<(), OverheadError> {
        let runs = self.options.runs;
        let series = alternate(&self.launcher, runs, async || {
            let sandbox = self.sandbox().await?;
            shell(&sandbox, ":").await?;
            e()?;
            let began = Instant::now();
            shell(&sandbox, "cd /tmp").await?;
            let time = began.elapsed();
            sandbox.discard().await?;
            Ok(time)
        });
        let figure = series.await?.figure(
            "warm.shell",
            "hand-out of a ready shell, to its first answer",
        );
        self.figures.push(figure);
        Ok(())
    }

    async fn commands(&mut self) -> Result<(), OverheadError> {
        let n = self.options.runs;
        let sandbox = self.sandbox().await?;
        shell(&sandbox, ":").await?;
        for (key, what, command) in [
            ("exec.builtin", "shell: a builtin", "true"),
            ("exec.true", "shell: /bin/true", "/bin/true"),
            (
                "exec.shell-python",
                "shell: python3 -c pass",
                "python3 -c pass",
            ),
        ] {
            let series = alternate(&self.launcher, n, async || {
                timed(shell(&sandbox, command)).await
            })
            .await?;
            self.figures.push(series.figure(key, what));
        }
        for (key, what, argv) in [
            (
                "exec.exec",
                "exec in a running sandbox: /bin/true",
                &["/bin/true"][..],
            ),
            (
                "exec.python",
                "exec in a running sandbox: python3 -c pass",
                &["python3", "-c", "pass"],
            ),
        ] {
            let series = alternate(&self.launcher, n, async || {
                timed(exec(&sandbox, argv)).await
            })
            .await?;
            self.figures.push(series.figure(key, what));
        }
        sandbox.close().await?;
        Ok(())
    }

    async fn data(&mut self) -> Result<(), OverheadError> {
        let n = self.options.runs;
        let sandbox = self.sandbox().await?;
        let path = GuestPath::from("/tmp/megabyte");
        let content: Vec<u8> = (0..=255).cycle().take(MEGABYTE).collect();
        let write = alternate(&self.launcher, n, async || {
            timed(async { Ok(sandbox.write_file(&path, &content, false).await?) }).await
        });
        let figure = write.await?.figure("data.write", "write a file of 1 MiB");
        self.figures.push(figure);
        let read = alternate(&self.launcher, n, async || {
            let began = Instant::now();
            let read = sandbox.read_file(&path, 2 << 20).await?;
            let time = began.elapsed();
            expect(read == content, "reading a file", "other bytes came back")?;
            Ok(time)
        });
        let figure = read.await?.figure("data.read", "read a file of 1 MiB");
        self.figures.push(figure);
        let output = alternate(&self.launcher, (n / 10).max(2), async || {
            let request = ExecRequest::new(["head", "-c", "100000000", "/dev/zero"]);
            let result = sandbox.exec(&request).await?;
            let kept = result.stdout.head.len() + result.stdout.tail.len();
            let all = result.stdout.omitted + kept as u64;
            expect(
                all == 100_000_000,
                "100 MB of output",
                format!("{all} bytes came"),
            )?;
            Ok(result.wall)
        });
        let figure = output.await?.figure("data.output", "100 MB of output");
        self.figures.push(figure);
        sandbox.close().await?;
        Ok(())
    }

    /// Of sandboxes with a shell. Their processes and mounts are gone with the end of PID 1, which the kernel lets happen last and
    /// only when it has left its mount namespace; each end proves then that no cgroup or directory is left, either.
    async fn teardown(&mut self) -> Result<(), OverheadError> {
        let n = self.options.runs;
        let ready = async || {
            let sandbox = self.sandbox().await?;
            shell(&sandbox, ":").await?;
            e()?;
            Ok::<_, OverheadError>(sandbox)
        };
        let mut gone = Series::default();
        let discard = alternate(&self.launcher, n, async || {
            let sandbox = ready().await?;
            let init = init_of(&sandbox)?;
            let began = Instant::now();
            let ended = async {
                let ended = init.readable().await.map(|_| began.elapsed());
                ended.map_err(OverheadError::io("wait for PID 1"))
            };
            let discarded = timed(async { Ok(sandbox.discard().await?) });
            let (ended, discarded) = tokio::join!(ended, discarded);
            gone.times.push(ended?);
            discarded
        })
        .await?;
        gone.e.clone_from(&discard.e);
        // Those of the first rounds are thrown away, as the others are.
        gone.times.drain(..gone.times.len() - discard.times.len());
        let close = alternate(&self.launcher, n, async || {
            let sandbox = ready().await?;
            timed(async { Ok(sandbox.close().await?) }).await
        })
        .await?;
        self.figures.extend([
            gone.figure(
                "teardown.gone",
                "teardown until processes and mounts are gone",
            ),
            discard.figure(
                "teardown.discard",
                "teardown until cgroups and directories are gone, too",
            ),
            close.figure(
                "teardown.close",
                "the same, asking first how much was written",
            ),
        ]);
        Ok(())
    }
}

/// Becomes readable at the end of a sandbox's PID 1.
fn init_of(sandbox: &Sandbox) -> Result<AsyncFd<OwnedFd>, OverheadError> {
    let pidfd = sandbox.pidfd().map_err(OverheadError::io("open PID 1"))?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an OwnedFd keeps its number all its life"
    )]
    let init = AsyncFd::with_interest(pidfd, Interest::READABLE);
    init.map_err(OverheadError::io("wait for PID 1"))
}

/// A program inside, which has to succeed.
pub(super) async fn exec(sandbox: &Sandbox, argv: &[&str]) -> Result<(), OverheadError> {
    let mut request = ExecRequest::new(argv.iter().copied());
    request.timeout = Some(PATIENCE);
    let status = sandbox.exec(&request).await?.status;
    expect(
        status == ExitStatus::Code(0),
        argv.join(" "),
        format!("{status:?}"),
    )
}

/// The same in the shell.
pub(super) async fn shell(sandbox: &Sandbox, command: &str) -> Result<(), OverheadError> {
    let result = sandbox.shell(command, PATIENCE).await?;
    expect(
        result.status == Some(0),
        command,
        format!("{:?}", result.status),
    )
}

fn expect(
    holds: bool,
    what: impl Into<String>,
    why: impl Into<String>,
) -> Result<(), OverheadError> {
    if holds {
        return Ok(());
    }
    Err(OverheadError::Failed(what.into(), why.into()))
}

async fn timed<T>(
    work: impl Future<Output = Result<T, OverheadError>>,
) -> Result<Duration, OverheadError> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}
