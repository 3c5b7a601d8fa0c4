//! What a run leaves behind: an append-only record, and the original system's summary made from the same events.
//!
//! `trajectory.jsonl` is one [`Header`] line, then one [`Line`] per event, each written with a single call and flushed, so
//! that a crash loses at most the last line. `trajectory.json` is written at the end.

mod event;
mod original;
mod writer;

pub use event::{Event, Header, Line, SCHEMA, StopReason, ToolErrorKind, VERSION};
pub use original::OriginalTrajectory;
pub use writer::{Recorder, RecorderError};
