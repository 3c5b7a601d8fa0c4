//! A person at a terminal: `shell`, and `shell --in` another one's sandbox.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::pty::openpty;

use crate::{DEADLINE, command, ended, stdout};

/// Reads lines until one holds `mark`, and goes on reading so that the writer never waits.
pub(crate) fn lines_until(from: impl Read + Send + 'static, mark: &'static str) -> String {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    let mut all = String::new();
    loop {
        let line = receive.recv_timeout(DEADLINE);
        let line = line.unwrap_or_else(|_| panic!("no line with {mark:?} in: {all}"));
        all.push_str(&line);
        all.push('\n');
        if line.contains(mark) {
            return all;
        }
    }
}

/// The program on a pseudo-terminal.
pub(crate) struct Session {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    pub(crate) seen: String,
}

impl Session {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let pty = openpty(None, None).unwrap();
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let child = command(arguments)
            .stdin(end(&pty.slave))
            .stdout(end(&pty.slave))
            .stderr(end(&pty.slave))
            .spawn()
            .unwrap();
        drop(pty.slave);
        let (send, screen) = channel();
        let mut output = File::from(pty.master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let keys = File::from(pty.master);
        Self {
            child,
            keys,
            screen,
            seen: String::new(),
        }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows this.
    pub(crate) fn expect(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let more = self.screen.recv_timeout(DEADLINE / 2);
            let more = more.unwrap_or_else(|_| panic!("no {text:?} in: {}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
    }

    pub(crate) fn leave(mut self, code: i32) {
        self.press(&format!("exit {code}\n"));
        assert_eq!(ended(&mut self.child).code(), Some(code), "{}", self.seen);
    }
}

#[test]
fn two_shells_share_one_sandbox() {
    let mut first = Session::start(&["shell"]);
    // The echo of the line shows the arithmetic, only its output shows the result.
    first.press("tty; echo from-first > /tmp/shared; echo mark-$((1000 + 1))-$PPID\n");
    first.expect("mark-1001-");
    first.expect("/dev/pts/");
    let id = id_of(first.child.id());
    let mut second = Session::start(&["shell", "--in", &id]);
    second.press("cat /tmp/shared; sleep 600 & echo mark-$((1000 + 2))\n");
    second.expect("from-first");
    second.expect("mark-1002");
    second.leave(3);
    first.press("echo still-$((1000 + 3))\n");
    first.expect("still-1003");
    first.leave(4);
}

#[test]
fn a_shell_tells_at_its_end_which_rule_refused_which_call() {
    let mut session = Session::start(&["shell", "--seccomp-log"]);
    session.press("unshare -r true; exit 7\n");
    session.expect("unshare (EPERM): namespaces");
    session.expect("left behind: 0");
    assert_eq!(ended(&mut session.child).code(), Some(7));
    let output = crate::run(&["shell", "--in", "x", "--seccomp-log"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_key_interrupts_the_program_and_not_the_shell() {
    let mut session = Session::start(&["shell"]);
    // It says so itself: by then it has the terminal. (Before that, bash may read the key as the end of
    // its input: the new process takes the terminal away from under its prompt.)
    session.press("sh -c 'echo ready-$((1000 + 1)); exec sleep 600'\n");
    session.expect("ready-1001");
    session.press("\u{3}");
    session.press("\necho alive-$((1000 + 2))\n");
    session.expect("alive-1002");
    session.leave(0);
}

#[test]
fn a_sandbox_that_does_not_live_cannot_be_entered() {
    let output = crate::run(&["shell", "--in", "no-such-sandbox"]);
    assert_eq!(crate::code(&output), 125);
    let message = crate::stderr(&output);
    assert!(message.contains("no-such-sandbox"), "{message}");
}

fn id_of(host: u32) -> String {
    let running: serde_json::Value = serde_json::from_str(&stdout(&["ps", "--json"])).unwrap();
    let running = running.as_array().unwrap();
    let info = running
        .iter()
        .find(|info| info["host_pid"] == host)
        .unwrap();
    info["id"].as_str().unwrap().to_owned()
}
