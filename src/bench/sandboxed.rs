//! A sample with a sandbox: it is started, made ready, worked in, asked for the answer, and ended.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Sandboxes;
use super::asking::Asking;
use super::failure::{failure, of_env};
use super::forgetful::Forgetful;
use super::ledger::{Times, seconds};
use super::live::Wait;
use super::log::Log;
use super::plan::Job;
use super::sample::{Shared, Worked, row, unless};
use crate::agent::{self, Ablation, AgentConfig, Cancel, PrepareError, SandboxFacts};
use crate::env::{Env, EnvError, FileError, GuestPath};
use crate::outcome::{Cause, Outcome};
use crate::trajectory::{Event, Recorder};

/// The file that holds it.
pub(super) const ANSWER: &str = "answer.txt";
/// Largest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;
/// Time for one file operation of ours in a sandbox.
const FILE_DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn work<S: Sandboxes, G>(
    shared: &Shared<S, G>,
    sandboxes: &S,
    job: &Job,
    folder: &Path,
    (model, mut cancel): (&Asking<'_>, Cancel),
    log: &mut Log,
) -> Worked {
    let begun = Instant::now();
    let activity = model.activity;
    let started = match unless(&mut cancel, Box::pin(sandboxes.start(job.row))).await {
        None => return Worked::interrupted(),
        Some(Err(outcome)) => return Worked::failed(outcome),
        Some(Ok(env)) => env,
    };
    let counted = shared.live.sandbox();
    let ready = Box::pin(prepare(shared, job, &started));
    let ready = unless(&mut cancel, ready).await;
    let start = seconds(begun.elapsed());
    let facts = sandboxes.facts(job.row, &started);
    let mut interrupt = cancel.clone();
    let (mut worked, record, (last, before)) = match ready {
        None => (Worked::interrupted(), None, (Some(started), None)),
        Some(Err(outcome)) => (Worked::failed(outcome), None, (Some(started), None)),
        Some(Ok(())) if shared.ablations.contains(&Ablation::NoFiles) => {
            let env = Forgetful::new((sandboxes, job.row), &shared.task.prompt, started);
            let inside = (&env, facts);
            let work = agent_works(shared, job, folder, inside, (model, cancel), log);
            let (worked, record) = Box::pin(work).await;
            (worked, record, env.into_last())
        }
        Some(Ok(())) => {
            let inside = (&started, facts);
            let work = agent_works(shared, job, folder, inside, (model, cancel), log);
            let (worked, record) = Box::pin(work).await;
            (worked, record, (Some(started), None))
        }
    };
    worked.times.start = start;
    worked.sandbox = before;
    let ending = Instant::now();
    activity.waits_for(Wait::Teardown);
    if let Some(last) = last {
        let tested = shared.task.harbor(job.row).is_some();
        let ended = if tested && matches!(worked.outcome, Outcome::Policy(_)) {
            activity.waits_for(Wait::Grader);
            let test = Box::pin(sandboxes.test(job.row, last));
            match unless(&mut interrupt, test).await {
                Some((tested, ended)) => {
                    worked.judged(tested);
                    ended
                }
                None => return Worked::interrupted(),
            }
        } else {
            sandboxes.end(last).await
        };
        match ended {
            Ok(usage) => worked.sandbox = Some(usage.after(worked.sandbox.take())),
            // The answer is out: what is left behind is the host's trouble, told but not the sample's.
            Err(outcome) => {
                tracing::warn!(?outcome, sample = job.name, "the sandbox did not end well");
            }
        }
    }
    drop(counted);
    worked.times.end = seconds(ending.elapsed()) - worked.times.score;
    if let Some(record) = record {
        close(record, &mut worked);
    }
    worked
}

/// A record that lacks its last lines: what the sandbox used, and the connections that its end cut.
type Open = (Recorder, agent::Outcome);

fn close((mut recorder, ended): Open, worked: &mut Worked) {
    let usage = worked.sandbox.as_mut();
    recorder.connections(
        usage
            .map(|u| std::mem::take(&mut u.connections))
            .unwrap_or_default(),
    );
    let recorded = recorder.finish(&ended.to_event(worked.sandbox.clone()));
    if let (Err(error), Outcome::Policy(_)) = (recorded, &worked.outcome) {
        // What cannot be shown afterwards is not counted.
        worked.outcome = failure(Cause::HostDisk, &error);
    }
}

/// Makes the directories, and writes the files of the problem.
async fn prepare<S: Sandboxes, G>(
    shared: &Shared<S, G>,
    job: &Job,
    env: &S::Env,
) -> Result<(), Outcome> {
    // A task with tests begins in the state that its image says.
    if shared.task.harbor(job.row).is_some() {
        return Ok(());
    }
    let prompt = &shared.task.prompt;
    agent::prepare(env, prompt)
        .await
        .map_err(|error| match &error {
            PrepareError::Env(error) => of_env(error),
            PrepareError::Silent => failure(Cause::TimedOut, &error),
            PrepareError::Mkdir(_) => failure(Cause::Other, &error),
        })?;
    let files = row(shared, job).files();
    let files = files.map_err(|problem| Outcome::infrastructure(Cause::Other, problem))?;
    if !files.is_empty() && shared.ablations.contains(&Ablation::NoFiles) {
        let problem = "the row gives its problem as files, and the run is without";
        return Err(Outcome::infrastructure(Cause::Other, problem));
    }
    let directory = GuestPath::from(prompt.input_dir.as_str());
    for (name, text) in files {
        let path = directory.join(&name);
        let write = env.write_file(&path, text.as_bytes(), /*exclusive*/ false);
        match tokio::time::timeout(FILE_DEADLINE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(of_env(&error)),
            Err(_) => {
                return Err(Outcome::infrastructure(
                    Cause::TimedOut,
                    format!("writing {name}"),
                ));
            }
        }
    }
    Ok(())
}

async fn agent_works<E: Env, S, G>(
    shared: &Shared<S, G>,
    job: &Job,
    folder: &Path,
    (env, facts): (&E, SandboxFacts),
    (model, cancel): (&Asking<'_>, Cancel),
    log: &mut Log,
) -> (Worked, Option<Open>) {
    let row = row(shared, job);
    let prompt = &shared.task.prompt(job.row);
    let tests = shared.task.harbor(job.row);
    let mut limits = shared.limits.clone();
    // What a person says, or else the task.
    limits.task_timeout = limits
        .task_timeout
        .or(tests.and_then(|tests| tests.agent.timeout));
    let config = AgentConfig {
        system: prompt.system(),
        instance: prompt.instance(row.problem()),
        limits,
        style: shared.style,
        shell: shared.shell,
        ablations: shared.ablations.clone(),
    };
    let mut header = agent::header(&shared.settings, &config, prompt, row.problem(), facts);
    header.sampling.seed = job.seed;
    let mut recorder = match Recorder::create(folder, &header, shared.save_exchanges) {
        Ok(recorder) => recorder,
        Err(error) => return (Worked::failed(failure(Cause::HostFiles, &error)), None),
    };
    let record = (&mut recorder, &header);
    let mut show = |event: &Event| {
        log.event(event);
        if matches!(event, Event::ToolCall { .. }) {
            model.activity.waits_for(Wait::Tool);
        }
    };
    let ended = agent::run_recorded(env, model, &config, record, &mut show, cancel).await;
    let mut worked = Worked {
        outcome: ended.outcome.clone(),
        detail: ended.detail.clone(),
        answer: None,
        steps: ended.steps,
        usage: ended.usage,
        times: Times {
            model: seconds(ended.model_time),
            tools: seconds(ended.tool_time),
            ..Times::default()
        },
        sandbox: None,
        tested: None,
    };
    if tests.is_none() && matches!(worked.outcome, Outcome::Policy(_)) {
        match answer(env, &prompt.output_dir).await {
            Ok(answer) => worked.answer = answer,
            Err(outcome) => worked.outcome = outcome,
        }
    }
    (worked, Some((recorder, ended)))
}

/// What the model left as its answer; a sandbox that a limit ended holds none any more.
async fn answer<E: Env>(env: &E, directory: &str) -> Result<Option<String>, Outcome> {
    let path = GuestPath::from(directory).join(ANSWER);
    let read = tokio::time::timeout(FILE_DEADLINE, env.read_file(&path, MAX_ANSWER)).await;
    match read {
        Ok(Ok(bytes)) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
        Ok(Err(EnvError::File { error, .. })) => {
            if error != FileError::NotFound {
                tracing::debug!(%error, "an answer cannot be read");
            }
            Ok(None)
        }
        Ok(Err(EnvError::Limit(_))) => Ok(None),
        Ok(Err(error)) => Err(of_env(&error)),
        Err(_) => Err(Outcome::infrastructure(
            Cause::TimedOut,
            "reading the answer",
        )),
    }
}
