//! The processes of a sandbox, as PID 1 sees them in /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;

/// Processes whose names are read at once.
const MAX_NAMES: usize = 128;

/// One line of `/proc/PID/stat`, the fields that tell who belongs to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) parent: i32,
    pub(super) session: i32,
    /// Clock ticks since boot: tells a process from a later one with the same number.
    pub(super) started: u64,
}

/// Every process of this pid namespace.
pub(super) fn all() -> BTreeMap<i32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parse(&stat(pid)?)?))
        })
        .collect()
}

/// `/proc/PID/stat`, in one read: the kernel makes it anew for each.
fn stat(pid: i32) -> Option<Vec<u8>> {
    let mut stat = vec![0; 1024];
    let count = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat));
    stat.truncate(count.ok()?);
    Some(stat)
}

/// The command name in the second field may hold anything, `)` included: fields count from the last one.
fn parse(stat: &[u8]) -> Option<Process> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Names of the programs that run, without PID 1, what it forked for itself, and the shell.
pub(super) fn names(shell: Option<i32>) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let of_process = |name: std::ffi::OsString| {
        let pid: i32 = name.to_str()?.parse().ok()?;
        let seen = pid != 1 && Some(pid) != shell;
        let mut name = seen.then(|| fs::read(format!("/proc/{pid}/comm")).ok())??;
        name.pop_if(|last| *last == b'\n');
        (name != b"lis-init").then_some(name)
    };
    let named = entries.flatten();
    named
        .filter_map(|entry| of_process(entry.file_name()))
        .take(MAX_NAMES)
        .collect()
}

/// CPU time of every process, and of those that were waited for, in clock ticks. Without PID 1's own,
/// which looks on.
pub(super) fn cpu_ticks() -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    let of_process = |name: std::ffi::OsString| {
        let pid: i32 = name.to_str()?.parse().ok()?;
        let [own, children] = ticks(&stat(pid)?)?;
        Some(if pid == 1 { children } else { own + children })
    };
    entries
        .flatten()
        .filter_map(|entry| of_process(entry.file_name()))
        .fold(0, u64::saturating_add)
}

/// Of `/proc/PID/stat`: time of its own and of children waited for, each in user and in kernel mode.
fn ticks(stat: &[u8]) -> Option<[u64; 2]> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let time = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some([time(11)? + time(12)?, time(13)? + time(14)?])
}

/// A process and all that descends from it or lives in its session.
pub(super) fn family(all: &BTreeMap<i32, Process>, leader: i32) -> BTreeSet<i32> {
    let mut family: BTreeSet<i32> = all
        .iter()
        .filter(|(_, p)| p.session == leader)
        .map(|(pid, _)| *pid)
        .collect();
    if all.contains_key(&leader) {
        family.insert(leader);
    }
    // Children have no fixed order of numbers: go on until nobody joins.
    loop {
        let before = family.len();
        for (pid, process) in all {
            if family.contains(&process.parent) {
                family.insert(*pid);
            }
        }
        if family.len() == before {
            return family;
        }
    }
}

/// What began at the tick `began` or later, was not there `before`, and belongs to the shell or to nobody, never to an older job.
///
/// A new process belongs to its nearest ancestor that is older.
pub(super) fn began_since(
    began: u64,
    before: &BTreeMap<i32, Process>,
    now: &BTreeMap<i32, Process>,
    shell: i32,
) -> Vec<i32> {
    let is_old = |pid: &i32, process: &Process| {
        process.started < began
            || before
                .get(pid)
                .is_some_and(|old| old.started == process.started)
    };
    now.iter()
        .filter(|(pid, process)| !is_old(pid, process) && **pid != shell && **pid != 1)
        .filter(|(_, process)| {
            let mut ancestor = process.parent;
            loop {
                match now.get(&ancestor) {
                    _ if ancestor == shell || ancestor <= 1 => return true,
                    Some(process) if is_old(&ancestor, process) => return false,
                    Some(process) => ancestor = process.parent,
                    None => return true,
                }
            }
        })
        .map(|(pid, _)| *pid)
        .collect()
}

/// How a child ended: `Ok` is an exit code, `Err` a signal.
pub(super) type Ended = Result<i32, i32>;

/// Takes the status of one child that has ended, and the CPU time of it and all it waited for, in microseconds.
pub(super) fn reap_one() -> Option<(i32, Ended, u64)> {
    crate::sys::process::wait_any_child()
}

/// Sends a signal; a process that is gone already is no error.
pub(super) fn signal(pid: i32, signal: i32) {
    if let Ok(signal) = nix::sys::signal::Signal::try_from(signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// Kills all but PID 1, which calls it; says whether there was any, dead ones that nobody waited for included.
pub(super) fn kill_all() -> std::io::Result<bool> {
    let everybody = nix::unistd::Pid::from_raw(-1);
    match nix::sys::signal::kill(everybody, nix::sys::signal::Signal::SIGKILL) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::ESRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(parent: i32, session: i32, started: u64) -> Process {
        Process {
            parent,
            session,
            started,
        }
    }

    #[test]
    fn a_command_name_cannot_forge_fields() {
        let stat = b"7 (a) S 1 1 1) S 3 7 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0\n";
        assert_eq!(parse(stat), Some(process(3, 5, 99)));
        let busy = stat.map(|byte| if byte == b'0' { b'2' } else { byte });
        assert_eq!(ticks(&busy), Some([4, 4]));
    }

    #[test]
    fn older_jobs_and_their_children_are_spared() {
        let before = BTreeMap::from([
            (1, process(0, 0, 1)),
            (2, process(1, 2, 2)),
            (3, process(2, 2, 3)),
        ]);
        let mut now = before.clone();
        now.insert(10, process(3, 2, 50)); // child of the older job 3
        now.insert(11, process(2, 2, 50)); // child of the shell
        now.insert(12, process(11, 12, 51)); // its child, in a session of its own
        now.insert(13, process(1, 13, 52)); // an orphan
        assert_eq!(began_since(3, &before, &now, 2), [11, 12, 13]);
        // Who was there when the command began is older, listed or not.
        assert_eq!(began_since(51, &before, &now, 2), [13]);
        now.insert(3, process(2, 2, 60)); // the number of job 3 was taken over
        assert_eq!(began_since(3, &before, &now, 2), [3, 10, 11, 12, 13]);
    }

    #[test]
    fn a_family_is_a_session_and_its_descendants() {
        let all = BTreeMap::from([
            (1, process(0, 0, 1)),
            (5, process(1, 5, 2)),
            (6, process(1, 5, 2)),
            (9, process(6, 9, 3)),
            (7, process(1, 7, 3)),
        ]);
        assert_eq!(family(&all, 5), BTreeSet::from([5, 6, 9]));
    }
}
