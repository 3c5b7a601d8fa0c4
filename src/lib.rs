//! A native Linux sandbox for language-model agents, and the agent that lives in it.

pub mod agent;
pub mod cli;
pub mod env;
pub mod exit;
pub mod host;
pub mod image;
pub mod jail;
pub mod llm;
pub mod plan;
pub mod settings;
pub mod spec;
pub mod sys;
pub mod trajectory;
pub mod tree;
pub mod wire;
