//! A real language model, a real sandbox: the small model that `scripts/test.sh` serves.
//!
//! It is weak: that it calls a tool is asked for, that it is right is not.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{code, collect, command, stderr};

const PROMPT: &str = include_str!("../../scripts/demo/prompt.yaml");
/// Two turns of the model on a busy core.
const DEADLINE: Duration = Duration::from_secs(300);

#[test]
fn a_real_model_uses_the_sandbox() {
    let Ok(url) = std::env::var("LLM_IN_SANDBOX_TEST_URL") else {
        let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "model"),
            "no model is served"
        );
        println!("SKIP a_real_model_uses_the_sandbox: LLM_IN_SANDBOX_TEST_URL is not set");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let prompt = directory.path().join("prompt.yaml");
    std::fs::write(&prompt, PROMPT).unwrap();
    let mut run = command(&["run", "What is 17 * 23?", "--llm_base_url", &url]);
    run.args(["--llm_name", "smollm2-135m-instruct", "--api_key", "none"])
        .args(["--temperature", "0", "--seed", "1", "--max_steps", "6"])
        .args(["--max_tokens_per_call", "256", "--max_token_limit", "7000"])
        .args(["--output_dir", "out", "--prompt_config"])
        .arg(&prompt)
        .current_dir(directory.path())
        .env("HOME", directory.path())
        .env("NO_PROXY", "127.0.0.1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if std::env::var_os("LLM_IN_SANDBOX_HOME").is_none() {
        run.env(
            "LLM_IN_SANDBOX_HOME",
            llm_in_sandbox::image::state_dir(None).unwrap(),
        );
    }
    let mut child = run.spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() && began.elapsed() < DEADLINE {
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = collect(child);
    assert!([0, 1].contains(&code(&output)), "{}", stderr(&output));

    let folder = std::fs::read_dir(directory.path().join("out"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let text = std::fs::read_to_string(folder.path().join("trajectory.json")).unwrap();
    let trajectory: Value = serde_json::from_str(&text).unwrap();
    let commands = trajectory["steps"].as_array().unwrap().iter();
    let carried_out = commands
        .filter(|step| step["action"]["function"] == "execute_bash")
        .filter(|step| {
            step["observation"]
                .as_str()
                .unwrap()
                .starts_with("Exit code: ")
        });
    assert!(
        carried_out.count() > 0,
        "no command was carried out: {text}"
    );
}
