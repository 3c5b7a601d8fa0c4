//! Tests of the state that a model left: in a new sandbox, over what it changed of its image.

use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::super::run;
use crate::agent::Ablation;
use crate::bench::{MAX_REWARD, Mode, TestFailure, Tested};
use crate::env::{Captured, Env, EnvError, ExecRequest, FileError, GuestPath};
use crate::host::{Launcher, Sandbox};
use crate::outcome::{Cause, LimitHit, Outcome};
use crate::settings::SettingsError;
use crate::spec::SandboxSpec;
use crate::tree::UnpackPolicy;

/// For carrying a state over, and for the tests themselves to get in.
const DEADLINE: Duration = Duration::from_secs(600);
/// What the end of a script may take longer than its time.
const GRACE: Duration = Duration::from_secs(60);
/// Bytes kept of each stream, half from the head and half from the tail.
const CAPTURE: usize = 8 << 10;
/// What a model may have put where tests look: none of it is there when they begin.
const CLEARED: [&str; 2] = ["tests", "logs/verifier"];

/// Whether tests can judge what is asked for.
pub(in crate::cli::benchmark) fn check(
    mode: Mode,
    ablations: &[Ablation],
    given: [(&'static str, bool); 2],
) -> Result<(), SettingsError> {
    if mode == Mode::Llm {
        let problem = "tests judge the state of a sandbox, and the mode llm has none".to_owned();
        return Err(run::value("--mode", problem));
    }
    if ablations.contains(&Ablation::NoFiles) {
        let problem = "tests judge files, and no-files leaves none".to_owned();
        return Err(run::value("--ablation", problem));
    }
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let problem =
                "task.toml says it for each task; `--ablation no-network` takes the network away";
            Err(run::value(flag, problem.to_owned()))
        }
    }
}

/// The tests of one task.
#[derive(Debug)]
pub(in crate::cli::benchmark) struct Tests {
    /// Of their sandbox.
    pub(super) spec: SandboxSpec,
    /// Where they are on the host.
    pub(super) directory: PathBuf,
    pub(super) timeout: Duration,
}

/// No host failed, but there is nothing to run tests on.
enum Unsealed {
    Tested(Tested),
    Failed(Outcome),
}

impl Tests {
    /// A new sandbox with all that another one has changed, in which none of its processes is.
    async fn seal(
        &self,
        launcher: &Launcher,
        from: &Sandbox,
    ) -> Result<(Sandbox, Tested), Unsealed> {
        let started = launcher.sandbox(self.spec.clone()).await;
        let sandbox = started.map_err(|error| Unsealed::Failed(error.outcome()))?;
        let sealed = within(DEADLINE, "carrying a state over", from.seal_into(&sandbox)).await;
        let sealed = sealed.map_err(unsealed)?;
        let counts = sealed.left_out.counts.into_iter();
        let lost = counts.filter(|(reason, _)| !reason.is_harmless());
        let tested = Tested {
            left_out: lost.map(|(_, count)| count).sum(),
            ..Tested::default()
        };
        Ok((sandbox, tested))
    }

    /// Ends the model's sandbox, and runs the tests over what it left.
    pub(in crate::cli::benchmark) async fn judge(
        &self,
        launcher: &Launcher,
        model: Sandbox,
    ) -> (Result<Tested, Outcome>, Result<crate::spec::Usage, Outcome>) {
        let begun = Instant::now();
        let sealed = Box::pin(self.seal(launcher, &model)).await;
        let usage = model.close().await.map_err(|error| error.outcome());
        let tested = match sealed {
            Ok((sandbox, tested)) => Box::pin(self.run(sandbox, tested)).await,
            Err(Unsealed::Tested(tested)) => Ok(tested),
            Err(Unsealed::Failed(outcome)) => Err(outcome),
        };
        let tested = tested.map(|tested| Tested {
            seconds: begun.elapsed().as_secs_f64(),
            ..tested
        });
        (tested, usage)
    }

    async fn run(&self, sandbox: Sandbox, tested: Tested) -> Result<Tested, Outcome> {
        let tested = Box::pin(self.run_in(&sandbox, tested)).await;
        let ended = sandbox.discard().await;
        let tested = tested?;
        ended.map_err(|error| error.outcome())?;
        Ok(tested)
    }

    async fn run_in(&self, sandbox: &Sandbox, mut tested: Tested) -> Result<Tested, Outcome> {
        let get_in = within(DEADLINE, "copying the tests in", self.get_in(sandbox));
        if let Err(error) = get_in.await {
            return match unsealed(error) {
                Unsealed::Tested(tested) => Ok(tested),
                Unsealed::Failed(outcome) => Err(outcome),
            };
        }
        let mut request = ExecRequest::new(["bash", "/tests/test.sh"]);
        request.timeout = Some(self.timeout);
        request.capture = CAPTURE;
        let ran = within(self.timeout + GRACE, "the tests", sandbox.exec(&request)).await;
        let result = match ran {
            Ok(result) => result,
            // Who changed the image may have taken the shell along.
            Err(EnvError::File { error, .. }) => {
                tested.failure = Some(TestFailure::NoReward);
                tested.stderr = format!("bash: {error}");
                return Ok(tested);
            }
            Err(EnvError::Limit(hit)) => return Ok(of_limit(tested, hit)),
            Err(error) => return Err(failed(&error)),
        };
        tested.stdout = text(&result.stdout);
        tested.stderr = text(&result.stderr);
        tested.struck = result.struck;
        if result.timed_out {
            let after_s = self.timeout.as_secs();
            tested.failure = Some(TestFailure::TimedOut { after_s });
            return Ok(tested);
        }
        tested.status = Some(result.status.code());
        match (reward(sandbox, "json").await, reward(sandbox, "txt").await) {
            (Ok(json), Ok(text)) => tested.take(json.as_deref(), text.as_deref()),
            (Err(EnvError::Limit(hit)), _) | (_, Err(EnvError::Limit(hit))) => {
                return Ok(of_limit(tested, hit));
            }
            (Err(error @ EnvError::File { .. }), _) | (_, Err(error @ EnvError::File { .. })) => {
                let problem = error.to_string();
                tested.failure = Some(TestFailure::BadReward { problem });
            }
            (Err(error), _) | (_, Err(error)) => return Err(failed(&error)),
        }
        Ok(tested)
    }

    /// Puts the tests where they are expected, and nothing else there. No program has run in this sandbox yet.
    async fn get_in(&self, sandbox: &Sandbox) -> Result<(), EnvError> {
        let host = |error: std::io::Error| EnvError::Infrastructure(format!("clear: {error}"));
        let archive = clearing().map_err(host)?;
        let root = GuestPath::from("/");
        sandbox
            .unpack(&root, archive, UnpackPolicy::changes())
            .await?;
        let report = sandbox
            .copy_in(&self.directory, &GuestPath::from("/tests"))
            .await?;
        match report.left_out.listed.first() {
            None => Ok(()),
            Some(left) => {
                let path = self.directory.join(&left.path);
                let problem = format!("{} cannot be copied in: {:?}", path.display(), left.reason);
                Err(EnvError::Infrastructure(problem))
            }
        }
    }
}

/// A layer that deletes what is at these places, also where a link or a file is in place of a directory, and makes empty
/// directories there.
fn clearing() -> std::io::Result<OwnedFd> {
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    let mut add = |path: String, kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        archive.append_data(&mut header, path, std::io::empty())
    };
    for path in CLEARED {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !parent.is_empty() {
            add(parent.to_owned(), tar::EntryType::Directory)?;
        }
        let slash = if parent.is_empty() { "" } else { "/" };
        add(
            format!("{parent}{slash}.wh.{name}"),
            tar::EntryType::Regular,
        )?;
        add(path.to_owned(), tar::EntryType::Directory)?;
    }
    let mut file = archive.into_inner()?;
    file.flush()?;
    file.rewind()?;
    Ok(file.into())
}

/// A file of the reward, if there is one.
async fn reward(sandbox: &Sandbox, kind: &str) -> Result<Option<Vec<u8>>, EnvError> {
    let path = GuestPath::from("/logs/verifier").join(format!("reward.{kind}"));
    let read = within(
        GRACE,
        "reading the reward",
        sandbox.read_file(&path, MAX_REWARD),
    );
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(EnvError::File {
            error: FileError::NotFound,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whose doing it is that there is nothing to test.
fn unsealed(error: EnvError) -> Unsealed {
    match error {
        EnvError::File { error, .. } => Unsealed::Tested(Tested::unsealed(format!(
            "what the model left cannot be carried over: {error}"
        ))),
        EnvError::Limit(hit) => Unsealed::Tested(of_limit(Tested::default(), hit)),
        error @ (EnvError::Died(_) | EnvError::Infrastructure(_)) => {
            Unsealed::Failed(failed(&error))
        }
    }
}

fn of_limit(mut tested: Tested, hit: LimitHit) -> Tested {
    let problem = hit.to_string();
    tested.struck.push(hit);
    tested.failure = Some(TestFailure::Unsealed { problem });
    tested
}

fn failed(error: &EnvError) -> Outcome {
    let other = || Outcome::infrastructure(Cause::Other, error.to_string());
    error.outcome().unwrap_or_else(other)
}

async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, EnvError>>,
) -> Result<T, EnvError> {
    let hangs = |_| EnvError::Infrastructure(format!("{what} hangs"));
    tokio::time::timeout(limit, work).await.map_err(hangs)?
}

fn text(stream: &Captured) -> String {
    let head = String::from_utf8_lossy(&stream.head);
    if stream.omitted == 0 {
        return head.into_owned();
    }
    let tail = String::from_utf8_lossy(&stream.tail);
    format!("{head}\n[{} bytes are left out]\n{tail}", stream.omitted)
}
