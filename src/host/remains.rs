//! What dead hosts have left, counted rather than assumed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::HostError;
use super::leftover::{in_cgroup, link, lives, pids, there};
use super::registry::{self, Registry};
use crate::outcome::LeftBehind;

/// What ends by itself, or is just being made, has this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// The dead of a registry: found before a clean-up, and counted after it.
#[derive(Debug)]
pub struct Remains(Vec<Remain>);

#[derive(Debug)]
struct Remain {
    /// Its name: the last part of its directories and cgroups.
    id: String,
    place: PathBuf,
    upper: Option<PathBuf>,
    cgroups: Vec<PathBuf>,
}

impl Remains {
    /// Looks at the registry.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(registry: &Registry) -> Result<Self, HostError> {
        let dead = registry.dead()?.into_iter().map(|place| {
            let (cgroups, upper) = registry::noted(&place);
            let id = place.file_name().unwrap_or_default();
            Remain {
                id: id.to_string_lossy().into_owned(),
                place,
                upper,
                cgroups,
            }
        });
        Ok(Self(dead.collect()))
    }

    /// What is there of them now, with a look at every process and mount that this user may see.
    #[must_use]
    pub fn count(mut self) -> LeftBehind {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // One that its host had made and not yet locked.
            let born = |remain: &Remain| there(&remain.place) && registry::lives(&remain.place);
            self.0.retain(|remain| !born(remain));
            let left = self.look();
            if left.total == 0 || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn look(&self) -> LeftBehind {
        let ids: BTreeSet<&str> = self.0.iter().map(|remain| remain.id.as_str()).collect();
        if ids.is_empty() {
            return LeftBehind::default();
        }
        let theirs = |pid: &i32| in_cgroup(*pid, |name| ids.contains(name)) && lives(*pid);
        let processes: Vec<i32> = pids().into_iter().filter(theirs).collect();
        let own = link("/proc/self/ns/net");
        let networks = processes
            .iter()
            .filter_map(|pid| link(&format!("/proc/{pid}/ns/net")));
        let networks: BTreeSet<_> = networks.filter(|net| Some(net) != own.as_ref()).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let of_them = |line: &&str| line.split([' ', '/']).any(|part| ids.contains(part));
        let places = self.0.iter().map(|remain| &remain.place);
        let uppers = self.0.iter().filter_map(|remain| remain.upper.as_ref());
        let cgroups = self.0.iter().flat_map(|remain| &remain.cgroups);
        LeftBehind {
            processes: processes.len() as u64,
            mounts: mounts.lines().filter(of_them).count() as u64,
            cgroups: cgroups.filter(|path| there(path)).count() as u64,
            network_namespaces: networks.len() as u64,
            directories: places.chain(uppers).filter(|path| there(path)).count() as u64,
            ..LeftBehind::default()
        }
        .summed()
    }
}
