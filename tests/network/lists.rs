//! `allow`: only what the rules name, by name.

use llm_in_sandbox::env::Env;

use crate::world::{block_on, check, in_world, text};

const RESET: &str = "ConnectionResetError|ConnectionRefusedError|closed|BrokenPipeError";
const NO: &str = "ConnectionRefusedError|OSError";

/// What is dialled, and what comes of it with the list and without.
const CASES: [(&str, &str, &str); 16] = [
    (
        "dial('good.example', 80, get('good.example'))",
        "203.0.113.1 80",
        "203.0.113.1 80",
    ),
    (
        "dial('good.example', 443, hello('good.example'))",
        "203.0.113.1 443",
        "203.0.113.1 443",
    ),
    (
        "dial('www.six.example', 443, hello('www.six.example'))",
        "2a00:1::1 443",
        "2a00:1::1 443",
    ),
    (
        "dial('evil.example', 80, get('evil.example'))",
        "unknown",
        "203.0.113.9 80",
    ),
    (
        "dial('also.example', 80, get('also.example'))",
        "unknown",
        "203.0.113.1 80",
    ),
    ("dial('six.example', 80, b'x')", "unknown", "unknown"),
    (
        "dial('203.0.113.9', 80, get('good.example'))",
        NO,
        "203.0.113.9 80",
    ),
    (
        "dial('203.0.113.9', 443, hello('good.example'))",
        NO,
        "203.0.113.9 443",
    ),
    (
        "dial('::ffff:203.0.113.9', 443, hello('good.example'))",
        NO,
        "203.0.113.9 443",
    ),
    (
        "dial('good.example', 80, get('also.example'))",
        RESET,
        "203.0.113.1 80",
    ),
    (
        "dial('good.example', 443, hello('also.example'))",
        RESET,
        "203.0.113.1 443",
    ),
    (
        "dial('good.example', 443, hello('www.six.example'))",
        RESET,
        "203.0.113.1 443",
    ),
    (
        "dial('good.example', 443, b'SSH-2.0-x\\r\\n')",
        RESET,
        "203.0.113.1 443",
    ),
    (
        "dial('good.example', 80, connect('evil.example:443'))",
        RESET,
        "203.0.113.1 80",
    ),
    ("dial('good.example', 22, b'x')", NO, "203.0.113.1 22"),
    (
        "udp('203.0.113.9', 9)",
        "ConnectionRefusedError|TimeoutError|PermissionError|OSError",
        "datagram",
    ),
];

#[test]
fn only_listed_names_are_reached_and_by_name() {
    in_world(
        "lists::only_listed_names_are_reached_and_by_name",
        |world| {
            block_on(async {
                let sandbox = world.sandbox("allow:good.example,*.six.example").await;
                // Looked up first, so that the address of the shared server is known.
                check(
                    &sandbox,
                    &CASES[..3]
                        .iter()
                        .map(|(what, then, _)| (*what, *then))
                        .collect::<Vec<_>>(),
                )
                .await;
                check(&sandbox, &CASES.map(|(what, then, _)| (what, then))).await;
                let result = sandbox
                    .shell(
                        "curl -sS -L -m 5 http://good.example/away",
                        std::time::Duration::from_secs(10),
                    )
                    .await
                    .unwrap();
                assert_eq!(result.status, Some(6), "{}", text(&result.stderr));
                let denied = sandbox.connections().listed;
                assert!(
                    denied.iter().any(|one| one.protocol == "dns"
                        && one.verdict == "denied"
                        && one.name.as_deref() == Some("evil.example")),
                    "{denied:?}"
                );
                sandbox.close().await.unwrap();
                // All of it is there, and is reached where no list keeps it away.
                let sandbox = world.sandbox("internet").await;
                check(
                    &sandbox,
                    &CASES.map(|(what, _, otherwise)| (what, otherwise)),
                )
                .await;
                let result = sandbox
                    .shell(
                        "curl -sS -L -m 5 http://good.example/away",
                        std::time::Duration::from_secs(10),
                    )
                    .await
                    .unwrap();
                assert_eq!(text(&result.stdout), "203.0.113.9 80");
                sandbox.close().await.unwrap();
            });
        },
    );
}

#[test]
fn what_the_host_is_configured_to_use_is_reached_and_its_neighbours_are_not() {
    in_world(
        "lists::what_the_host_is_configured_to_use_is_reached_and_its_neighbours_are_not",
        |world| {
            block_on(async {
                let sandbox = world
                    .sandbox("internet:except index index.example:8080")
                    .await;
                check(
                    &sandbox,
                    &[
                        (
                            "dial('index.example', 8080, get('index.example'))",
                            "10.1.1.1 8080",
                        ),
                        ("dial('index.example', 22, b'x')", NO),
                        ("dial('10.1.1.1', 3128, b'x')", NO),
                    ],
                )
                .await;
                sandbox.close().await.unwrap();
                let sandbox = world
                    .sandbox("allow:good.example,except proxy 10.1.1.1:3128")
                    .await;
                check(
                    &sandbox,
                    &[
                        (
                            "dial('10.1.1.1', 3128, connect('good.example:443'))",
                            "10.1.1.1 3128",
                        ),
                        ("dial('10.1.1.1', 3128, connect('evil.example:443'))", RESET),
                        ("dial('10.1.1.1', 3128, connect('127.0.0.1:7777'))", RESET),
                        ("dial('10.1.1.1', 3128, connect('203.0.113.2:7777'))", RESET),
                        ("dial('10.1.1.1', 3128, get('good.example'))", RESET),
                        ("dial('10.1.1.1', 22, b'x')", NO),
                    ],
                )
                .await;
                sandbox.close().await.unwrap();
            });
        },
    );
}

/// Whoever answers for an allowed name may say what he wants: not that it is here, nor what another name leads to.
#[test]
fn a_hostile_answer_for_an_allowed_name_opens_nothing() {
    in_world(
        "lists::a_hostile_answer_for_an_allowed_name_opens_nothing",
        |world| {
            block_on(async {
                let sandbox = world
                    .sandbox("allow:rebind.example:1-65535,half.example:1-65535")
                    .await;
                check(
                    &sandbox,
                    &[
                        ("dial('rebind.example', 7777, b'x')", "unknown"),
                        (
                            "dial('half.example', 80, get('half.example'))",
                            "203.0.113.9 80",
                        ),
                        ("dial('half.example', 80, get('evil.example'))", RESET),
                        ("dial('half.example', 443, hello('evil.example'))", RESET),
                        ("dial('127.0.0.1', 7777, get('half.example'))", NO),
                        ("dial('10.1.1.1', 8080, get('rebind.example'))", NO),
                        ("dial('203.0.113.2', 7777, get('rebind.example'))", NO),
                    ],
                )
                .await;
                sandbox.close().await.unwrap();
                assert_eq!(world.reached(), 0);
            });
        },
    );
}
