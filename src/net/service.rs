//! What the gateway serves beside names: connections to one more port of it, answered within this process.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use super::link::Counted;

/// Of the gateway.
pub const SERVICE_PORT: u16 = 3141;

/// Answers the connections of one sandbox. It goes when the device has been let go.
pub trait Service: Debug + Send {
    /// A connection stands. Called by the engine, so it never waits.
    fn accept(&self, call: Call);
}

/// One connection: what the sandbox sends is read from it, and what is written goes there. Hostile.
#[derive(Debug)]
pub struct Call {
    /// A stream socket that does not block.
    pub stream: OwnedFd,
    pub(crate) counted: Counted,
}
