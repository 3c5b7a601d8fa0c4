//! The agent: a model, three tools and a loop. It knows a sandbox only as an [`Env`](crate::env::Env).

mod calls;
mod limits;
mod observation;
mod prompt;
mod run;
pub mod tools;

pub use limits::Limits;
pub use observation::Style;
pub(crate) use observation::clean;
pub use prompt::{PromptConfig, PromptError};
pub use run::{AgentConfig, Cancel, Outcome, Progress, run};

pub use crate::trajectory::{StopReason, ToolErrorKind};
