//! The network of `exec` and `run`, and its record. Where it leads is in `tests/network`.

use serde_json::{Value, json};

use crate::replay::{Replay, bash, calls, submit};
use crate::{bare, code, collect, run, stderr};

/// Whether network devices can be made; where not, one line says so.
fn has_device(test: &str) -> bool {
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    let Err(error) = opened else {
        return true;
    };
    let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == "tun");
    assert!(!required, "{test} needs /dev/net/tun, and tun is required");
    println!("SKIP {test}: needs /dev/net/tun: {error}");
    false
}

/// Refused by every host without a packet leaving it.
fn dial(address: &str) -> String {
    format!("python3 -c \"import socket; socket.create_connection(('{address}', 80), 3)\"")
}

#[test]
fn exec_tells_the_rules_and_the_connections() {
    if !has_device("exec_tells_the_rules_and_the_connections") {
        return;
    }
    let flags = [
        "exec",
        "--json",
        "--net",
        "allow:deny b.example,*.example:22",
        "--",
    ];
    let output = run(&[&flags[..], &["sh", "-c", &dial("169.254.169.254")]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["network"], "allow:deny b.example,*.example:22");
    let listed = report["connections"]["listed"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{report}");
    assert_eq!(listed[0]["address"], "169.254.169.254");
    assert_eq!(listed[0]["verdict"], "denied");
    assert_eq!(listed[0]["rule"], "link-local and metadata");
    assert!(report["left_behind"]["total"] == 0, "{report}");
}

/// The host's choice may be one for long ways, which the way to the translator is not.
#[test]
fn tcp_inside_is_for_a_way_of_no_length() {
    if !has_device("tcp_inside_is_for_a_way_of_no_length") {
        return;
    }
    let control = "/proc/sys/net/ipv4/tcp_congestion_control";
    let output = run(&["exec", "--net", "internet", "--", "cat", control]);
    let control = String::from_utf8(output.stdout).unwrap();
    assert!(["cubic\n", "reno\n"].contains(&&*control), "{control}");
}

#[test]
fn the_record_ties_connections_to_their_calls_and_names_the_rules() {
    if !has_device("the_record_ties_connections_to_their_calls_and_names_the_rules") {
        return;
    }
    let replay = Replay::new(&[
        calls("I look.", &[bash("true"), bash(&dial("10.0.0.1"))]),
        calls(
            "In the background.",
            &[bash(&format!("(sleep 0.2; {}) &", dial("10.0.0.2")))],
        ),
        calls("I wait.", &[bash("wait")]),
        calls("Done.", &[submit()]),
    ]);
    let mut command = replay.command(&[]);
    // What a person gets who says nothing.
    command.env_remove("LLM_IN_SANDBOX_NET");
    let output = collect(command.spawn().unwrap());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let record = replay.record();
    assert_eq!(record[0]["version"], 3);
    let network = record[0]["spec"]["sandbox"]["network"].as_str().unwrap();
    assert!(network.starts_with("internet"), "{network}");
    let found: Vec<_> = record
        .iter()
        .map(|line| &line["event"])
        .filter(|event| event["type"] == "connection")
        .map(|event| {
            let connection = &event["connection"];
            let (step, call) = (&event["step"], &event["call_id"]);
            json!([step, call, connection["address"], connection["verdict"]])
        })
        .collect();
    assert_eq!(found[0], json!([1, "call_1", "10.0.0.1", "denied"]));
    // It began while the next turn waited for it, or in its own.
    let background = found[1].as_array().unwrap();
    assert!(background[0] == 2 || background[0] == 3, "{found:?}");
    assert_eq!((&background[2], found.len()), (&json!("10.0.0.2"), 2));
}

#[test]
fn a_file_of_rules_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rules"), "pypi.org\n\n127.0.0.1:80\n").unwrap();
    let mut command = bare(&["exec", "--net", "allow:./rules", "--", "true"]);
    command
        .current_dir(directory.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let output = collect(command.spawn().unwrap());
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("line 3: `127.0.0.1:80` is loopback"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_password_of_the_hosts_goes_inside_only_when_it_is_said() {
    let index = "http://me:hunter2@index.example/simple";
    let inside = |flags: &[&str]| {
        let mut command = bare(&[&["exec", "--net", "host"][..], flags, &["--", "env"]].concat());
        command
            .env("PIP_INDEX_URL", index)
            .env("https_proxy", "http://me:hunter2@proxy.example:3128")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let output = collect(command.spawn().unwrap());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = inside(&[]);
    assert!(
        shown.contains("PIP_INDEX_URL=http://index.example/simple\n"),
        "{shown}"
    );
    assert!(
        shown.contains("https_proxy=http://proxy.example:3128\n"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    let shown = inside(&["--env", &format!("PIP_INDEX_URL={index}")]);
    assert!(
        shown.contains(&format!("PIP_INDEX_URL={index}\n")),
        "{shown}"
    );
}

#[test]
fn limits_of_the_network_are_told_when_they_strike() {
    if !has_device("limits_of_the_network_are_told_when_they_strike") {
        return;
    }
    let command = |limits: &str, script: &str| {
        let flags = [
            "exec",
            "--json",
            "--net",
            "internet",
            "--net-limits",
            limits,
            "--",
        ];
        let output = run(&[&flags[..], &["python3", "-c", script]].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    // The resolver of the sandbox takes connections in every network.
    let two = "import socket, sys\n\
        one = socket.create_connection(('100.96.0.1', 53), 5)\n\
        try: socket.create_connection(('100.96.0.1', 53), 5)\n\
        except OSError: sys.exit(7)";
    let report = command("connections=1,idle=60", two);
    assert_eq!(report["status"], 7, "{report}");
    let limits = &report["limits"]["network"];
    assert_eq!(
        (&limits["connections"], &limits["idle_seconds"]),
        (&json!(1), &json!(60))
    );
    assert_eq!(
        report["struck"][0]["limit"], "network_connections",
        "{report}"
    );
    assert_eq!(report["struck"][0]["max"], 1);
    let many = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        for _ in range(100): s.sendto(bytes(1000), ('100.96.0.1', 9))\n\
        socket.socket().connect_ex(('100.96.0.1', 9))";
    let report = command("bytes=20k", many);
    assert_eq!(
        report["struck"][0],
        json!({"limit": "network_bytes", "max_bytes": 20480})
    );
    let report = command("bandwidth=50k", many);
    assert_eq!(
        report["struck"][0]["limit"], "network_bandwidth",
        "{report}"
    );
    assert_eq!(report["outcome"]["kind"], "exited", "{report}");
    // What is well within is not told.
    let report = command("connections=50,bytes=1g,bandwidth=1g", many);
    assert_eq!(report["struck"], json!([]), "{report}");
}
