//! Pictures as SVG, drawn for a column of 330 units: text keeps its size on a telephone. Each stands beside the table of its
//! numbers, and colours never speak alone: order, pattern and words say the same.

use std::fmt::Write as _;

use super::text::{escape, line};
use crate::bench::report::MAX_OTHERS;

/// Width of a picture.
const WIDTH: f64 = 330.0;
/// Rows that are drawn; the tables hold more.
const MAX_ROWS: usize = 24;
/// Rows of a table.
const MAX_TABLE: usize = 300;
/// Characters of a label.
const LABEL: usize = 34;

/// Colours, by place: blue, orange, green, purple, sky, vermilion, as Okabe and Ito chose them.
pub(super) const SERIES: [&str; MAX_OTHERS + 1] = ["s1", "s2", "s3", "s4", "s5", "s6"];

/// A picture, and all that belongs to it.
#[derive(Debug, Default)]
pub(super) struct Figure {
    pub(super) title: String,
    /// What is seen, in a sentence.
    pub(super) note: String,
    /// Class and meaning of each colour.
    pub(super) legend: Vec<(String, String)>,
    pub(super) svg: String,
    pub(super) table: Table,
}

/// Plain text in cells.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// One value of a row.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) value: f64,
    pub(super) class: String,
    pub(super) shown: String,
}

/// Some values under one name.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) label: String,
    pub(super) bars: Vec<Bar>,
}

/// A value with its interval.
#[derive(Debug, Clone)]
pub(super) struct Dot {
    pub(super) value: f64,
    pub(super) interval: Option<[f64; 2]>,
    pub(super) class: String,
    pub(super) shown: String,
}

/// A line through points.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) class: String,
    pub(super) points: Vec<(f64, f64)>,
}

impl Figure {
    pub(super) fn write(&self, out: &mut String) {
        let title = line(&self.title, 120);
        let _ = write!(out, "<figure class=\"card\"><h3>{title}</h3>");
        if !self.note.is_empty() {
            let _ = write!(out, "<p class=\"note\">{}</p>", escape(&self.note));
        }
        if !self.legend.is_empty() && !self.svg.is_empty() {
            out.push_str("<ul class=\"legend\">");
            for (class, meaning) in &self.legend {
                let _ = write!(
                    out,
                    "<li><svg class=\"key\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><rect class=\"{class}\" x=\"1\" y=\"1\" width=\"10\" height=\"10\" rx=\"2\"/></svg>{}</li>",
                    line(meaning, 60)
                );
            }
            out.push_str("</ul>");
        }
        if self.svg.is_empty() {
            self.table.write(out);
            out.push_str("</figure>\n");
            return;
        }
        // What is drawn is in the table, too, so a reader of screens gets one sentence for the picture.
        let _ = write!(
            out,
            "{}",
            self.svg.replacen(
                "<svg",
                &format!(
                    "<svg class=\"plot\" role=\"img\" aria-label=\"{title}. {}\"",
                    escape(&self.note)
                ),
                1
            )
        );
        if !self.table.rows.is_empty() {
            out.push_str("<details class=\"data\"><summary>The numbers</summary>");
            self.table.write(out);
            out.push_str("</details>");
        }
        out.push_str("</figure>\n");
    }
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(|name| (*name).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn write(&self, out: &mut String) {
        out.push_str("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table\"><table><thead><tr>");
        for name in &self.head {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(name));
        }
        out.push_str("</tr></thead><tbody>\n");
        for row in self.rows.iter().take(MAX_TABLE) {
            out.push_str("<tr>");
            for (at, cell) in row.iter().enumerate() {
                let cell = line(cell, 300);
                let _ = match at {
                    0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                    _ => write!(out, "<td>{cell}</td>"),
                };
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>");
        if self.rows.len() > MAX_TABLE {
            let _ = write!(
                out,
                "<p class=\"note\">{} more rows are in report.json.</p>",
                self.rows.len() - MAX_TABLE
            );
        }
    }
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\">")
}

fn label(out: &mut String, y: f64, text: &str) {
    let _ = write!(
        out,
        "<text class=\"label\" x=\"0\" y=\"{y:.1}\">{}</text>",
        line(text, LABEL)
    );
}

fn more(out: &mut String, y: f64, rows: usize) {
    if rows > MAX_ROWS {
        label(
            out,
            y,
            &format!("and {} more in the table", rows - MAX_ROWS),
        );
    }
}

/// Bars beside each other under each label, from 0 to `max`; nothing without a bar.
pub(super) fn bars(rows: &[Row], max: f64) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.bars.is_empty()).collect();
    if rows.is_empty() {
        return String::new();
    }
    let (bar, gap) = (10.0, 16.0);
    let widest = WIDTH - 62.0;
    let max = if max > 0.0 { max } else { 1.0 };
    let mut y = 4.0;
    let mut body = String::new();
    for row in rows.iter().take(MAX_ROWS) {
        y += 11.0;
        label(&mut body, y, &row.label);
        y += 6.0;
        for one in &row.bars {
            let width = (one.value / max * widest).clamp(0.0, widest);
            let _ = write!(
                body,
                "<rect class=\"track\" x=\"0\" y=\"{y:.1}\" width=\"{widest:.1}\" height=\"{bar}\" rx=\"2\"/><rect class=\"{}\" x=\"0\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{bar}\" rx=\"2\"/><text class=\"value\" x=\"{WIDTH}\" y=\"{:.1}\">{}</text>",
                one.class,
                y + bar - 0.5,
                line(&one.shown, 16)
            );
            y += bar + 4.5;
        }
        y += gap - 6.0;
    }
    more(&mut body, y + 8.0, rows.len());
    let tail = if rows.len() > MAX_ROWS { 16.0 } else { 0.0 };
    format!("{}{body}</svg>", open(y + tail))
}

/// Parts of a whole, one after the other, for each label; `total` is told at its right. Nothing where all are 0.
pub(super) fn stacked(rows: &[Row], total: impl Fn(&Row) -> String) -> String {
    let (bar, gap) = (16.0, 12.0);
    let sum = |row: &Row| row.bars.iter().map(|bar| bar.value.max(0.0)).sum::<f64>();
    let max = rows.iter().map(sum).fold(0.0, f64::max);
    if max <= 0.0 {
        return String::new();
    }
    let mut y = 4.0;
    let mut body = String::new();
    for row in rows.iter().take(MAX_ROWS) {
        y += 10.0;
        label(&mut body, y, &row.label);
        let _ = write!(
            body,
            "<text class=\"value\" x=\"{WIDTH}\" y=\"{y:.1}\">{}</text>",
            line(&total(row), 24)
        );
        y += 6.0;
        let mut x = 0.0;
        for part in &row.bars {
            let width = part.value.max(0.0) / max * WIDTH;
            // A thread of paper between the parts.
            let seen = (width - 1.0).max(0.0);
            let _ = write!(
                body,
                "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{seen:.1}\" height=\"{bar}\"><title>{}</title></rect>",
                part.class,
                line(&part.shown, 80)
            );
            x += width;
        }
        y += bar + gap;
    }
    more(&mut body, y + 4.0, rows.len());
    let tail = if rows.len() > MAX_ROWS { 12.0 } else { -6.0 };
    format!("{}{body}</svg>", open(y + tail))
}

/// Values with intervals on one axis; a thin line stands where `mark` is. Nothing without a value.
pub(super) fn dots(
    rows: &[(String, Vec<Dot>)],
    (low, high): (f64, f64),
    mark: Option<f64>,
    tick: impl Fn(f64) -> String,
) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let (left, right) = (6.0, WIDTH - 62.0);
    let at = |value: f64| left + (value - low) / (high - low) * (right - left);
    let mut y = 4.0;
    let mut body = String::new();
    for (name, dots) in rows.iter().take(MAX_ROWS) {
        y += 10.0;
        label(&mut body, y, name);
        y += 12.0;
        for dot in dots {
            let _ = write!(
                body,
                "<line class=\"rule\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
            if let Some([from, to]) = dot.interval {
                let _ = write!(
                    body,
                    "<line class=\"{} whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                    dot.class,
                    at(from),
                    at(to)
                );
            }
            let _ = write!(
                body,
                "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4.5\"/><text class=\"value\" x=\"{WIDTH}\" y=\"{:.1}\">{}</text>",
                dot.class,
                at(dot.value),
                y + 4.0,
                line(&dot.shown, 16)
            );
            y += 15.0;
        }
        y += 5.0;
    }
    more(&mut body, y + 6.0, rows.len());
    if rows.len() > MAX_ROWS {
        y += 12.0;
    }
    for step in 0..=4_u32 {
        let value = low + (high - low) * f64::from(step) / 4.0;
        let _ = write!(
            body,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            at(value),
            y + 12.0,
            escape(&tick(value))
        );
    }
    if let Some(mark) = mark {
        let _ = write!(
            body,
            "<line class=\"mark\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"4\" y2=\"{1:.1}\"/>",
            at(mark),
            y
        );
    }
    format!("{}{body}</svg>", open(y + 18.0))
}

/// Lines over a common axis of whole numbers, that begins at 0 below; nothing without a point.
pub(super) fn lines(lines: &[Line], max: f64, value: impl Fn(f64) -> String) -> String {
    let (left, right, top, bottom) = (36.0, WIDTH - 8.0, 8.0, 150.0);
    let max = if max > 0.0 { max } else { 1.0 };
    let points = || lines.iter().flat_map(|line| &line.points);
    let first = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let last = points()
        .map(|point| point.0)
        .fold(f64::NEG_INFINITY, f64::max);
    if first > last {
        return String::new();
    }
    let span = if last > first { last - first } else { 1.0 };
    let x = |at: f64| left + (at - first) / span * (right - left);
    let y = |at: f64| bottom - (at / max).clamp(0.0, 1.0) * (bottom - top);
    let mut body = String::new();
    for step in 0..=2_u32 {
        let at = max * f64::from(step) / 2.0;
        let _ = write!(
            body,
            "<line class=\"rule\" x1=\"{left}\" x2=\"{right}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text class=\"axis\" x=\"{1}\" y=\"{2:.1}\">{3}</text>",
            y(at),
            left - 5.0,
            y(at) + 4.0,
            escape(&value(at))
        );
    }
    let mut ticks = vec![first, f64::midpoint(first, last).round(), last];
    ticks.dedup();
    for at in ticks {
        let _ = write!(
            body,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{at:.0}</text>",
            x(at),
            bottom + 16.0
        );
    }
    for one in lines {
        let path: Vec<String> = one
            .points
            .iter()
            .map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py)))
            .collect();
        let _ = write!(
            body,
            "<polyline class=\"{} line\" points=\"{}\"/>",
            one.class,
            path.join(" ")
        );
        if one.points.len() <= 30 {
            for (px, py) in &one.points {
                let _ = write!(
                    body,
                    "<circle class=\"{} point\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                    one.class,
                    x(*px),
                    y(*py)
                );
            }
        }
    }
    format!("{}{body}</svg>", open(bottom + 24.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(points: &[(f64, f64)]) -> String {
        let line = Line {
            class: "s1".into(),
            points: points.to_vec(),
        };
        lines(&[line], 1.0, |value| format!("{value:.1}"))
    }

    #[test]
    fn lines_of_few_points_stand_at_numbers() {
        assert_eq!(drawn(&[]), "");
        for (points, ticks) in [(1, 1), (2, 2), (3, 3), (40, 3)] {
            let points: Vec<(f64, f64)> = (1..=points).map(|at| (f64::from(at), 0.5)).collect();
            let svg = drawn(&points);
            assert!(!svg.contains("inf") && !svg.contains("NaN"), "{svg}");
            assert_eq!(svg.matches("class=\"tick\"").count(), ticks, "{svg}");
        }
    }
}
