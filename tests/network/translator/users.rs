//! Who is not root makes his own namespaces: the same tests once more in one.

use std::process::Command;

use crate::world::lacks;

/// Some of each kind; all of them run once as root.
const TESTS: [&str; 5] = [
    "translator::tcp::an_answer_and_its_end_arrive",
    "translator::tcp::ipv6_is_as_good",
    "translator::datagrams::datagrams_go_there_and_back",
    "translator::names::a_name_is_looked_up_where_the_host_does",
    "translator::lossy::every_byte_arrives_although_packets_are_lost",
];

#[test]
fn a_user_namespace_is_enough() {
    let test = "a_user_namespace_is_enough";
    if !crate::world::has_device(test) {
        return;
    }
    let inside = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--net", "--"])
            .args(command);
        unshare
    };
    if !inside(&["true"])
        .status()
        .is_ok_and(|status| status.success())
    {
        return lacks(test, "userns", "needs unshare(1) and user namespaces");
    }
    let program = std::env::current_exe().unwrap();
    for name in TESTS {
        let output = inside(&[program.to_str().unwrap(), "--exact", name, "--nocapture"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}");
        assert!(
            said.contains("1 passed") && !said.contains("SKIP"),
            "{name}: {said}"
        );
    }
}
