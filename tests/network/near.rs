//! `internet`: servers are reached, the host and what is near it are not, however they are written.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use llm_in_sandbox::env::{Env, ExecRequest};

use crate::world::{HOST_PORT, block_on, check, evaluate, in_world, text};

/// Ways to write this host, its neighbours and its metadata.
const NEAR: [&str; 29] = [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "0",
    "0.0.0.0",
    "localhost",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::127.0.0.1",
    "2002:7f00:1::1",
    "203.0.113.2",
    "::ffff:203.0.113.2",
    "::203.0.113.2",
    "64:ff9b::203.0.113.2",
    "2002:cb00:7102::1",
    "2a00:1::2",
    "10.1.1.2",
    "::ffff:10.1.1.2",
    "100.96.0.1",
    "fd6c:6973:6e65::1",
    "fe80::1",
    "169.254.169.254",
    "fd00:ec2::254",
    "100.100.100.200",
    "224.0.0.1",
    "rebind.example",
];

fn dials(kind: &str) -> Vec<String> {
    let dial = |host: &&str| match kind {
        "udp" => format!("udp('{host}', {HOST_PORT})"),
        _ => format!("dial('{host}', {HOST_PORT}, b'x')"),
    };
    NEAR.iter().map(dial).collect()
}

#[test]
fn nothing_near_the_host_is_reached_in_any_spelling() {
    in_world(
        "near::nothing_near_the_host_is_reached_in_any_spelling",
        |world| {
            block_on(async {
                for network in ["internet", "allow:*,*:1-65535,*:1-65535/udp,0.0.0.0/0,::/0"] {
                    let sandbox = world.sandbox(network).await;
                    for kind in ["tcp", "udp"] {
                        let dials = dials(kind);
                        let dials: Vec<_> = dials.iter().map(String::as_str).collect();
                        let answers = evaluate(&sandbox, &dials).await;
                        let pairs: Vec<_> = NEAR.iter().zip(&answers).collect();
                        assert!(
                            !answers.iter().any(|answer| answer == "the host"),
                            "{pairs:?}"
                        );
                    }
                    let connections = sandbox.connections().listed;
                    let denied = |rule: &str| {
                        connections
                            .iter()
                            .any(|one| one.verdict == "denied" && one.rule == rule)
                    };
                    assert!(denied("the host's own address"), "{connections:?}");
                    assert!(denied("link-local and metadata") && denied("metadata"));
                    sandbox.close().await.unwrap();
                }
                assert_eq!(world.reached(), 0);
            });
        },
    );
}

/// Sockets of files and of abstract names are in no network namespace of ours, and in no directory.
#[test]
fn unix_sockets_of_the_host_are_not_there() {
    in_world("near::unix_sockets_of_the_host_are_not_there", |world| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let name = format!("lis-near-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listeners = [
            UnixListener::bind(&path).unwrap(),
            UnixListener::bind_addr(&address).unwrap(),
        ];
        // They are there for whoever is outside.
        UnixStream::connect(&path).unwrap();
        UnixStream::connect_addr(&address).unwrap();
        for listener in &listeners {
            listener.accept().unwrap();
            listener.set_nonblocking(true).unwrap();
        }
        let script = format!(
            "import socket\n\
             for address in ({:?}, '\\0{name}'):\n\
             \x20   try: socket.socket(socket.AF_UNIX).connect(address); print('reached')\n\
             \x20   except OSError as error: print(type(error).__name__)\n\
             print({name:?} in open('/proc/net/unix').read())",
            path.to_str().unwrap()
        );
        block_on(async {
            for network in ["none", "internet", "allow:*,0.0.0.0/0,::/0"] {
                let sandbox = world.sandbox(network).await;
                let request = ExecRequest::new(["python3", "-c", &script]);
                let result = sandbox.exec(&request).await.unwrap();
                let said = text(&result.stdout);
                let expected = "FileNotFoundError\nConnectionRefusedError\nFalse\n";
                assert_eq!(said, expected, "{network}: {}", text(&result.stderr));
                sandbox.close().await.unwrap();
            }
            // The same program finds the abstract one where the walls before it are gone.
            let sandbox = world.sandbox_without("host", &["Landlock"]).await;
            let request = ExecRequest::new(["python3", "-c", &script]);
            let result = sandbox.exec(&request).await.unwrap();
            let said = text(&result.stdout);
            assert_eq!(said, "FileNotFoundError\nreached\nTrue\n");
            sandbox.close().await.unwrap();
        });
        listeners[0].accept().unwrap_err();
        listeners[1].accept().unwrap();
        listeners[1].accept().unwrap_err();
    });
}

/// The listeners do listen, and the test above sees it where a wall is missing.
#[test]
fn without_its_walls_the_host_is_reached() {
    in_world("near::without_its_walls_the_host_is_reached", |world| {
        block_on(async {
            let own = [
                ("dial('203.0.113.2', 7777, b'x')", "the host"),
                ("dial('::ffff:203.0.113.2', 7777, b'x')", "the host"),
                ("udp('203.0.113.2', 7777)", "the host"),
                ("dial('2a00:1::2', 7777, b'x')", "the host"),
            ];
            let sandbox = world.sandbox_without("internet", &["OwnAddresses"]).await;
            check(&sandbox, &own).await;
            sandbox.close().await.unwrap();
            let sandbox = world.sandbox("host").await;
            check(&sandbox, &own).await;
            check(&sandbox, &[("dial('127.0.0.1', 7777, b'x')", "the host")]).await;
            sandbox.close().await.unwrap();
            assert_eq!(world.reached(), 9);
        });
    });
}

#[test]
fn servers_are_reached_by_name_and_address_and_all_is_on_record() {
    in_world(
        "near::servers_are_reached_by_name_and_address_and_all_is_on_record",
        |world| {
            block_on(async {
                let sandbox = world.sandbox("internet").await;
                check(
                    &sandbox,
                    &[
                        ("dial('good.example', 80, get('x'))", "203.0.113.1 80"),
                        ("dial('203.0.113.9', 22, b'x')", "203.0.113.9 22"),
                        ("dial('www.six.example', 443, b'x')", "2a00:1::1 443"),
                        ("dial('half.example', 80, b'x')", "203.0.113.9 80"),
                        ("udp('203.0.113.9', 9)", "datagram"),
                        ("dial('203.0.113.9', 81, b'x')", "ConnectionRefusedError"),
                        ("dial('nobody.example', 80, b'x')", "unknown"),
                        ("dial('rebind.example', 80, b'x')", "unknown"),
                    ],
                )
                .await;
                let usage = sandbox.close().await.unwrap();
                let connections = usage.connections.listed;
                let good = connections
                    .iter()
                    .find(|one| {
                        one.protocol == "tcp" && one.name.as_deref() == Some("good.example")
                    })
                    .unwrap();
                assert_eq!(
                    (good.address.to_string().as_str(), good.port),
                    ("203.0.113.1", 80)
                );
                assert!(good.up > 20 && good.down > 20, "{good:?}");
                assert_eq!(
                    (good.verdict.as_str(), good.rule.as_str()),
                    ("allowed", "internet")
                );
                let of = |protocol: &str| {
                    connections
                        .iter()
                        .filter(|one| one.protocol == protocol)
                        .count()
                };
                assert!(of("udp") >= 1 && of("dns") >= 5, "{connections:?}");
                assert!(
                    connections
                        .iter()
                        .any(|one| one.ended == "refused" && one.port == 81)
                );
            });
        },
    );
}
