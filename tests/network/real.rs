//! The registries that this host is configured to use, through the engine.

use std::process::Command;

use crate::world::{has_device, lacks, program};

/// Whether the host itself reaches a package index now.
fn host_has_an_index(test: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let pip = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "--retries",
        "1",
        "six",
    ];
    let got = Command::new("timeout")
        .args(["20", "python3"])
        .args(pip)
        .current_dir(directory.path())
        .output();
    if got.is_ok_and(|output| output.status.success()) {
        return true;
    }
    lacks(
        test,
        "index",
        "needs a package index that this host reaches",
    );
    false
}

/// Through the program, which hands on the host's certificates, proxies and indexes.
fn inside(network: &str, script: &str) -> (i32, String) {
    let output = Command::new("timeout")
        .arg("150")
        .arg(program())
        .args([
            "exec", "--net", network, "--memory", "2g", "--disk", "1g", "--",
        ])
        .args(["sh", "-ec", script])
        .output()
        .unwrap();
    let text = [output.stderr, output.stdout].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn pip_gets_a_compiled_package() {
    let test = "pip_gets_a_compiled_package";
    if !has_device(test) || !host_has_an_index(test) {
        return;
    }
    let script = "pip install --quiet --no-cache-dir --target /tmp/site markupsafe && PYTHONPATH=/tmp/site python3 -c 'from markupsafe import _speedups; print(1)'";
    let (code, text) = inside("internet", script);
    assert_eq!((code, text.trim().lines().last()), (0, Some("1")), "{text}");
    let (code, text) = inside("allow:nothing.example", script);
    assert_ne!(code, 0, "{text}");
}

#[test]
fn apt_installs_a_package() {
    let test = "apt_installs_a_package";
    if !has_device(test) || !host_has_an_index(test) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        // A user without a range of ids has none for apt's own.
        println!("SKIP {test}: needs ids for apt's own user");
        return;
    }
    let (code, text) = inside(
        "internet",
        "apt-get update -qq && apt-get install -y -qq --no-install-recommends hello >/dev/null && hello",
    );
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Hello, world!"), "{text}");
}
