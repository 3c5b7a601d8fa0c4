//! The parts of the client that need no server; the rest is in `tests/agent`.

use super::*;

#[test]
fn only_routing_prefixes_are_stripped() {
    for (given, sent) in [
        ("openai/gpt-4o", "gpt-4o"),
        ("hosted_vllm/Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("openrouter/deepseek/x", "openrouter/deepseek/x"),
        ("gemini/pro", "gemini/pro"),
        ("plain", "plain"),
    ] {
        assert_eq!(served_name(given), sent);
    }
}

#[test]
fn urls_are_completed_or_refused() {
    for (base, expected) in [
        (
            "http://localhost:8000/v1",
            Some("http://localhost:8000/v1/chat/completions"),
        ),
        ("http://h/v1/", Some("http://h/v1/chat/completions")),
        (
            "https://h/x/chat/completions",
            Some("https://h/x/chat/completions"),
        ),
        ("localhost:8000", None),
        ("ftp://h", None),
        ("", None),
    ] {
        assert_eq!(completions_url(base).ok().as_deref(), expected, "{base}");
    }
}

#[test]
fn parameters_are_sent_as_asked() {
    let mut config = HttpConfig::new("http://h/v1", "openai/m");
    config.sampling = Sampling {
        temperature: Some(0.5),
        top_p: Some(0.9),
        top_k: Some(3),
        seed: Some(7),
    };
    config.extra_body = serde_json::from_str(
        r#"{"top_p":0.8,"stream_options":null,"chat_template_kwargs":{"thinking":true}}"#,
    )
    .unwrap();
    let model = HttpModel::new(config.clone()).unwrap();
    let params = serde_json::to_string(&model.params(10)).unwrap();
    assert_eq!(
        params,
        r#"{"model":"m","max_tokens":10,"temperature":0.5,"top_p":0.8,"top_k":3,"seed":7,"stream":true,"chat_template_kwargs":{"thinking":true}}"#
    );
    config.model = "o3-mini".into();
    let params = HttpModel::new(config.clone()).unwrap().params(10);
    assert!(params.contains_key("max_completion_tokens") && !params.contains_key("temperature"));
    config.model = "foo-o4bar".into();
    assert!(
        HttpModel::new(config)
            .unwrap()
            .params(10)
            .contains_key("temperature")
    );
}

#[test]
fn bad_headers_and_keys_are_refused_without_being_shown() {
    let mut config = HttpConfig::new("http://h/v1", "m");
    config.api_key = Some(Secret::new("sk-private\n"));
    let error = HttpModel::new(config.clone()).unwrap_err().to_string();
    assert!(!error.contains("sk-private"), "{error}");
    config.api_key = None;
    config.headers = vec![("bad name".into(), "x".into())];
    assert!(HttpModel::new(config).is_err());
}

#[test]
fn dropped_tools_are_told_from_a_small_tokenizer() {
    let tools = [
        json!({"type":"function","function":{"name":"f","description":"one two three four five six"}}),
    ];
    let messages = [Message::user("just these five words here")];
    let request = ChatRequest {
        messages: &messages,
        tools: &tools,
        max_tokens: 1,
    };
    assert!(tools_were_dropped(&request, 9));
    assert!(!tools_were_dropped(&request, 12));
    let later = [
        Message::user("a b c d e f g h"),
        Message::assistant(Map::new()),
    ];
    let request = ChatRequest {
        messages: &later,
        tools: &tools,
        max_tokens: 1,
    };
    assert!(!tools_were_dropped(&request, 1));
}
