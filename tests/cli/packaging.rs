//! The files of `packaging/`: parsed where a parser is at hand, else looked at.

use std::process::Command;

macro_rules! packaged {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/", $path))
    };
}

/// Lines that say something.
fn statements(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[test]
fn the_apparmor_profile_allows_user_namespaces_and_confines_nothing() {
    let profile = packaged!("apparmor/llm-in-sandbox");
    let said = statements(profile);
    assert_eq!(
        said.first(),
        Some(&"abi <abi/4.0>,"),
        "userns is a rule of version 4"
    );
    assert_eq!(said.iter().filter(|line| **line == "userns,").count(), 1);
    let head = said
        .iter()
        .find(|line| line.starts_with("profile "))
        .unwrap();
    assert!(
        head.contains("bin/llm-in-sandbox flags=(unconfined) {"),
        "{head}"
    );
    // Each rule ends with a comma, the profile with a brace.
    for line in &said {
        let ends = line.ends_with([',', '{', '}']) || line.starts_with("include ");
        assert!(ends, "{line}");
    }
    assert_eq!(said.last(), Some(&"}"));
}

#[test]
fn apparmor_s_parser_takes_the_profile() {
    let version = Command::new("apparmor_parser").arg("--version").output();
    let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if !text
        .as_ref()
        .is_ok_and(|text| text.contains("version 4") || text.contains("version 5"))
    {
        println!(
            "SKIP apparmor_s_parser_takes_the_profile: needs apparmor_parser 4 or newer: {text:?}"
        );
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), packaged!("apparmor/llm-in-sandbox")).unwrap();
    let output = Command::new("apparmor_parser")
        .args(["-Q", "-K"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_settings_are_those_that_doctor_names() {
    let settings = statements(packaged!("sysctl/60-llm-in-sandbox.conf"));
    let expected = [
        "-kernel.apparmor_restrict_unprivileged_userns = 0",
        "-kernel.unprivileged_userns_clone = 1",
    ];
    assert_eq!(settings, expected);
    let unit = statements(packaged!("systemd/delegate.conf"));
    assert_eq!(unit, ["[Service]", "Delegate=cpu memory pids"]);
}
