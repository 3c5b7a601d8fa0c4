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
    inside_with(&[], network, script)
}

fn inside_with(flags: &[&str], network: &str, script: &str) -> (i32, String) {
    let output = Command::new("timeout")
        .arg("150")
        .arg(program())
        .args(["exec", "--net", network, "--memory", "2g", "--disk", "1g"])
        .args(flags)
        .arg("--")
        .args(["sh", "-ec", script])
        .output()
        .unwrap();
    let text = [output.stderr, output.stdout].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

const COMPILED: &str = "pip install --quiet --no-cache-dir --target /tmp/site markupsafe && PYTHONPATH=/tmp/site python3 -c 'from markupsafe import _speedups; print(1)'";

#[test]
fn pip_gets_a_compiled_package() {
    let test = "pip_gets_a_compiled_package";
    if !has_device(test) || !host_has_an_index(test) {
        return;
    }
    let (code, text) = inside("internet", COMPILED);
    assert_eq!((code, text.trim().lines().last()), (0, Some("1")), "{text}");
    let (code, text) = inside("allow:nothing.example", COMPILED);
    assert_ne!(code, 0, "{text}");
}

#[test]
fn pip_gets_it_through_the_package_cache() {
    let test = "pip_gets_it_through_the_package_cache";
    if !has_device(test) || !host_has_an_index(test) {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let flags = ["--package-cache", cache.path().to_str().unwrap()];
    for _ in 0..2 {
        let (code, text) = inside_with(&flags, "internet", COMPILED);
        assert_eq!((code, text.trim().lines().last()), (0, Some("1")), "{text}");
        let files = std::fs::read_dir(cache.path().join("files")).unwrap();
        // With the metadata beside it, where the index has some.
        assert!([1, 2].contains(&files.count()));
    }
    let (code, text) = inside_with(&flags, "allow:nothing.example", COMPILED);
    assert_ne!(code, 0, "{text}");
}

#[test]
fn curl_reads_a_registry() {
    let test = "curl_reads_a_registry";
    if !has_device(test) || !host_has_an_index(test) {
        return;
    }
    let script = "index=${PIP_INDEX_URL:-https://pypi.org/simple}; curl -sSf -o /tmp/page \"${index%/}/six/\" && grep -c six /tmp/page";
    let (code, text) = inside("internet", script);
    assert_eq!(code, 0, "{text}");
    let lines = text.trim().lines().last().unwrap_or("").parse::<u32>();
    assert!(lines.is_ok_and(|lines| lines > 10), "{text}");
}

#[test]
fn apt_installs_a_package() {
    let test = "apt_installs_a_package";
    if !has_device(test) || !host_has_an_index(test) {
        return;
    }
    // A user without a range of ids has none for apt's own user.
    let (code, text) = inside(
        "internet",
        "test $(awk '{ n += $3 } END { print n }' /proc/self/uid_map) -gt 1 || echo 'APT::Sandbox::User \"root\";' > /etc/apt/apt.conf.d/99one-id
         apt-get update -qq && apt-get install -y -qq --no-install-recommends hello >/dev/null && hello",
    );
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Hello, world!"), "{text}");
}
