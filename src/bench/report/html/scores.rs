//! Head of the page, and scores by field of knowledge.

use std::fmt::Write as _;

use super::chart::{Dot, Figure, SERIES, Table, dots};
use super::text::{DASH, count, escape, line, percent, plural, rate, short_count, time, turns};
use super::{begin, end, stat};
use crate::agent::Ablation;
use crate::bench::manifest::Mode;
use crate::bench::report::Report;
use crate::bench::summary::Summary;

/// A score: a share, unless some score of the run is none.
pub(super) fn score(value: Option<f64>, as_share: bool) -> String {
    match value {
        None => DASH.to_owned(),
        Some(value) if as_share => percent(value),
        Some(value) => format!("{value:.4}"),
    }
}

pub(super) fn range(interval: Option<[f64; 2]>, as_share: bool) -> String {
    interval.map_or_else(
        || DASH.to_owned(),
        |[low, high]| {
            format!(
                "{} to {}",
                score(Some(low), as_share),
                score(Some(high), as_share)
            )
        },
    )
}

/// Whether all means and intervals lie between 0 and 1.
pub(super) fn shares(report: &Report) -> bool {
    let fits = |summary: &Summary| {
        let interval = summary.interval_95.iter().flatten();
        let mut all = summary.mean.iter().chain(interval);
        all.all(|value| (0.0..=1.0).contains(value))
    };
    let runs = std::iter::once(report).chain(report.others.iter().map(|other| &other.report));
    runs.flat_map(|run| {
        std::iter::once(&run.summary).chain(run.domains.values().map(|domain| &domain.summary))
    })
    .all(fits)
}

pub(super) fn head(report: &Report, out: &mut String) {
    let (config, all) = (&report.run.config, &report.summary);
    let mode = match config.mode {
        Mode::LlmInSandbox => "in a sandbox",
        Mode::Llm => "with one plain answer",
    };
    let _ = writeln!(
        out,
        "<header><p class=\"eyebrow\">Evaluation</p>\n<h1>{} <span>with</span> {}</h1>",
        line(&config.task, 80),
        line(&config.model, 80)
    );
    let most = match config.mode {
        Mode::LlmInSandbox => {
            let most = config.max_steps.into();
            format!(", at most {}", plural(most, "turn", "turns"))
        }
        Mode::Llm => String::new(),
    };
    let _ = writeln!(
        out,
        "<p class=\"lead\">{} of {} {mode}, {} of each row{most}.</p>",
        plural(all.total as u64, "sample", "samples"),
        plural(report.domains.len() as u64, "field", "fields"),
        config.repeat,
    );
    stats(report, out);
    facts(report, out);
    navigation(report, out);
    out.push_str("</header>\n");
}

fn stats(report: &Report, out: &mut String) {
    let (all, as_share) = (&report.summary, shares(report));
    let interval = all.interval_95.map_or_else(String::new, |_| {
        format!("; 95 % interval {}", range(all.interval_95, as_share))
    });
    let _ = writeln!(
        out,
        "<div class=\"stats\"><div class=\"stat first\"><b>{}</b><span>mean score{interval}</span></div>",
        all.mean
            .map_or_else(|| "none".to_owned(), |mean| score(Some(mean), as_share))
    );
    let sums = &report.totals;
    let left_out = all.pending + all.infrastructure_failures + all.missing;
    let scored = format!("scored; {} in no mean", count(left_out as u64));
    let or_dash = |shown: Option<String>| shown.unwrap_or_else(|| DASH.to_owned());
    let turns = sums.each(super::real(sums.turns));
    // Where the server does not count them, there is none.
    let tokens = sums.each(super::real(sums.tokens()));
    let tokens = tokens.filter(|tokens| *tokens > 0.0);
    let all = [
        (count(all.scored as u64), scored.as_str()),
        (
            or_dash(turns.map(|turns| format!("{turns:.1}"))),
            "turns a sample",
        ),
        (or_dash(tokens.map(short_count)), "tokens a sample"),
        (or_dash(sums.each(sums.total_s).map(time)), "a sample"),
        (
            or_dash(sums.queries_per_minute.map(rate)),
            "samples a minute",
        ),
    ];
    for (value, what) in &all {
        stat(out, value, what);
    }
    out.push_str("</div>\n");
}

fn facts(report: &Report, out: &mut String) {
    let config = &report.run.config;
    let start = |digest: &str| digest.get(..12).unwrap_or_default().to_owned();
    let image = config.image_digest.as_ref();
    let image = image.map(|digest| format!("{} ({})", config.image, start(digest)));
    let sampling = &config.sampling;
    let or_server = |value: Option<String>| value.unwrap_or_else(|| "the server's".to_owned());
    let ablations: Vec<String> = config.ablations.iter().map(ToString::to_string).collect();
    let facts = [
        ("Ablations", ablations.join(", ")),
        ("Run", start(&report.run.digest)),
        ("Image", image.unwrap_or_else(|| "none".to_owned())),
        (
            "Network",
            if config.ablations.contains(&Ablation::NoNetwork) {
                "none".to_owned()
            } else {
                config.network.clone()
            },
        ),
        (
            "Seed",
            or_server(sampling.seed.map(|seed| seed.to_string())),
        ),
        (
            "Temperature",
            or_server(sampling.temperature.map(|value| value.to_string())),
        ),
        ("Version", report.run.package.clone()),
    ];
    out.push_str("<dl class=\"facts\">");
    let without = |name| config.mode == Mode::Llm && matches!(name, "Image" | "Network");
    let told = facts
        .iter()
        .filter(|(name, value)| !value.is_empty() && !without(*name));
    for (name, value) in told {
        let _ = write!(
            out,
            "<div><dt>{name}</dt><dd>{}</dd></div>",
            line(value, 80)
        );
    }
    out.push_str("</dl>\n");
}

fn navigation(report: &Report, out: &mut String) {
    out.push_str("<nav aria-label=\"Sections\">");
    let mut sections = vec![("scores", "Scores")];
    if !report.others.is_empty() {
        sections.push(("beside", "Beside other runs"));
    }
    if report.run.config.mode == Mode::LlmInSandbox {
        sections.push(("computer", "Use of the computer"));
    }
    sections.extend([
        ("costs", "Tokens, time, memory"),
        ("endings", "Endings and failures"),
        ("why", "Why not full score"),
        ("trajectories", "Turn by turn"),
    ]);
    for (id, name) in sections {
        let _ = write!(out, "<a href=\"#{id}\">{}</a> ", escape(name));
    }
    out.push_str("</nav>\n");
}

pub(super) fn section(report: &Report, out: &mut String) {
    begin(
        out,
        "scores",
        "Scores",
        "The dot is the mean, the line the interval that holds 95 % of the means when problems are drawn again. \
         What is pending, failed by infrastructure or not done is in no mean.",
    );
    by_domain(report).write(out);
    if !report.summary.pass_at.is_empty() {
        pass_at(report).write(out);
    }
    if report.by_length.len() > 1 {
        by_length(report).write(out);
    }
    end(out);
}

fn by_domain(report: &Report) -> Figure {
    let as_share = shares(report);
    let sides = report.sides();
    let mut table = Table::new(&[
        "",
        "Mean",
        "95 % interval",
        "n",
        "Pending",
        "Infrastructure",
        "Not done",
    ]);
    let mut names: Vec<Option<&str>> = vec![None];
    names.extend(report.drawn().into_iter().map(|(name, _)| Some(name)));
    if names.len() == 2 {
        // One field is all of it.
        names.pop();
    }
    let mut rows = Vec::new();
    let mut bounds = (0.0_f64, 1.0_f64);
    for name in names {
        let label = name.map_or("All", |name| report.name_of(name));
        let (mut dots, mut numbers) = (Vec::new(), Vec::new());
        for ((side, run), class) in sides.iter().zip(SERIES) {
            let found = match name {
                None => Some(&run.summary),
                Some(name) => run.domains.get(name).map(|domain| &domain.summary),
            };
            let Some(part) = found else { continue };
            let head = if sides.len() > 1 {
                format!("{label}, {side}")
            } else {
                label.to_owned()
            };
            table.rows.push(vec![
                head,
                score(part.mean, as_share),
                range(part.interval_95, as_share),
                count(part.scored as u64),
                count(part.pending as u64),
                count(part.infrastructure_failures as u64),
                count(part.missing as u64),
            ]);
            let Some(mean) = part.mean else { continue };
            let [low, high] = part.interval_95.unwrap_or([mean; 2]);
            bounds = (bounds.0.min(low), bounds.1.max(high));
            numbers.push(count(part.scored as u64));
            dots.push(Dot {
                value: mean,
                interval: part.interval_95,
                class: class.to_owned(),
                shown: score(Some(mean), as_share),
            });
        }
        if !dots.is_empty() {
            numbers.dedup();
            rows.push((format!("{label}, n = {}", numbers.join(", ")), dots));
        }
    }
    let tick = |value: f64| {
        if as_share {
            format!("{:.0}", value * 100.0)
        } else {
            format!("{value:.1}")
        }
    };
    Figure {
        title: "Score by field".into(),
        note: if as_share {
            "Mean score in per cent.".into()
        } else {
            "Mean score.".into()
        },
        legend: legend(report),
        svg: dots(&rows, bounds, None, tick),
        table,
    }
}

/// Names of the runs with their colours, where there are several.
pub(super) fn legend(report: &Report) -> Vec<(String, String)> {
    let sides = report.sides();
    if sides.len() < 2 {
        return Vec::new();
    }
    sides
        .into_iter()
        .zip(SERIES)
        .map(|((name, _), class)| (class.to_owned(), name))
        .collect()
}

fn pass_at(report: &Report) -> Figure {
    let mut table = Table::new(&["k", "pass@k", "n"]);
    let mut rows = Vec::new();
    for (k, rate) in &report.summary.pass_at {
        let n = report.summary.pass_at_n.get(k).copied().unwrap_or(0);
        let n = count(n as u64);
        table
            .rows
            .push(vec![k.to_string(), percent(*rate), n.clone()]);
        rows.push((
            format!("k = {k}, n = {n}"),
            vec![Dot {
                value: *rate,
                interval: None,
                class: SERIES[0].into(),
                shown: percent(*rate),
            }],
        ));
    }
    Figure {
        title: "pass@k".into(),
        note: "Share of the n problems with k scored samples that at least one of k solves, estimated without bias."
            .into(),
        svg: dots(&rows, (0.0, 1.0), None, |value| {
            format!("{:.0}", value * 100.0)
        }),
        table,
        ..Figure::default()
    }
}

fn by_length(report: &Report) -> Figure {
    let as_share = shares(report);
    let mut table = Table::new(&["Turns", "Mean score", "n", "Samples"]);
    let mut rows = Vec::new();
    for part in &report.by_length {
        let turns = turns(part.from, part.to);
        let mean = score(part.mean, as_share);
        table.rows.push(vec![
            turns.clone(),
            mean.clone(),
            count(part.scored),
            count(part.samples),
        ]);
        if let Some(value) = part.mean {
            let label = format!("{turns}, n = {}", part.scored);
            rows.push((
                label,
                vec![Dot {
                    value,
                    interval: None,
                    class: SERIES[0].into(),
                    shown: mean,
                }],
            ));
        }
    }
    let means = || report.by_length.iter().filter_map(|part| part.mean);
    let bounds = (means().fold(0.0, f64::min), means().fold(1.0, f64::max));
    Figure {
        title: "Score against turns".into(),
        note: "Mean score of samples by how many turns they took.".into(),
        svg: dots(&rows, bounds, None, |value| {
            if as_share {
                format!("{:.0}", value * 100.0)
            } else {
                format!("{value:.1}")
            }
        }),
        table,
        ..Figure::default()
    }
}
