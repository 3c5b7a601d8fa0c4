//! Turns a recipe into a root file system.
//!
//! A recipe is data; [`plan`] makes it a list of steps without touching anything. The caller
//! supplies the means to carry them out (see [`execute`]), so this crate knows neither a sandbox
//! nor the host.

mod checksums;
mod plan;
mod recipe;

pub use checksums::{ChecksumError, Listed, choose};
pub use plan::{BOOTSTRAP_TIMEOUT, Plan, Step, bootstrap_command, execute, plan, resolve_base};
pub use recipe::{Base, ExtraFile, Recipe, RecipeError, built_in, parse};
