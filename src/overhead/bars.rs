//! What the project wants to reach, and whether the figures reach it.

use serde::Serialize;

use super::Figure;
use Measure::{Ratio, Tail, TimesE, Value};

/// How a bar is read off the figures.
#[derive(Debug, Clone, Copy)]
enum Measure {
    /// Its median, in medians of E.
    TimesE(&'static str),
    /// Its 95th percentile, in those of E.
    Tail(&'static str),
    /// Median to median.
    Ratio(&'static str, &'static str),
    /// The value itself.
    Value(&'static str),
}

struct Bar {
    number: u8,
    what: &'static str,
    measure: Measure,
    /// At most; at least where `more` is set.
    limit: f64,
    more: bool,
}

const fn most(number: u8, what: &'static str, measure: Measure, limit: f64) -> Bar {
    Bar {
        number,
        what,
        measure,
        limit,
        more: false,
    }
}

const fn least(number: u8, what: &'static str, measure: Measure, limit: f64) -> Bar {
    Bar {
        more: true,
        ..most(number, what, measure, limit)
    }
}

/// Bounds are for root; an ordinary user has no cgroup limits and other figures.
const BARS: [Bar; 23] = [
    most(1, "cold to ready, in E", TimesE("start.ready"), 0.8),
    most(2, "cold to /bin/true done, in E", TimesE("start.true"), 2.2),
    most(2, "the same, p95 in p95 of E", Tail("start.true"), 2.3),
    most(
        3,
        "cold to the shell ready, in E",
        TimesE("start.shell"),
        3.0,
    ),
    most(3, "the same, p95 in p95 of E", Tail("start.shell"), 2.5),
    most(
        4,
        "sparse to /bin/true done, in E",
        TimesE("sparse.true"),
        2.5,
    ),
    most(
        5,
        "hand-out of a ready shell, in E",
        TimesE("warm.shell"),
        0.3,
    ),
    most(
        6,
        "builtin in the shell, in E",
        TimesE("exec.builtin"),
        0.15,
    ),
    most(7, "/bin/true in the shell, in E", TimesE("exec.true"), 1.5),
    most(
        8,
        "Python cold, to Python in a running sandbox",
        Ratio("start.python", "exec.python"),
        1.15,
    ),
    most(
        9,
        "teardown until processes and mounts are gone, in E",
        TimesE("teardown.gone"),
        0.4,
    ),
    least(
        10,
        "cycles a second, 8 in flight, to bubblewrap's",
        Ratio("rate.8", "rate.8.bubblewrap"),
        1.4,
    ),
    least(
        10,
        "cycles a second, 8 in flight, to Docker's",
        Ratio("rate.8", "rate.8.docker"),
        80.0,
    ),
    most(
        11,
        "idle sandbox with a shell, MB",
        Value("memory.100"),
        1.3,
    ),
    most(11, "the same, one of 2,000, MB", Value("memory.2000"), 1.3),
    most(
        12,
        "start of the 2,000th to the first",
        Ratio("nth.2000.last", "nth.2000.first"),
        1.5,
    ),
    most(
        12,
        "processes and mounts of 2,000 gone, s",
        Value("gone.2000"),
        2.0,
    ),
    most(
        13,
        "exec as a process, to bubblewrap",
        Ratio("process.exec", "process.bubblewrap"),
        1.0,
    ),
    most(
        13,
        "the same, 100 ms apart",
        Ratio("sparse.exec", "sparse.bubblewrap"),
        1.2,
    ),
    most(14, "host process, % of a core", Value("host.cpu"), 5.0),
    most(14, "descriptors a sandbox", Value("host.descriptors"), 8.0),
    most(
        14,
        "threads more for 64 sandboxes",
        Value("host.threads"),
        0.0,
    ),
    most(15, "disk a sandbox, kB", Value("disk.default"), 24.0),
];

/// A bar, and what was measured of it.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Its number.
    pub bar: u8,
    /// What it bounds.
    pub what: &'static str,
    /// The figure.
    pub measured: f64,
    /// As in `≤ 2.2`.
    pub wanted: String,
    /// Whether it is reached.
    pub met: bool,
}

/// The bars whose figures were measured.
pub(super) fn judge(figures: &[Figure]) -> Vec<Verdict> {
    BARS.iter()
        .filter_map(|bar| {
            let measured = bar.measure.of(figures)?;
            let (sign, met) = if bar.more {
                ("≥", measured >= bar.limit)
            } else {
                ("≤", measured <= bar.limit)
            };
            Some(Verdict {
                bar: bar.number,
                what: bar.what,
                measured,
                wanted: format!("{sign} {}", bar.limit),
                met,
            })
        })
        .collect()
}

impl Measure {
    fn of(self, figures: &[Figure]) -> Option<f64> {
        let find = |key: &str| figures.iter().find(|figure| figure.key == key);
        match self {
            TimesE(key) => find(key).and_then(|f| Some(f.p50 / f.e?[0])),
            Tail(key) => find(key).and_then(|f| Some(f.p95? / f.e?[1])),
            Ratio(key, to) => Some(find(key)?.p50 / find(to)?.p50),
            Value(key) => find(key).map(|figure| figure.p50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_met_and_missed() {
        let figure = |key: &str, p50, p95| Figure {
            p95: Some(p95),
            e: Some([1.0, 2.0]),
            ..Figure::value(key, "", "ms", 1, p50)
        };
        let figures = [
            figure("start.true", 2.0, 5.0),
            figure("rate.8", 100.0, 0.0),
            figure("rate.8.bubblewrap", 80.0, 0.0),
            figure("disk.default", 24.0, 0.0),
        ];
        let seen: Vec<_> = judge(&figures)
            .iter()
            .map(|v| (v.bar, v.measured, v.met))
            .collect();
        assert_eq!(
            seen,
            [
                (2, 2.0, true),
                (2, 2.5, false),
                (10, 1.25, false),
                (15, 24.0, true)
            ]
        );
    }
}
