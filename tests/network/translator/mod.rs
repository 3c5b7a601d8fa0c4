//! The translator alone against a real kernel's TCP and UDP, in network namespaces of the test's own.
//!
//! Needs `/dev/net/tun`, and the right to make namespaces: see [`world`].

mod datagrams;
mod fair;
mod first_bytes;
mod limits;
mod lossy;
mod memory;
mod names;
mod tcp;
mod users;
mod world;
