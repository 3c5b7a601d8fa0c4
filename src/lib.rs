//! A native Linux sandbox for language-model agents, and the agent that lives in it.

pub mod env;
pub mod image;
pub mod spec;
pub mod tree;
