//! Run folders as an evaluation leaves them, made without one: as many samples as wanted, and texts of any kind.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llm_in_sandbox::bench::{self, Ledger, Manifest, Record, Status, Times};
use llm_in_sandbox::llm::TokenUsage;
use llm_in_sandbox::outcome::{Cause, LimitHit, Outcome, Policy};
use llm_in_sandbox::spec::Usage;
use llm_in_sandbox::task::{Task, Wanted};
use serde_json::{Value, json};

use crate::task;

const DOMAINS: [&str; 5] = ["math", "physics", "chem", "biomed", "long_context"];

/// What is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) model: &'static str,
    pub(crate) plain: bool,
    pub(crate) problems: u64,
    pub(crate) repeat: u32,
    pub(crate) turns: u64,
    /// Share of a hundred that is solved.
    pub(crate) solves: u64,
    /// What the model has to do without.
    pub(crate) ablations: &'static [&'static str],
    /// Every sample fails through no fault of the model.
    pub(crate) fails: bool,
    /// Instead of what a model would say, do and be shown.
    pub(crate) text: Option<String>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            model: "sample-7b",
            plain: false,
            problems: 60,
            repeat: 1,
            turns: 8,
            solves: 55,
            ablations: &[],
            fails: false,
            text: None,
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn seconds(&mut self, millis: u64) -> f64 {
        Duration::from_micros(millis * 500 + self.below(millis * 1000)).as_secs_f64()
    }
}

impl Made {
    /// Makes the folder `name` in `base`, with the task beside it.
    pub(crate) fn write(&self, base: &Path, name: &str) -> PathBuf {
        let source = base.join("sample_task");
        if !source.exists() {
            task(&source, "reward: exact\n", &self.rows());
        }
        let wanted = Wanted {
            task: source.to_string_lossy().into_owned(),
            ..Wanted::default()
        };
        let loaded = Task::load(&wanted).unwrap();
        let manifest = self.manifest(&loaded, wanted.task);
        let folder = base.join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut ledger = Ledger::create(&folder, &manifest).unwrap();
        for (at, job) in (0..).zip(bench::jobs(&loaded, &manifest)) {
            let mut random = Random(at);
            let row = &loaded.rows[job.row];
            let record = self.sample(&folder, &job, row, at, &mut random);
            ledger.append(&record).unwrap();
        }
        folder
    }

    /// The same of another model.
    pub(crate) fn named(&self, model: &'static str) -> Self {
        Self {
            model,
            ..self.clone()
        }
    }

    fn rows(&self) -> Vec<Value> {
        let row = |at: u64| {
            let domain = DOMAINS[usize::try_from(at).unwrap() % DOMAINS.len()];
            let id = match &self.text {
                Some(text) => format!("{text}{at}"),
                None => format!("{domain}_{at:04}"),
            };
            let problem = format!(
                "Problem {at} of {domain}: the quantity asked for follows from the data below."
            );
            let problem = self.text.clone().unwrap_or(problem);
            json!({"id": id, "domain": domain, "problem_statement": problem, "ground_truth": format!("{at}")})
        };
        (0..self.problems).map(row).collect()
    }

    fn manifest(&self, loaded: &Task, source: String) -> Manifest {
        let config = json!({
            "task": "", "task_digest": "", "data_digest": "",
            "mode": if self.plain { "llm" } else { "llm-in-sandbox" },
            "model": self.text.as_deref().unwrap_or(self.model),
            "sampling": {"temperature": 1.0, "top_p": null, "top_k": null, "seed": 1},
            "extra_body": {}, "image": "default",
            "image_digest": (!self.plain).then(|| "5d0c".repeat(16)),
            "max_steps": 100, "max_token_limit": 65_536, "max_tokens_per_call": 65_536,
            "max_response_len": 65_536, "cmd_timeout_s": 120.0, "task_timeout_s": null,
            "shell": "persistent", "style": "native", "seccomp": {}, "network": "internet",
            "repeat": self.repeat, "ablations": self.ablations,
        });
        let mut config: bench::RunConfig = serde_json::from_value(config).unwrap();
        config.describe(loaded);
        Manifest::new(config, source)
    }

    fn sample(
        &self,
        folder: &Path,
        job: &bench::Job,
        row: &llm_in_sandbox::task::Row,
        at: u64,
        random: &mut Random,
    ) -> Record {
        let difficulty = u64::try_from(
            DOMAINS
                .iter()
                .position(|name| *name == row.domain())
                .unwrap(),
        )
        .unwrap();
        let dice = if self.fails { 99 } else { random.below(100) };
        let right = dice + 7 * difficulty < self.solves + 14;
        let turns = match self.plain {
            true => 1,
            // Who does not solve it tries for longer.
            false => {
                1 + self.turns / 2 + random.below(self.turns + if right { 0 } else { self.turns })
            }
        };
        let outcome = match (dice, self.plain) {
            (96.., _) => Outcome::infrastructure(Cause::Llm, "the server answered 503 five times"),
            (93..96, false) => Outcome::Policy(Policy::Limit(memory())),
            (90..93, _) => Outcome::Policy(Policy::Budget {
                budget: "max_steps".into(),
            }),
            _ => Outcome::Policy(Policy::Submitted),
        };
        let failed = matches!(outcome, Outcome::Infrastructure(_));
        let pending = !failed && dice == 89;
        let score = (!failed && !pending).then(|| f64::from(u8::from(right && dice < 89)));
        let below = format!("samples/{}/1", job.name);
        std::fs::create_dir_all(folder.join(&below)).unwrap();
        let (text, usage, tools) = self.record(row.problem(), turns, at, random);
        std::fs::write(folder.join(&below).join("trajectory.jsonl"), text).unwrap();
        let answer = if score == Some(1.0) {
            row.truth()
        } else {
            format!("{}", at + 1)
        };
        let (model, start) = (random.seconds(turns * 2400), random.seconds(9));
        Record {
            key: job.key.clone(),
            id: row.id().to_owned(),
            repeat: job.repeat,
            seed: job.seed,
            status: match (failed, pending) {
                (true, _) => Status::Failed,
                (_, true) => Status::Pending,
                _ => Status::Scored,
            },
            score,
            pending: pending.then(|| "a judge has to decide".to_owned()),
            outcome,
            detail: None,
            answer: (!failed).then(|| self.text.clone().unwrap_or(answer)),
            attempts: 1,
            folder: below,
            steps: turns.try_into().unwrap(),
            usage,
            times: Times {
                start,
                model,
                tools,
                end: 0.004,
                score: 0.001,
                total: start + model + tools + 0.3,
            },
            sandbox: (!self.plain).then(|| usage_of(random)),
            tested: None,
        }
    }

    /// The lines of a record, its tokens, and the seconds of its calls.
    fn record(
        &self,
        problem: &str,
        turns: u64,
        at: u64,
        random: &mut Random,
    ) -> (String, TokenUsage, f64) {
        let header = json!({
            "schema": "llm-in-sandbox/trajectory", "version": 3, "package": "0.1.0",
            "started_unix_s": 1_790_000_000 + at * 7, "model": self.model, "base_url": null, "sampling": {},
            "extra_body": {}, "image_digest": null, "spec": {}, "problem_statement": problem, "tools": [],
        });
        let mut out = format!("{header}\n");
        let mut n = 0;
        let mut tell = |event: Value| {
            n += 1;
            let _ = writeln!(out, "{}", json!({"n": n, "t_us": n * 1000, "event": event}));
        };
        tell(json!({"type": "message", "message": {"role": "user", "content": problem}}));
        let mut usage = TokenUsage::default();
        let (mut context, mut tools) = (620 + random.below(300), 0.0);
        for step in 1..=turns {
            let (command, observation) = self.call(step, turns, random);
            let written = 40 + random.below(400);
            usage.prompt_tokens += context;
            usage.completion_tokens += written;
            let thought = match &self.text {
                Some(text) => text.clone(),
                None if step == 1 => {
                    "The data are given in a file, so I look at them before I decide on a method."
                        .into()
                }
                None => format!(
                    "Step {step}: the last result narrows it down; I check it against the other condition."
                ),
            };
            let message = json!({"role": "assistant", "content": thought, "reasoning_content": if step == 1 { "What is asked for, in which unit, and what is given?" } else { "" }});
            tell(json!({
                "type": "completion", "step": step, "message": message, "finish_reason": "stop",
                "usage": {"prompt_tokens": context, "completion_tokens": written}, "attempts": 1, "params": {},
                "model_us": 900_000 + random.below(2_000_000),
            }));
            if self.plain {
                break;
            }
            let micros = 3_000 + random.below(180_000);
            tools += Duration::from_micros(micros).as_secs_f64();
            tell(
                json!({"type": "tool_call", "step": step, "call_id": "call", "function": "execute_bash", "parameters": {"command": command}}),
            );
            let error = (random.below(12) == 0).then_some("command_failed");
            tell(
                json!({"type": "tool_result", "step": step, "call_id": "call", "observation": observation, "error": error, "tool_us": micros}),
            );
            if command.starts_with("pip") {
                let connection = json!({"started_us": 10, "lasted_us": 200_000, "protocol": "tcp", "name": "index.example", "address": "203.0.113.9", "port": 443, "up": 2_100, "down": 1_830_000, "verdict": "allowed", "rule": "internet", "ended": "closed"});
                tell(
                    json!({"type": "connection", "step": step, "call_id": "call", "connection": connection}),
                );
            }
            tell(self.effects(step, &command, random));
            tell(
                json!({"type": "turn_end", "step": step, "calls": 1, "model_us": 900_000, "tool_us": micros, "total_us": 950_000}),
            );
            context += written + 90 + random.below(600);
        }
        tell(
            json!({"type": "end", "stop": "submitted", "detail": null, "steps": turns, "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "sandbox": null}),
        );
        (out, usage, tools)
    }

    /// What the kernel would tell of a command.
    fn effects(&self, step: u64, command: &str, random: &mut Random) -> Value {
        let cpu = if command.contains("scipy") {
            160_000
        } else {
            10_000 * random.below(3)
        };
        let path = self.text.as_deref().unwrap_or("/testbed/answer.txt");
        let wrote = command.contains("answer") || self.text.is_some();
        let listed = json!([{"path": path, "change": "created", "kind": "file", "size": 3, "diff": format!("+{path}")}]);
        let files = match (wrote, command.starts_with("pip")) {
            (true, _) => {
                json!({"created": 1, "changed": 0, "deleted": 0, "read": 0, "listed": listed})
            }
            (_, true) => {
                json!({"created": 1530, "changed": 2, "deleted": 0, "read": 0, "directories": [{"path": "/usr/lib/python3", "created": 1530, "changed": 2, "deleted": 0, "read": 0, "bytes": 31_000_000}]})
            }
            _ => json!({"created": 0, "changed": 0, "deleted": 0, "read": 0}),
        };
        let program = command.split(' ').next().unwrap_or("sh");
        json!({"type": "effects", "step": step, "call_id": "call", "effects": {
            "files": files, "took_us": 300,
            "processes": {"cpu_us": cpu, "started": 2, "programs": [program]},
        }})
    }

    fn call(&self, step: u64, turns: u64, random: &mut Random) -> (String, String) {
        if let Some(text) = &self.text {
            return (text.clone(), text.clone());
        }
        let plain = |command: &str, observation: &str| (command.to_owned(), observation.to_owned());
        match (step, random.below(7)) {
            (1, _) => plain(
                "ls -la /testbed/documents && cat /testbed/documents/*",
                "Exit code: 0\ntotal 12\n-rw-r--r-- 1 root root 1804 data.txt\nmass 2.25 kg\nlength 0.81 m\nthe spring is at rest at t = 0",
            ),
            (last, _) if last == turns => plain(
                "echo 42 > /testbed/answer.txt && cat /testbed/answer.txt",
                "Exit code: 0\n42",
            ),
            (_, 0) => plain(
                "pip install sympy",
                "Exit code: 0\nSuccessfully installed mpmath-1.3.0 sympy-1.14.0",
            ),
            (_, 1 | 2) => plain(
                "grep -n 'length' /testbed/documents/data.txt",
                "Exit code: 0\n2:length 0.81 m",
            ),
            (_, 3..=5) => plain(
                "python3 - <<'END'\nfrom scipy.optimize import fsolve\nfor guess in range(1, 6):\n    print(guess, fsolve(lambda x: x**3 - 2*x - 5, guess)[0])\nEND",
                "Exit code: 0\n1 2.0945514815423265\n2 2.0945514815423265\n3 2.0945514815423265\n4 2.0945514815423265\n5 2.0945514815423265",
            ),
            _ => plain(
                "python3 check.py",
                "Exit code: 1\nTraceback (most recent call last):\n  File \"check.py\", line 4, in <module>\n    assert abs(left - right) < 1e-9\nAssertionError",
            ),
        }
    }
}

fn memory() -> LimitHit {
    LimitHit::Memory {
        max_bytes: 2 << 30,
        killed: 1,
        peak_bytes: Some(2 << 30),
        sandbox_ended: true,
    }
}

fn usage_of(random: &mut Random) -> Usage {
    let usage = json!({
        "cpu": {"secs": random.below(9), "nanos": 0},
        "peak_memory_bytes": (40 << 20) + random.below(180 << 20),
        "written_bytes": (1 << 14) + random.below(60 << 20),
        "wall": {"secs": 20, "nanos": 0},
    });
    serde_json::from_value(usage).unwrap()
}
