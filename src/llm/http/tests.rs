//! The parts of the client that need no server; the rest is in `tests/agent`.

use super::*;
use crate::llm::{Sampling, Secret};

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
    config.headers = vec![("bad name".into(), Secret::new("x"))];
    assert!(HttpModel::new(config).is_err());
}

#[test]
fn credentials_in_an_address_are_not_shown() {
    let model = HttpModel::new(HttpConfig::new("http://user:pass@h/v1", "m")).unwrap();
    assert_eq!(model.url(), "http://h/v1/chat/completions");
    let error = HttpModel::new(HttpConfig::new("ftp://user:pass@h/v1", "m")).unwrap_err();
    assert!(!error.to_string().contains("pass"), "{error}");
}
