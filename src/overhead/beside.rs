//! This program's `exec` and every peer in turn, as whole processes.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::conformance::Conformance;
use super::peers::{BUBBLEWRAP, PEERS};
use super::phases::{GAP, Run};
use super::rate::{PEERS_IN_FLIGHT, died, processes};
use super::sample::{Series, e, settle, whole};
use super::scene::{Place, Scene};
use super::{Figure, OverheadError, Phase, Skipped};

const TRUE: &[&str] = &["/bin/true"];
const PYTHON: &[&str] = &["/usr/bin/python3", "-c", "pass"];

/// A sample that takes longer than this is taken in fewer rounds.
const SLOW: Duration = Duration::from_millis(25);

/// Commands in each peer's sandbox that goes on.
const VISITS: usize = 5;

/// What takes part.
enum Runner {
    Exec(PathBuf),
    Peer(Box<Scene>),
}

/// What the thread is told, and what it has found.
struct Race {
    program: PathBuf,
    rootfs: PathBuf,
    runs: usize,
    window: Duration,
    phases: Vec<Phase>,
    peers: Option<Vec<String>>,
    runners: Vec<Runner>,
    figures: Vec<Figure>,
    conformance: Vec<Conformance>,
    skipped: Vec<Skipped>,
}

/// Names that `--peers` takes.
#[must_use]
pub fn peer_names() -> Vec<&'static str> {
    PEERS.iter().map(|peer| peer.name).collect()
}

impl Run<'_> {
    pub(super) async fn processes(&mut self) -> Result<(), OverheadError> {
        let race = Race {
            program: self.options.program.clone(),
            rootfs: self.options.rootfs.clone(),
            runs: self.options.runs,
            window: self.window(),
            phases: self.options.phases.clone(),
            peers: self.options.peers.clone(),
            runners: Vec::new(),
            figures: Vec::new(),
            conformance: Vec::new(),
            skipped: Vec::new(),
        };
        // It blocks, and takes its mount namespace with it.
        let done = tokio::task::spawn_blocking(|| race.run())
            .await
            .map_err(died)??;
        self.figures.extend(done.figures);
        self.conformance.extend(done.conformance);
        self.skipped.extend(done.skipped);
        Ok(())
    }
}

impl Race {
    fn run(mut self) -> Result<Self, OverheadError> {
        let place = Place::new()?;
        let checked = Conformance::of_exec(&self.program)?;
        self.conformance.push(checked);
        self.runners.push(Runner::Exec(self.program.clone()));
        for peer in &PEERS {
            let wanted = self
                .peers
                .as_ref()
                .is_none_or(|names| names.iter().any(|n| n == peer.name));
            if !wanted {
                continue;
            }
            match Scene::find(peer, &self.rootfs, place.path()) {
                Ok((scene, seen)) => {
                    self.conformance.push(seen);
                    self.runners.push(Runner::Peer(Box::new(scene)));
                }
                Err(why) => self.skip(peer.name, why),
            }
        }
        self.in_turn("process", "/bin/true", TRUE, self.runs)?;
        self.in_turn("python", "python3 -c pass", PYTHON, (self.runs / 4).max(2))?;
        self.visits()?;
        if self.phases.contains(&Phase::Sparse) {
            self.sparse()?;
        }
        if self.phases.contains(&Phase::Rate) {
            self.rates()?;
        }
        self.runners.clear();
        Ok(self)
    }

    fn skip(&mut self, what: &str, why: impl Into<String>) {
        self.skipped.push(Skipped {
            what: what.to_owned(),
            why: why.into(),
        });
    }

    /// A round of all, again and again, with E before each. The first round warms the caches.
    fn in_turn(
        &mut self,
        key: &str,
        what: &str,
        command: &[&str],
        rounds: usize,
    ) -> Result<(), OverheadError> {
        let mut series: Vec<(usize, Series)> = Vec::new();
        series.resize_with(self.runners.len(), || (1, Series::default()));
        for round in 0..=rounds {
            let mut failed = None;
            for (at, (runner, (every, series))) in self.runners.iter().zip(&mut series).enumerate()
            {
                if round % *every != 0 {
                    continue;
                }
                let alone = settle()?;
                match runner.cycle(command) {
                    Ok(time) if round == 0 => *every = pace(time, rounds),
                    Ok(time) => {
                        series.e.extend(alone);
                        series.times.push(time);
                    }
                    Err(error) => failed = Some((at, error)),
                }
            }
            if let Some((at, error)) = failed {
                let runner = self.runners.remove(at);
                series.remove(at);
                runner
                    .may_fail(error)
                    .map(|why| self.skip(runner.name(), why))?;
            }
        }
        for (runner, (_, series)) in self.runners.iter().zip(series) {
            let name = runner.name();
            let what = format!("{name}: {what}, whole process");
            self.figures
                .push(series.figure(format!("{key}.{name}"), what));
        }
        Ok(())
    }

    fn visits(&mut self) -> Result<(), OverheadError> {
        let mut skipped = Vec::new();
        for runner in &self.runners {
            let Runner::Peer(scene) = runner else {
                continue;
            };
            let Some(visit) = &scene.peer.visit else {
                continue;
            };
            let (mut begun, mut execs, mut ended) = <(Series, Series, Series)>::default();
            for _ in 0..(self.runs / VISITS / 2).max(1) {
                let alone = settle()?;
                match scene.visit(visit, VISITS, TRUE) {
                    Ok((begin, exec, end)) => {
                        begun.push(&alone, [begin]);
                        execs.push(&alone, exec);
                        ended.push(&alone, [end]);
                    }
                    Err(error) => {
                        skipped.push((scene.peer.name, error.to_string()));
                        break;
                    }
                }
            }
            let name = scene.peer.name;
            for (key, what, series) in [
                ("begin", "a start that goes on", begun),
                ("visit", "/bin/true in a running sandbox", execs),
                ("end", "teardown", ended),
            ] {
                if !series.times.is_empty() {
                    let figure = series.figure(format!("{key}.{name}"), format!("{name}: {what}"));
                    self.figures.push(figure);
                }
            }
        }
        for (name, why) in skipped {
            self.skip(&format!("{name}, in a running sandbox"), why);
        }
        Ok(())
    }

    /// Ours and bubblewrap, with a pause before each.
    fn sparse(&mut self) -> Result<(), OverheadError> {
        for runner in &self.runners {
            let name = runner.name();
            if !matches!(runner, Runner::Exec(_)) && name != BUBBLEWRAP {
                continue;
            }
            let mut series = Series::default();
            for _ in 0..self.runs {
                sleep(GAP);
                let alone = e()?;
                sleep(GAP);
                series.push(&[alone], [runner.cycle(TRUE)?]);
            }
            let what = format!("100 ms apart: {name}: /bin/true, whole process");
            self.figures
                .push(series.figure(format!("sparse.{name}"), what));
        }
        Ok(())
    }

    fn rates(&mut self) -> Result<(), OverheadError> {
        let mut skipped = Vec::new();
        for runner in &self.runners {
            let cycle = || runner.cycle(TRUE).map(|_| ());
            let name = runner.name();
            match processes(PEERS_IN_FLIGHT, self.window, &cycle) {
                Ok((count, per_second)) => self.figures.push(Figure::value(
                    format!("rate.{PEERS_IN_FLIGHT}.{name}"),
                    format!("{name}: full cycles of /bin/true, {PEERS_IN_FLIGHT} in flight"),
                    "/s",
                    count,
                    per_second,
                )),
                Err(error) => skipped.push((name, runner.may_fail(error)?)),
            }
        }
        for (name, why) in skipped {
            self.skip(&format!("{name}, {PEERS_IN_FLIGHT} in flight"), why);
        }
        Ok(())
    }
}

impl Runner {
    fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Peer(scene) => scene.peer.name,
        }
    }

    fn cycle(&self, command: &[&str]) -> Result<Duration, OverheadError> {
        match self {
            Self::Exec(program) => whole(
                Command::new(program)
                    .args(["exec", "--"])
                    .args(command)
                    .stdin(Stdio::null())
                    .stderr(Stdio::null()),
            ),
            Self::Peer(scene) => scene.cycle(command),
        }
    }

    /// A peer's failure is told; ours ends the run.
    fn may_fail(&self, error: OverheadError) -> Result<String, OverheadError> {
        match self {
            Self::Exec(_) => Err(error),
            Self::Peer(_) => Ok(error.to_string()),
        }
    }
}

/// In which rounds one takes part that takes so long: at least in twenty.
fn pace(time: Duration, rounds: usize) -> usize {
    let slow = (time.as_millis() / SLOW.as_millis()).max(1);
    usize::try_from(slow).unwrap_or(1).min((rounds / 20).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_take_part_less_often() {
        let ms = Duration::from_millis;
        assert_eq!(pace(ms(3), 200), 1);
        assert_eq!(pace(ms(130), 200), 5);
        assert_eq!(pace(ms(3000), 200), 10);
        assert_eq!(pace(ms(3000), 10), 1);
    }
}
