//! What happened, as far as the kernel and the network's ledger tell.

use super::{Amounts, Kinds};
use crate::outcome::Connection;
use crate::spec::Effects;

/// CPU time of a call from which on it computed something: a shell and its usual tools need some milliseconds, the start of
/// Python 20, that of its largest libraries 100.
const COMPUTES_US: u64 = 100_000;

/// Where programs keep what nobody works with: what changes there is an installation, a log or a cache.
const SYSTEM: [&str; 8] = [
    "/usr/", "/var/", "/etc/", "/opt/", "/lib", "/bin/", "/sbin/", "/run/",
];
/// The same, anywhere.
const CACHES: [&str; 5] = [
    "/__pycache__",
    "/site-packages",
    "/.cache",
    "/.local/",
    "/.config/",
];

/// Of one call.
pub(super) fn kinds(effects: &Effects, amounts: &mut Amounts) -> Kinds {
    let (files, processes) = (&effects.files, &effects.processes);
    amounts.samples += 1;
    amounts.cpu_us += processes.cpu_us;
    amounts.processes += processes.started;
    amounts.paths += files.created + files.changed + files.deleted;
    let listed = files.listed.iter().map(|change| &change.path);
    let mut paths = listed.chain(files.directories.iter().map(|part| &part.path));
    Kinds {
        external: false,
        files: paths.any(|path| is_work(path)),
        computation: processes.cpu_us >= COMPUTES_US,
    }
}

/// Whether something came from elsewhere.
pub(super) fn reached(connection: &Connection, amounts: &mut Amounts) -> bool {
    if connection.verdict != "allowed" {
        amounts.refused += 1;
        return false;
    }
    if connection.protocol == "dns" {
        return false;
    }
    amounts.connections += 1;
    amounts.received_bytes += connection.down;
    connection.down > 0
}

fn is_work(path: &str) -> bool {
    let path = format!("{path}/");
    !SYSTEM.iter().any(|start| path.starts_with(start))
        && !CACHES.iter().any(|part| path.contains(part))
}
