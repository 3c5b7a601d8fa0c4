//! Many sandboxes at once: does each get its share?

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use llm_in_sandbox::net::Net;
use nix::poll::{PollFd, PollFlags, poll};
use std::os::fd::AsFd;

use crate::paths;
use crate::place::Place;
use crate::transfers;

const SANDBOXES: usize = 500;
const WINDOW: Duration = Duration::from_secs(4);

/// Each pulls over one connection as fast as it can. One thread reads for all of them in turn, so that their shares are the
/// engine's and not those of threads.
pub(crate) fn measure(net: &Net) {
    let server = paths::SERVER.parse().unwrap();
    let mut attached = Vec::new();
    let mut streams = Vec::new();
    let place = Place::new();
    let mut namespaces = Vec::new();
    for _ in 0..SANDBOXES {
        let (device, namespace) = place
            .run_here(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                llm_in_sandbox::sys::process::loopback_up().unwrap();
                let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
                Some((paths::device(), namespace))
            })
            .unwrap();
        attached.push(paths::attach(net, device));
        namespaces.push(namespace);
    }
    // Only when all are there: of a connection that nobody reads for long the server's kernel learns that it is slow.
    for namespace in namespaces {
        streams.extend(place.run_here(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            transfers::source_of(server)
        }));
    }
    let count = streams.len();
    let (stop, counting) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let bytes: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let reader = {
        let (stop, counting, bytes) =
            (Arc::clone(&stop), Arc::clone(&counting), Arc::clone(&bytes));
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while !stop.load(Ordering::Relaxed) {
                let mut ready: Vec<_> = streams
                    .iter()
                    .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
                    .collect();
                poll(&mut ready, 100_u8).unwrap();
                let ready: Vec<_> = ready.iter().map(|one| one.any().unwrap()).collect();
                for ((mut stream, ready), bytes) in streams.iter().zip(ready).zip(bytes.iter()) {
                    if ready
                        && let Ok(length) = stream.read(&mut buffer)
                        && counting.load(Ordering::Relaxed)
                    {
                        bytes.fetch_add(length as u64, Ordering::Relaxed);
                    }
                }
            }
        })
    };
    thread::sleep(Duration::from_secs(1));
    counting.store(true, Ordering::Relaxed);
    let began = Instant::now();
    // One more that only asks, while all others pull.
    let asker = paths::ours(net);
    let latency = transfers::What::Get.measure(&asker.place, server);
    thread::sleep(WINDOW);
    let counted = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    let shares: Vec<f64> = bytes
        .iter()
        .map(|one| one.load(Ordering::Relaxed) as f64)
        .collect();
    let (sum, squares): (f64, f64) = (shares.iter().sum(), shares.iter().map(|x| x * x).sum());
    let mut sorted = shares.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let [least, hundredth, middle, most] =
        [0, count / 100, count / 2, count - 1].map(|at| sorted[at]);
    println!(
        "{count} sandboxes that pull at once: {:.0} MB/s together, Jain's index {:.3}, least, 1st percentile and most, of the median {:.2}, {:.2}, {:.2}, a new connection beside them {:.0} µs",
        sum / counted.as_secs_f64() / 1e6,
        sum * sum / (count as f64 * squares),
        least / middle,
        hundredth / middle,
        most / middle,
        latency.unwrap_or(f64::NAN)
    );
    let _ = std::io::stdout().flush();
}
