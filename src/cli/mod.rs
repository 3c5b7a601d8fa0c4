//! The command line: thin verbs over the library.

pub mod argv;
mod display;
pub mod output;
pub mod run;
