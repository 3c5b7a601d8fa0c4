//! The client against a real server, where one is named by `LLM_IN_SANDBOX_TEST_URL` (and `LLM_IN_SANDBOX_TEST_MODEL`).
//!
//! Nothing is asked of the model's wits: only that requests are understood and answers counted.

use llm_in_sandbox::agent::{PromptConfig, StopReason};
use llm_in_sandbox::llm::{HttpConfig, HttpModel, Sampling};
use llm_in_sandbox::trajectory::Event;

use crate::memory_env::MemoryEnv;
use crate::{config, run_with};

#[tokio::test]
async fn a_real_server_understands_every_request() {
    let Ok(url) = std::env::var("LLM_IN_SANDBOX_TEST_URL") else {
        let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "model"),
            "no model is served"
        );
        println!(
            "SKIP a_real_server_understands_every_request: LLM_IN_SANDBOX_TEST_URL is not set"
        );
        return;
    };
    let name = std::env::var("LLM_IN_SANDBOX_TEST_MODEL").unwrap_or_else(|_| "default".into());
    let mut http = HttpConfig::new(url, name);
    http.sampling = Sampling {
        temperature: Some(0.0),
        seed: Some(1),
        ..Sampling::default()
    };
    let model = HttpModel::new(http).unwrap();
    let mut short = config();
    short.limits.max_steps = 3;
    short.limits.max_tokens_per_call = 64;
    let prompt = PromptConfig::general().unwrap();
    short.system = prompt.system();
    short.instance = prompt.instance("What is 17 * 23?");
    let (outcome, events) = run_with(&MemoryEnv::default(), &model, &short).await;
    println!("{outcome:?}");
    for event in &events {
        if let Event::Warning { text } = event {
            println!("warning: {text}");
        }
    }
    assert!(
        matches!(outcome.stop, StopReason::MaxSteps | StopReason::Submitted),
        "{outcome:?}"
    );
    assert!(outcome.usage.prompt_tokens > 0 && outcome.usage.completion_tokens > 0);
    let attempts = events.iter().filter_map(|event| match event {
        Event::Completion { attempts, .. } => Some(*attempts),
        _ => None,
    });
    assert!(attempts.into_iter().all(|attempts| attempts == 1));

    // Whatever its context is, this is longer.
    let mut long = config();
    long.limits.max_token_limit = u64::MAX;
    long.instance = "seven times nine is sixty-three ".repeat(300_000);
    let (outcome, _) = run_with(&MemoryEnv::default(), &model, &long).await;
    assert_eq!(outcome.stop, StopReason::ContextOverflow, "{outcome:?}");
}
