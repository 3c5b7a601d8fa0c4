//! A model server that fails one request in ten, in every way: each sample ends with a type, and none is scored for it.
//! And what the dispatcher does about servers and hosts that can do less than was hoped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use llm_in_sandbox::agent::{Ablation, Limits, SandboxFacts, Shell, Style};
use llm_in_sandbox::bench::{
    Dispatch, Gate, Grader, Ledger, Live, Manifest, Memory, Mode, Models, Record, RunConfig,
    Sandboxes, Shared, Status, Stop, Tested, Told, Wait, jobs, run,
};
use llm_in_sandbox::llm::{HttpConfig, ModelSettings, RetryPolicy, Timeouts};
use llm_in_sandbox::outcome::{Cause, Outcome};
use llm_in_sandbox::spec::Usage;
use llm_in_sandbox::task::{Row, Task, Wanted};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::memory_env::MemoryEnv;
use crate::server::{Reply, Server, pieces, plain, streamed};
use crate::{answering, bash, call, rows, task};

const SAMPLES: usize = 80;

/// Sandboxes in memory.
#[derive(Debug, Default)]
struct InMemory {
    started: AtomicUsize,
}

impl Sandboxes for InMemory {
    type Env = MemoryEnv;

    async fn start(&self, _: usize) -> Result<MemoryEnv, Outcome> {
        self.started.fetch_add(1, Ordering::Relaxed);
        Ok(MemoryEnv::default())
    }

    async fn end(&self, _: MemoryEnv) -> Result<Usage, Outcome> {
        Ok(Usage {
            cpu: Some(Duration::from_secs(1)),
            peak_memory_bytes: Some(7),
            written_bytes: Some(10),
            wall: Duration::from_secs(2),
            struck: Vec::new(),
            left_behind: None,
            connections: Default::default(),
            refused: None,
        })
    }

    async fn test(
        &self,
        _: usize,
        env: MemoryEnv,
    ) -> (Result<Tested, Outcome>, Result<Usage, Outcome>) {
        (Ok(Tested::default()), self.end(env).await)
    }

    fn facts(&self, _: usize, _: &MemoryEnv) -> SandboxFacts {
        SandboxFacts::default()
    }
}

#[derive(Debug)]
enum Nobody {}

impl Grader for Nobody {
    async fn math(&self, _: &str, _: &str) -> Result<bool, String> {
        match *self {}
    }

    async fn follows(&self, _: &Row, _: &str) -> Result<f64, String> {
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

/// A run that is ready to begin.
struct Setup {
    directory: TempDir,
    shared: Shared<InMemory, Nobody>,
    jobs: Vec<llm_in_sandbox::bench::Job>,
    ledger: Ledger,
    how: Dispatch,
}

/// What a run came to.
struct Seen {
    stop: Stop,
    records: BTreeMap<String, Record>,
    stalled: Vec<(String, Wait)>,
    again: usize,
    allowed: Vec<usize>,
    sandboxes: usize,
    directory: TempDir,
}

impl Seen {
    fn folder(&self) -> PathBuf {
        self.directory.path().join("run")
    }
}

fn plenty() -> Option<Memory> {
    Some(Memory {
        total: 100,
        available: 90,
    })
}

impl Setup {
    fn new(rows: &[Value], url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        task(&directory.path().join("t"), "reward: exact\n", rows);
        let wanted = Wanted {
            task: directory.path().join("t").to_str().unwrap().to_owned(),
            ..Wanted::default()
        };
        let task = Task::load(&wanted).unwrap();
        let folder = directory.path().join("run");
        for name in ["samples", "logs"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mut config = RunConfig {
            model: "m".into(),
            repeat: 1,
            ..RunConfig::default()
        };
        config.describe(&task);
        let manifest = Manifest::new(config, "t".into());
        let ledger = Ledger::create(&folder, &manifest).unwrap();
        let jobs = jobs(&task, &manifest);
        let settings = ModelSettings::Http(Box::new(client(url)));
        let shared = Shared {
            mode: Mode::LlmInSandbox,
            models: Models::open(&settings).unwrap(),
            settings,
            gate: Gate::new(16),
            live: Live::default(),
            limits: Limits {
                max_steps: 5,
                ..Limits::default()
            },
            max_response_len: 100,
            style: Style::Native,
            shell: Shell::Persistent,
            ablations: Vec::new(),
            sandboxes: Some(InMemory::default()),
            grader: None,
            judge: None,
            folder,
            save_exchanges: false,
            task,
        };
        let how = Dispatch {
            workers: 16,
            retries: 1,
            max_failures: rows.len(),
            timeout: None,
            stalled_after: Duration::from_secs(60),
            memory: plenty,
        };
        Self {
            directory,
            shared,
            jobs,
            ledger,
            how,
        }
    }

    async fn run(mut self) -> Seen {
        let (_keep, cancel) = watch::channel(false);
        let (mut records, mut stalled, mut allowed, mut again) =
            (BTreeMap::new(), Vec::new(), Vec::new(), 0);
        let mut tell = |told: Told<'_>| match told {
            Told::Ended(record, _) => {
                let before = records.insert(record.id.clone(), record.clone());
                assert!(before.is_none(), "told twice");
            }
            Told::Again(_) => again += 1,
            Told::Stalled(sample) => stalled.push((sample.name.clone(), sample.wait)),
            Told::Memory(samples) => allowed.push(samples),
            Told::Tick(_) => {}
        };
        let shared = Arc::new(self.shared);
        let work = run(
            Arc::clone(&shared),
            self.jobs,
            &mut self.ledger,
            self.how,
            cancel,
            &mut tell,
        );
        let stop = tokio::time::timeout(Duration::from_secs(120), work).await;
        let stop = stop.expect("it hangs").unwrap();
        assert_eq!(shared.live.waits(), BTreeMap::new(), "nothing is at work");
        assert_eq!(shared.live.sandboxes(), 0);
        let started = &shared.sandboxes.as_ref().unwrap().started;
        Seen {
            stop,
            records,
            stalled,
            again,
            allowed,
            sandboxes: started.load(Ordering::Relaxed),
            directory: self.directory,
        }
    }
}

#[tokio::test]
async fn every_sample_ends_with_a_type_and_none_is_scored_0_for_a_fault() {
    let count = AtomicU64::new(0);
    let server = Server::answering(move |request| answer(&count, request)).await;
    let mut rows = rows(SAMPLES);
    for row in rows.iter_mut().take(4) {
        row["problem_statement"] = "You are cursed.".into();
    }
    let seen = Setup::new(&rows, &server.url()).run().await;
    assert_eq!(seen.stop, Stop::Finished);
    assert_eq!(seen.records.len(), SAMPLES);
    seen.records.values().for_each(check);
    assert!(seen.again >= 4, "each cursed sample was begun again");
}

/// Counts what is under way until it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The next message of a model that works as it should.
fn next(request: &Value) -> Value {
    let messages = request["messages"].as_array().unwrap();
    let turns = messages.iter().filter(|m| m["role"] == "assistant").count();
    answering("/testbed", "yes")[turns.min(1)].clone()
}

#[tokio::test]
async fn requests_follow_what_the_server_serves_at_once() {
    const SERVED: usize = 3;
    let at_once = Arc::new(AtomicUsize::new(0));
    let (asked, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&asked), Arc::clone(&refused));
    let server = Server::answering(move |request| {
        counts.0.fetch_add(1, Ordering::SeqCst);
        let under_way = UnderWay(Arc::clone(&at_once));
        if at_once.fetch_add(1, Ordering::SeqCst) >= SERVED {
            counts.1.fetch_add(1, Ordering::SeqCst);
            return Reply::Plain(429, "retry-after: 0\r\n", "slow down".into());
        }
        Reply::Holding(
            Duration::from_millis(10),
            Box::new(streamed(&next(request))),
            Arc::new(under_way),
        )
    })
    .await;
    let seen = Setup::new(&rows(150), &server.url()).run().await;
    let (asked, refused) = (asked.load(Ordering::SeqCst), refused.load(Ordering::SeqCst));
    println!("{refused} of {asked} requests were refused");
    assert_eq!(seen.stop, Stop::Finished);
    assert!(
        seen.records.values().all(|r| r.score == Some(1.0)),
        "{:?}",
        seen.records
    );
    assert!(refused > 0, "the server was never too busy");
    // Sixteen at once, asking again at once, would be refused far more often than not.
    assert!(refused * 3 < asked, "{refused} of {asked}");
}

fn scarce() -> Option<Memory> {
    Some(Memory {
        total: 100,
        available: 1,
    })
}

#[tokio::test]
async fn fewer_samples_are_at_work_while_the_host_has_little_memory() {
    let server = Server::answering(|request| {
        Reply::Late(
            Duration::from_millis(100),
            Box::new(streamed(&next(request))),
        )
    })
    .await;
    let mut setup = Setup::new(&rows(60), &server.url());
    setup.how.memory = scarce;
    let seen = setup.run().await;
    assert_eq!(seen.stop, Stop::Finished);
    assert!(seen.records.values().all(|r| r.score == Some(1.0)));
    assert_eq!(seen.allowed.first(), Some(&11), "{:?}", seen.allowed);
    assert!(
        seen.allowed.is_sorted_by(|a, b| a > b),
        "{:?}",
        seen.allowed
    );
}

#[tokio::test]
async fn a_run_whose_time_is_up_ends_in_order_and_can_be_resumed() {
    // Every second sample hangs.
    let server = Server::answering(|request| {
        let messages = request["messages"].to_string();
        if messages.contains("hang") {
            return Reply::Silent;
        }
        streamed(&next(request))
    })
    .await;
    let mut rows = rows(8);
    for row in rows.iter_mut().step_by(2) {
        row["problem_statement"] = "Do hang.".into();
    }
    let mut setup = Setup::new(&rows, &server.url());
    setup.how.timeout = Some(Duration::from_millis(4500));
    setup.how.stalled_after = Duration::from_secs(1);
    let begun = std::time::Instant::now();
    let seen = setup.run().await;
    assert_eq!(seen.stop, Stop::OutOfTime);
    assert!(begun.elapsed() < Duration::from_millis(4500 + 5000));
    assert_eq!(seen.records.len(), 4, "what hangs is no result");
    assert!(seen.records.values().all(|r| r.score == Some(1.0)));
    let mut stalled = seen.stalled.clone();
    stalled.sort();
    // Asked again, it hangs again.
    stalled.dedup();
    let expected = ["r000", "r002", "r004", "r006"].map(|n| (n.to_owned(), Wait::Model));
    assert_eq!(stalled, expected, "who hangs, and for what");
    let ledger = Ledger::open(&seen.folder()).unwrap();
    let known = |record: &Record| ledger.get(&record.key).is_some();
    assert!(seen.records.values().all(known));
}

#[tokio::test]
async fn an_answer_that_comes_too_late_for_its_turn_is_no_score() {
    let server = Server::answering(|_| Reply::Silent).await;
    let mut setup = Setup::new(&rows(2), &server.url());
    setup.how.retries = 0;
    setup.shared.limits.turn_timeout = Some(Duration::from_millis(300));
    let seen = setup.run().await;
    for record in seen.records.values() {
        assert_eq!((record.status, record.score), (Status::Failed, None));
        let detail = record.detail.as_deref().unwrap();
        assert!(
            detail.contains("no answer for the turn within 300ms"),
            "{detail}"
        );
    }
}

/// Asks for three things that may not be there, then leaves the answer and submits.
fn tries(request: &Value) -> Value {
    let messages = request["messages"].as_array().unwrap();
    let write = |path: &str, text: &str| {
        let file = json!({"command": "create", "path": path, "file_text": text});
        call("str_replace_editor", &file)
    };
    match messages.iter().filter(|m| m["role"] == "assistant").count() {
        0 => bash("echo ran"),
        1 => write("/testbed/notes.txt", "remember"),
        2 => write("/testbed/answer.txt", "yes"),
        3 => bash("cat answer.txt"),
        _ => call("submit", &json!({})),
    }
}

/// What a model that tries all is told, and how many sandboxes there were.
async fn told_without(ablation: Option<Ablation>) -> (Vec<String>, Vec<String>, usize) {
    let offered = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&offered);
    let server = Server::answering(move |request| {
        let tools = request["tools"].as_array().unwrap().iter();
        let names = tools.map(|tool| tool["function"]["name"].as_str().unwrap().to_owned());
        *seen.lock().unwrap() = names.collect();
        streamed(&tries(request))
    })
    .await;
    let mut setup = Setup::new(&rows(1), &server.url());
    setup.shared.ablations = ablation.into_iter().collect();
    let seen = setup.run().await;
    assert_eq!(seen.records["r000"].score, Some(1.0), "the answer stays");
    // What all of them used, one after the other.
    let usage = seen.records["r000"].sandbox.as_ref().unwrap();
    let count = u32::try_from(seen.sandboxes).unwrap();
    assert_eq!(
        (usage.cpu, usage.wall),
        (
            Some(Duration::from_secs(1) * count),
            Duration::from_secs(2) * count
        )
    );
    assert_eq!(
        (usage.peak_memory_bytes, usage.written_bytes),
        (Some(7), Some(10 * u64::from(count)))
    );
    let record = seen.folder().join("samples/r000/1/trajectory.jsonl");
    let text = std::fs::read_to_string(record).unwrap();
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told = events
        .filter(|line| line["event"]["type"] == "tool_result")
        .map(|line| crate::text(&line["event"], "observation"))
        .collect();
    let offered = offered.lock().unwrap().clone();
    (told, offered, seen.sandboxes)
}

#[tokio::test]
async fn what_is_taken_away_is_not_offered_and_cannot_be_had() {
    let (told, offered, sandboxes) = told_without(None).await;
    assert_eq!(offered.len(), 3);
    assert!(
        told[0].contains("ran") && told[1].contains("notes.txt"),
        "{told:?}"
    );
    assert!(told[3].contains("yes"), "{told:?}");
    assert_eq!(sandboxes, 1);

    let (told, offered, _) = told_without(Some(Ablation::NoExecution)).await;
    assert_eq!(offered, ["str_replace_editor", "submit"]);
    for at in [0, 3] {
        assert!(
            told[at].starts_with("Not run: there is no execute_bash"),
            "{told:?}"
        );
    }

    let (told, offered, sandboxes) = told_without(Some(Ablation::NoFiles)).await;
    assert_eq!(offered.len(), 3);
    assert!(told[0].contains("ran"), "{told:?}");
    assert!(told[1].contains("permission denied"), "{told:?}");
    assert!(told[3].contains("yes"), "the answer goes along: {told:?}");
    assert_eq!(sandboxes, 3, "each command had its own");
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
