//! The loop with its record: what both `run` and an evaluation keep of a task.

use super::run::{self, AgentConfig, Cancel, Outcome, Progress};
use crate::env::Env;
use crate::llm::ChatModel;
use crate::trajectory::{Event, Header, Recorder};

/// [`run`](super::run), with everything written down as it happens; `show` is told of each event, too.
pub async fn run_recorded<E: Env, M: ChatModel>(
    env: &E,
    model: &M,
    config: &AgentConfig,
    (recorder, header): (&mut Recorder, &Header),
    show: &mut (dyn FnMut(&Event) + Send),
    cancel: Cancel,
) -> Outcome {
    let mut sink = |progress: Progress<'_>| match progress {
        Progress::Event(event) => {
            recorder.event(event);
            show(event);
            if matches!(event, Event::ToolResult { .. }) {
                recorder.connections(env.connections());
            }
        }
        Progress::Exchange {
            messages,
            tools,
            completion,
        } => {
            let base_url = header.base_url.as_deref();
            recorder.exchange(&header.model, base_url, messages, tools, completion);
        }
    };
    run::run(env, model, config, &mut sink, cancel).await
}
