//! The report as Markdown.

use std::fmt::Write as _;

use super::text::{DASH, is_unseen, part};
use super::{Other, Report};
use crate::bench::manifest::Mode;

/// Samples that are listed with the reason for their score; all of them are in the JSON.
const LISTED: usize = 200;

impl Report {
    /// As Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let config = &self.run.config;
        let mut out = format!("# {} with {}\n\n", cell(&config.task), cell(&config.model));
        let _ = writeln!(
            out,
            "Mode {}, {} sample(s) of each row, at most {} turn(s), run {}.\n",
            self.mode(),
            config.repeat,
            match config.mode {
                Mode::LlmInSandbox => config.max_steps,
                Mode::Llm => 1,
            },
            cell(self.run.digest.get(..12).unwrap_or(""))
        );
        self.scores(&mut out);
        for other in &self.others {
            beside(self, other, &mut out);
        }
        self.capabilities(&mut out);
        self.costs(&mut out);
        self.reasons(&mut out);
        out
    }

    fn scores(&self, out: &mut String) {
        out.push_str("## Scores\n\n| | mean | 95 % interval | n | pending | infrastructure | not done |\n|---|---|---|---|---|---|---|\n");
        let all = [("all".to_owned(), &self.summary)];
        let parts = self
            .domains
            .iter()
            .map(|(name, part)| (cell(self.name_of(name)), &part.summary));
        for (name, part) in all.into_iter().chain(parts) {
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {} | {} |",
                number(part.mean),
                range(part.interval_95),
                part.scored,
                part.pending,
                part.infrastructure_failures,
                part.missing
            );
        }
        out.push_str("\nWhat is pending, failed by infrastructure or not done is in no mean.\n\n");
        for (k, rate) in &self.summary.pass_at {
            let n = self.summary.pass_at_n.get(k).unwrap_or(&0);
            let _ = writeln!(out, "- pass@{k}: {rate:.4}, over {n} problem(s)");
        }
        out.push('\n');
    }

    fn capabilities(&self, out: &mut String) {
        out.push_str("## What the computer was used for\n\nShare of turns, by the words of commands and programs / by what happened.\n\n| | turns | external resources | files | computation |\n|---|---|---|---|---|\n");
        for (name, domain) in &self.domains {
            let (words, facts) = (domain.capabilities.words.all, domain.capabilities.facts.all);
            let both = |said: u64, done: u64| {
                format!("{} / {}", part(said, words.turns), part(done, facts.turns))
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                cell(self.name_of(name)),
                words.turns,
                both(words.external, facts.external),
                both(words.files, facts.files),
                both(words.computation, facts.computation)
            );
        }
        out.push('\n');
    }

    fn costs(&self, out: &mut String) {
        let sums = &self.totals;
        let _ = writeln!(
            out,
            "## Tokens and time\n\n{} samples, {} turns; {} tokens of requests, {} of answers; counted once: {} of tasks, {} from \
             the environment, {} by the model; largest sandbox {} MiB.\n\n\
             | model | tools | start | end | scoring | waiting | all | samples a minute |\n|---|---|---|---|---|---|---|---|\n\
             | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {} |\n",
            sums.samples,
            sums.turns,
            sums.prompt_tokens,
            sums.completion_tokens,
            sums.task_tokens,
            sums.environment_tokens,
            sums.completion_tokens,
            sums.peak_memory_bytes.max >> 20,
            sums.model_s,
            sums.tools_s,
            sums.start_s,
            sums.end_s,
            sums.score_s,
            sums.waiting_s,
            sums.total_s,
            sums.queries_per_minute
                .map_or_else(|| DASH.to_owned(), |rate| format!("{rate:.2}"))
        );
    }

    fn reasons(&self, out: &mut String) {
        out.push_str("## How samples ended\n\n");
        for (name, count) in &self.endings {
            let _ = writeln!(out, "- {}: {count}", cell(name));
        }
        let _ = writeln!(
            out,
            "\n## Why not full score\n\n| sample | score | why | record |\n|---|---|---|---|"
        );
        for sample in self.short.iter().take(LISTED) {
            let repeat = match sample.repeat {
                0 => String::new(),
                n => format!(" #{}", u64::from(n) + 1),
            };
            let _ = writeln!(
                out,
                "| {}{repeat} | {} | {} | {} |",
                cell(&sample.id),
                number(sample.score),
                cell(&sample.why),
                cell(&sample.folder)
            );
        }
        if self.short.len() > LISTED {
            let _ = writeln!(out, "\n{} more in report.json.", self.short.len() - LISTED);
        }
    }
}

fn beside(report: &Report, other: &Other, out: &mut String) {
    let pair = &other.comparison;
    let config = &other.report.run.config;
    let _ = writeln!(
        out,
        "## Against {} with {}, {}\n\nOver {} problems with a score in both ({} left out): {} here, {} there; \
         difference {}, 95 % interval {}; there better on {}, worse on {}.\n",
        cell(&config.task),
        cell(&config.model),
        other.report.mode(),
        pair.n,
        pair.excluded,
        number(pair.first),
        number(pair.second),
        number(pair.difference),
        range(pair.interval_95),
        pair.better,
        pair.worse
    );
    if other.domains.len() < 2 {
        return;
    }
    out.push_str("| | n | left out | here | there | difference | 95 % interval |\n|---|---|---|---|---|---|---|\n");
    for (name, pair) in &other.domains {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            cell(report.name_of(name)),
            pair.n,
            pair.excluded,
            number(pair.first),
            number(pair.second),
            number(pair.difference),
            range(pair.interval_95)
        );
    }
    out.push('\n');
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| DASH.to_owned(), |value| format!("{value:.4}"))
}

fn range(interval: Option<[f64; 2]>) -> String {
    interval.map_or_else(
        || DASH.to_owned(),
        |[low, high]| format!("{low:.4} to {high:.4}"),
    )
}

/// Text of a model or of data in a table: one line, and nothing of it is markup or turns the direction of writing.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '!' | '~' | '&' => {
                out.push('\\');
                out.push(c);
            }
            c if is_unseen(c) => out.push('\u{fffd}'),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
