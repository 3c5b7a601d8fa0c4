//! The client against a real server, where one is named by `LLM_IN_SANDBOX_TEST_URL` (and `LLM_IN_SANDBOX_TEST_MODEL`).
//!
//! Nothing is asked of the model's wits: only that requests are understood and answers counted.

use llm_in_sandbox::agent::{PromptConfig, StopReason};
use llm_in_sandbox::llm::{ChatModel, ChatRequest, HttpConfig, HttpModel, Message, Sampling};
use llm_in_sandbox::trajectory::Event;

use crate::memory_env::MemoryEnv;
use crate::{config, run_with};

/// The server that a variable names; `None` where a test is skipped for want of one, which it says.
fn server(variable: &str) -> Option<HttpConfig> {
    let Ok(url) = std::env::var(variable) else {
        let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
        let required = required.split(',').any(|name| name == "model");
        assert!(!required, "no model is served: {variable} is not set");
        return None;
    };
    let name = std::env::var("LLM_IN_SANDBOX_TEST_MODEL").unwrap_or_else(|_| "default".into());
    Some(HttpConfig::new(url, name))
}

const URL: &str = "LLM_IN_SANDBOX_TEST_URL";
/// The same model with its own template, in which tools have no place.
const TOOLLESS_URL: &str = "LLM_IN_SANDBOX_TEST_TOOLLESS_URL";

#[tokio::test]
async fn a_real_server_that_drops_tools_is_noticed() {
    let Some(http) = server(TOOLLESS_URL) else {
        println!("SKIP a_real_server_that_drops_tools_is_noticed: {TOOLLESS_URL} is not set");
        return;
    };
    let mut short = config();
    short.limits.max_steps = 1;
    short.limits.max_tokens_per_call = 16;
    short.instance = "Say hello.".into();
    for (http, dropped) in [(http, true), (server(URL).unwrap(), false)] {
        let model = HttpModel::new(http).unwrap();
        let (_, events) = run_with(&MemoryEnv::default(), &model, &short).await;
        let mut warnings = events.iter().filter_map(|event| match event {
            Event::Warning { text } => Some(text),
            _ => None,
        });
        let noticed = warnings.any(|text| text.contains("tools"));
        assert_eq!(noticed, dropped, "{events:?}");
    }
}

/// Streamed token by token, they are whole again in the answer that is recorded.
#[tokio::test]
async fn a_real_server_gives_the_log_probability_of_every_token() {
    let Some(mut http) = server(URL) else {
        println!("SKIP a_real_server_gives_the_log_probability_of_every_token: {URL} is not set");
        return;
    };
    http.extra_body.insert("logprobs".into(), true.into());
    http.extra_body.insert("top_logprobs".into(), 2.into());
    let model = HttpModel::new(http).unwrap();
    let messages = [Message::user("Count from one to five.")];
    let request = ChatRequest {
        messages: &messages,
        tools: &[],
        max_tokens: 16,
    };
    let answer = model.chat(&request).await.unwrap();
    let tokens = answer.response["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let text: String = tokens
        .iter()
        .map(|token| token["token"].as_str().unwrap())
        .collect();
    assert!(text.starts_with(answer.message.content()), "{text:?}");
    for token in tokens {
        assert!(token["logprob"].as_f64().unwrap() <= 0.0, "{token}");
        assert!(!token["top_logprobs"].as_array().unwrap().is_empty());
    }
    let counted = answer.usage.unwrap().completion_tokens;
    assert!(tokens.len() as u64 <= counted && counted <= 16, "{counted}");
}

#[tokio::test]
async fn a_real_server_understands_every_request() {
    let Some(mut http) = server(URL) else {
        println!("SKIP a_real_server_understands_every_request: {URL} is not set");
        return;
    };
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
