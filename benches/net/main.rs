//! The network of a sandbox beside others: `cargo bench --bench net [-- N] [PART…]`.
//!
//! Parts: `paths` (connections and bulk beside pasta, slirp4netns and a veth pair), `stall` (what one stream up does with
//! the TCP of the kernel inside set otherwise), `start` (what a network costs a start), `memory`, `fair`. As root, on an
//! idle machine; all but `start` in namespaces of its own. `start` needs the default image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program of its own for people at a terminal"
)]

#[path = "../common/mod.rs"]
mod common;
mod fair;
mod memory;
mod paths;
mod place;
mod start;
mod transfers;

use std::net::IpAddr;

use llm_in_sandbox::net::{Net, Settings};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use paths::{Path, SERVER, Tcp};
use transfers::What;

fn main() {
    llm_in_sandbox::sys::process::raise_open_files().unwrap();
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|part| part.bytes().all(|byte| byte.is_ascii_lowercase()))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    if wanted("start") {
        start::measure(common::rounds());
    }
    // Still one thread: all that follow are in this namespace, too.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    llm_in_sandbox::sys::process::loopback_up().unwrap();
    let _internet = paths::make_host();
    let net = Net::start(&Settings::default()).unwrap();
    let rounds = common::rounds().min(5);
    if wanted("paths") {
        let all = [
            Some(paths::ours(&net)),
            paths::pasta(),
            paths::slirp4netns(),
            paths::veth(),
        ];
        compare(
            &all.into_iter().flatten().collect::<Vec<_>>(),
            &What::ALL,
            rounds,
        );
    }
    if wanted("stall") {
        stall(&net, rounds);
    }
    if wanted("memory") {
        memory::measure(&net);
    }
    if wanted("fair") {
        fair::measure(&net);
    }
}

/// Every way in turn, again and again; the median, and the least and most.
fn compare(all: &[Path], what: &[What], rounds: usize) {
    let server: IpAddr = SERVER.parse().unwrap();
    let mut values = vec![vec![Vec::new(); what.len()]; all.len()];
    for _ in 0..rounds {
        for (number, one) in what.iter().enumerate() {
            for (path, values) in all.iter().zip(&mut values) {
                values[number].push(one.measure(&path.place, server).unwrap_or(f64::NAN));
            }
        }
    }
    println!(
        "\n| n = {rounds} | {} |",
        all.iter()
            .map(|path| path.name.as_str())
            .collect::<Vec<_>>()
            .join(" | ")
    );
    println!("|---|{}", "---|".repeat(all.len()));
    for (number, one) in what.iter().enumerate() {
        let cells: Vec<_> = values
            .iter_mut()
            .map(|values| cell(&mut values[number]))
            .collect();
        println!("| {} | {} |", one.name(), cells.join(" | "));
    }
}

fn cell(values: &mut [f64]) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let digits = if values[values.len() - 1] < 100.0 {
        3
    } else {
        0
    };
    let [least, median, most] = [0, values.len() / 2, values.len() - 1].map(|at| values[at]);
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

/// One stream up, with the congestion control of many hosts or the oldest, and with and without what the kernel remembers.
fn stall(net: &Net, rounds: usize) {
    let mut all = Vec::new();
    for control in ["bbr", "reno"] {
        for remembers in [true, false] {
            for path in [Some(paths::ours(net)), paths::pasta()]
                .into_iter()
                .flatten()
            {
                let tcp = Tcp { control, remembers };
                if !path.place.run(move || tcp.set()) {
                    println!("going on without {control}: this host allows it to no namespace");
                    continue;
                }
                let metrics = if remembers { "kept" } else { "not kept" };
                let name = format!("{}, {control}, metrics {metrics}", path.name);
                all.push(path.named(name));
            }
        }
    }
    compare(&all, &[What::Up(1)], rounds);
}
