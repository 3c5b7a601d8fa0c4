//! Sandboxes whose network has rules, in an internet of the test's own: see [`world`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "all of this crate is tests: a panic is how they fail"
)]

mod device;
mod git;
mod index;
mod lists;
mod near;
mod packages;
mod real;
mod translator;
mod world;
