//! Full cycles a second, and what the host process needs while it drives many sandboxes.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tokio::task::JoinSet;

use super::machine::processor_times;
use super::phases::{Run, exec, shell};
use super::sample::whole;
use super::{Figure, OverheadError};
use crate::host::Launcher;
use crate::spec::SandboxSpec;

/// How many are in flight at once.
const IN_FLIGHT: [usize; 4] = [1, 2, 8, 32];

/// The one that peers are measured with, too.
pub(super) const PEERS_IN_FLIGHT: usize = 8;

/// Cycles of each that is in flight, however slow.
const FEWEST: usize = 3;

/// How many sandboxes the host process drives, how often it calls each, and for how long.
const DRIVEN: usize = 64;
const CALL_EVERY: Duration = Duration::from_millis(100);

impl Run<'_> {
    /// How long a rate is counted: the longer the more samples are asked for.
    pub(super) fn window(&self) -> Duration {
        Duration::from_millis(self.options.runs.clamp(20, 300) as u64 * 10)
    }

    pub(super) async fn rates(&mut self) -> Result<(), OverheadError> {
        for in_flight in IN_FLIGHT {
            let window = self.window();
            let (count, per_second) =
                cycles(&self.launcher, &self.options.spec, in_flight, window).await?;
            self.figures.push(Figure::value(
                format!("rate.{in_flight}"),
                format!("full cycles of /bin/true, {in_flight} in flight"),
                "/s",
                count,
                per_second,
            ));
        }
        let (count, per_second) = processes(PEERS_IN_FLIGHT, self.window(), &|| {
            whole(&mut Command::new("/bin/true")).map(|_| ())
        })?;
        self.figures.push(Figure::value(
            "rate.8.e",
            "E, 8 in flight",
            "/s",
            count,
            per_second,
        ));
        Ok(())
    }

    pub(super) async fn host(&mut self) -> Result<(), OverheadError> {
        let before = (entries("/proc/self/fd"), entries("/proc/self/task"));
        let mut sandboxes = Vec::new();
        for _ in 0..DRIVEN {
            let sandbox = self.sandbox().await?;
            shell(&sandbox, ":").await?;
            sandboxes.push(sandbox);
        }
        let after = (entries("/proc/self/fd"), entries("/proc/self/task"));
        let (began, used) = (Instant::now(), cpu_time());
        let (machine, _) = processor_times();
        let window = self.window().max(CALL_EVERY * 4);
        let mut callers = JoinSet::new();
        let mut stagger = Duration::ZERO;
        for sandbox in sandboxes {
            callers.spawn(async move {
                tokio::time::sleep(stagger).await;
                let mut ticks = tokio::time::interval(CALL_EVERY);
                let mut calls = 0;
                while began.elapsed() < window {
                    ticks.tick().await;
                    shell(&sandbox, "true").await?;
                    calls += 1;
                }
                Ok::<_, OverheadError>((sandbox, calls))
            });
            stagger += CALL_EVERY / u32::try_from(DRIVEN).unwrap_or(1);
        }
        let (mut done, mut calls) = (Vec::new(), 0);
        while let Some(joined) = callers.join_next().await {
            let (sandbox, count) = joined.map_err(died)??;
            calls += count;
            done.push(sandbox);
        }
        let (cpu, wall) = (cpu_time() - used, began.elapsed().as_secs_f64());
        let machine = processor_times().0 - machine;
        for sandbox in done {
            sandbox.discard().await?;
        }
        let each = |more: usize| more as f64 / DRIVEN as f64;
        let mut push = |key: &str, what: &str, unit, n, value| {
            let figure = Figure::value(format!("host.{key}"), what, unit, n, value);
            self.figures.push(figure);
        };
        let share = cpu / wall * 100.0;
        push(
            "cpu",
            "host process: 64 sandboxes, a call each 100 ms",
            "% of a core",
            calls,
            share,
        );
        // Ticks are of 10 ms on every Linux: time(7), USER_HZ.
        let ms = machine * 10.0 / f64::from(u32::try_from(calls).unwrap_or(u32::MAX).max(1));
        push(
            "call",
            "processor time of a call, on all cores, others' work included",
            "ms",
            calls,
            ms,
        );
        let descriptors = each(after.0.saturating_sub(before.0));
        push(
            "descriptors",
            "host process: descriptors a sandbox",
            "",
            DRIVEN,
            descriptors,
        );
        let threads = after.1.saturating_sub(before.1) as f64;
        push(
            "threads",
            "host process: threads more for 64 sandboxes",
            "",
            DRIVEN,
            threads,
        );
        Ok(())
    }
}

/// Starts, `/bin/true`, ends, over and over: how many, and how many a second.
async fn cycles(
    launcher: &Arc<Launcher>,
    spec: &SandboxSpec,
    in_flight: usize,
    window: Duration,
) -> Result<(usize, f64), OverheadError> {
    let began = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..in_flight {
        let (launcher, spec) = (Arc::clone(launcher), spec.clone());
        loops.spawn(async move {
            let mut count = 0;
            while began.elapsed() < window {
                let sandbox = launcher.sandbox(spec.clone()).await?;
                exec(&sandbox, &["/bin/true"]).await?;
                sandbox.discard().await?;
                count += 1;
            }
            Ok::<_, OverheadError>(count)
        });
    }
    let mut count = 0;
    while let Some(joined) = loops.join_next().await {
        count += joined.map_err(died)??;
    }
    Ok((count, count as f64 / began.elapsed().as_secs_f64()))
}

/// The same for what is a call that blocks, on a thread for each in flight.
pub(super) fn processes(
    in_flight: usize,
    window: Duration,
    cycle: &(dyn Fn() -> Result<(), OverheadError> + Sync),
) -> Result<(usize, f64), OverheadError> {
    let began = Instant::now();
    let one = || {
        let mut count = 0;
        while began.elapsed() < window || count < FEWEST {
            cycle()?;
            count += 1;
        }
        Ok::<usize, OverheadError>(count)
    };
    let counts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..in_flight).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Ok(0)))
            .sum::<Result<usize, _>>()
    });
    let count = counts?;
    Ok((count, count as f64 / began.elapsed().as_secs_f64()))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the form that map_err asks for"
)]
pub(super) fn died(error: tokio::task::JoinError) -> OverheadError {
    OverheadError::Failed("a task".into(), error.to_string())
}

/// Seconds of this process.
fn cpu_time() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let time = usage.user_time() + usage.system_time();
        time.num_microseconds() as f64 / 1e6
    })
}

pub(super) fn entries(directory: &str) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}
