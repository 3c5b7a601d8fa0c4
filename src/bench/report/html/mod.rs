//! The report as one page: no script, nothing loaded from anywhere, read from disk. A policy in its head has the browser hold to
//! that, whatever the texts in it are.

mod capabilities;
mod chart;
mod comparison;
mod costs;
mod endings;
mod scores;
mod trajectories;

use std::collections::BTreeMap;
use std::io::{self, Write};

use sha2::{Digest, Sha256};

pub use trajectories::Trajectories;

use super::text::{base64, line};
use super::totals::real;
use super::{Report, text};

const STYLE: &str = include_str!("style.css");

/// Fields of knowledge that are drawn, largest first; the others are in the JSON.
const MAX_DOMAINS: usize = 300;

impl Report {
    /// Writes the page.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn to_html(&self, trajectories: &Trajectories, out: &mut impl Write) -> io::Result<()> {
        let config = &self.run.config;
        let title = format!(
            "{} with {}",
            line(&config.task, 80),
            line(&config.model, 80)
        );
        let policy = base64(&Sha256::digest(STYLE));
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{policy}'; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"referrer\" content=\"no-referrer\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        )?;
        let mut page = String::new();
        scores::head(self, &mut page);
        page.push_str("<main>\n");
        scores::section(self, &mut page);
        comparison::section(self, &mut page);
        capabilities::section(self, &mut page);
        costs::section(self, &mut page);
        endings::section(self, &mut page);
        out.write_all(page.as_bytes())?;
        trajectories.section(out)?;
        out.write_all(b"</main>\n</body>\n</html>\n")
    }

    /// The run, then those beside it, each with a short name.
    fn sides(&self) -> Vec<(String, &Self)> {
        let all = std::iter::once(self).chain(self.others.iter().map(|other| &other.report));
        let all: Vec<&Self> = all.take(chart::SERIES.len()).collect();
        let same = |pick: fn(&Self) -> String| all.iter().all(|run| pick(run) == pick(self));
        let (modes, models) = (same(Self::mode), same(|run| run.run.config.model.clone()));
        let name = |run: &Self| match (modes, models) {
            (true, true) => run.run.config.task.clone(),
            (false, true) => run.mode(),
            (true, false) => run.run.config.model.clone(),
            (false, false) => format!("{}, {}", run.run.config.model, run.mode()),
        };
        let mut seen = BTreeMap::new();
        all.iter()
            .map(|run| {
                let name = name(run);
                let times = seen.entry(name.clone()).or_insert(0);
                *times += 1;
                match times {
                    1 => (name, *run),
                    n => (format!("{name} ({n})"), *run),
                }
            })
            .collect()
    }

    /// Fields of knowledge to draw, by size and name.
    fn drawn(&self) -> Vec<(&str, &super::Domain)> {
        let mut all: Vec<_> = self
            .domains
            .iter()
            .map(|(name, part)| (name.as_str(), part))
            .collect();
        all.sort_by(|a, b| b.1.summary.total.cmp(&a.1.summary.total).then(a.0.cmp(b.0)));
        all.truncate(MAX_DOMAINS);
        all
    }
}

/// Begins a section.
fn begin(out: &mut String, id: &str, title: &str, lead: &str) {
    out.push_str("<section id=\"");
    out.push_str(id);
    out.push_str("\"><h2>");
    out.push_str(&text::escape(title));
    out.push_str("</h2>\n");
    if !lead.is_empty() {
        out.push_str("<p class=\"lead\">");
        out.push_str(&text::escape(lead));
        out.push_str("</p>\n");
    }
    out.push_str("<div class=\"cards\">\n");
}

fn end(out: &mut String) {
    out.push_str("</div></section>\n");
}

/// A number that a person wants at a glance.
fn stat(out: &mut String, value: &str, what: &str) {
    use std::fmt::Write as _;
    let _ = writeln!(
        out,
        "<div class=\"stat\"><b>{}</b><span>{}</span></div>",
        line(value, 40),
        line(what, 60)
    );
}
