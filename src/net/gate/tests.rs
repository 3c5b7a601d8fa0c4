use super::*;
use crate::net::hello::tests::client_hello;

const HOUR: Duration = Duration::from_secs(3600);

struct Case {
    gate: Gate,
    now: Instant,
}

impl Case {
    fn new(rules: &str) -> Self {
        let own = ["192.0.2.2", "2a00::2"].map(|address| address.parse().unwrap());
        Self {
            gate: Gate::new(rules.parse().unwrap(), own.into_iter().collect()),
            now: Instant::now(),
        }
    }

    /// Looks a name up and answers it; gives what the sandbox is told.
    fn look_up(&mut self, name: &str, addresses: &[&str]) -> Vec<String> {
        if !matches!(self.gate.question(name, self.now), Decision::Allow { .. }) {
            return vec!["refused".to_owned()];
        }
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| (address.parse().unwrap(), HOUR))
            .collect();
        let told = self.gate.answer(name, &addresses, self.now);
        told.iter().map(IpAddr::to_string).collect()
    }

    fn open(&mut self, to: &str) -> Decision {
        self.gate.open(Protocol::Tcp, to.parse().unwrap(), self.now)
    }

    fn tcp(&mut self, to: &str) -> &'static str {
        word(&self.open(to))
    }

    fn udp(&mut self, to: &str) -> &'static str {
        word(&self.gate.open(Protocol::Udp, to.parse().unwrap(), self.now))
    }

    fn sends(&mut self, to: &str, bytes: &[u8]) -> Peeked {
        self.gate.first_bytes(to.parse().unwrap(), bytes)
    }

    fn says(&mut self, to: &str, bytes: &[u8]) -> &'static str {
        match self.sends(to, bytes) {
            Peeked::NeedMore => "more",
            Peeked::Decided(decision) => word(&decision),
        }
    }
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow { .. } => "allow",
        Decision::Deny { .. } => "deny",
        Decision::Peek => "peek",
    }
}

fn rule(decision: &Decision) -> &str {
    match decision {
        Decision::Allow { rule, .. } | Decision::Deny { rule, .. } => rule,
        Decision::Peek => "",
    }
}

fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

#[test]
fn internet_is_everything_but_what_is_near() {
    let mut case = Case::new("internet");
    assert_eq!(case.tcp("203.0.113.80:443"), "allow");
    assert_eq!(case.udp("203.0.113.80:53"), "allow");
    assert_eq!(case.tcp("[2606:4700::1]:22"), "allow");
    for near in [
        "127.0.0.1:80",
        "10.0.0.1:80",
        "169.254.169.254:80",
        "192.0.2.2:22",
        "[::ffff:192.0.2.2]:22",
        "[64:ff9b::192.0.2.2]:22",
        "[2002:c000:202::1]:22",
        "[2a00::2]:22",
        "[::1]:80",
        "[fe80::1]:80",
    ] {
        assert_eq!((case.tcp(near), case.udp(near)), ("deny", "deny"), "{near}");
    }
    assert_eq!(rule(&case.open("192.0.2.2:1")), "the host's own address");
    assert_eq!(case.look_up("a.org", &["203.0.113.1"]), ["203.0.113.1"]);
    let Decision::Allow { name, .. } = case.open("203.0.113.1:80") else {
        panic!("it is allowed");
    };
    assert_eq!(name.as_deref(), Some("a.org"));
}

#[test]
fn answers_that_lead_inside_are_not_told() {
    let mut case = Case::new("internet");
    let answer = [
        "127.0.0.1",
        "203.0.113.1",
        "::1",
        "::ffff:10.0.0.1",
        "192.0.2.2",
        "fd00::1",
    ];
    assert_eq!(case.look_up("rebind.example", &answer), ["203.0.113.1"]);
    assert_eq!(case.look_up("localhost", &["203.0.113.1"]), ["refused"]);
    assert_eq!(
        case.look_up("metadata.google.internal", &["203.0.113.1"]),
        ["refused"]
    );
    assert_eq!(case.look_up("2.2.0.192.in-addr.arpa", &[]), ["refused"]);
    assert_eq!(case.look_up("127.0.0.1", &["127.0.0.1"]), ["refused"]);
}

#[test]
fn allow_mode_holds_by_name() {
    let mut case = Case::new("allow:pypi.org,*.files.example");
    assert_eq!(case.tcp("203.0.113.80:443"), "deny");
    assert_eq!(case.look_up("evil.example", &["203.0.113.80"]), ["refused"]);
    assert_eq!(case.tcp("203.0.113.80:443"), "deny");
    assert_eq!(
        case.look_up("pypi.org", &["203.0.113.80"]),
        ["203.0.113.80"]
    );
    assert_eq!(case.tcp("203.0.113.80:443"), "peek");
    let web = "203.0.113.80:443";
    assert_eq!(case.says(web, &client_hello("pypi.org")), "allow");
    assert_eq!(case.says(web, &get("pypi.org")), "allow");
    // Another site at the same address; an allowed one that was not looked up there.
    assert_eq!(case.says(web, &client_hello("evil.example")), "deny");
    assert_eq!(case.says(web, &client_hello("a.files.example")), "deny");
    assert_eq!(case.says(web, &get("evil.example")), "deny");
    assert_eq!(case.says(web, &get("203.0.113.80")), "deny");
    assert_eq!(case.says(web, b"SSH-2.0-x\r\n"), "deny");
    assert_eq!(
        case.says(web, b"CONNECT pypi.org:443 HTTP/1.1\r\n\r\n"),
        "deny"
    );
    assert_eq!(case.says(web, b""), "more");
    assert_eq!(case.says(web, &[b'A'; 10]), "more");
    assert_eq!(
        case.says(
            web,
            &[b"GET / HTTP/1.1\r\nA: ", &[b'a'; PEEK_MAX][..]].concat()
        ),
        "deny"
    );
    // Other ports, datagrams, and the address after its time.
    assert_eq!(case.tcp("203.0.113.80:22"), "deny");
    assert_eq!(case.udp("203.0.113.80:443"), "deny");
    case.now += HOUR * 48;
    assert_eq!(case.tcp("203.0.113.80:443"), "deny");
}

#[test]
fn a_hostile_answer_opens_nothing_near() {
    let mut case = Case::new("allow:pypi.org,*.example");
    assert!(
        case.look_up("pypi.org", &["127.0.0.1", "192.0.2.2", "10.0.0.1"])
            .is_empty()
    );
    assert!(
        case.look_up("x.example", &["::ffff:169.254.169.254"])
            .is_empty()
    );
    for near in [
        "127.0.0.1:443",
        "192.0.2.2:443",
        "10.0.0.1:443",
        "169.254.169.254:80",
    ] {
        assert_eq!(case.tcp(near), "deny", "{near}");
    }
}

#[test]
fn given_ports_are_for_what_is_no_web_too() {
    let mut case =
        Case::new("allow:git.example:22,mail.example:25,time.example:123/udp,w.example:443");
    case.look_up("git.example", &["203.0.113.1"]);
    case.look_up("mail.example", &["203.0.113.2"]);
    case.look_up("time.example", &["203.0.113.3"]);
    case.look_up("w.example", &["203.0.113.4"]);
    assert_eq!(case.tcp("203.0.113.1:22"), "peek");
    assert_eq!(case.says("203.0.113.1:22", b"SSH-2.0-x\r\n"), "allow");
    assert_eq!(
        case.says("203.0.113.1:22", &client_hello("evil.example")),
        "deny"
    );
    assert_eq!(case.tcp("203.0.113.2:25"), "allow");
    assert_eq!(
        (case.udp("203.0.113.3:123"), case.tcp("203.0.113.3:123")),
        ("allow", "deny")
    );
    assert_eq!(case.tcp("203.0.113.4:443"), "peek");
    assert_eq!(case.says("203.0.113.4:443", b"SSH-2.0-x\r\n"), "deny");
}

#[test]
fn blocks_allow_addresses_and_a_denied_name_stays_denied() {
    let mut case = Case::new("allow:203.0.113.0/24:443");
    assert_eq!(
        (case.tcp("203.0.113.9:443"), case.tcp("203.0.113.9:80")),
        ("allow", "deny")
    );
    let mut case = Case::new("allow:deny evil.example,203.0.113.0/24");
    assert_eq!(case.tcp("203.0.113.9:443"), "peek");
    assert_eq!(
        case.says("203.0.113.9:443", &client_hello("evil.example")),
        "deny"
    );
    assert_eq!(
        case.says("203.0.113.9:443", &client_hello("good.example")),
        "allow"
    );
    assert_eq!(case.says("203.0.113.9:443", b"\0\0"), "allow");
    // A block never opens what is near, not even the widest.
    let mut case = Case::new("allow:0.0.0.0/0,::/0");
    assert_eq!(
        (
            case.tcp("8.8.8.8:1"),
            case.tcp("127.0.0.1:1"),
            case.tcp("[::1]:1")
        ),
        ("allow", "deny", "deny")
    );
}

#[test]
fn what_the_host_is_configured_to_use_is_reached_and_nothing_beside_it() {
    let mut case = Case::new("internet:except index i.corp:8080,except index 10.0.0.7:80");
    assert_eq!(
        case.look_up("i.corp", &["10.0.0.5", "127.0.0.1"]),
        ["10.0.0.5"]
    );
    let decision = case.open("10.0.0.5:8080");
    assert_eq!(
        (word(&decision), rule(&decision)),
        ("allow", "except index i.corp:8080")
    );
    assert_eq!(case.tcp("10.0.0.7:80"), "allow");
    for other in [
        "10.0.0.5:22",
        "10.0.0.6:8080",
        "10.0.0.7:81",
        "127.0.0.1:8080",
    ] {
        assert_eq!(case.tcp(other), "deny", "{other}");
    }
    assert_eq!(case.udp("10.0.0.5:8080"), "deny");
    // Not even an exception leads to the host itself.
    let mut case = Case::new("internet:except index 192.0.2.2:80");
    assert_eq!(case.tcp("192.0.2.2:80"), "deny");
}

#[test]
fn a_proxy_is_no_way_round() {
    let connect = |to: &str| format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes();
    let proxy = "10.0.0.5:3128";
    let mut case = Case::new("internet:except proxy 10.0.0.5:3128");
    assert_eq!(case.tcp(proxy), "peek");
    assert_eq!(case.says(proxy, &connect("pypi.org:443")), "allow");
    assert_eq!(
        case.says(
            proxy,
            b"GET http://deb.example/x HTTP/1.1\r\nHost: deb.example\r\n\r\n"
        ),
        "allow"
    );
    for near in [
        "127.0.0.1:22",
        "localhost:22",
        "[::1]:22",
        "10.0.0.9:80",
        "169.254.169.254:80",
        "192.0.2.2:22",
        "intranet:80",
        "2130706433:80",
        "metadata.google.internal:80",
    ] {
        assert_eq!(case.says(proxy, &connect(near)), "deny", "{near}");
    }
    assert_eq!(case.says(proxy, &get("pypi.org")), "deny");
    assert_eq!(case.says(proxy, &client_hello("pypi.org")), "deny");
    let mut case = Case::new("allow:pypi.org,except proxy 10.0.0.5:3128");
    assert_eq!(case.tcp(proxy), "peek");
    assert_eq!(case.says(proxy, &connect("pypi.org:443")), "allow");
    assert_eq!(case.says(proxy, &connect("pypi.org:22")), "deny");
    assert_eq!(case.says(proxy, &connect("evil.example:443")), "deny");
    assert_eq!(case.says(proxy, &connect("203.0.113.80:443")), "deny");
    assert_eq!(
        case.says(
            proxy,
            b"GET http://pypi.org/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n"
        ),
        "deny"
    );
}
