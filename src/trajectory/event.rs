//! The lines of `trajectory.jsonl`. A change of meaning raises [`VERSION`].
//!
//! The conversation as it was sent can be rebuilt: `message` adds one, `suffix` adds text to the last one, `completion`
//! adds the assistant's, and every `tool_result` with a `call_id` adds a tool message holding its observation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::llm::{Message, Sampling, TokenUsage};
use crate::outcome::{Connection, LimitHit, Outcome};
use crate::spec::{Effects, Usage};

/// Value of [`Header::schema`].
pub const SCHEMA: &str = "llm-in-sandbox/trajectory";
/// Value of [`Header::version`].
pub const VERSION: u32 = 3;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of this package.
    pub package: String,
    /// Wall clock at the start: seconds since the epoch. All later times are monotonic and count from here.
    pub started_unix_s: f64,
    /// Model name as given.
    pub model: String,
    /// Address of the model server; absent for a replay.
    pub base_url: Option<String>,
    /// Sampling parameters as given.
    pub sampling: Sampling,
    /// Members merged into each request.
    pub extra_body: Map<String, Value>,
    /// Digest of the image.
    pub image_digest: Option<String>,
    /// What was asked of the sandbox and the agent: limits, network, shell, directories.
    pub spec: Value,
    /// The task.
    pub problem_statement: String,
    /// Schemas of the functions offered with every request.
    pub tools: Vec<Value>,
}

/// Every later line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// 1, 2, 3…
    pub n: u64,
    /// Microseconds since the header was written.
    pub t_us: u64,
    /// What happened.
    pub event: Event,
}

/// What can happen in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A message of ours joined the conversation.
    Message {
        /// As it is sent, but for later suffixes.
        message: Message,
    },
    /// Text joined the last message, before it was sent.
    Suffix {
        /// The text.
        text: String,
    },
    /// The model answered.
    Completion {
        /// Turn, from 1.
        step: u32,
        /// The assistant message as it goes back in later requests.
        message: Message,
        /// Why generation ended.
        finish_reason: Option<String>,
        /// Tokens, when the server counts them.
        usage: Option<TokenUsage>,
        /// Requests it took.
        attempts: u32,
        /// The request without messages and tools.
        params: Map<String, Value>,
        /// Time until the whole answer was there, retries included.
        model_us: u64,
    },
    /// A call begins.
    ToolCall {
        /// Turn.
        step: u32,
        /// Its id; absent when the call was written in the text.
        call_id: Option<String>,
        /// Name of the function; may be unknown.
        function: String,
        /// Its arguments; empty when they cannot be read.
        parameters: Map<String, Value>,
    },
    /// A call ended.
    ToolResult {
        /// Turn.
        step: u32,
        /// As in its `tool_call`.
        call_id: Option<String>,
        /// What the model is told.
        observation: String,
        /// Class of the error that it is told of.
        error: Option<ToolErrorKind>,
        /// Time it took.
        tool_us: u64,
        /// Limits of the sandbox that struck meanwhile.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        struck: Vec<LimitHit>,
    },
    /// A connection, a flow or a lookup of the sandbox, told when it had ended. From version 2 on.
    Connection {
        /// Turn of the call during which it began; absent for one before all calls.
        step: Option<u32>,
        /// Id of that call.
        call_id: Option<String>,
        /// What is known of it.
        connection: Connection,
    },
    /// What a call did inside, by the kernel's account; follows its result. From version 3 on.
    Effects {
        /// Turn of the call; absent for what was there before all calls.
        step: Option<u32>,
        /// Id of the call.
        call_id: Option<String>,
        /// What is known of it.
        effects: Effects,
    },
    /// A turn ended.
    TurnEnd {
        /// Turn.
        step: u32,
        /// Calls that were answered.
        calls: u32,
        /// Waiting for the model.
        model_us: u64,
        /// Carrying out calls.
        tool_us: u64,
        /// All of it.
        total_us: u64,
    },
    /// Something the person should know.
    Warning {
        /// One sentence.
        text: String,
    },
    /// The last line.
    End {
        /// Why the run ended.
        stop: StopReason,
        /// The error behind it.
        detail: Option<String>,
        /// Turns begun.
        steps: u32,
        /// Sums over all completions.
        usage: TokenUsage,
        /// What the sandbox used; absent when it could not be asked.
        sandbox: Option<Usage>,
        /// Whose doing the end is: the model's, or ours or the host's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
    },
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model said that it is done.
    Submitted,
    /// All turns are used.
    MaxSteps,
    /// The conversation is longer than allowed.
    TokenLimit,
    /// The conversation is longer than the model's context.
    ContextOverflow,
    /// The time for the task is over.
    Timeout,
    /// The model could not be asked.
    LlmError,
    /// The sandbox is gone, or could not do its work.
    SandboxDied,
    /// The person ended it.
    Interrupted,
}

impl StopReason {
    /// As it is written in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::MaxSteps => "max_steps",
            Self::TokenLimit => "token_limit",
            Self::ContextOverflow => "context_overflow",
            Self::Timeout => "timeout",
            Self::LlmError => "llm_error",
            Self::SandboxDied => "sandbox_died",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Class of an error that the model is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolErrorKind {
    /// There is no such function.
    UnknownTool,
    /// Arguments that are not JSON, of the wrong type, or missing.
    BadArguments,
    /// Nothing is at the path.
    NotFound,
    /// Something is at the path already.
    Exists,
    /// A directory, a device or a path through a file.
    WrongKind,
    /// Not text.
    NotText,
    /// Larger than can be edited.
    TooLarge,
    /// Not allowed.
    Permission,
    /// The disk of the sandbox is full.
    NoSpace,
    /// Another limit of the sandbox kept the call from being carried out.
    Limit,
    /// The text to be replaced is not there.
    NoMatch,
    /// The text to be replaced is there more than once.
    Ambiguous,
    /// A line number that the file does not have.
    OutOfRange,
    /// No edit to take back.
    NoHistory,
    /// A command ran out of time.
    Timeout,
    /// A command ended with a status other than 0.
    CommandFailed,
    /// The shell was lost.
    ShellLost,
    /// Another error of the sandbox's kernel.
    Io,
}

#[cfg(test)]
mod tests;
