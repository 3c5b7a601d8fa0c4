//! The built-in tasks: prompts of our own for the kinds of task of the original.

/// Their names.
pub const NAMES: [&str; 8] = [
    "math",
    "physics",
    "chem",
    "biomed",
    "long_context",
    "instruct_follow",
    "instruct_pretrain",
    "demo",
];

/// The few rows of the task `demo`.
pub(super) const DEMO: &str = include_str!("builtin/demo.jsonl");

/// The configuration of a built-in task.
pub(super) fn config(name: &str) -> Option<&'static str> {
    Some(match name {
        "math" => include_str!("builtin/math.yaml"),
        "physics" => include_str!("builtin/physics.yaml"),
        "chem" => include_str!("builtin/chem.yaml"),
        "biomed" => include_str!("builtin/biomed.yaml"),
        "long_context" => include_str!("builtin/long_context.yaml"),
        "instruct_follow" => include_str!("builtin/instruct_follow.yaml"),
        "instruct_pretrain" => include_str!("builtin/instruct_pretrain.yaml"),
        "demo" => include_str!("builtin/demo.yaml"),
        _ => return None,
    })
}
