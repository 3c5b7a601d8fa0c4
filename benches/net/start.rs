//! What a network by rules adds to a start.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use llm_in_sandbox::host::{Launcher, LauncherConfig};
use llm_in_sandbox::spec::{Network, SandboxSpec};

use crate::common::{PROGRAM, image, runtime};

/// Sandboxes begun ahead, as a launcher has them from the second on.
const AHEAD: usize = 8;

pub(crate) fn measure(rounds: usize) {
    let networks = [Network::None, Network::internet()];
    let spec = image().spec();
    let times = runtime().block_on(ahead(&networks, &spec, rounds));
    tell("begun ahead, to ready", times);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds.min(60) {
        for (network, times) in networks.iter().zip(&mut times) {
            let mut command = Command::new(PROGRAM);
            command.args(["exec", "--net", &network.to_string(), "--", "/bin/true"]);
            let began = Instant::now();
            let status = command.stderr(Stdio::null()).status().unwrap();
            times.push(began.elapsed());
            assert!(status.success());
        }
    }
    tell("exec /bin/true, a process of its own", times);
}

/// In turn, each with what was made for it.
async fn ahead(networks: &[Network; 2], spec: &SandboxSpec, rounds: usize) -> [Vec<Duration>; 2] {
    let mut launchers = Vec::new();
    for network in networks {
        let config = LauncherConfig {
            program: Some(PROGRAM.into()),
            ahead: Some(AHEAD),
            expect_device: matches!(network, Network::Rules(_)),
            ..LauncherConfig::default()
        };
        launchers.push(Launcher::start(config).await.unwrap());
    }
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..rounds + 3 {
        for (number, launcher) in launchers.iter().enumerate() {
            while launcher.waiting() * 2 <= AHEAD || launcher.is_filling() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            let spec = SandboxSpec {
                network: networks[number].clone(),
                ..spec.clone()
            };
            let began = Instant::now();
            let sandbox = launcher.sandbox(spec).await.unwrap();
            let time = began.elapsed();
            sandbox.discard().await.unwrap();
            // The first ones warm the caches.
            if round >= 3 {
                times[number].push(time);
            }
        }
    }
    times
}

fn tell(what: &str, times: [Vec<Duration>; 2]) {
    let [none, internet] = times.map(|mut times| {
        times.sort_unstable();
        [50, 90].map(|percent| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3)
    });
    println!(
        "{what}: none p50 {:.2} p90 {:.2} ms, internet p50 {:.2} p90 {:.2} ms, added p50 {:.2} ms",
        none[0],
        none[1],
        internet[0],
        internet[1],
        internet[0] - none[0]
    );
}
