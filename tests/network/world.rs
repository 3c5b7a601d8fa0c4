//! A host and an internet, each in a network namespace: servers, and a name server that answers what suits it.
//!
//! A test starts its program once more through unshare(1), so that the host it runs on has its own mounts, too: the
//! name server of `/etc/resolv.conf` is one of the test.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Captured, Env, ExecRequest};
use llm_in_sandbox::host::{Launcher, LauncherConfig, Registry, Sandbox};
use llm_in_sandbox::image::{Store, state_dir};
use llm_in_sandbox::spec::{Network, SandboxSpec};

const DEADLINE: Duration = Duration::from_secs(100);
const MARK: &str = "LIS_TEST_WORLD";

/// Of the host.
pub(crate) const HOST_V4: &str = "203.0.113.2";
pub(crate) const HOST_V6: &str = "2a00:1::2";
/// Where the host's own services are, on every address that it has.
pub(crate) const HOST_PORT: u16 = 7777;
/// Of the internet.
pub(crate) const GOOD: &str = "203.0.113.1";
pub(crate) const EVIL: &str = "203.0.113.9";
const GOOD_V6: &str = "2a00:1::1";
const NAME_SERVER: &str = "203.0.113.53";
/// A network of its own beside the host's.
pub(crate) const PROXY: &str = "10.1.1.1";

const NAMES: [(&str, &[&str]); 7] = [
    ("good.example", &[GOOD]),
    // Another site of the same server.
    ("also.example", &[GOOD]),
    ("evil.example", &[EVIL]),
    ("www.six.example", &[GOOD_V6]),
    ("index.example", &[PROXY]),
    (
        "rebind.example",
        &[
            "127.0.0.1",
            HOST_V4,
            "169.254.169.254",
            PROXY,
            "::1",
            HOST_V6,
            "::ffff:127.0.0.1",
        ],
    ),
    ("half.example", &["127.0.0.1", EVIL]),
];

/// What the host of the world has.
pub(crate) struct World {
    directory: tempfile::TempDir,
    /// Connections and datagrams that came to services of the host.
    reached: Arc<AtomicUsize>,
    /// The network namespace of the internet.
    internet: std::fs::File,
}

/// Whether a test has what it needs; where it has not, one line says so, unless `LIS_TEST_REQUIRE` names it.
pub(crate) fn lacks(test: &str, need: &str, why: &str) {
    let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == need);
    assert!(!required, "{test} {why}, and {need} is required");
    println!("SKIP {test}: {why}");
}

/// Whether network devices can be made.
pub(crate) fn has_device(test: &str) -> bool {
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    if let Err(error) = opened {
        lacks(test, "tun", &format!("needs /dev/net/tun: {error}"));
        return false;
    }
    true
}

/// Runs the test in a world of its own. `test` is its whole name.
pub(crate) fn in_world(test: &str, body: impl FnOnce(&World)) {
    if let Some(mark) = std::env::var_os(MARK) {
        body(&World::make());
        return std::fs::write(mark, "").unwrap();
    }
    if !has_device(test) {
        return;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--net", "--mount", "--"]);
        command
    };
    let probe = unshare()
        .args([
            "ip", "link", "add", "one", "type", "veth", "peer", "name", "two",
        ])
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        return lacks(test, "tun", "needs ip(8), unshare(1) and veth pairs");
    }
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("done");
    let mut child = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, &mark)
        .process_group(0)
        .spawn()
        .unwrap();
    // What is timed takes as long as it takes.
    let timed = std::env::var_os("LIS_TEST_INSTALLS").is_some();
    let deadline = if timed { DEADLINE * 10 } else { DEADLINE };
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > deadline {
            child.kill().unwrap();
            panic!("{test} did not end within {deadline:?}");
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{test} failed in its world");
    // A name that is no test's runs none, and that goes well.
    assert!(mark.exists(), "{test} did not run");
}

impl World {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let resolvers = directory.path().join("resolv.conf");
        std::fs::write(&resolvers, format!("nameserver {NAME_SERVER}\n")).unwrap();
        run(&[
            "mount",
            "--bind",
            resolvers.to_str().unwrap(),
            "/etc/resolv.conf",
        ]);
        // The thread of the internet, from which all its servers come.
        let (entered, internet) = mpsc::channel();
        let (connected, go_on) = mpsc::channel::<()>();
        let (serving, served) = mpsc::channel();
        thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            entered.send(nix::unistd::gettid()).unwrap();
            go_on.recv().unwrap();
            for address in [GOOD, EVIL, NAME_SERVER, PROXY] {
                run(&[
                    "ip",
                    "address",
                    "add",
                    &format!("{address}/24"),
                    "dev",
                    "far0",
                ]);
            }
            run(&[
                "ip",
                "address",
                "add",
                &format!("{GOOD_V6}/64"),
                "dev",
                "far0",
                "nodad",
            ]);
            run(&["ip", "link", "set", "lo", "up"]);
            run(&["ip", "link", "set", "far0", "up"]);
            internet_servers();
            serving.send(()).unwrap();
        });
        let internet = internet.recv_timeout(DEADLINE).unwrap().to_string();
        let far = std::fs::File::open(format!("/proc/self/task/{internet}/ns/net")).unwrap();
        run(&[
            "ip", "link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns",
            &internet,
        ]);
        run(&[
            "ip",
            "address",
            "add",
            &format!("{HOST_V4}/24"),
            "dev",
            "near0",
        ]);
        run(&["ip", "address", "add", "10.1.1.2/24", "dev", "near0"]);
        run(&[
            "ip",
            "address",
            "add",
            &format!("{HOST_V6}/64"),
            "dev",
            "near0",
            "nodad",
        ]);
        run(&["ip", "link", "set", "lo", "up"]);
        run(&["ip", "link", "set", "near0", "up"]);
        connected.send(()).unwrap();
        served.recv_timeout(DEADLINE).unwrap();
        let reached = Arc::new(AtomicUsize::new(0));
        host_services(&reached);
        Self {
            directory,
            reached,
            internet: far,
        }
    }

    /// What goes with the world.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Does something in the internet; what it starts is there, too.
    pub(crate) fn far<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                nix::sched::setns(&self.internet, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            there.join().unwrap()
        })
    }

    /// How many connections and datagrams have come to the host's own services.
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }

    pub(crate) async fn sandbox(&self, network: &str) -> Sandbox {
        self.sandbox_without(network, &[]).await
    }

    /// One that lacks walls.
    pub(crate) async fn sandbox_without(&self, network: &str, walls: &[&str]) -> Sandbox {
        let network = match network {
            "host" => Network::Host,
            "none" => Network::None,
            rules => Network::Rules(rules.to_owned()),
        };
        let spec = SandboxSpec {
            network,
            ..SandboxSpec::new(rootfs())
        };
        let registry = Registry::at(self.directory.path().join("run")).unwrap();
        let launcher = Launcher::start(LauncherConfig {
            program: Some(program()),
            registry: Some(registry),
            without: walls.iter().map(|wall| (*wall).to_owned()).collect(),
            ..LauncherConfig::default()
        });
        launcher.await.unwrap().sandbox(spec).await.unwrap()
    }
}

pub(crate) fn program() -> PathBuf {
    std::env::var_os("LIS_TEST_BIN").map_or_else(
        || env!("CARGO_BIN_EXE_llm-in-sandbox").into(),
        PathBuf::from,
    )
}

fn rootfs() -> PathBuf {
    let state = state_dir(None).unwrap();
    let image = Store::open(&state).unwrap().find("default").unwrap();
    image
        .expect("no default image: run scripts/test.sh, or `llm-in-sandbox image build`")
        .rootfs
}

pub(crate) fn block_on<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .unwrap()
        .block_on(async { tokio::time::timeout(DEADLINE, test).await })
        .expect("the test took too long")
}

fn run(command: &[&str]) {
    let status = Command::new(command[0])
        .args(&command[1..])
        .status()
        .unwrap();
    assert!(status.success(), "{command:?}");
}

/// A server that says where it is to everybody who says something, and leads on who asks for `/away`.
fn serve(address: &str, port: u16) {
    let listener = TcpListener::bind((address.parse::<IpAddr>().unwrap(), port)).unwrap();
    let body = format!("{address} {port}");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let body = body.clone();
            thread::spawn(move || answer(stream.unwrap(), &body));
        }
    });
}

fn answer(mut stream: TcpStream, body: &str) {
    let _ = stream.set_read_timeout(Some(DEADLINE));
    let mut asked = [0; 4096];
    let Ok(length) = stream.read(&mut asked) else {
        return;
    };
    let away = asked[..length].starts_with(b"GET /away ");
    let reply = if away {
        "HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
    } else {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let _ = stream.write_all(reply.as_bytes());
    // What was asked may come in parts: to close before the last would reset the connection.
    let _ = stream.shutdown(Shutdown::Write);
    while stream.read(&mut asked).is_ok_and(|length| length > 0) {}
}

fn internet_servers() {
    for address in [GOOD, EVIL, GOOD_V6] {
        for port in [80, 443, 22] {
            serve(address, port);
        }
    }
    serve(PROXY, 3128);
    serve(PROXY, 8080);
    serve(PROXY, 22);
    let echo = UdpSocket::bind((EVIL, 9)).unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((_, from)) = echo.recv_from(&mut datagram) {
            let _ = echo.send_to(b"datagram", from);
        }
    });
    let names: BTreeMap<&str, Vec<IpAddr>> = NAMES
        .into_iter()
        .map(|(name, all)| (name, all.iter().map(|one| one.parse().unwrap()).collect()))
        .collect();
    let resolver = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
    thread::spawn(move || {
        let mut question = [0; 2048];
        while let Ok((length, from)) = resolver.recv_from(&mut question) {
            let _ = resolver.send_to(&dns_answer(&question[..length], &names), from);
        }
    });
}

/// Addresses for a known name, none for another. A hundred seconds.
fn dns_answer(question: &[u8], names: &BTreeMap<&str, Vec<IpAddr>>) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
        at = end;
    }
    let wants_v6 = question[at + 2] == 28;
    let found = names.get(labels.join(".").as_str());
    let addresses: Vec<_> = found
        .into_iter()
        .flatten()
        .filter(|address| address.is_ipv6() == wants_v6)
        .collect();
    let mut answer = question[..at + 5].to_vec();
    let code = if found.is_some() { 0 } else { 3 };
    answer[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    answer[4..12].copy_from_slice(&[0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    for address in addresses {
        let (kind, bytes) = match address {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (28, v6.octets().to_vec()),
        };
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 100, 0]);
        answer.push(u8::try_from(bytes.len()).unwrap());
        answer.extend(bytes);
    }
    answer
}

/// Of the host: each counts who comes.
fn host_services(reached: &Arc<AtomicUsize>) {
    let everywhere: SocketAddr = format!("[::]:{HOST_PORT}").parse().unwrap();
    let listener = TcpListener::bind(everywhere).unwrap();
    let count = Arc::clone(reached);
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.unwrap().write_all(b"the host");
        }
    });
    let socket = UdpSocket::bind(everywhere).unwrap();
    let count = Arc::clone(reached);
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut datagram) {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = socket.send_to(b"the host", from);
        }
    });
}

/// What programs inside do: each function tells the last line that it was answered, or how it failed.
const PROGRAM: &str = r#"
import socket, ssl, sys
def dial(host, port, data, kind=socket.SOCK_STREAM):
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    except OSError:
        return 'unknown'
    with socket.socket(family, kind) as s:
        s.settimeout(3)
        try:
            s.connect(address)
            s.sendall(data)
            reply = b''
            while True:
                more = s.recv(4096)
                reply += more
                if not more or kind == socket.SOCK_DGRAM or reply == b'the host':
                    return reply.decode().splitlines()[-1] if reply else 'closed'
        except OSError as error:
            return type(error).__name__
def udp(host, port):
    return dial(host, port, b'x', socket.SOCK_DGRAM)
def get(name):
    return f'GET / HTTP/1.1\r\nHost: {name}\r\n\r\n'.encode()
def connect(target):
    return f'CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n'.encode()
def hello(name):
    out = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
"#;

/// Evaluates Python expressions inside, all at once; gives what each of them gave.
pub(crate) async fn evaluate(sandbox: &Sandbox, expressions: &[&str]) -> Vec<String> {
    let list = expressions.join(", ");
    let script = format!(
        "{PROGRAM}\nfrom concurrent.futures import ThreadPoolExecutor\n\
         calls = [{}]\n\
         for answer in ThreadPoolExecutor(16).map(lambda call: call(), calls): print(answer)",
        expressions
            .iter()
            .map(|one| format!("lambda: {one}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let result = sandbox
        .exec(&ExecRequest::new(["python3", "-c", &script]))
        .await
        .unwrap();
    let (out, err) = (text(&result.stdout), text(&result.stderr));
    let lines: Vec<_> = out.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), expressions.len(), "{list}: {out}{err}");
    lines
}

/// Evaluates each expression and compares.
pub(crate) async fn check(sandbox: &Sandbox, cases: &[(&str, &str)]) {
    let expressions: Vec<_> = cases.iter().map(|(expression, _)| *expression).collect();
    let answers = evaluate(sandbox, &expressions).await;
    let wrong: Vec<_> = cases
        .iter()
        .zip(&answers)
        .filter(|((_, expected), answer)| !expected.split('|').any(|one| one == *answer))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

pub(crate) fn text(captured: &Captured) -> String {
    String::from_utf8_lossy(&[&captured.head[..], &captured.tail].concat()).into_owned()
}
