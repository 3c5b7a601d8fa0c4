//! The sandbox on the real kernel: files, programs, the shell, its walls and its end.
//!
//! Needs an image; `scripts/test.sh` builds one and names its state directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this crate is tests: a panic is how they fail"
)]

mod ahead;
mod checks;
mod conformance;
mod effects;
mod fixture;
mod host_view;
mod lifetime;
mod limits;
mod negative;
mod overhead;
mod profiles;
mod seal;
mod shell;
mod sudden_death;
mod traces;
mod walls;
