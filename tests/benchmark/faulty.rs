//! A model server that fails one request in ten, in every way: each sample ends with a type, and none is scored for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llm_in_sandbox::agent::{Limits, SandboxFacts, Shell, Style};
use llm_in_sandbox::bench::{
    Dispatch, Grader, Ledger, Manifest, Mode, Models, Record, RunConfig, Sandboxes, Shared, Status,
    Stop, jobs, run,
};
use llm_in_sandbox::llm::{HttpConfig, HttpModel, ModelSettings, RetryPolicy, Sampling, Timeouts};
use llm_in_sandbox::outcome::{Cause, Outcome};
use llm_in_sandbox::spec::Usage;
use llm_in_sandbox::task::{Row, Task, Wanted};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

use crate::memory_env::MemoryEnv;
use crate::server::{Reply, Server, pieces, plain, streamed};
use crate::{answering, rows, task};

const SAMPLES: usize = 80;

/// Sandboxes in memory.
#[derive(Debug)]
struct Memory;

impl Sandboxes for Memory {
    type Env = MemoryEnv;

    async fn start(&self) -> Result<MemoryEnv, Outcome> {
        Ok(MemoryEnv::default())
    }

    async fn end(&self, _: MemoryEnv) -> Result<Usage, Outcome> {
        Ok(Usage {
            cpu: None,
            peak_memory_bytes: None,
            written_bytes: None,
            wall: Duration::ZERO,
            struck: Vec::new(),
            left_behind: None,
            connections: Default::default(),
            refused: None,
        })
    }

    fn facts(&self, _: &MemoryEnv) -> SandboxFacts {
        SandboxFacts::default()
    }
}

#[derive(Debug)]
enum Nobody {}

impl Grader for Nobody {
    async fn math(&self, _: &str, _: &str) -> Result<bool, String> {
        match *self {}
    }

    async fn score(&self, _: &Row, _: &str) -> Result<f64, String> {
        match *self {}
    }

    async fn prompt(&self, _: &Row) -> Result<String, String> {
        match *self {}
    }
}

/// A fault of each kind in turn.
fn fault(number: u64) -> Reply {
    let half = pieces(&answering("/testbed", "yes")[0]);
    let half = half[..half.len() / 2].to_vec();
    match number % 7 {
        0 => Reply::Plain(429, "retry-after: 0\r\n", "slow down".into()),
        1 => Reply::Plain(500, "", "broken".into()),
        2 => Reply::Silent,
        3 => Reply::Broken(half),
        4 => Reply::Stalled(half),
        5 => Reply::Plain(
            200,
            "content-type: application/json\r\n",
            "<html>no</html>".into(),
        ),
        _ => Reply::Reset,
    }
}

/// Ids that begin with r00 meet only faults; of the others one request in ten does.
fn answer(count: &AtomicU64, request: &Value) -> Reply {
    let number = count.fetch_add(1, Ordering::Relaxed);
    let messages = request["messages"].as_array().unwrap();
    let cursed = messages[0]["content"].as_str().unwrap().contains("cursed");
    if cursed || number % 10 == 9 {
        return fault(if cursed { 1 } else { number / 10 });
    }
    let turns = messages
        .iter()
        .filter(|message| message["role"] == "assistant")
        .count();
    let message = &answering("/testbed", "yes")[turns.min(1)];
    if number.is_multiple_of(2) {
        streamed(message)
    } else {
        plain(message)
    }
}

fn config() -> RunConfig {
    RunConfig {
        task: String::new(),
        task_digest: String::new(),
        data_digest: String::new(),
        mode: Mode::LlmInSandbox,
        model: "m".into(),
        sampling: Sampling::default(),
        extra_body: Map::new(),
        image: "none".into(),
        image_digest: None,
        max_steps: 5,
        max_token_limit: 10_000,
        max_tokens_per_call: 100,
        max_response_len: 100,
        cmd_timeout_s: 1.0,
        task_timeout_s: None,
        shell: "persistent".into(),
        style: "native".into(),
        seccomp: Value::Null,
        network: "none".into(),
        network_limits: None,
        repeat: 1,
    }
}

/// A client that does not wait long for anything.
fn client(url: &str) -> HttpConfig {
    let mut config = HttpConfig::new(url, "m");
    config.retry = RetryPolicy {
        attempts: 6,
        base: Duration::from_millis(2),
        cap: Duration::from_millis(10),
        retry_after_cap: Duration::from_millis(100),
    };
    config.timeouts = Timeouts {
        connect: Duration::from_secs(5),
        first_byte: Duration::from_secs(2),
        idle: Duration::from_secs(2),
        total: Duration::from_secs(20),
    };
    config
}

#[tokio::test]
async fn every_sample_ends_with_a_type_and_none_is_scored_0_for_a_fault() {
    let count = AtomicU64::new(0);
    let server = Server::answering(move |request| answer(&count, request)).await;
    let directory = tempfile::tempdir().unwrap();
    let mut rows = rows(SAMPLES);
    for row in rows.iter_mut().take(4) {
        row["problem_statement"] = "You are cursed.".into();
    }
    task(&directory.path().join("t"), "reward: exact\n", &rows);
    let wanted = Wanted {
        task: directory.path().join("t").to_str().unwrap().to_owned(),
        ..Wanted::default()
    };
    let task = Task::load(&wanted).unwrap();
    let folder = directory.path().join("run");
    for name in ["samples", "logs"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    let mut config = config();
    config.describe(&task);
    let manifest = Manifest::new(config, "t".into());
    let mut ledger = Ledger::create(&folder, &manifest).unwrap();
    let all = jobs(&task, &manifest);
    let http = client(&server.url());
    let shared: Shared<Memory, Nobody> = Shared {
        mode: Mode::LlmInSandbox,
        settings: ModelSettings::Http(Box::new(http.clone())),
        models: Models::Http(Box::new(HttpModel::new(http).unwrap())),
        requests: Semaphore::new(8),
        limits: Limits {
            max_steps: 5,
            ..Limits::default()
        },
        max_response_len: 100,
        style: Style::Native,
        shell: Shell::Persistent,
        sandboxes: Some(Memory),
        grader: None,
        folder,
        save_exchanges: false,
        task,
    };
    let how = Dispatch {
        workers: 16,
        retries: 1,
        max_failures: SAMPLES,
    };
    let (_keep, cancel) = watch::channel(false);
    let mut ends = BTreeMap::new();
    let mut tell = |progress: &llm_in_sandbox::bench::Progress<'_>| {
        let record = progress.record.clone();
        assert!(
            ends.insert(record.id.clone(), record).is_none(),
            "told twice"
        );
    };
    let work = run(Arc::new(shared), all, &mut ledger, how, cancel, &mut tell);
    let stop = tokio::time::timeout(Duration::from_secs(120), work).await;
    assert_eq!(stop.expect("it hangs").unwrap(), Stop::Finished);
    assert_eq!(ends.len(), SAMPLES);
    ends.values().for_each(check);
}

/// A cursed sample failed for what the server said; any other is scored.
fn check(record: &Record) {
    if record.id.as_str() < "r004" {
        assert_eq!(
            (record.status, record.score),
            (Status::Failed, None),
            "{record:?}"
        );
        assert_eq!(record.attempts, 2);
        match &record.outcome {
            Outcome::Infrastructure(failure) => assert_eq!(failure.cause, Cause::Llm),
            Outcome::Policy(policy) => panic!("{policy:?}"),
        }
        assert!(
            record.detail.as_ref().unwrap().contains("500"),
            "{record:?}"
        );
    } else {
        assert_eq!(
            (record.status, record.score),
            (Status::Scored, Some(1.0)),
            "{record:?}"
        );
    }
}
