//! The judge: a model that says whether an answer is as the reference, where text alone does not tell.
//!
//! Whatever it was asked and replied is on record before it counts. A judge that fails, hangs or says nothing of use gives no
//! score, and never 0.

mod file;
mod prompt;
mod record;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use file::{Answered, JudgedFile, import_judged, judged, read_answers, write_judged};
pub use prompt::{Subject, Verdict};
pub use record::FILE as JUDGEMENTS;
pub(super) use record::merge;
use record::{Judgement, Judgements};

use super::failure::chain;
use super::ledger::seconds;
use super::sample::Models;
use super::{BenchError, manifest};
use crate::llm::{
    ChatModel, ChatRequest, Completion, LlmError, Message, ModelSettings, Sampling, TokenUsage,
};
use crate::task::hex;

/// Most judgements of one answer.
pub const MAX_REPEATS: u32 = 100;
/// Most bytes of a reply, and of its reasoning, that are kept; more is no verdict.
const MAX_REPLY: usize = 1 << 20;

/// What describes a judge: all of it, but for the address, decides its replies. Nothing secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// Model name.
    pub model: String,
    /// Server, without credentials.
    pub base_url: Option<String>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Members merged into each request.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra_body: Map<String, Value>,
    /// Tokens of one reply.
    pub max_tokens: u64,
    /// Judgements of each answer.
    pub repeats: u32,
}

impl JudgeConfig {
    /// Whether another run has the same judge.
    ///
    /// # Errors
    /// [`BenchError::Differs`] naming every difference; a run without a judge may get one.
    pub fn check(
        earlier: Option<&Self>,
        now: Option<&Self>,
        folder: &Path,
    ) -> Result<(), BenchError> {
        let Some(earlier) = earlier else {
            return Ok(());
        };
        let plain = |judge: Option<&Self>| {
            // The same model may have moved.
            let judge = judge.map(|judge| Self {
                base_url: None,
                ..judge.clone()
            });
            serde_json::to_value(judge).unwrap_or_default()
        };
        manifest::differences("judge ", &plain(Some(earlier)), &plain(now), folder)
    }
}

/// Which judge, and how it is asked.
#[derive(Debug, Clone)]
pub struct JudgeSettings {
    /// The model.
    pub model: ModelSettings,
    /// Tokens of one reply.
    pub max_tokens: u64,
    /// Judgements of each answer.
    pub repeats: u32,
    /// Requests under way at once.
    pub requests: usize,
    /// Time for one judgement, repeated requests included.
    pub deadline: Duration,
}

impl JudgeSettings {
    /// What is told of it.
    #[must_use]
    pub fn describe(&self) -> JudgeConfig {
        let (sampling, extra_body) = match &self.model {
            ModelSettings::Http(http) => (http.sampling.clone(), http.extra_body.clone()),
            ModelSettings::Replay(_) => (Sampling::default(), Map::new()),
        };
        JudgeConfig {
            model: self.model.name(),
            base_url: self.model.shown_url(),
            sampling,
            extra_body,
            max_tokens: self.max_tokens,
            repeats: self.repeats,
        }
    }
}

/// Whose answer is judged.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Key of the sample.
    pub key: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its name among files, by which recorded replies are found.
    pub name: &'a str,
}

/// What the judge says of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// One for each time that it was asked.
    pub verdicts: Vec<Verdict>,
    /// Why some are missing.
    pub error: Option<String>,
}

impl Judged {
    /// The mean, once every verdict is there.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        let scores: Option<Vec<f64>> = self.verdicts.iter().map(|v| v.score()).collect();
        let scores = scores.filter(|scores| !scores.is_empty())?;
        #[expect(clippy::cast_precision_loss, reason = "at most a hundred")]
        Some(scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// The score, or what it waits for.
    pub(super) fn into_score(self) -> Result<f64, String> {
        let score = self.score();
        score.ok_or_else(|| self.error.unwrap_or_else(|| "the judge is not done".into()))
    }
}

/// How much was asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Judgements that were asked for.
    pub asked: usize,
    /// Judgements that were on record.
    pub recorded: usize,
    /// Tokens of those that were asked for.
    pub tokens: u64,
}

/// The judge of a run.
#[derive(Debug)]
pub struct Judge {
    /// None where only the record is asked.
    asks: Option<Asks>,
    again: bool,
    state: Mutex<(Judgements, Asked)>,
}

#[derive(Debug)]
struct Asks {
    models: Models,
    config: JudgeConfig,
    permits: Semaphore,
    requests: usize,
    deadline: Duration,
}

impl Judge {
    /// A judge that keeps its record in this file; with `again` it asks what is on record, too.
    ///
    /// # Errors
    /// [`BenchError`] when the settings, or the record, cannot be used.
    pub fn open(settings: &JudgeSettings, record: &Path, again: bool) -> Result<Self, BenchError> {
        let mut model = settings.model.clone();
        if let ModelSettings::Http(http) = &mut model {
            // One request that hangs leaves time for two more.
            let request = settings.deadline / 3;
            let timeouts = &mut http.timeouts;
            for bound in [
                &mut timeouts.connect,
                &mut timeouts.first_byte,
                &mut timeouts.idle,
                &mut timeouts.total,
            ] {
                *bound = request.min(*bound);
            }
        }
        let asks = Asks {
            models: Models::repeating(&model)?,
            config: settings.describe(),
            permits: Semaphore::new(settings.requests),
            requests: settings.requests,
            deadline: settings.deadline,
        };
        Ok(Self {
            asks: Some(asks),
            again,
            state: Mutex::new((Judgements::open(record)?, Asked::default())),
        })
    }

    /// One that repeats what is on record and asks nobody; none without a record.
    ///
    /// # Errors
    /// [`BenchError`] when the record cannot be read.
    pub fn recorded(record: &Path) -> Result<Option<Self>, BenchError> {
        let record = Judgements::read(record)?;
        Ok(record.map(|record| Self {
            asks: None,
            again: false,
            state: Mutex::new((record, Asked::default())),
        }))
    }

    /// Says what an answer is worth. Never fails: what is missing is named.
    pub async fn decide(&self, place: Place<'_>, subject: Subject<'_>) -> Judged {
        let Some(asks) = &self.asks else {
            let known = self.state().0.last(place.key, &subject.digest());
            return known.unwrap_or_else(|| Judged {
                verdicts: Vec::new(),
                error: Some("no judgement of this answer is on record: `judge`".to_owned()),
            });
        };
        let prompt = subject.messages();
        let asked = asks.digest(&prompt);
        let mut judged = Judged {
            verdicts: Vec::new(),
            error: None,
        };
        for number in 0..asks.config.repeats {
            let known = self.state().0.verdict(place.key, &asked, number);
            let verdict = match known.filter(|_| !self.again) {
                Some(verdict) => {
                    self.state().1.recorded += 1;
                    Ok(verdict)
                }
                None => {
                    let judgement = asks.ask(place, &subject, &prompt, &asked, number).await;
                    self.keep(judgement)
                }
            };
            judged.verdicts.push(match verdict {
                Ok(verdict) => verdict,
                Err((verdict, error)) => {
                    judged.error = Some(error);
                    verdict
                }
            });
        }
        judged
    }

    /// Writes a judgement down; what cannot be shown afterwards does not count.
    fn keep(&self, judgement: Judgement) -> Result<Verdict, (Verdict, String)> {
        let mut state = self.state();
        state.1.asked += 1;
        state.1.tokens += judgement.usage.map_or(0, TokenUsage::total);
        let kept = state.0.append(&judgement);
        kept.map_err(|error| (Verdict::Error, chain(&error)))?;
        match judgement.error {
            None => Ok(judgement.verdict),
            Some(error) => Err((judgement.verdict, error)),
        }
    }

    /// How much was asked so far.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.state().1
    }

    /// Its name and what else describes it; none where only the record is asked.
    #[must_use]
    pub fn config(&self) -> Option<&JudgeConfig> {
        self.asks.as_ref().map(|asks| &asks.config)
    }

    /// Requests that may be under way at once.
    pub(super) fn requests(&self) -> usize {
        self.asks.as_ref().map_or(0, |asks| asks.requests)
    }

    /// What is on record of an answer.
    fn last(&self, key: &str, subject: &Subject<'_>) -> Option<Judged> {
        self.state().0.last(key, &subject.digest())
    }

    fn state(&self) -> MutexGuard<'_, (Judgements, Asked)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asks {
    /// The same for a question that would get the same reply.
    fn digest(&self, prompt: &[Message]) -> String {
        let config = JudgeConfig {
            base_url: None,
            ..self.config.clone()
        };
        let text = json!([config, prompt]).to_string();
        hex(&Sha256::digest(text))
    }

    async fn ask(
        &self,
        place: Place<'_>,
        subject: &Subject<'_>,
        prompt: &[Message],
        asked: &str,
        number: u32,
    ) -> Judgement {
        let mut judgement = Judgement {
            asked: asked.to_owned(),
            number,
            of: self.config.repeats,
            prompt: prompt.to_vec(),
            ..Judgement::new(place.key, place.id, subject, self.config.clone())
        };
        // The semaphore is never closed; without a permit nothing is asked.
        let _permit = self.permits.acquire().await;
        let begun = Instant::now();
        let request = ChatRequest {
            messages: prompt,
            tools: &[],
            max_tokens: self.config.max_tokens,
        };
        let answer = match self.models.model(place.name, self.config.sampling.seed) {
            Ok(model) => timeout(self.deadline, model.chat(&request)).await,
            Err(error) => Ok(Err(error)),
        };
        judgement.seconds = seconds(begun.elapsed());
        match answer {
            Err(_) => {
                let limit = self.deadline;
                judgement.error = Some(format!("the judge gave no reply within {limit:?}"));
            }
            Ok(Err(error)) => judgement.error = Some(failed(&error)),
            Ok(Ok(completion)) => judgement.take(completion),
        }
        judgement
    }
}

fn failed(error: &LlmError) -> String {
    format!("the judge gave no reply: {}", chain(error))
}

impl Judgement {
    /// Reads a reply.
    fn take(&mut self, completion: Completion) {
        let (reply, reasoning) = (completion.message.content(), completion.message.reasoning());
        let cut = completion.finish_reason.as_deref() == Some("length");
        let long = reply.len() > MAX_REPLY;
        self.verdict = if cut || long {
            Verdict::Unknown
        } else {
            Verdict::read(reply)
        };
        let problem = match self.verdict {
            _ if cut => Some("the reply of the judge was cut off at its most tokens"),
            _ if long => Some("the reply of the judge is too long"),
            Verdict::Unknown => Some("the last line of the judge's reply names no verdict"),
            Verdict::Correct | Verdict::Incorrect | Verdict::Error => None,
        };
        self.error = problem.map(str::to_owned);
        let kept = |text: &str| prompt::clipped(text, MAX_REPLY / 4);
        self.reply = Some(if long { kept(reply) } else { reply.to_owned() });
        self.reasoning = Some(kept(reasoning)).filter(|text| !text.is_empty());
        self.finish_reason = completion.finish_reason;
        self.usage = completion.usage;
        self.attempts = completion.attempts;
    }
}
