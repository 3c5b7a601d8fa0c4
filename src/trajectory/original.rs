//! `trajectory.json`, as tools made for the original system read it.
//!
//! One step per call; the calls of one turn share `metadata.step`. `exec_time` is the time the model took. A turn without a
//! call is a step whose function is empty and whose parameters are `{}`.

use serde::Serialize;
use serde_json::{Map, Value};

use super::event::Event;

/// The summary while it grows.
#[derive(Debug, Clone, Serialize)]
pub struct OriginalTrajectory {
    problem_statement: String,
    steps: Vec<Step>,
    metadata: Metadata,
    #[serde(skip)]
    turn: Turn,
}

#[derive(Debug, Clone, Serialize)]
struct Step {
    thought: String,
    reasoning_content: String,
    action: Action,
    observation: String,
    metadata: StepMetadata,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Action {
    function: String,
    parameters: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize)]
struct StepMetadata {
    step: u32,
    exec_time: f64,
}

#[derive(Debug, Clone, Serialize)]
struct Metadata {
    total_steps: usize,
}

/// The turn that is going on.
#[derive(Debug, Clone, Default)]
struct Turn {
    thought: String,
    reasoning: String,
    step: u32,
    exec_time: f64,
    action: Option<Action>,
    open: bool,
}

impl OriginalTrajectory {
    /// A run that has not begun.
    #[must_use]
    pub fn new(problem_statement: &str) -> Self {
        Self {
            problem_statement: problem_statement.to_owned(),
            steps: Vec::new(),
            metadata: Metadata { total_steps: 0 },
            turn: Turn::default(),
        }
    }

    /// Takes the next event.
    pub fn push(&mut self, event: &Event) {
        match event {
            Event::Completion {
                step,
                message,
                model_us,
                ..
            } => {
                self.turn = Turn {
                    thought: message.content().to_owned(),
                    reasoning: message.reasoning().to_owned(),
                    step: *step,
                    exec_time: std::time::Duration::from_micros(*model_us).as_secs_f64(),
                    action: None,
                    open: true,
                };
            }
            Event::ToolCall {
                function,
                parameters,
                ..
            } => {
                self.turn.action = Some(Action {
                    function: function.clone(),
                    parameters: parameters.clone(),
                });
            }
            Event::ToolResult { observation, .. } => {
                let action = self.turn.action.take().unwrap_or_default();
                self.step(action, observation.clone());
            }
            // The notice that follows a turn without a call; after a call the message only repeats observations.
            Event::Message { message } if self.turn.open => {
                self.step(Action::default(), message.content().to_owned());
            }
            Event::TurnEnd { .. } | Event::End { .. } => self.close(),
            Event::Message { .. }
            | Event::Suffix { .. }
            | Event::Connection { .. }
            | Event::Effects { .. }
            | Event::Warning { .. } => {}
        }
    }

    /// The JSON text: indented by two, non-ASCII kept.
    ///
    /// # Errors
    /// None in practice: all members are plain data.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// A turn that was cut short still shows what the model said and called.
    fn close(&mut self) {
        let action = self.turn.action.take();
        if self.turn.open || action.is_some() {
            self.step(action.unwrap_or_default(), String::new());
        }
    }

    fn step(&mut self, action: Action, observation: String) {
        self.turn.open = false;
        self.steps.push(Step {
            thought: self.turn.thought.clone(),
            reasoning_content: self.turn.reasoning.clone(),
            action,
            observation,
            metadata: StepMetadata {
                step: self.turn.step,
                exec_time: self.turn.exec_time,
            },
        });
        self.metadata.total_steps = self.steps.len();
    }
}
