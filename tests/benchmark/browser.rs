//! Chromium without a window, driven over its debugging pipe: what a page asks for, complains of and looks like.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// No step takes longer, on a machine with other things to do.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Browser {
    child: Child,
    requests: Option<ChildStdin>,
    messages: Receiver<Value>,
    next: u64,
    session: String,
    /// What it told without being asked.
    pub(crate) events: Vec<Value>,
    _profile: TempDir,
}

/// The program, or one line that says why there is none; `LIS_TEST_REQUIRE` may name it.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|file| file.is_file());
    if found.is_none() {
        let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "chromium"),
            "no chromium on the path: apt-get install chromium"
        );
        println!("SKIP no chromium on the path: the page of a report is not looked at");
    }
    found
}

impl Browser {
    pub(crate) fn start() -> Option<Self> {
        let program = program()?;
        let profile = tempfile::tempdir().unwrap();
        // It reads requests from 3 and writes to 4. Its sandbox needs what a test may lack, and the pages are ours.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
            ])
            .arg(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-extensions",
                "--no-first-run",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
                "--font-render-hinting=none",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .env("XDG_CONFIG_HOME", profile.path())
            .env("XDG_CACHE_HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let (tell, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while reader
                .read_until(0, &mut message)
                .is_ok_and(|size| size > 0)
            {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else {
                    break;
                };
                if tell.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            requests: child.stdin.take(),
            child,
            messages,
            next: 0,
            session: String::new(),
            events: Vec::new(),
            _profile: profile,
        };
        let made = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": made["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Log", "Runtime", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut request = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            request["sessionId"] = self.session.as_str().into();
        }
        let pipe = self.requests.as_mut().unwrap();
        pipe.write_all(format!("{request}\0").as_bytes()).unwrap();
        let answer = self.wait(method, |message| message["id"] == id);
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// Waits for a message; the others are kept.
    fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let message = self.messages.recv_timeout(left);
            let message = message.unwrap_or_else(|error| panic!("{what}: {error}"));
            if wanted(&message) {
                return message;
            }
            self.events.push(message);
        }
    }

    /// A window of this width, with colours for day or night.
    pub(crate) fn window(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Loads a page from disk.
    pub(crate) fn open(&mut self, page: &Path) {
        self.events.clear();
        let url = format!("file://{}", page.display());
        self.call("Page.navigate", &json!({"url": url}));
        if !self.events.iter().any(is_loaded) {
            let loaded = self.wait("the page", is_loaded);
            self.events.push(loaded);
        }
        // What it asks for afterwards is told before this answer.
        self.eval("document.readyState");
    }

    /// What an expression comes to in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &params);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// All that the page complained of, and all that it asked for beside itself.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|event| match event["method"].as_str()? {
                "Log.entryAdded" => Some(event["params"]["entry"]["text"].to_string()),
                "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" => {
                    Some(event["params"].to_string())
                }
                "Network.requestWillBeSent" if event["params"]["type"] != "Document" => {
                    Some(format!("request: {}", event["params"]["request"]["url"]))
                }
                _ => None,
            })
            .collect()
    }

    /// What the window shows, as PNG.
    pub(crate) fn screenshot(&mut self) -> Vec<u8> {
        let params = json!({"format": "png", "optimizeForSpeed": false});
        let shot = self.call("Page.captureScreenshot", &params);
        base64(shot["data"].as_str().unwrap())
    }
}

fn is_loaded(message: &Value) -> bool {
    message["method"] == "Page.loadEventFired"
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when its pipe does; what is left of its group is killed, and all of it is its own.
        drop(self.requests.take());
        let group = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let six = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(six).collect();
    let mut out = Vec::new();
    for four in letters.chunks(4) {
        let bits = four
            .iter()
            .fold(0_u32, |bits, six| bits << 6 | u32::from(*six));
        let bits = bits << (6 * (4 - four.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    out
}
