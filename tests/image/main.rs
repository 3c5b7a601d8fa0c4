//! Images and the archives they come in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy's exemption covers test functions, not what they share"
)]

mod archive;
mod hostile;
mod pipeline;
mod round_trip;
mod small_system;
mod sources;
mod store;
