//! A sample without a sandbox: one question, one answer, and all of its text counts.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Grader;
use super::asking::Asking;
use super::failure::{chain, failure};
use super::ledger::seconds;
use super::log::Log;
use super::plan::Job;
use super::sample::{Shared, Worked, row};
use crate::agent::{self, AgentConfig, Limits, SandboxFacts};
use crate::llm::{ChatModel, ChatRequest, Completion, LlmError, Message};
use crate::outcome::{Cause, Outcome, Policy};
use crate::task::Row;
use crate::trajectory::{Event, Header, Recorder, StopReason};

pub(super) async fn work<S, G: Grader>(
    shared: &Shared<S, G>,
    job: &Job,
    folder: &Path,
    model: &Asking<'_>,
    log: &mut Log,
) -> Worked {
    let row = row(shared, job);
    let text = match message(shared, &row).await {
        Ok(text) => text,
        Err(problem) => return Worked::failed(Outcome::infrastructure(Cause::Other, problem)),
    };
    let header = header(shared, job, &row, &text);
    let mut recorder = match Recorder::create(folder, &header, shared.save_exchanges) {
        Ok(recorder) => recorder,
        Err(error) => return Worked::failed(failure(Cause::HostFiles, &error)),
    };
    let messages = [Message::user(text)];
    let mut tell = |event: &Event| {
        recorder.event(event);
        log.event(event);
    };
    for message in messages.clone() {
        tell(&Event::Message { message });
    }
    let request = ChatRequest {
        messages: &messages,
        tools: &[],
        max_tokens: shared.max_response_len,
    };
    let begun = Instant::now();
    let answer = ask(model, &request, &shared.limits).await;
    let waited = begun.elapsed();
    if let Ok(completion) = &answer {
        tell(&completed(completion, waited));
        let base_url = header.base_url.as_deref();
        recorder.exchange(&header.model, base_url, &messages, &[], completion);
    }
    let (mut worked, stop) = judge(answer);
    worked.steps = 1;
    worked.times.model = seconds(waited);
    let end = Event::End {
        stop,
        detail: worked.detail.clone(),
        steps: 1,
        usage: worked.usage,
        sandbox: None,
        outcome: Some(worked.outcome.clone()),
    };
    match recorder.finish(&end) {
        Ok(()) => worked,
        // What cannot be shown afterwards is not counted.
        Err(error) => Worked::failed(failure(Cause::HostDisk, &error)),
    }
}

async fn message<S, G: Grader>(shared: &Shared<S, G>, row: &Row) -> Result<String, String> {
    match (shared.task.vanilla.message(row), &shared.grader) {
        (Some(text), _) => Ok(text),
        (None, Some(grader)) => grader.prompt(row).await,
        (None, None) => Err("create_prompt needs a grader".to_owned()),
    }
}

fn header<S, G>(shared: &Shared<S, G>, job: &Job, row: &Row, text: &str) -> Header {
    let config = AgentConfig {
        system: String::new(),
        instance: text.to_owned(),
        limits: shared.limits.clone(),
        style: shared.style,
        shell: shared.shell,
        ablations: shared.ablations.clone(),
    };
    let (prompt, none) = (&shared.task.prompt, SandboxFacts::default());
    let mut header = agent::header(&shared.settings, &config, prompt, row.problem(), none);
    header.sampling.seed = job.seed;
    header.tools = Vec::new();
    header
}

fn completed(completion: &Completion, waited: Duration) -> Event {
    Event::Completion {
        step: 1,
        message: completion.message.clone(),
        finish_reason: completion.finish_reason.clone(),
        usage: completion.usage,
        attempts: completion.attempts,
        params: completion.params.clone(),
        model_us: u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
    }
}

/// What came of the request, and whose doing it is.
fn judge(answer: Result<Completion, Unanswered>) -> (Worked, StopReason) {
    let budget = |name: &str| {
        Worked::failed(Outcome::Policy(Policy::Budget {
            budget: name.to_owned(),
        }))
    };
    match answer {
        Ok(completion) => {
            let cut = completion.finish_reason.as_deref() == Some("length");
            let (worked, stop) = if cut {
                (budget("max_response_len"), StopReason::TokenLimit)
            } else {
                let submitted = Outcome::Policy(Policy::Submitted);
                (Worked::failed(submitted), StopReason::Submitted)
            };
            let worked = Worked {
                usage: completion.usage.unwrap_or_default(),
                answer: Some(completion.message.content().to_owned()),
                ..worked
            };
            (worked, stop)
        }
        Err(Unanswered::Late) => (budget("task_timeout"), StopReason::Timeout),
        Err(Unanswered::Model(error @ LlmError::ContextOverflow(_))) => {
            let worked = Worked {
                detail: Some(chain(&error)),
                ..budget("context_overflow")
            };
            (worked, StopReason::ContextOverflow)
        }
        Err(Unanswered::Model(error)) => (
            Worked::failed(failure(Cause::Llm, &error)),
            StopReason::LlmError,
        ),
    }
}

enum Unanswered {
    Late,
    Model(LlmError),
}

async fn ask(
    model: &Asking<'_>,
    request: &ChatRequest<'_>,
    limits: &Limits,
) -> Result<Completion, Unanswered> {
    let answer = limits.within_turn(model.chat(request));
    let answer = match limits.task_timeout {
        None => answer.await,
        Some(limit) => match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => return Err(Unanswered::Late),
        },
    };
    answer.map_err(Unanswered::Model)
}
