//! What a run came to, in words.

use std::path::Path;

use super::super::output::result;
use crate::bench::{Dispatch, Manifest, Mode, Stop, Summary};

pub(super) fn tell_summary(summary: &Summary, folder: &Path) {
    for line in summary_lines(summary) {
        result(&line);
    }
    result(&format!("results:    {}", folder.display()));
}

/// Why a run ended before all was done.
pub(super) fn ended_early(stop: Stop, how: Dispatch) -> Option<String> {
    match stop {
        Stop::Finished => None,
        Stop::Interrupted => Some("interrupted".to_owned()),
        Stop::OutOfTime => Some("the time of the run is up".to_owned()),
        Stop::TooManyFailures => Some(format!(
            "stopped: more than {} samples failed through no fault of the model; mend that",
            how.max_failures
        )),
    }
}

pub(super) fn summary_lines(summary: &Summary) -> Vec<String> {
    let mut lines = vec![match (summary.mean, summary.interval_95) {
        (Some(mean), Some([low, high])) => {
            format!(
                "mean score: {mean:.4} (95 % interval {low:.4} to {high:.4}, n {})",
                summary.scored
            )
        }
        (Some(mean), None) => format!("mean score: {mean:.4} (n {})", summary.scored),
        (None, _) => "mean score: none (n 0)".to_owned(),
    }];
    for (k, rate) in &summary.pass_at {
        let n = summary.pass_at_n.get(k).unwrap_or(&0);
        lines.push(format!("pass@{k}:     {rate:.4} (n {n} problems)"));
    }
    for (name, count) in [
        ("pending:   ", summary.pending),
        ("failed:    ", summary.infrastructure_failures),
        ("not done:  ", summary.missing),
    ] {
        if count > 0 {
            lines.push(format!("{name} {count} of {}, in no mean", summary.total));
        }
    }
    lines
}

/// What follows the time in the name of a run folder.
pub(super) fn suffix(manifest: &Manifest) -> String {
    let config = &manifest.config;
    let mode = match config.mode {
        Mode::LlmInSandbox => "LLMinSandbox",
        Mode::Llm => "vanillaLLM",
    };
    let plain = |text: &str| text.replace(|c: char| c == '/' || c.is_control(), "_");
    let model: String = plain(&config.model).chars().take(100).collect();
    let part = manifest.shard.map_or_else(String::new, |shard| {
        format!("_{}of{}", shard.number, shard.of)
    });
    format!("_{}_{model}_{mode}{part}", plain(&config.task))
}
