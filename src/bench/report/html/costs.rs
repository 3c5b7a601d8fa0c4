//! Tokens, time, memory and disk.

use super::capabilities::few;
use super::chart::{Bar, Figure, Line, Row, Table, lines, stacked};
use super::text::{DASH, bytes, count, percent, rate, ratio, short_count, time};
use super::{begin, end};
use crate::bench::manifest::Mode;
use crate::bench::report::{Report, Totals};

/// Sandboxes at once, as in the paper's table of memory.
const AT_ONCE: [u64; 2] = [64, 512];

/// A part of a whole: its name, its colour, how much of a sum it is.
type Part = (&'static str, &'static str, fn(&Totals) -> f64);

const TOKENS: [Part; 3] = [
    ("Task", "s5", |sums| super::real(sums.task_tokens)),
    ("From the environment", "s2", |sums| {
        super::real(sums.environment_tokens)
    }),
    ("By the model", "s1", |sums| {
        super::real(sums.completion_tokens)
    }),
];

const TIMES: [Part; 6] = [
    ("Model", "s1", |sums| sums.model_s),
    ("Tools", "s2", |sums| sums.tools_s),
    ("Start-up", "s3", |sums| sums.start_s),
    ("Teardown", "s4", |sums| sums.end_s),
    ("Scoring", "s5", |sums| sums.score_s),
    ("Waiting", "s6", |sums| sums.waiting_s),
];

pub(super) fn section(report: &Report, out: &mut String) {
    begin(
        out,
        "costs",
        "Tokens, time, memory",
        "A mean sample. Tokens are counted once, as the conversation holds them at its end: those of the task, those that \
         commands printed (prefilled, not written by the model), and the model's own.",
    );
    parts(
        report,
        "Tokens of a sample",
        "By where they came from, as the server counts.",
        &TOKENS,
        short_count,
    )
    .write(out);
    parts(report, "Time of a sample", "Where it went.", &TIMES, time).write(out);
    if report.by_turn.len() > 1 {
        by_turn(report).write(out);
    }
    sums(report).write(out);
    if report.run.config.mode == Mode::LlmInSandbox {
        memory(report).write(out);
    }
    if let Some(storage) = storage(report) {
        storage.write(out);
    }
    end(out);
}

/// Names and sums: the runs where there are several, else all and each field.
fn whose(report: &Report) -> Vec<(String, &Totals)> {
    let sides = report.sides();
    let several = sides.len() > 1;
    let mut all: Vec<(String, &Totals)> = sides
        .into_iter()
        .map(|(name, run)| (if several { name } else { "All".to_owned() }, &run.totals))
        .collect();
    let domains = report.drawn();
    if !several && domains.len() > 1 {
        for (name, domain) in domains {
            let name = report.name_of(name).to_owned();
            all.push((name, &domain.totals));
        }
    }
    all
}

fn parts(
    report: &Report,
    title: &str,
    note: &str,
    parts: &[Part],
    show: fn(f64) -> String,
) -> Figure {
    let mut table = Table::default();
    table.head.push(String::new());
    table
        .head
        .extend(parts.iter().map(|(name, ..)| (*name).to_owned()));
    table.head.push("In all".into());
    let mut rows = Vec::new();
    for (label, sums) in whose(report) {
        if sums.samples == 0 {
            continue;
        }
        let each = |pick: fn(&Totals) -> f64| sums.each(pick(sums)).unwrap_or(0.0);
        let mut cells = vec![label.clone()];
        cells.extend(parts.iter().map(|(.., pick)| show(each(*pick))));
        cells.push(show(parts.iter().map(|(.., pick)| each(*pick)).sum()));
        table.rows.push(cells);
        let bars = parts
            .iter()
            .map(|(name, class, pick)| Bar {
                value: each(*pick),
                class: (*class).to_owned(),
                shown: format!("{name}: {}", show(each(*pick))),
            })
            .collect();
        rows.push(Row { label, bars });
    }
    Figure {
        title: title.into(),
        note: note.into(),
        legend: parts
            .iter()
            .map(|(name, class, _)| ((*class).to_owned(), (*name).to_owned()))
            .collect(),
        svg: stacked(&rows, |row| {
            show(row.bars.iter().map(|bar| bar.value).sum())
        }),
        table,
    }
}

fn by_turn(report: &Report) -> Figure {
    let mut table = Table::new(&["Turn", "Samples", "Model", "Tools", "Tokens written"]);
    let (mut model, mut tools) = (Vec::new(), Vec::new());
    let few = few(report.by_turn.iter().map(|turn| turn.turns));
    for (at, turn) in (1_u32..).zip(&report.by_turn) {
        if turn.turns == 0 {
            continue;
        }
        let n = super::real(turn.turns);
        table.rows.push(vec![
            at.to_string(),
            count(turn.turns),
            time(turn.model_s / n),
            time(turn.tools_s / n),
            short_count(super::real(turn.completion_tokens) / n),
        ]);
        if turn.turns >= few {
            model.push((f64::from(at), turn.model_s / n));
            tools.push((f64::from(at), turn.tools_s / n));
        }
    }
    let max = model
        .iter()
        .chain(&tools)
        .map(|point| point.1)
        .fold(0.0, f64::max);
    Figure {
        title: "Time of a turn".into(),
        note: format!("Mean of the n-th turns, where {few} or more samples have one."),
        legend: vec![("s1".into(), "Model".into()), ("s2".into(), "Tools".into())],
        svg: lines(
            &[
                Line {
                    class: "s1".into(),
                    points: model,
                },
                Line {
                    class: "s2".into(),
                    points: tools,
                },
            ],
            max,
            time,
        ),
        table,
    }
}

/// Sums of each run, one column each.
fn sums(report: &Report) -> Figure {
    let sides = report.sides();
    let mut table = Table::default();
    table.head.push(String::new());
    table.head.extend(sides.iter().map(|(name, _)| {
        if sides.len() > 1 {
            name.clone()
        } else {
            "This run".into()
        }
    }));
    let mut row = |name: &str, show: &dyn Fn(&Totals) -> String| {
        let mut cells = vec![name.to_owned()];
        cells.extend(sides.iter().map(|(_, run)| show(&run.totals)));
        table.rows.push(cells);
    };
    let share = |part: f64, of: f64| {
        if of > 0.0 {
            percent(part / of)
        } else {
            DASH.into()
        }
    };
    row("Samples", &|sums| count(sums.samples));
    row("Turns", &|sums| count(sums.turns));
    row("Tokens sent", &|sums| count(sums.prompt_tokens));
    row("of these, cached", &|sums| count(sums.cached_tokens));
    row("Tokens written", &|sums| count(sums.completion_tokens));
    row("Environment tokens", &|sums| count(sums.environment_tokens));
    row("their share", &|sums| {
        ratio(sums.environment_tokens, sums.tokens()).map_or_else(|| DASH.into(), percent)
    });
    row("Time in calls", &|sums| share(sums.tools_s, sums.total_s));
    row("in start, end", &|sums| {
        share(sums.start_s + sums.end_s, sums.total_s)
    });
    row("Time at work", &|sums| time(sums.busy_s));
    row("Samples at once", &|sums| {
        if sums.busy_s > 0.0 {
            format!("{:.1}", sums.total_s / sums.busy_s)
        } else {
            DASH.into()
        }
    });
    row("Samples a minute", &|sums| {
        sums.queries_per_minute.map_or_else(|| DASH.into(), rate)
    });
    Figure {
        title: "Sums".into(),
        note: "Time at work leaves pauses out.".into(),
        svg: String::new(),
        table,
        ..Figure::default()
    }
}

fn memory(report: &Report) -> Figure {
    let sums = &report.totals;
    let mut table = Table::new(&["Of a sandbox", "Median", "95 %", "Most"]);
    for (name, found) in [
        ("Peak memory", &sums.peak_memory_bytes),
        ("Written", &sums.written_bytes),
    ] {
        let cells = if found.n == 0 {
            [DASH; 3].map(str::to_owned)
        } else {
            [found.median, found.p95, found.max].map(bytes)
        };
        table
            .rows
            .push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    for n in AT_ONCE {
        let peak = &sums.peak_memory_bytes;
        let cells = if peak.n == 0 {
            [DASH; 3].map(str::to_owned)
        } else {
            [peak.median, peak.p95, peak.max].map(|one| bytes(one.saturating_mul(n)))
        };
        table.rows.push(
            std::iter::once(format!("Memory of {n} at once"))
                .chain(cells)
                .collect(),
        );
    }
    let cpu = sums.each(sums.cpu_s).map_or_else(|| DASH.into(), time);
    Figure {
        title: "Memory and disk".into(),
        note: format!("By the kernel's account, where it keeps one. CPU time of a sandbox: {cpu}."),
        table,
        ..Figure::default()
    }
}

fn storage(report: &Report) -> Option<Figure> {
    let found = report.storage?;
    let mut table = Table::new(&["Disk", "Bytes"]);
    table.rows = vec![
        vec![
            "One image for all problems".into(),
            bytes(found.image_bytes),
        ],
        vec![
            "Written by all samples, gone with them".into(),
            bytes(found.written_bytes),
        ],
        vec![
            format!("An image for each of {} problems", count(found.problems)),
            bytes(found.per_problem_bytes),
        ],
    ];
    Some(Figure {
        title: "Storage".into(),
        note: "One shared image, beside one for each problem without layers in common. The paper tells 1.1 GB against \
               257 GB (SWE-bench), 295 GB (SWE-smith) and 6 TB (SWE-Gym)."
            .into(),
        table,
        ..Figure::default()
    })
}
