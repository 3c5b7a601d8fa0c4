//! Answers of the kernel that no test can ask for: they are put in at the host program's libc, by a
//! library that is loaded into it alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{Host, finish, refused, stderr};

/// Builds it. Who can build this program has a compiler for it, but the tests may run elsewhere.
fn shim(test: &str, host: &Host) -> Option<PathBuf> {
    let (source, library) = (host.path().join("shim.c"), host.path().join("shim.so"));
    std::fs::write(&source, include_str!("shim.c")).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]);
    match compiler.args([&library, &source]).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", stderr(&output));
            Some(library)
        }
        Err(error) => {
            let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
            assert!(
                !required.contains("cc"),
                "{test} needs a C compiler: {error}"
            );
            println!("SKIP {test}: needs a C compiler");
            None
        }
    }
}

/// A run in which the model calls these.
fn answers(host: &Host, commands: &[&str]) -> String {
    let call = |name: &str, arguments: Value| {
        let function = json!({"name": name, "arguments": arguments.to_string()});
        let calls = json!([{"id": "a", "type": "function", "function": function}]);
        json!({"role": "assistant", "content": "", "tool_calls": calls}).to_string()
    };
    let mut lines: Vec<_> = commands
        .iter()
        .map(|command| call("execute_bash", json!({"command": command})))
        .collect();
    lines.push(call("submit", json!({})));
    let path = host.path().join("answers.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    format!("replay:{}", path.display())
}

/// The lines of the record of the only run.
fn record(out: &Path) -> Vec<Value> {
    let folder = std::fs::read_dir(out).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(folder.path().join("trajectory.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_wall_clock_that_jumps_moves_no_deadline() {
    let host = Host::new();
    let Some(library) = shim("a_wall_clock_that_jumps_moves_no_deadline", &host) else {
        return;
    };
    let with = |clock: &str, arguments: &[&str]| -> (Output, Duration) {
        let mut command = host.command(arguments);
        command
            .env("LD_PRELOAD", &library)
            .env("LIS_JUMP", clock)
            .env("HOME", host.path());
        let began = Instant::now();
        (finish(command), began.elapsed())
    };
    let second = Duration::from_secs(1);
    let (output, after) = with("wall", &["exec", "--timeout", "1", "--", "sleep", "1000"]);
    assert_eq!(output.status.code(), Some(124), "{}", stderr(&output));
    assert!(after > second && after < 15 * second, "{after:?}");
    let idle = ["exec", "--idle-timeout", "1", "--", "sleep", "1000"];
    let (output, after) = with("wall", &idle);
    assert_eq!(output.status.code(), Some(124), "{}", stderr(&output));
    assert!(after > second && after < 15 * second, "{after:?}");

    // It prints, so that something happens between the deadline's beginning and its end.
    let script = "for n in $(seq 20); do echo $n; sleep 0.05; done";
    let patient = ["exec", "--timeout", "60", "--", "sh", "-c", script];
    let (output, _) = with("wall", &patient);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // The clock that deadlines do go by: were it the wall clock, this is what would be seen.
    let (output, after) = with("monotonic", &patient);
    assert_eq!(output.status.code(), Some(124), "{}", stderr(&output));
    assert!(after < 30 * second, "{after:?}");

    let model = answers(&host, &["sleep 600", "echo fine"]);
    let out = host.path().join("out");
    let limits = ["--cmd_timeout", "1", "--task_timeout", "60"];
    let arguments = ["run", "task", "--llm_name", &model, "--output_dir"];
    let arguments = [&arguments[..], &[out.to_str().unwrap()], &limits].concat();
    let (output, _) = with("wall", &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let record = record(&out);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let started = record[0]["started_unix_s"].as_f64().unwrap();
    assert!((started - now.as_secs_f64()).abs() > 3600.0, "it jumped");
    let times: Vec<_> = record[1..].iter().map(|l| l["t_us"].as_u64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times.last().unwrap().unwrap() < 30_000_000, "{times:?}");
    let results = record
        .iter()
        .filter(|l| l["event"]["type"] == "tool_result");
    let errors: Vec<_> = results.map(|l| l["event"]["error"].clone()).collect();
    assert_eq!(errors[..2], [json!("timeout"), Value::Null]);
}

/// A quota needs a file system of a kernel that has any; what the host's program sees of one is this.
#[test]
fn a_disk_quota_that_is_used_up_is_told_as_a_full_disk_is() {
    let host = Host::new();
    let Some(library) = shim("a_disk_quota_that_is_used_up", &host) else {
        return;
    };
    let with = |full: &Path, arguments: &[&str]| {
        let mut command = host.command(arguments);
        command
            .env("LD_PRELOAD", &library)
            .env("LIS_QUOTA", full)
            .env("HOME", host.path());
        finish(command)
    };
    let elsewhere = host.path().join("elsewhere");
    let output = with(&elsewhere, &["exec", "--", "true"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let output = with(&host.registry(), &["exec", "--", "true"]);
    let registry = host.registry();
    refused(&output, &[registry.to_str().unwrap(), "quota exceeded"]);
    assert_eq!(host.entries(), Vec::<PathBuf>::new());

    // An image: what is written for it is taken away.
    let state = host.path().join("state");
    let tree = host.path().join("tree.tar");
    std::fs::write(
        &tree,
        crate::archive::Archive::default().file("a", b"a").bytes(),
    )
    .unwrap();
    let import = [
        "--state-dir",
        state.to_str().unwrap(),
        "image",
        "import",
        "--name",
        "small",
        tree.to_str().unwrap(),
    ];
    refused(
        &with(&state, &import),
        &[state.to_str().unwrap(), "quota exceeded"],
    );
    for part in ["tmp", "images", "names"] {
        assert_eq!(
            std::fs::read_dir(state.join(part)).unwrap().count(),
            0,
            "{part}"
        );
    }

    // The record of a run: its commands go on, and the end says so.
    let model = answers(&host, &["touch output/reached"]);
    let out = host.path().join("out");
    let output_dir = out.to_str().unwrap();
    let run = [
        "run",
        "task",
        "--llm_name",
        &model,
        "--output_dir",
        output_dir,
    ];
    let output = with(&out, &run);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("quota exceeded") && said.contains("trajectory"),
        "{said}"
    );
}
