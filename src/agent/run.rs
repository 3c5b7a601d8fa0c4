//! The loop: ask the model, carry out its calls, answer them, until something ends it.
//!
//! An explicit state machine. The history only grows, and what was sent once is sent again byte for byte. Whatever is waited
//! for, the person's interrupt and the task's deadline end the wait.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ablations::Ablation;
use super::calls::{self, Call};
use super::limits::{Limits, TokenCount};
use super::observation::Style;
use super::state::{Cut, End, State, guard};
use super::tools::{self, Observation, Shell, Tools};
use crate::env::{Env, EnvError};
use crate::llm::{ChatModel, ChatRequest, Completion, LlmError, Message, TokenUsage};
use crate::outcome;
use crate::trajectory::{Event, StopReason, ToolErrorKind};

/// What the model is told when it called nothing.
const CONTINUE: &str = "Your last reply did not call a function. Go on with the task: every reply must call one, and `submit` ends the work. Never ask a person for help; nobody will answer.";

/// Turns `true` when the run shall end.
pub type Cancel = watch::Receiver<bool>;

/// What one run is about.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The system message; none is sent when it is empty.
    pub system: String,
    /// The first user message.
    pub instance: String,
    /// Budgets.
    pub limits: Limits,
    /// How observations are written.
    pub style: Style,
    /// What the sandbox carries out commands with; the model is told.
    pub shell: Shell,
    /// What the model is to do without.
    pub ablations: Vec<Ablation>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub stop: StopReason,
    /// The error behind it, with its causes.
    pub detail: Option<String>,
    /// Whose doing it is.
    pub outcome: outcome::Outcome,
    /// Turns begun.
    pub steps: u32,
    /// Sums over all answers of the model.
    pub usage: TokenUsage,
    /// Time spent waiting for the model.
    pub model_time: Duration,
    /// Time spent carrying out calls.
    pub tool_time: Duration,
    /// All of it.
    pub total_time: Duration,
}

impl Outcome {
    /// The last line of the record.
    #[must_use]
    pub fn to_event(&self, sandbox: Option<crate::spec::Usage>) -> Event {
        Event::End {
            stop: self.stop,
            detail: self.detail.clone(),
            steps: self.steps,
            usage: self.usage,
            sandbox,
            outcome: Some(self.outcome.clone()),
        }
    }
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Something to be recorded and shown.
    Event(&'a Event),
    /// One request as it was sent, and its answer.
    Exchange {
        /// The history that was sent.
        messages: &'a [Message],
        /// The schemas that were sent.
        tools: &'a [Value],
        /// The answer.
        completion: &'a Completion,
    },
}

/// Works on one task until it is done or must stop. Never fails: the outcome says what happened.
pub async fn run<E: Env, M: ChatModel>(
    env: &E,
    model: &M,
    config: &AgentConfig,
    sink: &mut (dyn FnMut(Progress<'_>) + Send),
    cancel: Cancel,
) -> Outcome {
    let start = Instant::now();
    let mut task = Run {
        env,
        model,
        config,
        sink,
        cancel,
        deadline: config
            .limits
            .task_timeout
            .and_then(|t| start.checked_add(t)),
        schemas: tools::schemas(config.style, config.shell, &config.ablations),
        tools: Tools::new(config.style, config.limits.cmd_timeout).without(&config.ablations),
        history: Vec::new(),
        tokens: TokenCount::default(),
        turn: Turn::default(),
        model_time: Duration::ZERO,
        tool_time: Duration::ZERO,
    };
    if !config.system.is_empty() {
        task.add(Message::system(&config.system));
    }
    task.add(Message::user(&config.instance));
    task.effects(None, None).await;
    let mut state = State::Ask;
    let end = loop {
        state = match state {
            State::Ask => task.ask().await,
            State::Act(calls) => task.act(calls).await,
            State::Done(end) => break end,
        };
    };
    Outcome {
        stop: end.stop,
        detail: end.detail,
        outcome: end.outcome,
        steps: task.turn.step,
        usage: task.tokens.total(),
        model_time: task.model_time,
        tool_time: task.tool_time,
        total_time: start.elapsed(),
    }
}

#[derive(Debug, Default)]
struct Turn {
    step: u32,
    model: Duration,
    begun: Option<Instant>,
}

struct Run<'a, E, M> {
    env: &'a E,
    model: &'a M,
    config: &'a AgentConfig,
    sink: &'a mut (dyn FnMut(Progress<'_>) + Send),
    cancel: Cancel,
    deadline: Option<Instant>,
    schemas: Vec<Value>,
    tools: Tools,
    history: Vec<Message>,
    tokens: TokenCount,
    turn: Turn,
    model_time: Duration,
    tool_time: Duration,
}

impl<E: Env, M: ChatModel> Run<'_, E, M> {
    async fn ask(&mut self) -> State {
        let limits = &self.config.limits;
        if self.turn.step >= limits.max_steps {
            return State::stop(StopReason::MaxSteps);
        }
        self.suffix(format!(
            "\nSteps Remaining: {}",
            limits.max_steps - self.turn.step
        ));
        if self.tokens.now() > limits.max_token_limit {
            let detail = format!(
                "the conversation has about {} tokens, more than {}",
                self.tokens.now(),
                limits.max_token_limit
            );
            return State::Done(End::new(StopReason::TokenLimit, Some(detail)));
        }
        let begun = Instant::now();
        self.turn = Turn {
            step: self.turn.step + 1,
            model: Duration::ZERO,
            begun: Some(begun),
        };
        let model = self.model;
        let request = ChatRequest {
            messages: &self.history,
            tools: &self.schemas,
            max_tokens: limits.max_tokens_per_call,
        };
        let asked = limits.within_turn(model.chat(&request));
        let answer = guard(&mut self.cancel, self.deadline, asked).await;
        self.turn.model = begun.elapsed();
        self.model_time += self.turn.model;
        match answer {
            Ok(Ok(completion)) => self.take(completion),
            Ok(Err(error @ LlmError::ContextOverflow(_))) => {
                State::failed(StopReason::ContextOverflow, &error)
            }
            Ok(Err(error)) => State::failed(StopReason::LlmError, &error),
            Err(Cut(stop)) => State::stop(stop),
        }
    }

    /// Adds the answer to the history and finds its calls.
    fn take(&mut self, mut completion: Completion) -> State {
        (self.sink)(Progress::Exchange {
            messages: &self.history,
            tools: &self.schemas,
            completion: &completion,
        });
        for text in std::mem::take(&mut completion.warnings) {
            self.tell(&Event::Warning { text });
        }
        let cut = completion.finish_reason.as_deref() == Some("length");
        let calls = calls::extract(&mut completion.message, self.turn.step, cut);
        self.tokens.add(&completion.message);
        if let Some(usage) = completion.usage {
            self.tokens.counted(usage);
        }
        self.history.push(completion.message.clone());
        self.tell(&Event::Completion {
            step: self.turn.step,
            message: completion.message,
            finish_reason: completion.finish_reason,
            usage: completion.usage,
            attempts: completion.attempts,
            params: completion.params,
            model_us: micros(self.turn.model),
        });
        State::Act(calls)
    }

    /// Carries out the calls in order and answers all of them.
    async fn act(&mut self, calls: Vec<Call>) -> State {
        if calls.is_empty() {
            self.add(Message::user(CONTINUE));
            self.end_turn(0, Duration::ZERO);
            return State::Ask;
        }
        let begun = Instant::now();
        let mut submitted = false;
        let mut in_text = Vec::new();
        let mut count = 0;
        for (at, call) in calls.into_iter().enumerate() {
            let observation = match self.answer(&call, at, submitted).await {
                Ok(observation) => observation,
                Err(end) => {
                    self.tool_time += begun.elapsed();
                    self.end_turn(count, begun.elapsed());
                    return end;
                }
            };
            count += 1;
            submitted |= observation.submitted;
            match call.id {
                // The result event stands for this message in the record.
                Some(id) => self.push(Message::tool(&id, observation.text)),
                None => in_text.push(format!(
                    "<tool_response>\n{}\n</tool_response>",
                    observation.text
                )),
            }
        }
        self.tool_time += begun.elapsed();
        if !in_text.is_empty() {
            self.add(Message::user(in_text.join("\n")));
        }
        self.end_turn(count, begun.elapsed());
        if submitted {
            State::stop(StopReason::Submitted)
        } else {
            State::Ask
        }
    }

    async fn answer(
        &mut self,
        call: &Call,
        at: usize,
        submitted: bool,
    ) -> Result<Observation, State> {
        let none = Map::new();
        let step = self.turn.step;
        self.tell(&Event::ToolCall {
            step,
            call_id: call.id.clone(),
            function: call.name.clone(),
            parameters: call.arguments.as_ref().unwrap_or(&none).clone(),
        });
        let begun = Instant::now();
        let observation = match refuse(call, at, submitted) {
            Some(observation) => observation,
            None => {
                let arguments = call.arguments.as_ref().unwrap_or(&none);
                let work = self.tools.call(self.env, &call.name, arguments);
                match guard(&mut self.cancel, self.deadline, work).await {
                    Ok(Ok(observation)) => observation,
                    Ok(Err(error)) => return Err(broken(&error)),
                    Err(Cut(stop)) => return Err(State::stop(stop)),
                }
            }
        };
        self.tell(&Event::ToolResult {
            step,
            call_id: call.id.clone(),
            observation: observation.text.clone(),
            error: observation.error,
            tool_us: micros(begun.elapsed()),
            struck: observation.struck.clone(),
        });
        self.effects(Some(step), call.id.clone()).await;
        Ok(observation)
    }

    /// Records what a call did, or with none what was there before all calls.
    async fn effects(&mut self, step: Option<u32>, call_id: Option<String>) {
        let asked = self.env.effects();
        // The next wait meets the same interrupt or deadline, and ends the run.
        if let Ok(Some(effects)) = guard(&mut self.cancel, self.deadline, asked).await {
            self.tell(&Event::Effects {
                step,
                call_id,
                effects,
            });
        }
    }

    fn end_turn(&mut self, calls: u32, tool_time: Duration) {
        let total = self
            .turn
            .begun
            .map_or(Duration::ZERO, |begun| begun.elapsed());
        self.tell(&Event::TurnEnd {
            step: self.turn.step,
            calls,
            model_us: micros(self.turn.model),
            tool_us: micros(tool_time),
            total_us: micros(total),
        });
    }

    /// Adds a message of ours and records it.
    fn add(&mut self, message: Message) {
        self.tell(&Event::Message {
            message: message.clone(),
        });
        self.push(message);
    }

    fn push(&mut self, message: Message) {
        self.tokens.add(&message);
        self.history.push(message);
    }

    /// Adds to the last message, which is always one of ours that was not sent yet.
    fn suffix(&mut self, text: String) {
        if let Some(last) = self.history.last_mut() {
            last.append(&text);
            self.tokens.add_characters(text.chars().count());
            self.tell(&Event::Suffix { text });
        }
    }

    fn tell(&mut self, event: &Event) {
        (self.sink)(Progress::Event(event));
    }
}

/// Calls that are answered without being carried out.
fn refuse(call: &Call, at: usize, submitted: bool) -> Option<Observation> {
    let bad = |text: String| Some(Observation::error(ToolErrorKind::BadArguments, text));
    if let Err(why) = &call.arguments {
        return bad(format!(
            "ERROR: the arguments of this call cannot be used: {why}. Nothing was run; send the call again."
        ));
    }
    if call.name.is_empty() {
        return bad(
            "ERROR: this call names no function. Nothing was run; send the call again.".into(),
        );
    }
    if submitted {
        return bad("Not run: the work was submitted by an earlier call of the same reply.".into());
    }
    if at >= calls::MAX_CALLS {
        return bad(format!(
            "Not run: a reply may hold {} calls. Send it again on its own.",
            calls::MAX_CALLS
        ));
    }
    None
}

/// An environment that fails is never shown to the model.
fn broken(error: &EnvError) -> State {
    let mut end = End::new(StopReason::SandboxDied, Some(error.to_string()));
    end.outcome = error.outcome().unwrap_or(end.outcome);
    State::Done(end)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
