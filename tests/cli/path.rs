//! The path of a start, in system calls: one more program, process or mount on it is a decision, not
//! an accident. Counts say what times cannot on a machine that others use, too.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::{bare, code, command, finish, stderr};

/// What each kind of process does, by kind of call.
type Counts = BTreeMap<&'static str, usize>;

/// Kinds, and the calls of each. What is not here is counted under `open` or not at all.
const KINDS: [(&str, &[&str]); 14] = [
    ("exec", &["execve", "execveat"]),
    ("fork", &["fork", "vfork", "clone", "clone3"]),
    ("mount", &["mount"]),
    ("umount", &["umount", "umount2"]),
    ("open_tree", &["open_tree", "open_tree_attr"]),
    ("move_mount", &["move_mount"]),
    ("fsopen", &["fsopen"]),
    ("fsconfig", &["fsconfig"]),
    ("fsmount", &["fsmount"]),
    ("mount_setattr", &["mount_setattr"]),
    ("pivot_root", &["pivot_root"]),
    ("setns", &["setns"]),
    ("unshare", &["unshare"]),
    ("open", &["open", "openat", "openat2"]),
];

/// Files are opened for many reasons: so many more are not ours.
const OPEN_TOLERANCE: usize = 5;

/// One process of a trace.
#[derive(Debug, Default)]
struct Traced {
    parent: Option<usize>,
    counts: Counts,
    /// What it executed last.
    program: String,
}

/// A trace of strace(1), `-f -o`: processes by the number of the host.
fn parse(trace: &str) -> BTreeMap<usize, Traced> {
    let mut all: BTreeMap<usize, Traced> = BTreeMap::new();
    let mut starting_threads = BTreeSet::new();
    for line in trace.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        let (pid, rest) = (pid.parse().unwrap(), rest.trim_start());
        // The second half of a call that another process's came between.
        let resumed = rest.strip_prefix("<... ");
        let Some((call, arguments)) = resumed
            .and_then(|rest| rest.split_once(" resumed>"))
            .or_else(|| rest.split_once('('))
        else {
            continue;
        };
        let Some((kind, _)) = KINDS.iter().find(|(_, calls)| calls.contains(&call)) else {
            continue;
        };
        // The flags are in the first half alone.
        if *kind == "fork" && arguments.contains("CLONE_THREAD") {
            if arguments.ends_with("<unfinished ...>") {
                starting_threads.insert(pid);
            }
            continue;
        }
        if *kind == "fork" && resumed.is_some() && starting_threads.remove(&pid) {
            continue;
        }
        let child = arguments.rsplit_once(" = ").map(|(_, result)| result);
        if let (true, Some(Ok(child))) = (*kind == "fork", child.map(str::parse)) {
            all.entry(child).or_default().parent.get_or_insert(pid);
        }
        let process = all.entry(pid).or_default();
        if resumed.is_none() {
            *process.counts.entry(kind).or_default() += 1;
        }
        if let (true, Some(program)) = (*kind == "exec", arguments.split('"').nth(1)) {
            process.program = program.to_owned();
        }
    }
    all
}

/// Runs it to its end under strace.
fn trace(traced: &Command) -> BTreeMap<usize, Traced> {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("trace");
    let mut strace = Command::new("strace");
    let calls: Vec<_> = KINDS
        .iter()
        .flat_map(|(_, calls)| *calls)
        .copied()
        .collect();
    strace
        .args(["-f", "-qq", "-e", "signal=none", "-e"])
        .arg(format!("trace=?{}", calls.join(",?")))
        .arg("-o")
        .arg(&output)
        // What cargo tells the loader of its own directories, and other tests' sandboxes, cost opens.
        .env_remove("LD_LIBRARY_PATH")
        .env("LLM_IN_SANDBOX_RUNTIME_DIR", directory.path().join("run"))
        .arg(traced.get_program())
        .args(traced.get_args());
    for (name, value) in traced.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let done = finish(strace);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    parse(&std::fs::read_to_string(output).unwrap())
}

/// A process's part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Host,
    /// What the measurement compares with: no part of the path.
    Baseline,
    Zygote,
    Init,
    Inside,
}

fn role(all: &BTreeMap<usize, Traced>, process: &Traced) -> Role {
    let parent = process.parent.and_then(|parent| all.get(&parent));
    if process.counts.contains_key("pivot_root") {
        Role::Init
    } else if process.program.ends_with("/llm-in-sandbox") && parent.is_none() {
        Role::Host
    } else if parent.is_some_and(|parent| role(all, parent) == Role::Host) {
        if process.program == "/bin/true" {
            Role::Baseline
        } else {
            Role::Zygote
        }
    } else {
        Role::Inside
    }
}

/// The counts of each process of a role.
fn counts(all: &BTreeMap<usize, Traced>, wanted: Role) -> Vec<Counts> {
    let found = all.values().filter(|process| role(all, process) == wanted);
    found.map(|process| process.counts.clone()).collect()
}

fn sum(counts: &[Counts]) -> Counts {
    let mut sum = Counts::new();
    for (kind, count) in counts.iter().flatten() {
        *sum.entry(kind).or_default() += count;
    }
    sum
}

/// A line for a snapshot, without the files that are opened.
fn line(role: Role, counts: &Counts) -> String {
    let known = KINDS.iter().filter(|(kind, _)| *kind != "open");
    let parts = known.filter_map(|(kind, _)| Some(format!("{kind} {}", counts.get(kind)?)));
    format!("{role:?}: {}\n", parts.collect::<Vec<_>>().join(", "))
}

fn opens_at_most(most: usize, who: &str, counts: &Counts) {
    let opened = counts.get("open").copied().unwrap_or_default();
    assert!(
        opened <= most + OPEN_TOLERANCE,
        "{who} opens {opened} files instead of {most}: if that is meant, change the number here"
    );
}

/// Whether the counts of the snapshots are this host's.
fn comparable(test: &str) -> bool {
    let strace = Command::new("strace").arg("-V").output().is_ok();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    let kernel: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let why = if !strace {
        "needs strace"
    } else if !nix::unistd::geteuid().is_root() {
        "an ordinary user's path leads through newuidmap, which nobody may trace"
    } else if kernel < (6, 15) {
        "older kernels need other calls for the same mounts"
    } else {
        return true;
    };
    let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
    assert!(
        strace || !required.split(',').any(|name| name.trim() == "strace"),
        "{test} {why}, and strace is required"
    );
    println!("SKIP {test}: {why}");
    false
}

fn path_of_one_exec(command: &Command) -> String {
    let all = trace(command);
    let roles = [Role::Host, Role::Zygote, Role::Init, Role::Inside];
    let sums = roles.map(|role| (role, sum(&counts(&all, role))));
    sums.iter().map(|(role, sum)| line(*role, sum)).collect()
}

#[test]
fn the_path_of_one_exec() {
    if !comparable("the_path_of_one_exec") {
        return;
    }
    let command = command(&["exec", "--", "/bin/true"]);
    let path = path_of_one_exec(&command);
    insta::assert_snapshot!(path);

    // What the snapshot is there for: one program more before it, or inside, is seen.
    let mut before = bare(&[]);
    let program = before.get_program().to_owned();
    before = Command::new("/usr/bin/env");
    before.arg(program).args(command.get_args());
    before.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let longer = path_of_one_exec(&before);
    assert_eq!(longer, path.replacen("exec 1", "exec 2", 1));
    let longer = path_of_one_exec(&crate::command(&[
        "exec",
        "--",
        "/usr/bin/env",
        "/bin/true",
    ]));
    assert_eq!(longer, path.replace("Inside: exec 1", "Inside: exec 2"));
}

/// Each start in a program that makes many: the host forks nothing, and what its zygote and PID 1 do
/// is the same every time. Networks that the zygote makes ahead come when it has time, and are not counted.
#[test]
fn the_path_of_each_start() {
    /// Of `--phases start --runs 2`: one whose walls are looked at, and nine kinds with a warm-up.
    const STARTS: usize = 1 + 9 * (1 + 2);
    /// That wait in a root, and are thrown away when the first of another comes.
    const AHEAD: usize = 8;
    if !comparable("the_path_of_each_start") {
        return;
    }
    let all = trace(&command(&[
        "overhead", "--force", "--phases", "start", "--runs", "2",
    ]));
    let host = sum(&counts(&all, Role::Host));
    let started = counts(&all, Role::Baseline).len() + counts(&all, Role::Zygote).len();
    assert_eq!(host["fork"], started, "the host forks for a start");

    let mut zygote = sum(&counts(&all, Role::Zygote));
    for kind in ["exec", "fork", "mount", "setns", "unshare", "open"] {
        zygote.remove(kind);
    }
    // One procfs for the settings of all these networks.
    for kind in ["fsopen", "fsconfig", "fsmount"] {
        *zygote.get_mut(kind).unwrap() -= 1;
    }
    // One of each root; those made for sandboxes that nobody asked for any more count, too.
    let roots = zygote["open_tree"];
    let ahead = AHEAD / 2..=AHEAD;
    assert!(
        roots
            .checked_sub(STARTS)
            .is_some_and(|n| ahead.contains(&n)),
        "{roots} roots"
    );
    for (kind, count) in &mut zygote {
        assert_eq!(*count % roots, 0, "{kind}: {count} for {roots} roots");
        *count /= roots;
    }

    // Those that were set up ahead and never asked for have done the same, but for one that was at it at the end.
    let mut inits: BTreeMap<String, usize> = BTreeMap::new();
    for mut init in counts(&all, Role::Init) {
        // For what runs inside, not for the start.
        init.remove("fork");
        *inits.entry(line(Role::Init, &init)).or_default() += 1;
    }
    let (complete, _) = inits
        .iter()
        .find(|(_, count)| (STARTS..=roots).contains(*count))
        .unwrap_or_else(|| panic!("not {STARTS} alike: {inits:#?}"));
    insta::assert_snapshot!(line(Role::Zygote, &zygote) + complete);
}

#[test]
fn few_files_are_opened() {
    if !comparable("few_files_are_opened") {
        return;
    }
    let all = trace(&command(&["exec", "--", "/bin/true"]));
    opens_at_most(10, "the zygote", &sum(&counts(&all, Role::Zygote)));
    opens_at_most(81, "PID 1", &sum(&counts(&all, Role::Init)));
    opens_at_most(32, "the host", &sum(&counts(&all, Role::Host)));
}

#[test]
fn traces_are_read_as_strace_writes_them() {
    let all = parse(
        "10 execve(\"/x/llm-in-sandbox\", [], 0x1) = 0\n\
         10 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n\
         11 unshare(CLONE_NEWNS)              = 0\n\
         10 <... clone resumed>) = 11\n\
         10 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 12\n\
         10 clone3({flags=CLONE_VM|CLONE_THREAD} <unfinished ...>\n\
         10 <... clone3 resumed>, 88) = 15\n\
         11 clone3({flags=CLONE_NEWPID}, 88) = 13\n\
         13 pivot_root(\".\", \".\") = 0\n\
         13 +++ killed by SIGKILL +++\n\
         14 execve(\"/bin/true\", [], 0x1) = 0\n",
    );
    let lines = [Role::Host, Role::Zygote, Role::Init, Role::Inside];
    let lines = lines.map(|role| line(role, &sum(&counts(&all, role))));
    assert_eq!(
        lines.concat(),
        "Host: exec 1, fork 1\nZygote: fork 1, unshare 1\nInit: pivot_root 1\nInside: exec 1\n"
    );
}
