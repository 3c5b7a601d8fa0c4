//! The agent: a model, three tools and a loop. It knows a sandbox only as an [`Env`](crate::env::Env).

mod calls;
mod clean;
mod limits;
mod observation;
mod prompt;
mod run;
mod state;
pub mod tools;

pub use limits::Limits;
pub use observation::Style;
pub use prompt::{PromptConfig, PromptError};
pub use run::{AgentConfig, Cancel, Outcome, Progress, run};
pub use tools::Shell;

pub use crate::trajectory::{StopReason, ToolErrorKind};
