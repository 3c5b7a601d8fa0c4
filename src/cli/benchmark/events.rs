//! `benchmark --json`: one line of JSON for each event, on stdout.
//!
//! Members are added and never renamed or taken away while `v` is 1; readers pass over events and members that they do not know.

use std::path::Path;

use serde_json::{Value, json};

use crate::bench::{Standing, Stop, Summary, Told};

/// The version of the lines.
const VERSION: u32 = 1;

fn event(name: &str, mut members: Value) -> Value {
    if let Some(members) = members.as_object_mut() {
        members.shift_insert(0, "v".into(), VERSION.into());
        members.shift_insert(1, "event".into(), name.into());
    }
    members
}

/// The run begins, or goes on.
pub(super) fn begin(folder: &Path, samples: usize, to_do: usize, at_once: usize) -> Value {
    event(
        "begin",
        json!({"folder": folder, "samples": samples, "to_do": to_do, "at_once": at_once}),
    )
}

/// Whatever the dispatcher tells.
pub(super) fn told(told: &Told<'_>) -> Value {
    match told {
        Told::Ended(record, standing) => event(
            "sample",
            json!({
                "id": record.id,
                "repeat": record.repeat,
                "key": record.key,
                "status": record.status,
                "score": record.score,
                "pending": record.pending,
                "outcome": record.outcome,
                "detail": record.detail,
                "attempts": record.attempts,
                "steps": record.steps,
                "usage": record.usage,
                "times": record.times,
                "folder": record.folder,
                "standing": counts(standing),
            }),
        ),
        Told::Again(record) => event(
            "again",
            json!({"id": record.id, "repeat": record.repeat, "outcome": record.outcome, "attempts": record.attempts}),
        ),
        Told::Stalled(stalled) => event(
            "stalled",
            json!({"name": stalled.name, "waits_for": stalled.wait, "seconds": stalled.time.as_secs_f64()}),
        ),
        Told::Memory(allowed) => event("memory", json!({"samples_allowed": allowed})),
        Told::Tick(standing) => event("tick", json!({"standing": counts(standing)})),
    }
}

/// The run ends.
pub(super) fn end(folder: &Path, stop: Stop, summary: Option<&Summary>) -> Value {
    let stop = match stop {
        Stop::Finished => "finished",
        Stop::Interrupted => "interrupted",
        Stop::OutOfTime => "out_of_time",
        Stop::TooManyFailures => "too_many_failures",
    };
    event(
        "end",
        json!({"stop": stop, "folder": folder, "summary": summary}),
    )
}

fn counts(standing: &Standing) -> Value {
    json!({
        "total": standing.total,
        "done": standing.done,
        "scored": standing.scored,
        "pending": standing.pending,
        "failed": standing.failed,
        "mean": standing.mean(),
        "margin_95": standing.margin(),
        "running": standing.running,
        "samples_allowed": standing.allowed,
        "requests_allowed": standing.requests_allowed,
        "sandboxes": standing.sandboxes,
        "turns": standing.turns,
        "completion_tokens": standing.tokens,
        "waits": standing.waits,
        "elapsed_s": standing.elapsed().as_secs_f64(),
    })
}
