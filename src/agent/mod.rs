//! The agent: a model, three tools and a loop. It knows a sandbox only as an [`Env`](crate::env::Env).

mod ablations;
pub(crate) mod calls;
pub(crate) mod clean;
mod limits;
pub(crate) mod observation;
mod prompt;
mod ready;
mod recorded;
mod run;
mod state;
pub mod tools;

pub use ablations::Ablation;
pub use limits::Limits;
pub use observation::Style;
pub use prompt::{PromptConfig, PromptError};
pub use ready::{PrepareError, SandboxFacts, header, prepare};
pub use recorded::run_recorded;
pub use run::{AgentConfig, Cancel, Outcome, Progress, run};
pub use tools::Shell;

pub use crate::trajectory::{StopReason, ToolErrorKind};
