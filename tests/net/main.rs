//! The translator against a real kernel's TCP and UDP, in network namespaces of the test's own.
//!
//! Needs `/dev/net/tun`, and root or a user namespace: see [`world`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "all of this crate is tests: a panic is how they fail"
)]

mod datagrams;
mod lossy;
mod names;
mod tcp;
mod world;
