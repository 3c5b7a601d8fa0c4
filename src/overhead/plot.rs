//! The start of a sandbox against peers, as a picture.

use std::fmt::Write;

use super::{Figure, Report};

const WIDTH: u32 = 800;
const LABEL: u32 = 250;
const VALUES: u32 = 110;
const BAR: u32 = 18;
const LINE: u32 = 26;

/// A row of the picture.
struct Row {
    label: String,
    ours: bool,
    p50: f64,
    p95: f64,
}

/// Two panels of bars, in milliseconds on a logarithmic scale, for light and for dark pages. Nothing
/// where no peer was measured.
#[must_use]
pub fn svg(report: &Report) -> Option<String> {
    let start = rows(
        report,
        &[
            ("start.true", "library"),
            ("process.exec", "exec, whole process"),
        ],
        "process.",
    );
    let visit = rows(
        report,
        &[
            ("exec.true", "the persistent shell"),
            ("exec.exec", "exec in the sandbox"),
        ],
        "visit.",
    );
    if start.iter().all(|row| row.ours) {
        return None;
    }
    let m = &report.machine;
    let note = format!(
        "p50 and p95 in ms; linux {}, {} cores, uid {}, {}, version {}",
        m.kernel,
        m.cores,
        m.uid,
        m.date.get(..10).unwrap_or_default(),
        m.version
    );
    let mut body = String::new();
    let mut y = panel(&mut body, 30, "From nothing to /bin/true done", &start);
    if visit.iter().any(|row| !row.ours) {
        y = panel(&mut body, y + 24, "/bin/true in a running sandbox", &visit);
    }
    let _ = writeln!(
        body,
        r#"<text class="note" x="10" y="{}">{}</text>"#,
        y + 16,
        escape(&note)
    );
    let height = y + 30;
    Some(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">
<title>Time to start a sandbox, and to run a command in one</title>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #24292f; }}
.head {{ font-weight: 600; font-size: 15px; }}
.note {{ font-size: 11px; fill: #57606a; }}
.ours {{ fill: #1a7f37; }}
.peer {{ fill: #8c959f; }}
.tail {{ stroke: #57606a; stroke-width: 1.5; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }}
.note {{ fill: #9da7b3; }}
.ours {{ fill: #3fb950; }}
.peer {{ fill: #6e7681; }}
.tail {{ stroke: #9da7b3; }}
}}
</style>
{body}</svg>
"#
    ))
}

/// Ours first, then the peers by their medians.
fn rows(report: &Report, ours: &[(&str, &str)], prefix: &str) -> Vec<Row> {
    let row = |figure: &Figure, label: &str, ours| Row {
        label: label.to_owned(),
        ours,
        p50: figure.p50,
        p95: figure.p95.unwrap_or(figure.p50),
    };
    let named = ours.iter().filter_map(|(key, label)| {
        let figure = report.figures.iter().find(|figure| figure.key == *key)?;
        Some(row(figure, &format!("llm-in-sandbox, {label}"), true))
    });
    let peers = report.figures.iter().filter_map(|figure| {
        let name = figure.key.strip_prefix(prefix)?;
        (name != "exec").then(|| row(figure, name, false))
    });
    let mut peers: Vec<_> = peers.collect();
    peers.sort_by(|a, b| a.p50.total_cmp(&b.p50));
    named.chain(peers).collect()
}

/// Draws one panel from `top` on; gives its end.
fn panel(body: &mut String, top: u32, title: &str, rows: &[Row]) -> u32 {
    let smallest = rows.iter().map(|row| row.p50).fold(f64::MAX, f64::min);
    let largest = rows.iter().map(|row| row.p95).fold(0.0, f64::max);
    // Half of the smallest: the shortest bar can be seen.
    let from = (smallest / 2.0).max(1e-6);
    let room = f64::from(WIDTH - LABEL - VALUES);
    let long = |value: f64| (value / from).ln() / (largest / from).ln().max(1e-9) * room;
    let _ = writeln!(
        body,
        r#"<text class="head" x="10" y="{top}">{} (logarithmic)</text>"#,
        escape(title)
    );
    let mut y = top + 12;
    for row in rows {
        let (middle, text) = (y + BAR / 2, y + BAR - 4);
        let (bar, tail) = (long(row.p50), f64::from(LABEL) + long(row.p95));
        let begin = f64::from(LABEL) + bar;
        let class = if row.ours { "ours" } else { "peer" };
        let _ = writeln!(
            body,
            r#"<text x="10" y="{text}">{}</text><rect class="{class}" x="{LABEL}" y="{y}" width="{bar:.1}" height="{BAR}" rx="2"/><line class="tail" x1="{begin:.1}" y1="{middle}" x2="{tail:.1}" y2="{middle}"/><text x="{:.1}" y="{text}">{} | {}</text>"#,
            escape(&row.label),
            tail + 6.0,
            milliseconds(row.p50),
            milliseconds(row.p95),
        );
        y += LINE;
    }
    y
}

fn milliseconds(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::Machine;
    use super::*;

    fn report(figures: &[(&str, f64)]) -> Report {
        let figures = figures.iter().map(|(key, p50)| Figure {
            p95: Some(p50 * 1.5),
            ..Figure::value(*key, "", "ms", 9, *p50)
        });
        Report {
            machine: Machine {
                kernel: "6.0 <&>".into(),
                date: "2026-01-02T03:04:05Z".into(),
                ..Machine::here()
            },
            conformance: Vec::new(),
            figures: figures.collect(),
            verdicts: Vec::new(),
            skipped: Vec::new(),
        }
    }

    #[test]
    fn ours_come_first_and_peers_by_their_time() {
        let all = [
            ("process.docker", 300.0),
            ("process.bubblewrap", 3.5),
            ("process.exec", 4.0),
            ("start.true", 1.5),
            ("visit.docker", 66.0),
            ("exec.true", 0.9),
        ];
        let picture = svg(&report(&all)).unwrap();
        let at = |text: &str| picture.find(text).unwrap();
        assert!(at("llm-in-sandbox, library") < at("exec, whole process"));
        assert!(at("exec, whole process") < at(">bubblewrap<"));
        assert!(at(">bubblewrap<") < at(">docker<"));
        assert!(picture.contains("300 | 450") && picture.contains("1.50 | 2.25"));
        assert!(picture.contains("6.0 &lt;&amp;&gt;") && picture.contains("2026-01-02"));
        assert!(picture.contains("prefers-color-scheme: dark"));
        // No bar leaves the picture, and all tags are closed.
        let numbers = picture.split("width=\"").skip(2);
        for number in numbers.map(|rest| rest.split('"').next().unwrap()) {
            let width: f64 = number.parse().unwrap();
            assert!(width > 0.0 && width <= f64::from(WIDTH), "{width}");
        }
        let opened = picture.matches("<text").count();
        assert_eq!(opened, picture.matches("</text>").count());
    }

    #[test]
    fn without_peers_there_is_nothing_to_show() {
        assert!(svg(&report(&[("process.exec", 4.0), ("start.true", 1.5)])).is_none());
        assert!(svg(&report(&[])).is_none());
    }
}
