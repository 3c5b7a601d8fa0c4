//! What each call does inside, told to the host after it: changes of the writable layer, CPU time, programs.
//!
//! All of it is PID 1's own finding. No command can reach its descriptors of the layers, or keep it from looking; a change
//! that comes while it looks is told of now or with the next call.

mod content;
mod layers;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

use self::content::Content;
pub(super) use self::layers::Layers;
use self::layers::{Before, Difference, Known};
use self::node::Node;
use super::processes;
use crate::wire::{
    Change, ChangedKind, DirectoryChanges, Effects, FileChange, FileChanges, ProcessCounts,
};

/// Paths that are told one by one.
const MAX_LISTED: usize = 100;
/// Directories that sum up the others.
const MAX_DIRECTORIES: usize = 50;
/// Components of the directories by which paths are brought together before that.
const GROUPED: usize = 3;
/// Bytes of a path that are told.
const MAX_PATH: usize = 4096;
/// Bytes of files that are read after one call.
const MAX_READ: u64 = 32 << 20;
/// Bytes of texts that are kept for later differences.
const MAX_KEPT: usize = 2 << 20;
/// Names of programs that are told.
const MAX_PROGRAMS: usize = 32;
/// Microseconds of a tick of `/proc/PID/stat` (`sysconf(_SC_CLK_TCK)` is 100 on every Linux).
const TICK_US: u64 = 10_000;
/// Pauses between two looks at the running programs, in milliseconds: each is twice the one before.
const PAUSES: (u16, u16) = (4, 512);

/// Keeps account.
#[derive(Debug)]
pub(super) struct Account {
    layers: Layers,
    known: Known,
    ticks: u64,
    /// The number that was given last to a process.
    last_pid: u64,
    programs: BTreeSet<String>,
    /// Until the next look at the programs; absent between calls.
    pause: Option<(Instant, u16)>,
}

impl Account {
    pub(super) fn new(layers: Layers) -> Self {
        Self {
            layers,
            known: Known::default(),
            ticks: processes::cpu_ticks(),
            last_pid: last_pid(),
            programs: BTreeSet::new(),
            pause: None,
        }
    }

    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// A call begins: programs are looked at from now on.
    pub(super) fn begin(&mut self) {
        self.pause = Some((Instant::now(), PAUSES.0));
    }

    /// How long PID 1 may wait for something to do.
    pub(super) fn patience(&self) -> PollTimeout {
        let Some((since, pause)) = self.pause else {
            return PollTimeout::NONE;
        };
        let left = Duration::from_millis(pause.into()).saturating_sub(since.elapsed());
        // Never 0, which would be a busy wait.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::NONE)
    }

    /// Looks at the programs if it is time.
    pub(super) fn glance(&mut self, shell: Option<i32>) {
        if let Some((since, pause)) = self.pause
            && since.elapsed() >= Duration::from_millis(pause.into())
        {
            self.look_at_programs(shell);
            self.pause = Some((Instant::now(), (pause * 2).min(PAUSES.1)));
        }
    }

    fn look_at_programs(&mut self, shell: Option<i32>) {
        for name in processes::names(shell) {
            if self.programs.len() < MAX_PROGRAMS {
                self.programs.insert(printable(&name));
            }
        }
    }

    /// What happened since this was asked last.
    pub(super) fn settle(&mut self, shell: Option<i32>) -> Effects {
        self.look_at_programs(shell);
        self.pause = None;
        let (ticks, last_pid) = (processes::cpu_ticks(), last_pid());
        let processes = ProcessCounts {
            cpu_us: ticks.saturating_sub(self.ticks) * TICK_US,
            // Numbers begin again at the bottom when they are used up.
            started: last_pid.checked_sub(self.last_pid).unwrap_or(last_pid),
            programs: std::mem::take(&mut self.programs).into_iter().collect(),
        };
        (self.ticks, self.last_pid) = (ticks, last_pid);
        Effects {
            files: self.files(),
            processes,
            // The host's to say: the way there and back is part of it.
            took_us: 0,
        }
    }

    fn files(&mut self) -> FileChanges {
        let (found, bounds) = self.known.look(&self.layers);
        let (listed, rest) = choose(found);
        let mut files = FileChanges {
            bounds,
            ..FileChanges::default()
        };
        let texts = self.known.nodes.values().map(|node| node.content.as_ref());
        let kept = texts
            .filter_map(|content| Some(content?.text.as_ref()?.len()))
            .sum();
        let mut budget = Budget {
            read: MAX_READ,
            keep: MAX_KEPT.saturating_sub(kept),
        };
        for difference in listed {
            if let Some(change) = self.tell(difference, &mut budget) {
                count(&mut files, change.change, 1);
                files.listed.push(change);
            }
        }
        for part in rest {
            count(&mut files, Change::Created, part.created);
            count(&mut files, Change::Changed, part.changed);
            count(&mut files, Change::Deleted, part.deleted);
            count(&mut files, Change::Read, part.read);
            files.directories.push(part);
        }
        files
    }

    /// One path with its content; nothing if it turns out to be as before.
    fn tell(&mut self, difference: Difference, budget: &mut Budget) -> Option<FileChange> {
        let Difference {
            path,
            change,
            mut before,
            now,
            ..
        } = difference;
        let (upper, lower) = (self.layers.upper.as_fd(), self.layers.lower.as_fd());
        let mut told = FileChange {
            path: absolute(&path),
            change,
            kind: kind(now.as_ref().filter(|_| change != Change::Deleted), &before),
            size: None,
            sha256: None,
            diff: None,
        };
        let file = now.filter(Node::is_file);
        let (Some(file), Change::Created | Change::Changed) = (file, change) else {
            return Some(told);
        };
        told.size = Some(file.size);
        let content = content::read(upper, &path, &mut budget.read);
        if let Before::Lower(old) = &mut before
            && old.is_file()
        {
            old.content = content::read(lower, &path, &mut budget.read);
        }
        let old = match &before {
            Before::Nothing => None,
            Before::Lower(node) | Before::Upper(node) => Some(node),
        };
        let old_content = old.and_then(|old| old.content.as_ref());
        let same = old_content.is_some() && old_content == content.as_ref();
        if let Some(content) = &content {
            told.sha256 = Some(content::hex(&content.sha256));
            told.diff = difference_of(old, content);
        }
        self.keep(&path, content, budget);
        let as_before = same && old.is_some_and(|old| old.has_rights_of(&file));
        (!as_before).then_some(told)
    }

    fn keep(&mut self, path: &[u8], content: Option<Content>, budget: &mut Budget) {
        let Some(node) = self.known.nodes.get_mut(path) else {
            return;
        };
        node.content = content;
        let text = node.content.as_mut().map(|content| &mut content.text);
        if let Some(text) = text {
            let length = text.as_ref().map_or(0, |text| text.len());
            match budget.keep.checked_sub(length) {
                Some(left) => budget.keep = left,
                None => *text = None,
            }
        }
    }
}

#[derive(Debug)]
struct Budget {
    read: u64,
    keep: usize,
}

/// Against nothing, for a new file.
fn difference_of(old: Option<&Node>, content: &Content) -> Option<String> {
    let new = content.text.as_ref()?;
    match old.filter(|old| old.is_file()) {
        None => content::diff("", new),
        Some(old) => content::diff(old.content.as_ref()?.text.as_ref()?, new),
    }
}

fn count(files: &mut FileChanges, change: Change, by: u64) {
    match change {
        Change::Created => files.created += by,
        Change::Changed => files.changed += by,
        Change::Deleted => files.deleted += by,
        Change::Read => files.read += by,
    }
}

/// What is told one by one, and the rest summed up: directories with few changes go first.
fn choose(found: Vec<Difference>) -> (Vec<Difference>, Vec<DirectoryChanges>) {
    if found.len() <= MAX_LISTED {
        return (found, Vec::new());
    }
    let mut groups: BTreeMap<Vec<u8>, Vec<Difference>> = BTreeMap::new();
    for difference in found {
        let group = group(&difference.path).to_vec();
        groups.entry(group).or_default().push(difference);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(Vec::len);
    let mut listed = Vec::new();
    let mut rest = Vec::new();
    for group in groups {
        if listed.len() + group.len() <= MAX_LISTED {
            listed.extend(group);
        } else {
            rest.push(group);
        }
    }
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    if rest.len() > MAX_DIRECTORIES {
        let many = rest.drain(..=rest.len() - MAX_DIRECTORIES);
        let many = many.flatten().collect();
        rest.push(many);
    }
    let sums = rest.iter().map(|group| sum(group));
    let told = |part: &DirectoryChanges| part.created + part.changed + part.deleted + part.read > 0;
    (listed, sums.filter(told).collect())
}

/// The first components of the directory of a path.
fn group(path: &[u8]) -> &[u8] {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let end = slashes.map(|(at, _)| at).take(GROUPED).last();
    path.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn sum(group: &[Difference]) -> DirectoryChanges {
    let mut sum = DirectoryChanges {
        path: absolute(common_directory(group)),
        created: 0,
        changed: 0,
        deleted: 0,
        read: 0,
        bytes: 0,
    };
    // Whether the content of a file is another is not looked at here: where nothing else tells, it is not.
    for difference in group.iter().filter(|difference| !difference.suspected) {
        match difference.change {
            Change::Created => sum.created += 1,
            Change::Changed => sum.changed += 1,
            Change::Deleted => sum.deleted += 1,
            Change::Read => sum.read += 1,
        }
        let file = difference.now.as_ref().filter(|node| node.is_file());
        if let (Some(file), Change::Created | Change::Changed) = (file, difference.change) {
            sum.bytes = sum.bytes.saturating_add(file.size);
        }
    }
    sum
}

/// The directory that holds all of them.
fn common_directory(group: &[Difference]) -> &[u8] {
    let mut paths = group.iter().map(|difference| difference.path.as_slice());
    let first = paths.next().unwrap_or_default();
    let common = paths.fold(first.len(), |length, path| {
        let same = first.iter().zip(path).take_while(|(a, b)| a == b);
        same.count().min(length)
    });
    let common = first.get(..common).unwrap_or_default();
    let end = common.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    common.get(..end).unwrap_or_default()
}

fn kind(now: Option<&Node>, before: &Before) -> ChangedKind {
    let node = now.or(match before {
        Before::Nothing => None,
        Before::Lower(node) | Before::Upper(node) => Some(node),
    });
    match node.map(|node| node.mode & libc::S_IFMT) {
        Some(libc::S_IFREG) => ChangedKind::File,
        Some(libc::S_IFDIR) => ChangedKind::Directory,
        Some(libc::S_IFLNK) => ChangedKind::Symlink,
        _ => ChangedKind::Other,
    }
}

/// From `/`, cut where it is too long.
fn absolute(path: &[u8]) -> String {
    let mut shown = String::from("/");
    shown.push_str(&printable(path));
    if shown.len() > MAX_PATH {
        let end = (0..=MAX_PATH)
            .rev()
            .find(|end| shown.is_char_boundary(*end));
        shown.truncate(end.unwrap_or(0));
        shown.push('…');
    }
    shown
}

/// Text that tells every byte.
fn printable(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for part in bytes.utf8_chunks() {
        shown.push_str(&part.valid().replace('\\', "\\\\"));
        for byte in part.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Of this pid namespace (`proc_loadavg(5)`).
fn last_pid() -> u64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let last = text.split_whitespace().last();
    last.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
