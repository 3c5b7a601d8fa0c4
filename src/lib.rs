//! A native Linux sandbox for language-model agents, and the agent that lives in it.

pub mod agent;
pub mod env;
pub mod llm;
pub mod spec;
pub mod trajectory;
