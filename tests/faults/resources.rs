//! The host has too little of something: no room, no descriptor, no process, no place for its files.

use std::path::{Path, PathBuf};

use crate::fixture::has;
use crate::{Host, finish, refused, stderr};

const TRUE: [&str; 3] = ["exec", "--", "true"];

#[test]
fn too_few_open_files_are_told_and_leave_nothing() {
    let host = Host::new();
    let (mut too_few, mut enough) = (0, 0);
    // Fewer than five are not enough for the program's own libraries.
    for files in 5..=40 {
        let output = finish(host.sh(&format!("ulimit -n {files}; exec \"$0\" \"$@\""), &TRUE));
        if output.status.code() == Some(0) {
            enough += 1;
        } else {
            refused(&output, &["Too many open files"]);
            too_few += 1;
        }
        assert_eq!(host.entries(), Vec::<PathBuf>::new(), "{files}");
    }
    assert!(too_few > 3 && enough > 3, "{too_few} and {enough}");
}

/// A library's host may have many sandboxes: its soft limit is no reason to fail.
#[test]
fn the_soft_limit_of_open_files_is_raised() {
    let host = Host::new();
    let output = finish(host.sh("ulimit -Sn 10; exec \"$0\" \"$@\"", &TRUE));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_death() {
    let host = Host::new();
    let output = finish(host.sh("ulimit -f 0; exec \"$0\" \"$@\"", &TRUE));
    refused(&output, &["write ", "/run/sandboxes/", "File too large"]);
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}

#[test]
fn no_process_to_be_had_is_told_and_leaves_nothing() {
    let test = "no_process_to_be_had_is_told_and_leaves_nothing";
    let host = Host::new();
    if !nix::unistd::geteuid().is_root() {
        // RLIMIT_NPROC counts all of a user's processes, of which this is one.
        let output = finish(host.sh("exec prlimit --nproc=1 \"$0\" \"$@\"", &TRUE));
        refused(&output, &["temporarily unavailable"]);
        assert_eq!(host.entries(), Vec::<PathBuf>::new());
        return;
    }
    let Some(group) = PidsGroup::make() else {
        println!("SKIP {test}: needs a pids cgroup of version 1");
        return;
    };
    let script = "echo $$ > $GROUP/cgroup.procs; exec \"$0\" \"$@\"";
    let mut enough = false;
    for pids in [1, 2, 3, 4, 5, 12] {
        group.limit(pids);
        let mut command = host.sh(script, &TRUE);
        let output = finish({
            command.env("GROUP", &group.0);
            command
        });
        assert_eq!(host.entries(), Vec::<PathBuf>::new(), "{pids}");
        enough = output.status.code() == Some(0);
        if !enough {
            let said = stderr(&output);
            let code = output.status.code();
            // The command itself may be the one that is not started.
            assert!(code == Some(125) || code == Some(126), "{code:?} {said}");
            assert!(said.contains("temporarily unavailable"), "{said}");
        }
    }
    assert!(enough, "twelve processes are enough");
}

/// A cgroup of this test's own that bounds processes; gone when dropped.
struct PidsGroup(PathBuf);

impl PidsGroup {
    fn make() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let line = own.lines().find(|line| line.contains(":pids:"))?;
        let below = line.rsplit(':').next()?.trim_start_matches('/');
        let name = format!("lis-faults-{}", std::process::id());
        let path = Path::new("/sys/fs/cgroup/pids").join(below).join(name);
        std::fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    /// Once it is empty: what has ended counts until it is reaped.
    fn limit(&self, pids: u32) {
        crate::fixture::until(20, || self.read("pids.current") == "0\n").unwrap();
        std::fs::write(self.0.join("pids.max"), pids.to_string()).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for PidsGroup {
    fn drop(&mut self) {
        let _ = crate::fixture::until(20, || {
            let _ = std::fs::remove_dir(self.0.join("llm-in-sandbox"));
            std::fs::remove_dir(&self.0).is_ok()
        });
    }
}

#[test]
fn no_place_for_the_registry_is_told_with_its_path() {
    let host = Host::new();
    for place in ["/proc/no-such-place/run", "/etc/passwd/run", "/sys/lis-run"] {
        let mut command = host.command(&TRUE);
        command.env("LLM_IN_SANDBOX_RUNTIME_DIR", place);
        refused(&finish(command), &[place]);
    }
}

#[test]
fn no_place_for_images_is_told_with_its_path() {
    let host = Host::new();
    for place in [
        "/proc/no-such-place/state",
        "/etc/passwd/state",
        "/sys/lis-state",
    ] {
        let mut command = host.command(&TRUE);
        command.env("LLM_IN_SANDBOX_HOME", place);
        refused(&finish(command), &[place]);
    }
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}

/// Every size of a small disk, so that each write of a start is once the one that fails.
#[test]
fn a_full_run_directory_leaves_nothing_half_made() {
    if !has("a_full_run_directory_leaves_nothing_half_made", &["root"]) {
        return;
    }
    let host = Host::new();
    let script = "mkdir -p $LLM_IN_SANDBOX_RUNTIME_DIR
        for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
            mount -t tmpfs -o mode=700,size=1m,nr_inodes=$n none $LLM_IN_SANDBOX_RUNTIME_DIR
            said=$(\"$0\" \"$@\" 2>&1) && echo enough || echo \"$? $said\" | tr '\\n' ' '
            echo
            find $LLM_IN_SANDBOX_RUNTIME_DIR/sandboxes -mindepth 1 2>/dev/null | sed 's/^/left: /'
            umount $LLM_IN_SANDBOX_RUNTIME_DIR
        done";
    let output = finish(host.unshared(script, &TRUE));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("left: "), "{said}");
    let failed = said.lines().filter(|line| line.starts_with("125 error: "));
    let run = host.registry().display().to_string();
    for line in failed.clone() {
        assert!(
            line.contains(&run) && line.contains("No space left"),
            "{line}"
        );
    }
    assert!(
        failed.count() > 3 && said.contains("enough"),
        "{said}{}",
        stderr(&output)
    );
}

#[test]
fn a_read_only_run_directory_is_told_with_its_path() {
    if !has("a_read_only_run_directory_is_told_with_its_path", &["root"]) {
        return;
    }
    let host = Host::new();
    let script =
        "unset LLM_IN_SANDBOX_RUNTIME_DIR; mount -t tmpfs -o ro none /run; exec \"$0\" \"$@\"";
    refused(
        &finish(host.unshared(script, &TRUE)),
        &["/run/llm-in-sandbox", "Read-only"],
    );
    // One that cannot be made because somebody else's is there.
    let script = "unset LLM_IN_SANDBOX_RUNTIME_DIR; mount -t tmpfs none /run; ln -s /tmp /run/llm-in-sandbox; exec \"$0\" \"$@\"";
    refused(
        &finish(host.unshared(script, &TRUE)),
        &[
            "/run/llm-in-sandbox",
            "not a directory of this user's alone",
        ],
    );
}

/// Nothing is executed from there.
#[test]
fn places_without_exec_are_no_hindrance() {
    if !has("places_without_exec_are_no_hindrance", &["root"]) {
        return;
    }
    let host = Host::new();
    let script = "mount -t tmpfs -o noexec none /run
        mount -t tmpfs -o noexec none /dev/shm
        mkdir -p $LLM_IN_SANDBOX_RUNTIME_DIR
        mount -t tmpfs -o noexec,mode=700 none $LLM_IN_SANDBOX_RUNTIME_DIR
        TMPDIR=$LLM_IN_SANDBOX_RUNTIME_DIR exec \"$0\" \"$@\"";
    let output = finish(host.unshared(script, &TRUE));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_full_disk_of_images_leaves_nothing_half_made() {
    if !has("a_full_disk_of_images_leaves_nothing_half_made", &["root"]) {
        return;
    }
    let host = Host::new();
    let script = "head -c 3000000 /dev/urandom > $LIS_TEST_DIR/large
        tar -C $LIS_TEST_DIR -cf $LIS_TEST_DIR/tree.tar large
        mkdir $LIS_TEST_DIR/state
        mount -t tmpfs -o mode=700,size=2m none $LIS_TEST_DIR/state
        code=0; \"$0\" --state-dir $LIS_TEST_DIR/state image import --name big $LIS_TEST_DIR/tree.tar || code=$?
        find $LIS_TEST_DIR/state -mindepth 2 -not -path '*/locks/*'
        exit $code";
    let mut command = host.unshared(script, &[]);
    command.env("LIS_TEST_DIR", host.path());
    let output = finish(command);
    refused(&output, &["large", "No space left"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "nothing is left"
    );
}

/// The record of a run is on a disk that is full: its commands go on, and the end says so.
#[test]
fn a_full_disk_of_records_does_not_stop_the_run() {
    if !has("a_full_disk_of_records_does_not_stop_the_run", &["root"]) {
        return;
    }
    let host = Host::new();
    let call = |name: &str, arguments: serde_json::Value| {
        serde_json::json!({"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}}]})
        .to_string()
    };
    let noise = serde_json::json!({"command": "seq 1 5000"});
    let touch = serde_json::json!({"command": "touch output/reached"});
    let answers = [
        call("execute_bash", noise),
        call("execute_bash", touch),
        call("submit", serde_json::json!({})),
    ];
    std::fs::write(host.path().join("answers.jsonl"), answers.join("\n")).unwrap();
    let script = "mkdir $LIS_TEST_DIR/out
        mount -t tmpfs -o size=8k none $LIS_TEST_DIR/out
        code=0; \"$0\" run task --llm_name replay:$LIS_TEST_DIR/answers.jsonl --output_dir $LIS_TEST_DIR/out || code=$?
        find $LIS_TEST_DIR/out -name reached
        exit $code";
    let mut command = host.unshared(script, &[]);
    command
        .env("LIS_TEST_DIR", host.path())
        .env("HOME", host.path());
    let output = finish(command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("No space left") && said.contains("trajectory"),
        "{said}"
    );
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("/reached") && told.contains("submitted"),
        "{told}{said}"
    );
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}
