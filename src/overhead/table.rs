//! A report as text.

use super::{Conformance, Figure, Report, Wall};

/// The whole report, for people.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut lines = Vec::new();
    let m = &report.machine;
    lines.push(format!(
        "llm-in-sandbox {}, {}: kernel {}, {} x {}, {} MB, uid {}, load {}",
        m.version,
        m.date,
        m.kernel,
        m.cores,
        m.cpu,
        m.memory >> 20,
        m.uid,
        m.load
    ));
    if !m.optimized {
        lines.push("WARNING: compiled without optimization; use --release".into());
    }
    lines.extend(report.conformance.iter().map(walls));
    lines.push(format!(
        "\n{:58} {:>6} {:>10} {:>10} {:>6}  {}",
        "what", "n", "p50", "p95", "in E", "unit"
    ));
    lines.extend(report.figures.iter().map(row));
    if !report.verdicts.is_empty() {
        lines.push(format!(
            "\n{:>3} {:54} {:>10} {:>8}",
            "bar", "what", "measured", "wanted"
        ));
    }
    for verdict in &report.verdicts {
        lines.push(format!(
            "{:3} {:54} {:>10} {:>8}  {}",
            verdict.bar,
            verdict.what,
            number(verdict.measured),
            verdict.wanted,
            if verdict.met { "met" } else { "MISSED" }
        ));
    }
    for skipped in &report.skipped {
        lines.push(format!("SKIPPED {}: {}", skipped.what, skipped.why));
    }
    lines.join("\n")
}

/// What is timed, in full; of a peer only where it differs.
fn walls(checked: &Conformance) -> String {
    let list = |walls: Vec<&Wall>| {
        let walls = walls
            .iter()
            .map(|wall| format!("{} {}", wall.name, wall.seen));
        walls.collect::<Vec<_>>().join("; ")
    };
    let missing = checked.missing();
    if !missing.is_empty() {
        return format!(
            "{} differs from ours: {}",
            checked.configuration,
            list(missing)
        );
    }
    let all = list(checked.walls.iter().collect());
    let mut text = format!("\nwalls and limits of {}:\n  {all}", checked.configuration);
    if !checked.unenforced.is_empty() {
        let missing = checked.unenforced.join(", ");
        text = format!("{text}\n  NOT enforced on this host: {missing}");
    }
    text
}

fn row(figure: &Figure) -> String {
    format!(
        "{:58} {:>6} {:>10} {:>10} {:>6}  {}",
        figure.what,
        figure.n,
        number(figure.p50),
        figure.p95.map(number).unwrap_or_default(),
        figure
            .e
            .map(|[e, _]| format!("{:.2}", figure.p50 / e))
            .unwrap_or_default(),
        figure.unit
    )
}

/// Three figures that mean something.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else if value == 0.0 {
        "0".into()
    } else {
        format!("{value:.3}")
    }
}
