//! The machine: what it is, and whether it has time for a measurement.

use std::fs;
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// Part of the processors' time that others may take.
const BUSY: f64 = 0.15;

/// Part of the time that something may wait for a processor: `some avg10` of PSI.
const PRESSURE: f64 = 10.0;

/// Facts without which no figure can be compared.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Of this program.
    pub version: &'static str,
    /// Whether it was compiled for speed: else no figure is worth anything.
    pub optimized: bool,
    /// When the run ended.
    pub date: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// Processors that this program may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Who ran it.
    pub uid: u32,
    /// Load averages.
    pub load: String,
}

impl Machine {
    pub(super) fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let load = read("/proc/loadavg");
        Self {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            date: crate::image::rfc3339(SystemTime::now()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model
                .and_then(|line| line.split_once(": "))
                .map_or_else(|| "unknown".into(), |(_, model)| model.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: kilobytes("MemTotal").unwrap_or_default() << 10,
            uid: nix::unistd::getuid().as_raw(),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

/// Why nothing should be timed here now, if so: looks for a second.
#[must_use]
pub fn busy() -> Option<String> {
    if let Some(why) = used_by_others() {
        return Some(why);
    }
    let pressure = pressure(&read("/proc/pressure/cpu")).unwrap_or_default();
    (pressure > PRESSURE).then(|| {
        format!(
            "something waited for a processor {pressure} % of the last 10 s, more than {PRESSURE} %"
        )
    })
}

/// The same after a run, whose own waiting would count above.
#[must_use]
pub fn used_by_others() -> Option<String> {
    let before = processor_times();
    std::thread::sleep(Duration::from_secs(1));
    let after = processor_times();
    let (used, all) = (after.0 - before.0, after.1 - before.1);
    let share = if all > 0.0 { used / all } else { 0.0 };
    (share > BUSY).then(|| {
        let (share, most) = (share * 100.0, BUSY * 100.0);
        format!("others use {share:.0} % of the processors, more than {most:.0} %")
    })
}

/// `some avg10`.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let part = some.split(' ').find_map(|w| w.strip_prefix("avg10="))?;
    part.parse().ok()
}

/// Ticks of all processors: used, and in all.
pub(super) fn processor_times() -> (f64, f64) {
    let text = read("/proc/stat");
    let first = text.lines().next().unwrap_or_default();
    // Without guest times, which are in the first ones already: proc_stat(5).
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|n| n.parse().ok())
        .collect();
    let all: f64 = ticks.iter().sum();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// A line of /proc/meminfo.
pub(super) fn kilobytes(name: &str) -> Option<u64> {
    field(&read("/proc/meminfo"), name)
}

/// The number behind `name:`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

pub(super) fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_understood() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=3.00";
        assert_eq!(pressure(text), Some(12.5));
        assert_eq!(field("Pss:  12 kB\nPss_Anon: 3 kB", "Pss"), Some(12));
        assert!(kilobytes("MemTotal").is_some());
        let (used, all) = processor_times();
        assert!(used > 0.0 && used < all);
    }
}
