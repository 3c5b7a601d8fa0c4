//! What the host has that no sandbox may reach: planted by the runner, so that every attack is harmless.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

/// Lives as long as the attacks.
#[derive(Debug)]
pub(crate) struct Canaries {
    file: tempfile::NamedTempFile,
    pub(crate) mark: String,
    victim: Child,
    tcp4: TcpListener,
    tcp6: Option<TcpListener>,
    udp4: u16,
    _abstract: UnixListener,
}

impl Drop for Canaries {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

impl Canaries {
    /// Several are there at once, each under a name of its own.
    pub(crate) fn plant(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("lis-{name}-{}-{count}", std::process::id());
        let mut file = tempfile::Builder::new()
            .prefix("lis-canary-")
            .tempfile_in("/var/tmp")
            .unwrap();
        write!(file, "{mark}-secret").unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o666)).unwrap();
        let address = SocketAddr::from_abstract_name(mark.as_bytes()).unwrap();
        Self {
            file,
            // Ends with our end of its standard input, however we end.
            victim: Command::new("python3")
                .args(["-c", "import sys; sys.stdin.read()", &mark])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap(),
            tcp4: TcpListener::bind("127.0.0.1:0").unwrap(),
            tcp6: TcpListener::bind("[::1]:0").ok(),
            udp4: echo(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            mark,
        }
    }

    /// What an attack is told: an attacker knows the host.
    pub(crate) fn facts(&self, runtime: &Path, image: &Path, state: &Path) -> Value {
        let inode =
            |path: &Path| fs::metadata(path).map_or(json!([0, 0]), |m| json!([m.dev(), m.ino()]));
        let namespaces: serde_json::Map<String, Value> =
            ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup"]
                .into_iter()
                .map(|kind| {
                    let inode = fs::metadata(format!("/proc/self/ns/{kind}")).unwrap().ino();
                    (kind.to_owned(), json!(inode))
                })
                .collect();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let user = nix::unistd::geteuid();
        json!({
            "privilege": if user.is_root() { "root" } else { "user" },
            "uid": user.as_raw(),
            "canary": self.file.path(),
            "secret": format!("{}-secret", self.mark),
            "victim": self.victim.id(),
            "victim_mark": self.mark,
            "tcp4": port(&self.tcp4),
            "tcp6": self.tcp6.as_ref().map_or(0, port),
            "udp4": self.udp4,
            "abstract": self.mark,
            "namespaces": namespaces,
            "runtime_inode": inode(runtime),
            "host_root": inode(Path::new("/")),
            "image": image,
            "state": state,
        })
    }

    pub(crate) fn path(&self) -> &str {
        self.file.path().to_str().unwrap()
    }

    /// From all but its owner: what ids alone keep.
    pub(crate) fn hide(&self) {
        fs::set_permissions(self.file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Nothing was written: the proof that opening was all that an attack did.
    pub(crate) fn are_untouched(&mut self) {
        let mut text = String::new();
        fs::File::open(self.file.path())
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, format!("{}-secret", self.mark));
        assert!(
            self.victim.try_wait().unwrap().is_none(),
            "the victim is dead"
        );
    }
}

/// Answers datagrams on loopback; its thread ends with the program.
fn echo() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(b"pong", from);
        }
    });
    port
}
