//! Whether network devices can be made: the node is open to everybody on most hosts, to root alone on some.

use std::io::{self, ErrorKind};

use super::{Finding, State, surroundings};
use crate::host::network;

pub(super) fn finding() -> Finding {
    let name = "network device";
    match network::open_node() {
        Ok(()) => Finding::new(
            name,
            State::Ok,
            "can be made: --net internet and --net allow:… work",
        ),
        Err(error) => {
            let (why, mend) = no_device(&error);
            let found = Finding::new(
                name,
                State::Degraded,
                format!("{why}: no --net internet, no --net allow:…"),
            );
            match (error.kind(), nix::unistd::geteuid().is_root()) {
                (ErrorKind::PermissionDenied, false) => found.fix(&[mend]),
                _ => found.mend(mend),
            }
        }
    }
}

/// Why no network device can be made, and what mends it.
pub(in crate::host) fn no_device(error: &io::Error) -> (String, &'static str) {
    let why = format!("{}: {error}", network::NODE);
    let mend = match (error.kind(), surroundings::engine()) {
        (_, Some(engine)) if engine.name() != "a sandbox" => {
            "start the container with /dev/net/tun, as docker run --device /dev/net/tun does"
        }
        (ErrorKind::PermissionDenied, _) => {
            "chmod 0666 /dev/net/tun && echo 'KERNEL==\"tun\", MODE=\"0666\"' > /etc/udev/rules.d/90-tun.rules"
        }
        (ErrorKind::NotFound, _) => {
            "modprobe tun; where there is no udev, mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200"
        }
        _ => "modprobe tun, or boot a kernel with CONFIG_TUN",
    };
    (why, mend)
}
