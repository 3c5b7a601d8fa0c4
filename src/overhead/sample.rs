//! Samples, and E beside each of them.

use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::OverheadError;
use crate::host::Launcher;

/// Between two samples E runs for at least so long: what the one before has left to the kernel is
/// then done, and no core has gone to sleep.
const SETTLE: Duration = Duration::from_millis(3);

/// Sandboxes begun before they are asked for: the launcher's own number, which this makes certain.
pub(super) const AHEAD: usize = 8;

const FILL_DEADLINE: Duration = Duration::from_secs(10);

/// One row of the table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figure {
    /// For programs, as in `start.true`.
    pub key: String,
    /// For people.
    pub what: String,
    /// Of the values.
    pub unit: &'static str,
    /// Samples.
    pub n: usize,
    /// Median, or the only value.
    pub p50: f64,
    /// 95th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// Median and 95th percentile of E, alternating with these samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e: Option<[f64; 2]>,
}

impl Figure {
    /// A single value.
    pub(super) fn value(
        key: impl Into<String>,
        what: impl Into<String>,
        unit: &'static str,
        n: usize,
        value: f64,
    ) -> Self {
        Self {
            key: key.into(),
            what: what.into(),
            unit,
            n,
            p50: value,
            ..Self::default()
        }
    }

    /// Times without E.
    pub(super) fn times(
        key: impl Into<String>,
        what: impl Into<String>,
        times: &mut [Duration],
    ) -> Self {
        times.sort_unstable();
        Self {
            p95: Some(percentile(times, 95)),
            ..Self::value(key, what, "ms", times.len(), percentile(times, 50))
        }
    }
}

/// Times, and those of E between them.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) times: Vec<Duration>,
    pub(super) e: Vec<Duration>,
}

impl Series {
    pub(super) fn push(&mut self, e: &[Duration], times: impl IntoIterator<Item = Duration>) {
        self.e.extend(e);
        self.times.extend(times);
    }

    pub(super) fn figure(mut self, key: impl Into<String>, what: impl Into<String>) -> Figure {
        self.e.sort_unstable();
        Figure {
            e: Some([percentile(&self.e, 50), percentile(&self.e, 95)]),
            ..Figure::times(key, what, &mut self.times)
        }
    }
}

/// `n` samples, each after all that is made ahead of it is there again, and then E. Those of the first
/// rounds, which warm the caches, are thrown away.
pub(super) async fn alternate(
    launcher: &Launcher,
    n: usize,
    mut sample: impl AsyncFnMut() -> Result<Duration, OverheadError>,
) -> Result<Series, OverheadError> {
    let mut series = Series::default();
    let warm_up = 1 + n / 50;
    for round in 0..warm_up + n {
        filled(launcher).await?;
        let mut alone = settle()?;
        alone.push(e()?);
        let time = sample().await?;
        if round >= warm_up {
            series.push(&alone, [time]);
        }
    }
    Ok(series)
}

/// Waits until no more is made ahead, which a launcher does once half of it is used.
pub(super) async fn filled(launcher: &Launcher) -> Result<(), OverheadError> {
    let began = Instant::now();
    while launcher.waiting() * 2 <= AHEAD || launcher.is_filling() {
        if began.elapsed() > FILL_DEADLINE {
            let why = format!("{} of {AHEAD} are there", launcher.waiting());
            return Err(OverheadError::Failed("making sandboxes ahead".into(), why));
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok(())
}

/// The same with a pause of `gap` before each, E included.
pub(super) async fn spread(
    launcher: &Launcher,
    n: usize,
    gap: Duration,
    mut sample: impl AsyncFnMut() -> Result<Duration, OverheadError>,
) -> Result<Series, OverheadError> {
    let mut series = Series::default();
    for _ in 0..n {
        tokio::time::sleep(gap).await;
        series.e.push(e()?);
        tokio::time::sleep(gap).await;
        filled(launcher).await?;
        series.times.push(sample().await?);
    }
    Ok(series)
}

/// E, again and again for [`SETTLE`].
pub(super) fn settle() -> Result<Vec<Duration>, OverheadError> {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < SETTLE {
        times.push(e()?);
    }
    Ok(times)
}

/// One posix_spawn(3) and wait of `/bin/true`.
pub(super) fn e() -> Result<Duration, OverheadError> {
    whole(&mut Command::new("/bin/true"))
}

/// A whole process, which has to succeed. With inherited descriptors std spawns without fork(2).
pub(super) fn whole(command: &mut Command) -> Result<Duration, OverheadError> {
    let began = Instant::now();
    let status = command.status();
    let time = began.elapsed();
    let name = || command.get_program().to_string_lossy().into_owned();
    let status = status.map_err(|e| OverheadError::Io(format!("run {}", name()), e))?;
    if status.success() {
        Ok(time)
    } else {
        Err(OverheadError::Failed(name(), status.to_string()))
    }
}

/// Of sorted times, in milliseconds.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = sorted.get(last * percent / 100);
    at.copied().unwrap_or_default().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut times: Vec<_> = (1..=101).rev().map(Duration::from_millis).collect();
        let figure = Figure::times("k", "w", &mut times);
        assert_eq!((figure.n, figure.p50, figure.p95), (101, 51.0, Some(96.0)));
    }

    #[test]
    fn a_program_that_fails_gives_no_time() {
        assert!(whole(&mut Command::new("/bin/false")).is_err());
        assert!(e().is_ok());
    }
}
