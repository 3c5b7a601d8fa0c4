//! Beside other runs: problem by problem, and what it cost.

use super::chart::{Bar, Dot, Figure, Row, SERIES, Table, bars, dots};
use super::scores::{range, score, shares};
use super::text::{DASH, count};
use super::{begin, end};
use crate::bench::compare::Comparison;
use crate::bench::report::{Other, Report, Totals};

pub(super) fn section(report: &Report, out: &mut String) {
    if report.others.is_empty() {
        return;
    }
    begin(
        out,
        "beside",
        "Beside other runs",
        "Only problems that have a score in both count, the others are left out; samples of one problem are averaged first. The difference is the other \
         run's less this one's, with the interval that holds 95 % of it when problems are drawn again; it is clear where that does not hold 0.",
    );
    let sides = report.sides();
    for (other, (name, _)) in report.others.iter().zip(sides.iter().skip(1)) {
        difference(report, other, name).write(out);
    }
    costs(report).write(out);
    end(out);
}

fn points(value: Option<f64>, as_share: bool) -> String {
    match value {
        None => DASH.to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) if as_share => format!("{:+.1}", value * 100.0),
        Some(value) => format!("{value:+.4}"),
    }
}

fn difference(report: &Report, other: &Other, name: &str) -> Figure {
    let as_share = shares(report);
    let mut table = Table::new(&[
        "",
        "n",
        "Left out",
        "This run",
        "The other",
        "Difference",
        "95 % interval",
        "Better on",
        "Worse on",
    ]);
    let mut rows = Vec::new();
    let mut reach = 0.1_f64;
    let all = std::iter::once(("All", &other.comparison));
    let parts = other
        .domains
        .iter()
        .map(|(name, pair)| (report.name_of(name), pair));
    let parts = parts.filter(|_| other.domains.len() > 1);
    for (label, pair) in all.chain(parts) {
        table.rows.push(cells(label, pair, as_share));
        let Some(value) = pair.difference else {
            continue;
        };
        let [low, high] = pair.interval_95.unwrap_or([value; 2]);
        reach = [value, low, high]
            .iter()
            .fold(reach, |reach, at| reach.max(at.abs()));
        rows.push((
            format!("{label}, n = {}", pair.n),
            vec![Dot {
                value,
                interval: pair.interval_95,
                class: verdict(pair).to_owned(),
                shown: points(Some(value), as_share),
            }],
        ));
    }
    let reach = (reach * 10.0).ceil() / 10.0;
    let pair = &other.comparison;
    Figure {
        title: format!("{name} against this run"),
        note: format!(
            "{}{} problems, {} left out; the other is better on {}, worse on {}.",
            if as_share {
                "In percentage points. "
            } else {
                ""
            },
            count(pair.n as u64),
            count(pair.excluded as u64),
            count(pair.better as u64),
            count(pair.worse as u64)
        ),
        legend: vec![
            ("s1".into(), "better".into()),
            ("s6".into(), "worse".into()),
            ("none".into(), "no clear difference".into()),
        ],
        svg: dots(&rows, (-reach, reach), Some(0.0), |value| {
            if value == 0.0 {
                "0".to_owned()
            } else if as_share {
                format!("{:+.0}", value * 100.0)
            } else {
                format!("{value:+.1}")
            }
        }),
        table,
    }
}

/// The colour of a difference: one whose interval holds 0 has none.
fn verdict(pair: &Comparison) -> &'static str {
    match pair.interval_95 {
        Some([low, _]) if low > 0.0 => "s1",
        Some([_, high]) if high < 0.0 => "s6",
        _ => "none",
    }
}

fn cells(label: &str, pair: &Comparison, as_share: bool) -> Vec<String> {
    vec![
        label.to_owned(),
        count(pair.n as u64),
        count(pair.excluded as u64),
        score(pair.first, as_share),
        score(pair.second, as_share),
        points(pair.difference, as_share),
        range(pair.interval_95, as_share),
        count(pair.better as u64),
        count(pair.worse as u64),
    ]
}

/// What a mean sample of the other runs costs, as a multiple of this run's.
fn costs(report: &Report) -> Figure {
    type Measure = (&'static str, fn(&Totals) -> Option<f64>);
    let measures: [Measure; 5] = [
        ("Tokens of a sample", |sums| {
            sums.each(super::real(sums.tokens()))
        }),
        ("Tokens of all requests", |sums| {
            sums.each(super::real(sums.prompt_tokens))
        }),
        ("Tokens by the model", |sums| {
            sums.each(super::real(sums.completion_tokens))
        }),
        ("Time of a sample", |sums| sums.each(sums.total_s)),
        ("Samples a minute", |sums| sums.queries_per_minute),
    ];
    let sides = report.sides();
    let mut table = Table::default();
    table.head.push(String::new());
    table.head.extend(
        sides
            .iter()
            .skip(1)
            .map(|(name, _)| format!("{name} ÷ this run")),
    );
    let mut rows = Vec::new();
    let mut largest = 1.0_f64;
    for (label, measure) in measures {
        let mut cells = vec![label.to_owned()];
        let mut drawn = Vec::new();
        for ((_, run), class) in sides.iter().zip(SERIES).skip(1) {
            let pair = measure(&run.totals).zip(measure(&report.totals));
            let ratio = pair
                .filter(|(_, base)| *base > 0.0)
                .map(|(value, base)| value / base);
            let shown = ratio.map_or_else(|| DASH.to_owned(), |ratio| format!("{ratio:.2} ×"));
            cells.push(shown.clone());
            if let Some(value) = ratio {
                largest = largest.max(value);
                drawn.push(Bar {
                    value,
                    class: class.to_owned(),
                    shown,
                });
            }
        }
        table.rows.push(cells);
        rows.push(Row {
            label: label.to_owned(),
            bars: drawn,
        });
    }
    Figure {
        title: "Costs".into(),
        note: "Of the other run, as a multiple of this one's.".into(),
        legend: super::scores::legend(report).into_iter().skip(1).collect(),
        svg: bars(&rows, largest),
        table,
    }
}
