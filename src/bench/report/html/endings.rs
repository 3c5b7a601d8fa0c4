//! How samples ended, what failed, and why each has no full score.

use std::fmt::Write as _;

use super::chart::{Bar, Figure, Row, Table, bars};
use super::text::{count, escape, line};
use super::{begin, end};
use crate::bench::ledger::Status;
use crate::bench::report::{Report, Short};

/// Bytes of the list of reasons; the rest is in the JSON.
const MAX_REASONS: usize = 8 << 20;
/// Reasons that are open from the start.
const OPEN: usize = 60;

pub(super) fn section(report: &Report, out: &mut String) {
    begin(
        out,
        "endings",
        "Endings and failures",
        "What the model did counts; what the host, the server or this program failed at is told apart, and is in no mean.",
    );
    endings(report).write(out);
    if !report.tool_errors.is_empty() {
        let note = "Errors of calls that the model was told of.";
        counted(
            "Errors of calls",
            note,
            "Calls",
            &report.tool_errors,
            |_| "s2",
        )
        .write(out);
    }
    if !report.limits.is_empty() {
        let note = "Samples in which a limit of the sandbox struck, by the kernel's evidence.";
        counted(
            "Limits that struck",
            note,
            "Samples",
            &report.limits,
            |_| "s4",
        )
        .write(out);
    }
    end(out);
    why(report, out);
}

fn endings(report: &Report) -> Figure {
    let counts = report
        .endings
        .iter()
        .map(|(name, n)| (name.clone(), *n as u64))
        .collect();
    let class = |name: &str| {
        if name.starts_with("infrastructure") {
            "s6"
        } else {
            "s1"
        }
    };
    Figure {
        legend: vec![
            ("s1".into(), "the model's doing".into()),
            ("s6".into(), "infrastructure".into()),
        ],
        ..counted(
            "How samples ended",
            "Samples by kind of end.",
            "Samples",
            &counts,
            class,
        )
    }
}

fn counted(
    title: &str,
    note: &str,
    unit: &str,
    counts: &std::collections::BTreeMap<String, u64>,
    class: fn(&str) -> &'static str,
) -> Figure {
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut table = Table::new(&["", unit]);
    let mut rows = Vec::new();
    for (name, number) in &sorted {
        table.rows.push(vec![(*name).clone(), count(**number)]);
        rows.push(Row {
            label: name.replace('_', " "),
            bars: vec![Bar {
                value: super::real(**number),
                class: class(name).to_owned(),
                shown: count(**number),
            }],
        });
    }
    let most = sorted.first().map_or(1, |(_, n)| **n);
    Figure {
        title: title.into(),
        note: note.into(),
        svg: bars(&rows, super::real(most)),
        table,
        ..Figure::default()
    }
}

/// A sample as people name it.
pub(super) fn sample_name(id: &str, repeat: u32) -> String {
    match repeat {
        0 => line(id, 80),
        n => format!("{} #{}", line(id, 80), u64::from(n) + 1),
    }
}

/// A mark that says in a word what a sample came to, and its colour.
pub(super) fn mark(status: Status, score: Option<f64>) -> (&'static str, String) {
    match (status, score) {
        (Status::Failed, _) => ("failed", "failed".to_owned()),
        (_, None) => ("pending", "pending".to_owned()),
        (_, Some(score)) if score >= 1.0 => ("full", short(score)),
        (_, Some(score)) if score > 0.0 => ("some", short(score)),
        (_, Some(score)) => ("zero", short(score)),
    }
}

fn short(score: f64) -> String {
    let text = format!("{score:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn why(report: &Report, out: &mut String) {
    let short = &report.short;
    let lead = if short.is_empty() {
        "Every sample has a full score."
    } else {
        "Every sample without a full score: what failed first, then by score."
    };
    let _ = writeln!(
        out,
        "<section id=\"why\"><h2>Why not full score</h2>\n<p class=\"lead\">{lead}</p>"
    );
    if short.is_empty() {
        out.push_str("</section>\n");
        return;
    }
    let (open, rest) = short.split_at(short.len().min(OPEN));
    let mut written = reasons(open, out, MAX_REASONS);
    if !rest.is_empty() {
        let _ = writeln!(
            out,
            "<details class=\"rest\"><summary>{} more</summary>",
            count(rest.len() as u64)
        );
        written += reasons(rest, out, MAX_REASONS);
        out.push_str("</details>\n");
    }
    if written < short.len() {
        let _ = writeln!(
            out,
            "<p class=\"note\">{} more are in report.json.</p>",
            count((short.len() - written) as u64)
        );
    }
    out.push_str("</section>\n");
}

/// A table of reasons, as many as there is room for; gives how many.
fn reasons(samples: &[Short], out: &mut String, room: usize) -> usize {
    let begun = out.len();
    out.push_str("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Reasons\"><table class=\"reasons\"><thead><tr><th scope=\"col\">Score</th><th scope=\"col\">Sample</th><th scope=\"col\">Why</th></tr></thead><tbody>\n");
    let mut written = 0;
    for sample in samples {
        if out.len() - begun > room {
            break;
        }
        let (class, score) = mark(sample.status, sample.score);
        let _ = writeln!(
            out,
            "<tr><td><span class=\"mark {class}\">{score}</span></td><th scope=\"row\"><bdi>{}</bdi></th><td><bdi>{}</bdi><br><code>{}</code></td></tr>",
            sample_name(&sample.id, sample.repeat),
            line(&sample.why, 420),
            escape(&sample.folder)
        );
        written += 1;
    }
    out.push_str("</tbody></table></div>\n");
    written
}
