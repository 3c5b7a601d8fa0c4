//! The program as a person or a script meets it: flags, output, exit codes.
//!
//! Most of it needs an image; `scripts/test.sh` builds one and names its state directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this crate is tests: a panic is how they fail"
)]

mod effects;
mod exec;
mod flags;
mod library;
mod live;
mod nested;
mod network;
mod overhead;
mod packaging;
mod path;
mod program;
mod real;
mod replay;
mod reports;
mod terminal;
mod upper;

pub(crate) use program::*;
