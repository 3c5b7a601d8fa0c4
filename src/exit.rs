//! Exit codes, in one place.

/// The settings or arguments cannot be used; nothing was started.
pub const USAGE: u8 = 2;
/// This host cannot start a sandbox; `doctor` tells why.
pub const HOST: u8 = 3;
/// `exec`: the command ran out of time, as in timeout(1).
pub const TIMED_OUT: u8 = 124;
/// `exec`: the command was not run, or its end is unknown: our own failure, as in docker(1).
pub const FAILED: u8 = 125;
