//! Flags and precedence.

use clap::Parser;

use super::*;
use crate::agent::{Shell, Style};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

fn parse(argv: &[&str]) -> Result<RunArgs, String> {
    let argv = std::iter::once("run")
        .chain(argv.iter().copied())
        .map(str::to_owned);
    let argv = crate::cli::argv::normalize(&<Cli as clap::CommandFactory>::command(), argv);
    Cli::try_parse_from(argv)
        .map(|cli| cli.run)
        .map_err(|e| e.to_string())
}

fn settle(argv: &[&str], variables: &[(&str, &str)]) -> Result<RunSettings, String> {
    let lookup = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    resolve(parse(argv)?, Environment::new(&lookup), None).map_err(|e| e.to_string())
}

fn http(settings: &RunSettings) -> &crate::llm::HttpConfig {
    match &settings.agent.model {
        ModelSettings::Http(config) => config,
        ModelSettings::Replay(_) => panic!("a replay"),
    }
}

#[test]
fn defaults_are_the_originals() {
    let settings = settle(&["do it", "--llm_name", "m"], &[]).unwrap();
    assert_eq!(settings.query, "do it");
    assert_eq!(settings.agent.limits, crate::agent::Limits::default());
    assert_eq!(
        (
            settings.agent.image.clone(),
            settings.agent.style,
            settings.agent.shell
        ),
        (None, Style::Native, Shell::Persistent)
    );
    assert_eq!(settings.agent.output_dir, PathBuf::from("output"));
    let config = http(&settings);
    assert_eq!(config.base_url, "http://localhost:8000/v1");
    assert_eq!(
        (config.sampling.temperature, config.api_key.clone()),
        (Some(1.0), None)
    );
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    std::fs::write(
        &path,
        "llm_name: file\napi_key: file\ntemperature: 0.1\nmax_steps: 5\n",
    )
    .unwrap();
    let settings = path.to_str().unwrap();
    let base = ["--query", "q", "--settings", settings];
    let environment = [
        ("LLM_NAME", "environment"),
        ("OPENAI_API_KEY", "environment"),
        ("LLM_TEMPERATURE", "0.2"),
    ];
    let seen = |flags: &[&str], variables: &[(&str, &str)]| {
        let settled = settle(&[&base[..], flags].concat(), variables).unwrap();
        let config = http(&settled);
        (
            config.model.clone(),
            config.api_key.clone().unwrap().expose().to_owned(),
            config.sampling.temperature.unwrap(),
            settled.agent.limits.max_steps,
        )
    };
    let text = |s: &str| s.to_owned();
    assert_eq!(seen(&[], &[]), (text("file"), text("file"), 0.1, 5));
    assert_eq!(
        seen(&[], &environment),
        (text("environment"), text("environment"), 0.2, 5)
    );
    let flags = [
        "--llm-name",
        "flag",
        "--api-key=flag",
        "--temperature",
        "0",
        "--max_steps",
        "6",
    ];
    assert_eq!(
        seen(&flags, &environment),
        (text("flag"), text("flag"), 0.0, 6)
    );
}

#[test]
fn the_seccomp_profile_has_the_usual_places() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    std::fs::write(&path, "seccomp: strict\n").unwrap();
    let base = ["q", "--llm_name", "m"];
    let in_file = ["--settings", path.to_str().unwrap()];
    let strict = |flags: &[&str], variables: &[(&str, &str)]| {
        let flags = [&base[..], flags].concat();
        settle(&flags, variables).unwrap().agent.seccomp.strict
    };
    let environment = [("LLM_IN_SANDBOX_SECCOMP", "default")];
    assert!(!strict(&[], &[]));
    assert!(strict(&in_file, &[]));
    assert!(!strict(&in_file, &environment));
    let flag = ["--seccomp", "strict"];
    assert!(strict(&[&in_file[..], &flag].concat(), &environment));
}

#[test]
fn every_mistake_is_found_before_anything_starts() {
    let base = ["q", "--llm_name", "m"];
    for (flags, why) in [
        (&["--max_stepz", "3"][..], "--max_stepz"),
        (&["--input_dir", "/nonexistent/dir"], "not a directory"),
        (&["--extra_body", "{broken"], "--extra_body"),
        (&["--extra_body", "[1]"], "--extra_body"),
        (
            &["--prompt_config", "/nonexistent/p.yaml"],
            "/nonexistent/p.yaml",
        ),
        (
            &["--settings", "/nonexistent/s.yaml"],
            "/nonexistent/s.yaml",
        ),
        (&["--max_steps", "0"], "--max_steps"),
        (&["--cmd_timeout=-1"], "--cmd_timeout"),
        (&["--cmd_timeout", "nan"], "--cmd_timeout"),
        (&["--temperature", "inf"], "--temperature"),
        (&["--extra_header", "none"], "--extra_header"),
        (&["--query", "again"], "--query"),
        (&["--compat", "other"], "--compat"),
        (&["--seccomp", "loose"], "--seccomp"),
    ] {
        let error = settle(&[&base[..], flags].concat(), &[]).unwrap_err();
        assert!(error.contains(why), "{flags:?}: {error}");
    }
    assert!(
        settle(&["--llm_name", "m"], &[])
            .unwrap_err()
            .contains("task is missing")
    );
    assert!(settle(&["q"], &[]).unwrap_err().contains("no model"));
}

#[test]
fn the_other_flags_arrive() {
    let settings = settle(
        &[
            "q",
            "--llm-name=replay:a b.jsonl",
            "--docker_image",
            "cdx123/llm-in-sandbox:v0.1",
            "--save_litellm_response",
            "--keep",
            "--shell",
            "fresh",
            "--compat",
            "original",
            "--task_timeout",
            "1.5",
        ],
        &[],
    )
    .unwrap();
    assert_eq!(settings.agent.model.name(), "replay:a b.jsonl");
    assert_eq!(settings.agent.image, None);
    assert!(settings.agent.save_exchanges && settings.keep);
    assert_eq!(
        (settings.agent.shell, settings.agent.style),
        (Shell::Fresh, Style::Original)
    );
    assert_eq!(
        settings.agent.limits.task_timeout,
        Some(std::time::Duration::from_millis(1500))
    );
    assert!(
        !settle(&["q", "--llm_name=m", "--save_litellm_response=False"], &[])
            .unwrap()
            .agent
            .save_exchanges
    );
}

#[test]
fn help_shows_underscores_and_every_flag_of_the_original() {
    let help = parse(&["--help"]).unwrap_err();
    for flag in [
        "llm_name",
        "docker_image",
        "max_steps",
        "temperature",
        "max_token_limit",
        "max_tokens_per_call",
        "input_dir",
        "output_dir",
        "llm_base_url",
        "api_key",
        "prompt_config",
        "save_litellm_response",
        "extra_body",
        "settings",
        "query",
    ] {
        assert!(help.contains(&format!("--{flag}")), "{flag}\n{help}");
    }
    assert!(!help.contains("--llm-name"));
}
