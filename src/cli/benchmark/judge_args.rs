//! Which judge, from flags, environment and settings file.

use std::time::Duration;

use clap::Args;

use super::super::run::{self, AgentArgs};
use crate::bench::{JudgeConfig, JudgeSettings, MAX_REPEATS};
use crate::llm::{HttpConfig, ModelSettings, Sampling, Secret, shown_url};
use crate::settings::{self, Environment, SettingsError, SettingsFile};

/// Tokens of one reply, as in the original.
const MAX_TOKENS: u64 = 16_384;
/// Requests under way at once, as in the original.
const REQUESTS: usize = 16;
/// Three requests of ten minutes, as in the original.
const DEADLINE: Duration = Duration::from_secs(1800);

/// Flags of the judge.
#[derive(Debug, Clone, Default, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Judge")]
pub(super) struct JudgeArgs {
    /// Model that judges what text alone does not decide, or replay:FILE [env: LLM_JUDGE_MODEL]
    #[arg(long, alias = "judge_name", value_name = "NAME")]
    pub(super) judge_model: Option<String>,
    /// Address of its server [env: LLM_JUDGE_BASE_URL] [default: the model's]
    #[arg(long, value_name = "URL")]
    pub(super) judge_base_url: Option<String>,
    /// Key of its server [env: LLM_JUDGE_API_KEY] [default: the model's, at the model's server]
    #[arg(long, value_name = "KEY", value_parser = run::secret)]
    pub(super) judge_api_key: Option<Secret>,
    /// Sampling temperature of the judge [default: 0]
    #[arg(long, value_name = "T")]
    pub(super) judge_temperature: Option<f64>,
    /// Tokens of one reply of the judge [default: 16384]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) judge_max_tokens: Option<u64>,
    /// Judgements of each answer, whose mean is the score [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_REPEATS)))]
    pub(super) judge_num_repeats: Option<u32>,
    /// Requests to the judge under way at once [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) judge_requests: Option<u32>,
    /// Seconds for one judgement, repeated requests included [default: 1800]
    #[arg(long, value_name = "S")]
    pub(super) judge_timeout: Option<f64>,
    /// JSON object merged into each request to the judge
    #[arg(long, value_name = "JSON")]
    pub(super) judge_extra_body: Option<String>,
}

impl JudgeArgs {
    /// What was not given anew is as it was.
    pub(super) fn fill(&mut self, judge: &JudgeConfig) {
        if self.judge_model.is_none() {
            self.judge_model = Some(judge.model.clone());
            if self.judge_base_url.is_none() {
                self.judge_base_url.clone_from(&judge.base_url);
            }
        }
        if self.judge_temperature.is_none() {
            self.judge_temperature = judge.sampling.temperature;
        }
        self.judge_max_tokens.get_or_insert(judge.max_tokens);
        self.judge_num_repeats.get_or_insert(judge.repeats);
        let body = || serde_json::Value::Object(judge.extra_body.clone()).to_string();
        self.judge_extra_body.get_or_insert_with(body);
    }

    /// The judge; none where none is named. `agent` says where the model is.
    pub(super) fn resolve(
        &self,
        agent: &AgentArgs,
        file: &SettingsFile,
        environment: Environment<'_>,
    ) -> Result<Option<JudgeSettings>, SettingsError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let name = given(&self.judge_model)
            .or_else(|| environment.get(settings::LLM_JUDGE_MODEL))
            .or_else(|| given(&file.judge_model));
        let Some(name) = name else { return Ok(None) };
        let model = AgentArgs {
            llm_name: Some(name),
            ..agent.clone()
        };
        let base_url = given(&self.judge_base_url)
            .or_else(|| environment.get(settings::LLM_JUDGE_BASE_URL))
            .or_else(|| given(&file.judge_base_url));
        let key = self.judge_api_key.clone();
        let key = key.filter(|key| !key.expose().is_empty()).or_else(|| {
            let key = environment.get(settings::LLM_JUDGE_API_KEY);
            key.map(Secret::new).or_else(|| file.judge_api_key.clone())
        });
        let model = match run::resolve_agent(&model, file, environment)?.model {
            ModelSettings::Replay(path) => ModelSettings::Replay(path),
            ModelSettings::Http(mut http) => {
                if let Some(url) = base_url {
                    move_to(&mut http, url, environment);
                }
                http.api_key = key.or(http.api_key);
                http.sampling = Sampling {
                    temperature: Some(self.judge_temperature.unwrap_or(0.0)),
                    ..Sampling::default()
                };
                http.extra_body = match &self.judge_extra_body {
                    Some(text) => run::object("--judge_extra_body", text)?,
                    None => serde_json::Map::new(),
                };
                ModelSettings::Http(http)
            }
        };
        let deadline = self.judge_timeout;
        let deadline = deadline.map(|s| run::seconds("--judge_timeout", s));
        Ok(Some(JudgeSettings {
            model,
            max_tokens: self.judge_max_tokens.unwrap_or(MAX_TOKENS),
            repeats: self.judge_num_repeats.unwrap_or(1),
            requests: self.judge_requests.map_or(REQUESTS, |n| n as usize),
            deadline: deadline.transpose()?.unwrap_or(DEADLINE),
        }))
    }
}

/// Another server gets neither the key nor the headers of the model's own.
fn move_to(http: &mut HttpConfig, url: String, environment: Environment<'_>) {
    let same =
        shown_url(&http.base_url).trim_end_matches('/') == shown_url(&url).trim_end_matches('/');
    http.base_url = url;
    if !same {
        let provider = run::provider_key(&http.model);
        http.api_key = environment.get(provider).map(Secret::new);
        http.headers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(variables: &[(&str, &str)], flags: &JudgeArgs) -> (String, Option<String>, usize) {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let file = SettingsFile::default();
        let agent = AgentArgs {
            extra_header: vec!["x-secret=1".into()],
            ..AgentArgs::default()
        };
        let judge = flags.resolve(&agent, &file, Environment::new(&lookup));
        match judge.unwrap().unwrap().model {
            ModelSettings::Http(http) => {
                let key = http.api_key.map(|key| key.expose().to_owned());
                (http.base_url, key, http.headers.len())
            }
            ModelSettings::Replay(path) => panic!("{}", path.display()),
        }
    }

    #[test]
    fn the_models_key_goes_to_the_models_server_alone() {
        let model = [
            ("LLM_BASE_URL", "http://model/v1"),
            ("LLM_API_KEY", "model-key"),
            ("LLM_JUDGE_MODEL", "j"),
        ];
        let mut flags = JudgeArgs::default();
        let own = (
            "http://model/v1".to_owned(),
            Some("model-key".to_owned()),
            1,
        );
        assert_eq!(key(&model, &flags), own);
        flags.judge_base_url = Some("http://model/v1/".into());
        assert_eq!(key(&model, &flags).1, own.1);
        flags.judge_base_url = Some("http://other/v1".into());
        assert_eq!(key(&model, &flags), ("http://other/v1".into(), None, 0));
        let with = [&model[..], &[("LLM_JUDGE_API_KEY", "judge-key")]].concat();
        assert_eq!(key(&with, &flags).1.as_deref(), Some("judge-key"));
        flags.judge_api_key = Some(Secret::new("flag"));
        assert_eq!(key(&with, &flags).1.as_deref(), Some("flag"));
    }

    #[test]
    fn without_a_name_there_is_no_judge() {
        let environment = Environment::new(&|_| None);
        let file = SettingsFile::default();
        let judge = JudgeArgs::default().resolve(&AgentArgs::default(), &file, environment);
        assert!(judge.unwrap().is_none());
    }
}
