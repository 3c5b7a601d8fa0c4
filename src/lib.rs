//! A native Linux sandbox for language-model agents, and the agent that lives in it.

pub mod env;
pub mod host;
pub mod jail;
pub mod plan;
pub mod spec;
pub mod sys;
pub mod tree;
pub mod wire;
