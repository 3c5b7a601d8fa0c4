//! What the computer was used for: by words and by what happened, side by side.

use super::chart::{Bar, Figure, Line, Row, Table, bars, lines};
use super::text::{bytes, count, part, percent, ratio, short_count, time, turns};
use super::{begin, end, stat};
use crate::bench::capability::{Capabilities, CapabilityUse};
use crate::bench::manifest::Mode;
use crate::bench::report::turns::bin;
use crate::bench::report::{Report, Totals};

/// Turns that fewer samples than this have are not drawn, where others have more: a rate of two is none.
const FEWEST: u64 = 3;

/// How many samples must have an n-th turn for it to be drawn.
pub(super) fn few(turns: impl Iterator<Item = u64>) -> u64 {
    turns.max().unwrap_or(0).min(FEWEST)
}

/// A kind of use: its name, its colour, how many turns of a count are of it.
type Kind = (&'static str, &'static str, fn(&Capabilities) -> u64);

const KINDS: [Kind; 3] = [
    ("External resources", "s1", |seen| seen.external),
    ("Files", "s2", |seen| seen.files),
    ("Computation", "s3", |seen| seen.computation),
];

pub(super) fn section(report: &Report, out: &mut String) {
    if report.run.config.mode != Mode::LlmInSandbox {
        return;
    }
    let seen = &report.capabilities;
    let lead = if seen.facts.all.turns > 0 {
        "Share of turns of each kind, told twice. Solid: by the words of commands and programs, which only hint. \
         Outlined: by what happened: connections, changes of files, CPU time."
    } else {
        "Share of turns of each kind, by the words of commands and programs, which only hint. \
         These records do not tell what happened."
    };
    begin(out, "computer", "Use of the computer", lead);
    by_domain(report).write(out);
    if seen.words.by_turn.len() > 1 {
        by_turn(report).write(out);
    }
    if seen.words.by_length.len() > 1 {
        by_length(report).write(out);
    }
    if report
        .others
        .iter()
        .any(|other| other.report.capabilities.words.all.turns > 0)
    {
        by_run(report).write(out);
    }
    if seen.amounts.samples > 0 {
        amounts(report, out);
    }
    end(out);
}

fn legend(report: &Report) -> Vec<(String, String)> {
    let mut legend: Vec<(String, String)> = KINDS
        .iter()
        .map(|(name, class, _)| ((*class).to_owned(), (*name).to_owned()))
        .collect();
    if report.capabilities.facts.all.turns > 0 {
        legend.push(("hatch ink".into(), "outlined: what happened".into()));
    }
    legend
}

/// Both sources for each kind.
fn row(label: &str, seen: &CapabilityUse) -> Row {
    let mut bars = Vec::new();
    for (_, class, pick) in KINDS {
        let sources = [
            (&seen.words.all, class.to_owned()),
            (&seen.facts.all, format!("hatch {class}")),
        ];
        for (source, class) in sources {
            if let Some(value) = ratio(pick(source), source.turns) {
                bars.push(Bar {
                    value,
                    class,
                    shown: percent(value),
                });
            }
        }
    }
    Row {
        label: label.to_owned(),
        bars,
    }
}

const HEAD: [&str; 9] = [
    "",
    "Turns",
    "External, words",
    "Files, words",
    "Computation, words",
    "Turns with facts",
    "External, facts",
    "Files, facts",
    "Computation, facts",
];

fn cells(label: &str, words: &Capabilities, facts: &Capabilities) -> Vec<String> {
    let mut cells = vec![label.to_owned()];
    for source in [words, facts] {
        cells.push(count(source.turns));
        cells.extend(
            KINDS
                .iter()
                .map(|(.., pick)| part(pick(source), source.turns)),
        );
    }
    cells
}

/// Both sources of each part. The bars end where the largest does, rounded up to a tenth.
fn figure<'a>(
    title: &str,
    note: &str,
    report: &Report,
    parts: impl Iterator<Item = (String, &'a CapabilityUse)>,
) -> Figure {
    let mut table = Table::new(&HEAD);
    let mut rows = Vec::new();
    for (label, seen) in parts {
        let sums = cells(&label, &seen.words.all, &seen.facts.all);
        table.rows.push(sums);
        rows.push(row(&label, seen));
    }
    let largest = rows
        .iter()
        .flat_map(|row| &row.bars)
        .map(|bar| bar.value)
        .fold(0.0, f64::max);
    Figure {
        title: title.into(),
        note: note.into(),
        legend: legend(report),
        svg: bars(&rows, (largest * 10.0).ceil() / 10.0),
        table,
    }
}

fn by_domain(report: &Report) -> Figure {
    let domains = report.drawn().into_iter();
    let parts = domains.map(|(name, domain)| {
        let seen = &domain.capabilities;
        let n = count(seen.words.all.turns);
        (format!("{}, n = {n}", report.name_of(name)), seen)
    });
    figure("By field", "Share of n turns.", report, parts)
}

fn by_run(report: &Report) -> Figure {
    let sides = report.sides().into_iter();
    let parts = sides
        .map(|(name, run)| {
            let turns = mean_turns(&run.totals);
            (format!("{name}, {turns} turns"), &run.capabilities)
        })
        .filter(|(_, seen)| seen.words.all.turns > 0);
    let note = "Share of turns, with the mean number of turns of a sample.";
    figure("By run", note, report, parts)
}

fn mean_turns(totals: &Totals) -> String {
    totals
        .each(super::real(totals.turns))
        .map_or_else(|| super::text::DASH.into(), |turns| format!("{turns:.1}"))
}

fn by_turn(report: &Report) -> Figure {
    let seen = &report.capabilities;
    let none = Capabilities::default();
    let mut table = Table::new(&HEAD);
    for (at, words) in seen.words.by_turn.iter().enumerate() {
        let facts = seen.facts.by_turn.get(at).unwrap_or(&none);
        table
            .rows
            .push(cells(&format!("Turn {}", at + 1), words, facts));
    }
    let dashed = if seen.facts.by_turn.is_empty() {
        ""
    } else {
        " Dotted: by what happened."
    };
    let few = few(seen.words.by_turn.iter().map(|turn| turn.turns));
    let mut drawn = Vec::new();
    for (_, class, pick) in KINDS {
        for (source, class) in [
            (&seen.words, class.to_owned()),
            (&seen.facts, format!("dashed {class}")),
        ] {
            let points: Vec<(f64, f64)> = (1_u32..)
                .zip(&source.by_turn)
                .filter(|(_, turn)| turn.turns >= few)
                .filter_map(|(at, turn)| Some((f64::from(at), ratio(pick(turn), turn.turns)?)))
                .collect();
            if !points.is_empty() {
                drawn.push(Line { class, points });
            }
        }
    }
    Figure {
        title: "By turn".into(),
        note: format!("Share of the n-th turns, where {few} or more samples have one.{dashed}"),
        legend: KINDS
            .iter()
            .map(|(name, class, _)| ((*class).to_owned(), (*name).to_owned()))
            .collect(),
        svg: lines(&drawn, 1.0, |value| format!("{:.0} %", value * 100.0)),
        table,
    }
}

fn by_length(report: &Report) -> Figure {
    let mut bins: std::collections::BTreeMap<(u64, u64), CapabilityUse> =
        std::collections::BTreeMap::new();
    let seen = &report.capabilities;
    for (length, sum) in &seen.words.by_length {
        bins.entry(bin(*length)).or_default().words.all.add(*sum);
    }
    for (length, sum) in &seen.facts.by_length {
        bins.entry(bin(*length)).or_default().facts.all.add(*sum);
    }
    let parts = bins.iter().filter(|((_, to), _)| *to > 0);
    let parts = parts.map(|((from, to), seen)| {
        let n = count(seen.words.all.turns);
        (format!("{}, n = {n}", turns(*from, *to)), seen)
    });
    let note = "Share of the n turns of samples that took so many.";
    figure("Against turns", note, report, parts)
}

fn amounts(report: &Report, out: &mut String) {
    let sums = &report.capabilities.amounts;
    out.push_str("<div class=\"card wide\"><h3>What happened inside</h3><div class=\"stats\">");
    let cpu = std::time::Duration::from_micros(sums.cpu_us).as_secs_f64();
    stat(out, &time(cpu), "CPU time of calls");
    stat(
        out,
        &short_count(super::real(sums.processes)),
        "processes and threads",
    );
    stat(out, &short_count(super::real(sums.paths)), "paths changed");
    stat(
        out,
        &short_count(super::real(sums.connections)),
        "connections",
    );
    stat(out, &bytes(sums.received_bytes), "received");
    stat(
        out,
        &short_count(super::real(sums.refused)),
        "connections refused",
    );
    out.push_str("</div></div>\n");
}
