//! What a sandbox's network takes of this process and of the kernel.

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use llm_in_sandbox::net::{Attachment, Entries, Net};

use crate::paths;
use crate::place::Place;
use crate::transfers;

/// Devices made, each in a namespace of its own.
const MANY: usize = 300;
const CONNECTIONS: usize = 1000;

/// kB of a line of a file of proc(5).
fn kilobytes(file: &str, name: &str) -> i64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn resident() -> i64 {
    kilobytes("/proc/self/status", "VmRSS:")
}

fn of_kernel() -> i64 {
    let all = ["Slab:", "Percpu:", "KernelStack:", "PageTables:"];
    all.map(|name| kilobytes("/proc/meminfo", name))
        .iter()
        .sum()
}

/// Pages of all TCP sockets of the machine, in kB: sockstat is of a namespace, this of all.
fn of_tcp() -> i64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages: i64 = line.split(' ').next_back().unwrap().parse().unwrap();
    pages * 4
}

pub(crate) fn measure(net: &Net) {
    // In one thread that goes from one namespace to the next: the devices keep them.
    let made = |count: usize| {
        Place::new().run(move || {
            (0..count)
                .map(|_| {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    llm_in_sandbox::sys::process::loopback_up().unwrap();
                    let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
                    (namespace, paths::device())
                })
                .collect::<Vec<_>>()
        })
    };
    drop(made(10));
    let before = of_kernel();
    let devices = made(MANY);
    settle();
    let kernel = (of_kernel() - before) as f64 / MANY as f64;
    let before = resident();
    let attached: Vec<(Attachment, Entries)> = devices
        .into_iter()
        .map(|(_, device)| paths::attach(net, device))
        .collect();
    settle();
    let process = (resident() - before) as f64 / MANY as f64;
    println!(
        "memory of an idle one, n = {MANY}: kernel {kernel:.0} kB (namespace and device), process {process:.1} kB"
    );
    drop(attached);
    connections(net);
}

fn settle() {
    thread::sleep(Duration::from_millis(700));
}

/// Connections that both sides keep and neither reads.
fn connections(net: &Net) {
    let path = paths::ours(net);
    let (rss, kernel, tcp) = (resident(), of_kernel(), of_tcp());
    let streams = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&streams);
    path.place.run(move || {
        let server = paths::SERVER.parse().unwrap();
        let began = Instant::now();
        let mut streams = kept.lock().unwrap();
        while streams.len() < CONNECTIONS && began.elapsed() < Duration::from_secs(10) {
            streams.extend(transfers::source_of(server));
        }
    });
    settle();
    let count = streams.lock().unwrap().len();
    println!(
        "{count} connections of one whose data nobody reads: process {} kB, kernel {} kB, TCP's data {} kB (both ends of both sides)",
        resident() - rss,
        of_kernel() - kernel,
        of_tcp() - tcp
    );
}
