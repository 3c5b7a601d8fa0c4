//! Every task with a real language model in real sandboxes: the small model that `scripts/test.sh` serves.
//!
//! It is weak: that samples run, are scored or wait for what scores them, and are reported is asked for; that they are right is not.

use std::time::Duration;

use serde_json::Value;

use crate::program::{code, collect_within, finish, stderr};
use crate::{Bench, TASKS, real_rows};

/// Six turns of the model on a busy core.
const DEADLINE: Duration = Duration::from_secs(300);

#[test]
fn every_task_runs_with_a_real_model() {
    let Ok(url) = std::env::var("LLM_IN_SANDBOX_TEST_URL") else {
        let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
        let required = required.split(',').any(|name| name == "model");
        assert!(!required, "no model is served");
        println!("SKIP every_task_runs_with_a_real_model: LLM_IN_SANDBOX_TEST_URL is not set");
        return;
    };
    let model = std::env::var("LLM_IN_SANDBOX_TEST_MODEL").unwrap_or_else(|_| "default".into());
    // The model takes minutes for all of them; what an ordinary user may not do, one of them shows.
    let all = if nix::unistd::geteuid().is_root() {
        &TASKS[..]
    } else {
        &["demo"]
    };
    for &name in all {
        let Some((path, _)) = real_rows(name) else {
            return;
        };
        let bench = Bench::new();
        let task = [name, "--data", &path, "--end_id", "2"];
        let budget = [
            "--max_steps",
            "3",
            "--max_tokens_per_call",
            "128",
            "--max_token_limit",
            "7000",
        ];
        let asked = [
            "--llm_name",
            &model,
            "--llm_base_url",
            &url,
            "--temperature",
            "0",
            "--seed",
            "1",
        ];
        let mut command = bench.command(&[&task[..], &budget, &asked].concat());
        command
            .args(["--api_key", "none"])
            .env("NO_PROXY", "127.0.0.1");
        let output = collect_within(command.spawn().unwrap(), DEADLINE);
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
        let lines = bench.lines();
        assert_eq!(lines.len(), 2, "{name}");
        for line in &lines {
            let score = &line["score"];
            let decided = match line["status"].as_str().unwrap() {
                "scored" => score
                    .as_f64()
                    .is_some_and(|score| (0.0..=1.0).contains(&score)),
                "pending" => score.is_null() && line["pending"].is_string(),
                _ => false,
            };
            assert!(decided, "{name}: {line}");
            assert!(
                line["steps"]
                    .as_u64()
                    .is_some_and(|steps| (1..=3).contains(&steps)),
                "{line}"
            );
            assert!(
                line["usage"]["completion_tokens"].as_u64() > Some(0),
                "{line}"
            );
        }
        let folder = bench.folder();
        let output = finish(bench.verb(&["report", folder.to_str().unwrap()], true));
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
        let report = crate::read_json(&folder.join("report.json"));
        let count = |key: &str| report["summary"][key].as_u64().unwrap();
        assert_eq!(count("scored") + count("pending"), 2, "{name}: {report}");
        assert_ne!(report["domains"], Value::Null);
    }
}
