//! A native Linux sandbox for language-model agents, and the agent that lives in it.

pub mod agent;
pub mod cli;
pub mod env;
pub mod llm;
pub mod settings;
pub mod spec;
pub mod trajectory;
