//! Who may make no network device gets none, and is told why.

use std::process::Command;

use crate::world::{lacks, program};

/// The program, where `/dev/net` has nothing, or a node that nobody but root may open.
fn where_dev_net(has: &str, arguments: &[&str]) -> Option<(i32, String)> {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let hide =
        "mount -t tmpfs tmpfs /dev/net || exit 99; eval \"$1\" || exit 99; shift; exec \"$@\"";
    let output = command
        .args(["--mount", "--", "sh", "-c", hide, "sh", has])
        .arg(program())
        .env_remove("LLM_IN_SANDBOX_NET")
        .args(arguments)
        .output()
        .ok()?;
    let code = output.status.code()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (code != 99).then_some((code, text))
}

#[test]
fn without_a_device_the_sandbox_does_not_start_and_doctor_says_so() {
    let test = "without_a_device_the_sandbox_does_not_start_and_doctor_says_so";
    let exec = ["exec", "--net", "internet", "--", "echo", "ran"];
    let Some((code, text)) = where_dev_net("true", &exec) else {
        return lacks(test, "userns", "needs unshare(1) and mounts of its own");
    };
    assert_eq!(code, 125, "{text}");
    assert!(
        text.contains("open /dev/net/tun") && text.contains("\nhint: "),
        "{text}"
    );
    assert!(!text.contains("ran"), "{text}");
    // A run has the internet when nobody says otherwise, and ends rather than go on without.
    let directory = tempfile::tempdir().unwrap();
    let answers = directory.path().join("answers.jsonl");
    std::fs::write(&answers, "").unwrap();
    let model = format!("replay:{}", answers.display());
    let out = directory.path().join("out");
    let run = [
        "run",
        "task",
        "--llm_name",
        &model,
        "--output_dir",
        out.to_str().unwrap(),
    ];
    let (code, text) = where_dev_net("true", &run).unwrap();
    assert_eq!(code, 125, "{text}");
    assert!(
        text.contains("open /dev/net/tun") && text.contains("\nhint: "),
        "{text}"
    );
    let (code, text) = where_dev_net("true", &["exec", "--", "echo", "ran"]).unwrap();
    assert!(code == 0 && text.starts_with("ran\n"), "{text}");
    let (_, text) = where_dev_net("true", &["doctor"]).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("network device"))
        .unwrap();
    assert!(line.contains("degraded"), "{text}");
    assert!(text.contains("no --net internet"), "{text}");
}
