//! What is said and refused before anything starts. None of this needs an image.

use std::path::Path;

use crate::{bare, code, finish, stderr};

/// A state directory that must not come into being.
fn nothing_starts(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut command = bare(arguments);
    command
        .env("LLM_IN_SANDBOX_HOME", &state)
        .current_dir(directory.path());
    let output = finish(command);
    assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let made: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(made.is_empty(), "{arguments:?}: {made:?}");
    stderr(&output)
}

#[test]
fn help_of_every_verb() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli");
    if std::fs::read_dir(tests).is_err() {
        println!("SKIP help_of_every_verb: the snapshots of the repository are not readable here");
        return;
    }
    let verbs = [
        "",
        "run",
        "benchmark",
        "verify",
        "judge",
        "merge",
        "report",
        "exec",
        "shell",
        "ps",
        "gc",
        "doctor",
        "overhead",
        "build",
        "image",
        "image build",
        "image import",
        "image export",
        "image ls",
        "image inspect",
        "image verify",
        "image rm",
        "image gc",
    ];
    for verb in verbs {
        let arguments: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
        let name = format!("help {verb}").trim().replace(' ', "_");
        let output = finish(bare(&arguments));
        assert_eq!(code(&output), 0);
        insta::assert_snapshot!(name, String::from_utf8(output.stdout).unwrap());
    }
}

#[test]
fn misspelt_flags_are_refused_before_anything_starts() {
    for (arguments, hint) in [
        (&["exec", "--memroy", "1g", "--", "true"][..], "--memory"),
        (&["run", "task", "--max_stepz", "3"], "--max_steps"),
        (&["run", "task", "--max-stepz", "3"], "--max_steps"),
        (&["shell", "--imagee", "x"], "--image"),
        (&["image", "ls", "--jsom"], "--json"),
        (&["pss"], "ps"),
    ] {
        let message = nothing_starts(arguments);
        assert!(message.contains(hint), "{arguments:?}: {message}");
    }
}

#[test]
fn malformed_values_are_refused_before_anything_starts() {
    for arguments in [
        &["exec", "--memory", "1.5g", "--", "true"][..],
        &["exec", "--cpus", "0", "--", "true"],
        &["exec", "--ro-bind", "/etc", "--", "true"],
        &["exec", "--env", "A", "--", "true"],
        &["exec", "--net", "everything", "--", "true"],
        &["exec", "--net", "allow:", "--", "true"],
        &["exec", "--net", "allow:10.0.0.0/8", "--", "true"],
        &["exec", "--net", "allow:/no/such/file", "--", "true"],
        &["run", "x", "--llm_name", "m", "--net", "allow:a*.org"],
        &["exec", "--timeout", "soon", "--", "true"],
        &["exec", "--seccomp", "loose", "--", "true"],
        &["exec", "--seccomp", "Cargo.toml", "--", "true"],
        &["run", "task", "--llm_name", "m", "--seccomp", "loose"],
        &["overhead", "--runs", "1"],
        &["overhead", "--phases", "start,warp"],
        &["exec"],
        &["run", "task", "--llm_name", "m", "--input_dir", "missing"],
        &["run", "task", "--llm_name", "replay:missing.jsonl"],
        &["run", "task", "--llm_name", "m", "--extra_body", "{"],
        &["run", "task"],
        &["run", "--llm_name", "m"],
        &["benchmark", "--llm_name", "m"],
        &["benchmark", "demo"],
        &["benchmark", "no-such-task", "--llm_name", "m"],
        &["benchmark", "math", "--llm_name", "m", "--data", "missing"],
        &["benchmark", "demo", "--llm_name", "m", "--num_workers", "0"],
        &["benchmark", "demo", "--llm_name", "m", "--shard", "3/2"],
        &["benchmark", "demo", "--llm_name", "m", "--mode", "vanilla"],
        &["benchmark", "demo", "--llm_name", "m", "--start_id", "4"],
        &["benchmark", "--resume", "missing", "--llm_name", "m"],
    ] {
        nothing_starts(arguments);
    }
}

#[test]
fn a_seccomp_profile_that_would_loosen_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "allow = ['mount']").unwrap();
    let path = file.path().to_str().unwrap();
    let message = nothing_starts(&["exec", "--seccomp", path, "--", "true"]);
    assert!(
        message.contains("allow") && message.contains("deny"),
        "{message}"
    );
}

#[test]
fn a_setting_that_cannot_be_used_is_told_before_a_hub_is_asked() {
    let message = nothing_starts(&["benchmark", "math", "--llm_name", "m", "--num_workers", "0"]);
    assert!(message.contains("num_workers"), "{message}");
}

#[test]
fn a_contradiction_is_told_with_its_reason() {
    let message = nothing_starts(&["exec", "--disk", "2g", "--memory", "2g", "--", "true"]);
    assert!(message.contains("more than half of memory"), "{message}");
}

#[test]
fn hyphens_and_underscores_mean_the_same() {
    for flag in ["--ro_bind", "--ro-bind", "--RO-BIND"] {
        let message = nothing_starts(&["exec", flag, "relative", "--", "true"]);
        let known = message.contains("SRC:DST");
        assert_eq!(known, flag != "--RO-BIND", "{flag}: {message}");
    }
    for flag in ["--input_dir", "--input-dir"] {
        let message = nothing_starts(&["run", "task", "--llm-name", "m", flag, "missing"]);
        assert!(message.contains("missing"), "{flag}: {message}");
    }
}

#[test]
fn an_unknown_image_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    for arguments in [
        &[
            "--state-dir",
            state,
            "exec",
            "--image",
            "no-such",
            "--",
            "true",
        ][..],
        &["--state_dir", state, "image", "inspect", "no-such"],
        &["--state-dir", state, "image", "rm", "no-such"],
    ] {
        let output = finish(bare(arguments));
        assert_eq!(code(&output), 125, "{arguments:?}");
        let message = stderr(&output);
        assert!(
            message.contains("`no-such`") && message.contains("hint: "),
            "{arguments:?}: {message}"
        );
    }
}
