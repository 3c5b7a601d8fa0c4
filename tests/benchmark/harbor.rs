//! Harbor's task directories: tests judge the state that a model leaves, and nothing else that it leaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use llm_in_sandbox::env::{Env, ExecRequest};
use llm_in_sandbox::host::{Launcher, LauncherConfig, Registry, Sandbox};
use llm_in_sandbox::image::{Store, state_dir};
use serde_json::{Value, json};

use crate::program::{code, finish, program, stderr};
use crate::small_system::small_system;
use crate::{Bench, bash, call, text};

/// 1 for the right file in the working directory. Whoever wants to change that has a while for it.
const TESTS: &str = "#!/bin/bash\n\
    echo \"found $(cat out.txt)\"\n\
    if [ \"$(cat out.txt)\" = 42 ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n\
    sleep 0.5\n";
const SETTINGS: &str = "[environment]\nworkdir = \"/app\"\nnetwork_mode = \"no-network\"\n";
/// Puts the reward into its place as soon as there is one, for as long as it lives.
const LURKS: &str = "setsid bash -c 'while sleep 0.02; do echo 1 > /logs/verifier/reward.txt; done' \
    < /dev/null > /dev/null 2>&1 & sleep 0.1";
const PLANTS: &str = "mkdir -p /logs/verifier /tests; echo 1 > /logs/verifier/reward.txt; \
    echo '{\"reward\": 1}' > /logs/verifier/reward.json; echo 'echo 1 > /logs/verifier/reward.txt' > /tests/test.sh";
const LINKS: &str = "mkdir -p /evil/verifier; echo '{\"reward\": 1}' > /evil/verifier/reward.json; \
    echo 'echo 1 > /logs/verifier/reward.txt' > /evil/test.sh; rm -rf /logs /tests; ln -s /evil /logs; ln -s /evil /tests";

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A task directory in `set`.
fn task(bench: &Bench, name: &str, settings: &str, tests: &str) -> PathBuf {
    let path = bench.path("set").join(name);
    write(&path.join("instruction.md"), "Write 42 into out.txt.\n");
    write(&path.join("task.toml"), settings);
    write(&path.join("tests/test.sh"), tests);
    write(&path.join("solution/solve.sh"), "echo 42 > out.txt\n");
    path
}

/// A task, and what the model does about it.
fn played(bench: &Bench, name: &str, command: &str) {
    task(bench, name, SETTINGS, TESTS);
    plays(bench, name, command);
}

fn plays(bench: &Bench, name: &str, command: &str) {
    bench.record(name, &[bash(command), call("submit", &json!({}))]);
}

fn of(bench: &Bench, id: &str) -> Value {
    let lines = bench.lines();
    lines.into_iter().rfind(|line| line["id"] == id).unwrap()
}

#[test]
fn the_state_that_a_model_leaves_is_all_that_counts() {
    let bench = Bench::new();
    // Neither the tests nor the solution are there for the model.
    played(
        &bench,
        "right",
        "test ! -e /tests -a ! -e /solution && echo 42 > out.txt",
    );
    played(&bench, "wrong", "echo 41 > out.txt");
    played(&bench, "nothing", "true");
    played(&bench, "plants", PLANTS);
    played(&bench, "links", LINKS);
    played(&bench, "lurks", LURKS);
    played(
        &bench,
        "right_and_plants",
        &format!("echo 42 > out.txt; {PLANTS}"),
    );
    let deletes = "test ! -e /etc/debian_version -a ! -e /usr/share/doc/base-files && \
        echo 1 > /logs/verifier/reward.txt || echo 0 > /logs/verifier/reward.txt";
    task(&bench, "deletes", SETTINGS, deletes);
    plays(
        &bench,
        "deletes",
        "rm /etc/debian_version; rm -r /usr/share/doc; mkdir /usr/share/doc",
    );
    bench.replay(&["set", "--num_workers", "2"], 0);
    let expected = [
        ("deletes", 1.0),
        ("links", 0.0),
        ("lurks", 0.0),
        ("nothing", 0.0),
        ("plants", 0.0),
        ("right", 1.0),
        ("right_and_plants", 1.0),
        ("wrong", 0.0),
    ];
    let scores = bench.scores();
    for (id, score) in expected {
        assert_eq!(scores[id], json!(score), "{}", of(&bench, id));
    }
    assert_eq!(scores.len(), expected.len());
    let wrong = of(&bench, "wrong");
    assert_eq!(wrong["tested"]["stdout"], "found 41\n");
    assert_eq!(wrong["tested"]["rewards"], json!({"reward": 0.0}));
    assert_eq!(wrong["outcome"]["kind"], "submitted");
    let output = bench.verb(&["report", bench.folder().to_str().unwrap()], false);
    let output = finish(output);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report = std::fs::read_to_string(bench.folder().join("report.json")).unwrap();
    assert!(report.contains("tests gave 0: found 41"), "{report}");

    // What decides a score may not change between two parts of a run.
    let folder = bench.folder().to_str().unwrap().to_owned();
    let resumed = bench.run(&["--resume", &folder]);
    assert_eq!(code(&resumed), 0, "{}", stderr(&resumed));
    assert!(stderr(&resumed).contains("0 of 8"), "{}", stderr(&resumed));
    let verified = finish(bench.verb(&["verify", &folder], false));
    assert_eq!(code(&verified), 2);
    assert!(
        stderr(&verified).contains("which are not kept"),
        "{}",
        stderr(&verified)
    );
    write(
        &bench.path("set/wrong/tests/test.sh"),
        "echo 1 > /logs/verifier/reward.txt",
    );
    let changed = bench.run(&["--resume", &folder]);
    assert_eq!(code(&changed), 2);
    assert!(
        stderr(&changed).contains("data_digest was"),
        "{}",
        stderr(&changed)
    );
}

#[test]
fn tests_without_a_reward_are_no_zero() {
    let bench = Bench::new();
    let hurried = format!("{SETTINGS}[verifier]\ntimeout_sec = 1\n");
    let cases = [
        (
            "hangs",
            "sleep 600",
            json!({"kind": "timed_out", "after_s": 1}),
        ),
        (
            "silent",
            "echo oh dear >&2; exit 3",
            json!({"kind": "no_reward"}),
        ),
        (
            "garbage",
            "echo passed > /logs/verifier/reward.txt",
            Value::Null,
        ),
        (
            "huge",
            "head -c 1M /dev/zero > /logs/verifier/reward.txt",
            Value::Null,
        ),
        ("gone", "mkdir /logs/verifier/reward.json", Value::Null),
    ];
    for (name, tests, _) in &cases {
        let own = if *name == "hangs" { &hurried } else { SETTINGS };
        task(&bench, name, own, tests);
        plays(&bench, name, "true");
    }
    let json = "echo '{\"reward\": 0.25, \"speed\": 7}' > /logs/verifier/reward.json";
    task(&bench, "json", SETTINGS, json);
    plays(&bench, "json", "true");
    // Who takes the shell away that tests need gets no score for it, and costs nobody another run.
    task(&bench, "breaks", SETTINGS, TESTS);
    plays(&bench, "breaks", "rm /bin/bash /usr/bin/bash");
    bench.replay(&["set", "--num_workers", "2"], 0);
    for (name, _, failure) in &cases {
        let line = of(&bench, name);
        assert_eq!(
            (&line["status"], &line["score"]),
            (&json!("pending"), &Value::Null),
            "{line}"
        );
        assert!(
            text(&line, "pending").starts_with("verifier_failed: "),
            "{line}"
        );
        let told = &line["tested"]["failure"];
        if failure.is_null() {
            assert_eq!(told["kind"], "bad_reward", "{line}");
        } else {
            assert_eq!(told, failure, "{line}");
        }
        assert_eq!(line["attempts"], 1, "no host failed: {line}");
    }
    let silent = of(&bench, "silent");
    assert!(
        text(&silent, "pending").ends_with("status 3 and left no reward: oh dear"),
        "{silent}"
    );
    assert_eq!(of(&bench, "json")["score"], 0.25);
    assert_eq!(of(&bench, "json")["tested"]["rewards"]["speed"], 7.0);
    assert_eq!(
        of(&bench, "breaks")["tested"]["failure"]["kind"],
        "no_reward"
    );
    let summary = &bench.json("results.json")["summary"];
    assert_eq!(
        (&summary["scored"], &summary["pending"]),
        (&json!(1), &json!(6)),
        "{summary}"
    );
}

#[test]
fn limits_and_deadlines_are_the_tasks() {
    let bench = Bench::new();
    let settings =
        format!("{SETTINGS}memory_mb = 256\nstorage_mb = 64\n[agent]\ntimeout_sec = 4\n");
    task(&bench, "slow", &settings, TESTS);
    plays(&bench, "slow", "echo 42 > out.txt; sleep 600");
    task(&bench, "full", &settings, TESTS);
    plays(
        &bench,
        "full",
        "head -c 65M /dev/zero > big && rm big && echo 41 > out.txt || { rm big; echo 42 > out.txt; }",
    );
    let flags = ["set", "--num_workers", "2", "--llm_name", "replay:answers"];
    let output = bench.run(&flags);
    // Of a limit that a task names nobody is let off.
    if code(&output) == 1 && !nix::unistd::geteuid().is_root() {
        let told = text(&of(&bench, "full"), "detail");
        let why = "does not enforce memory, which task.toml asks for";
        assert!(told.contains(why), "{told}");
        return;
    }
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // What is there when the time is up counts.
    let slow = of(&bench, "slow");
    assert_eq!(
        (&slow["score"], &slow["outcome"]["budget"]),
        (&json!(1.0), &json!("timeout")),
        "{slow}"
    );
    assert_eq!(of(&bench, "full")["score"], 1.0, "{}", of(&bench, "full"));
    let record = bench.folder().join("samples/full/1/trajectory.jsonl");
    let record = std::fs::read_to_string(record).unwrap();
    let header: Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    let limits = &header["spec"]["sandbox"]["limits"];
    assert_eq!(
        (&limits["memory_bytes"], &limits["disk_bytes"]),
        (&json!(256 << 20), &json!(64 << 20)),
        "{header}"
    );
    assert_eq!(
        (
            &header["spec"]["working_dir"],
            &header["spec"]["sandbox"]["network"]
        ),
        (&json!("/app"), &json!("none"))
    );
}

#[test]
fn what_cannot_be_had_starts_nothing() {
    let bench = Bench::new();
    let path = task(&bench, "a", SETTINGS, TESTS);
    plays(&bench, "a", "true");
    let refused = |flags: &[&str], why: &str| {
        let model = ["set", "--llm_name", "replay:answers"];
        let output = bench.run(&[&model[..], flags].concat());
        assert_eq!(code(&output), 2, "{flags:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(why),
            "{flags:?}: {}",
            stderr(&output)
        );
        assert!(bench.begun().is_none(), "{flags:?}");
    };
    refused(&["--mode", "llm"], "tests judge the state of a sandbox");
    refused(&["--ablation", "no-files"], "--ablation");
    refused(&["--net", "internet"], "task.toml says it");
    refused(&["--docker_image", "default"], "--docker_image");
    refused(&["--reward", "exact"], "--reward");
    write(
        &path.join("task.toml"),
        "[environment]\ndocker_image = \"no/such:1\"\n",
    );
    refused(&[], "image import FILE --name no-such-1");
    write(&path.join("task.toml"), "[environment]\ngpus = 1\n");
    refused(&[], "environment.gpus = 1 cannot be had here");
    write(
        &path.join("task.toml"),
        "[environment]\nstorage_mb = 4096\nmemory_mb = 64\n",
    );
    write(
        &path.join("environment/Dockerfile"),
        "FROM default\nRUN true\nVOLUME /x\n",
    );
    refused(&[], "Dockerfile: line 3: VOLUME");
}

/// A state directory of the test's own, with one small image.
struct Own<'a> {
    bench: &'a Bench,
    state: PathBuf,
}

impl<'a> Own<'a> {
    fn new(bench: &'a Bench) -> Self {
        let state = bench.path("state");
        let own = Self { bench, state };
        let archive = bench.path("small.tar");
        std::fs::write(&archive, small_system().bytes()).unwrap();
        let import = [
            "image",
            "import",
            archive.to_str().unwrap(),
            "--name",
            "small-base",
        ];
        own.run(bench.verb(&import, true), 0);
        own
    }

    fn run(&self, mut command: std::process::Command, expected: i32) -> String {
        command.env("LLM_IN_SANDBOX_HOME", &self.state);
        let output = finish(command);
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        stderr(&output)
    }

    fn play(&self, expected: i32) -> String {
        let flags = ["set", "--repeat", "2", "--llm_name", "replay:answers"];
        self.run(self.bench.command(&flags), expected)
    }

    /// What was made of Dockerfiles, and when.
    fn derived(&self) -> Vec<(String, std::time::SystemTime)> {
        let names = std::fs::read_dir(self.state.join("names")).unwrap();
        let mut derived: Vec<_> = names
            .map(|name| name.unwrap())
            .filter(|name| name.file_name().to_string_lossy().starts_with("derived-"))
            .map(|name| {
                let made = name.metadata().unwrap().modified().unwrap();
                (name.file_name().into_string().unwrap(), made)
            })
            .collect();
        derived.sort();
        derived
    }
}

impl Drop for Own<'_> {
    /// Files of an image may belong to ids that this process may not touch.
    fn drop(&mut self) {
        let derived = self.derived();
        let names = derived.iter().map(|(name, _)| name.as_str());
        let all: Vec<&str> = ["image", "rm", "small-base"]
            .into_iter()
            .chain(names)
            .collect();
        let mut command = self.bench.verb(&all, true);
        command.env("LLM_IN_SANDBOX_HOME", &self.state);
        finish(command);
    }
}

#[test]
fn a_dockerfile_makes_one_image_for_all_samples() {
    let bench = Bench::new();
    let own = Own::new(&bench);
    let tests = "[[ \"$(cat built.txt)\" = $'tool 7\\nhello you\\nsecond' && $(cat out.txt) = hello && $PWD = /app && \
        -x /usr/bin/tool.sh ]] && echo 1 > /logs/verifier/reward.txt || { cat built.txt out.txt; exit 1; }";
    let path = task(
        &bench,
        "a",
        "[environment]\nallow_internet = false\n",
        tests,
    );
    for name in ["a", "a#2"] {
        plays(&bench, name, "echo $GREETING > out.txt");
    }
    let environment = path.join("environment");
    write(&environment.join("data/number"), "7");
    write(
        &environment.join("tool.sh"),
        "#!/bin/sh\necho tool $(cat number)\n",
    );
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(environment.join("tool.sh"), executable).unwrap();
    let dockerfile = "FROM small:base\nENV GREETING=hello\nENV WHO=\"$GREETING you\"\nWORKDIR /app\nCOPY data .\n\
        COPY tool.sh /usr/bin/\nRUN tool.sh > built.txt && \\\n  echo \"$WHO\" >> built.txt\n\
        RUN [\"/bin/sh\", \"-c\", \"echo second >> built.txt\"]\n";
    write(&environment.join("Dockerfile"), dockerfile);
    own.play(0);
    let lines = bench.lines();
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert_eq!(line["score"], 1.0, "{line}");
    }
    let first = own.derived();
    assert_eq!(first.len(), 1);
    own.play(0);
    assert_eq!(own.derived(), first, "it was there already");
    // Another file of the context makes another image.
    write(&environment.join("data/number"), "8");
    own.play(0);
    assert_eq!(own.derived().len(), 2);
    assert_eq!(of(&bench, "a")["status"], "pending");
    // A step that fails is told with what it said, and leaves nothing.
    write(
        &environment.join("Dockerfile"),
        "FROM small:base\nRUN echo no such thing; exit 7\n",
    );
    let said = own.play(125);
    assert!(
        said.contains("exit status 7") && said.contains("no such thing"),
        "{said}"
    );
    let key = bench.path("key");
    write(&key, "secret");
    std::os::unix::fs::symlink(&key, environment.join("link")).unwrap();
    write(
        &environment.join("Dockerfile"),
        "FROM small:base\nCOPY link /link\n",
    );
    let said = own.play(125);
    assert!(said.contains("leads out of the context"), "{said}");
    assert_eq!(own.derived().len(), 2);
    let left = std::fs::read_dir(own.state.join("tmp")).unwrap().count();
    assert_eq!(left, 0, "drafts");
}

/// A launcher with the real program as its zygote.
async fn launcher(directory: &Path) -> Launcher {
    let config = LauncherConfig {
        program: Some(program()),
        registry: Some(Registry::at(directory.join("registry")).unwrap()),
        ahead: Some(0),
        ..LauncherConfig::default()
    };
    Launcher::start(config).await.unwrap()
}

async fn run(sandbox: &Sandbox, command: &str) -> String {
    let mut request = ExecRequest::new(["bash", "-c", command]);
    request.timeout = Some(Duration::from_secs(30));
    let result = sandbox.exec(&request).await.unwrap();
    String::from_utf8(result.stdout.head).unwrap()
}

/// What the two walls are for: where tests run beside the model's processes, or over what it put into their way, it wins.
#[test]
fn without_a_new_sandbox_and_its_clearing_the_cheats_pass() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&state_dir(None).unwrap()).unwrap();
    let image = store.find("default").unwrap().unwrap();
    let tests = "mkdir -p /logs/verifier; cd /app; eval \"$TESTS\"; cat /logs/verifier/reward.*";
    let tests = &tests.replace("\"$TESTS\"", &format!("'{}'", TESTS.replace('\'', "'\\''")));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let launcher = launcher(directory.path()).await;
        let mut spec = image.spec();
        spec.record_effects = true;
        "/app".clone_into(&mut spec.workdir);
        let start = async || launcher.sandbox(spec.clone()).await.unwrap();
        // Beside its process.
        let model = start().await;
        run(&model, LURKS).await;
        let until_it_did = "for i in {1..1000}; do [ \"$(cat /logs/verifier/reward.txt)\" = 1 ] && break; sleep 0.02; done";
        let patient = tests.replace("sleep 0.5", until_it_did);
        assert_eq!(run(&model, &patient).await, "found \n1\n");
        // Carried over the process is gone, in a new sandbox.
        let new = start().await;
        model.seal_into(&new).await.unwrap();
        assert_eq!(run(&new, tests).await, "found \n0\n");
        model.close().await.unwrap();
        new.close().await.unwrap();
        // Carried over, but not cleared: the reward is there already, and is read before that of the tests.
        let (model, new) = (start().await, start().await);
        run(&model, PLANTS).await;
        model.seal_into(&new).await.unwrap();
        let found = run(&new, tests).await;
        assert!(found.starts_with("found \n{\"reward\": 1}"), "{found}");
        assert!(run(&new, "cat /tests/test.sh").await.contains("echo 1"));
        model.close().await.unwrap();
        new.close().await.unwrap();
    });
}

#[test]
fn each_phase_has_its_network() {
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        let test = "each_phase_has_its_network";
        println!("SKIP {test}: needs /dev/net/tun: {error}");
        let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.contains("tun"), "{required} is required");
        return;
    }
    let bench = Bench::new();
    // Its own network knows where it was opened: a route of the tests is none of the model.
    let looks = "cut -f 2 /proc/net/route | grep -qx 00000000 && echo 1 > /logs/verifier/reward.txt || echo 0 > /logs/verifier/reward.txt";
    let closed = format!("{SETTINGS}[verifier]\nnetwork_mode = \"public\"\n");
    task(
        &bench,
        "closed",
        &closed,
        &format!("test \"$(cat out.txt)\" = 0 || exit 1\n{looks}"),
    );
    plays(
        &bench,
        "closed",
        "cut -f 2 /proc/net/route | grep -cx 00000000 > out.txt",
    );
    let listed = "[environment]\nworkdir = \"/app\"\nallow_internet = false\n[agent]\nallowed_hosts = [\"pypi.org\"]\n";
    let none = "test \"$(cat out.txt)\" = 1 -a \"$(cut -f 2 /proc/net/route | grep -cx 00000000)\" = 0 && \
        echo 1 > /logs/verifier/reward.txt || echo 0 > /logs/verifier/reward.txt";
    task(&bench, "listed", listed, none);
    plays(
        &bench,
        "listed",
        "cut -f 2 /proc/net/route | grep -cx 00000000 > out.txt",
    );
    let mut command = bench.command(&["set", "--llm_name", "replay:answers"]);
    // What the host's owner sets holds for every task.
    command.env_remove("LLM_IN_SANDBOX_NET");
    let output = finish(command);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for id in ["closed", "listed"] {
        assert_eq!(of(&bench, id)["score"], 1.0, "{}", of(&bench, id));
    }
    let record = bench.folder().join("samples/listed/1/trajectory.jsonl");
    let record = std::fs::read_to_string(record).unwrap();
    let header: Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    assert_eq!(header["spec"]["sandbox"]["network"], "allow:pypi.org");
}
