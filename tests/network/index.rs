//! A package index in the internet of the test, which counts what it is asked for and wants a password.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::world::{PROXY, World};

const PORT: u16 = 3140;
/// With its password; and the same one without, elsewhere.
pub(crate) const INDEX: &str = "http://me:hunter2@index.example:3140/simple";
pub(crate) const OPEN_INDEX: &str = "http://index.example:3140/open/simple";
pub(crate) const WHEEL: &str = "demo-1.0-py3-none-any.whl";
/// Bytes of the one large file in it.
pub(crate) const PAYLOAD: usize = 2 << 20;

pub(crate) struct Index {
    pub(crate) wheel: Arc<Vec<u8>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Index {
    pub(crate) fn start(world: &World) -> Self {
        let index = Self {
            wheel: Arc::new(wheel()),
            asked: Arc::default(),
        };
        let listener = world.far(|| TcpListener::bind((PROXY, PORT)).unwrap());
        let (wheel, asked) = (Arc::clone(&index.wheel), Arc::clone(&index.asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (wheel, asked) = (Arc::clone(&wheel), Arc::clone(&asked));
                thread::spawn(move || answer(stream.unwrap(), &wheel, &asked));
            }
        });
        index
    }

    /// How often this path was asked for, with the password where it wants one.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

fn answer(mut stream: TcpStream, wheel: &[u8], asked: &Mutex<BTreeMap<String, usize>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 16_384 || !stream.read(&mut byte).is_ok_and(|length| length == 1) {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let known = |head: &str| {
        head.to_ascii_lowercase()
            .contains("authorization: basic bwu6ahvudgvymg==")
    };
    let open = ["/open/", "/slow/", "/sink"]
        .iter()
        .any(|begin| path.starts_with(begin));
    if !open && !known(&head) {
        return reply(&mut stream, "401 Unauthorized", b"who are you?");
    }
    *asked.lock().unwrap().entry(path.clone()).or_default() += 1;
    let digest: String = Sha256::digest(wheel)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    match path.strip_prefix("/open").unwrap_or(&path) {
        "/simple/demo/" => {
            let page = format!(
                "<!DOCTYPE html><html><body><a href=\"../../files/{WHEEL}#sha256={digest}\">{WHEEL}</a></body></html>"
            );
            reply(&mut stream, "200 OK", page.as_bytes());
        }
        "/simple/slow/" => {
            let name = WHEEL.replace("demo", "slow");
            let page = format!("<a href=\"../../files/{name}#sha256={digest}\">{name}</a>");
            reply(&mut stream, "200 OK", page.as_bytes());
        }
        "/sink" => while stream.read(&mut [0; 65_536]).is_ok_and(|length| length > 0) {},
        path if path.contains("slow") => {
            // It flows for ever.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nContent-Length: 1000000000\r\n\r\n");
            while stream.write_all(&[0; 4096]).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        }
        path if path.ends_with(WHEEL) => reply(&mut stream, "200 OK", wheel),
        _ => reply(&mut stream, "404 Not Found", b"no such project"),
    }
}

fn reply(stream: &mut TcpStream, status: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
}

/// A package with one large file: a zip archive, stored.
fn wheel() -> Vec<u8> {
    let data: Vec<u8> = (0_u32..).flat_map(u32::to_le_bytes).take(PAYLOAD).collect();
    let info = "demo-1.0.dist-info";
    let members: [(String, &[u8]); 5] = [
        ("demo/__init__.py".into(), b"name = 'demo'\n"),
        ("demo/data.bin".into(), &data),
        (format!("{info}/METADATA"), b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"),
        (format!("{info}/WHEEL"), b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        (format!("{info}/RECORD"), b"demo/__init__.py,,\ndemo/data.bin,,\ndemo-1.0.dist-info/METADATA,,\ndemo-1.0.dist-info/WHEEL,,\ndemo-1.0.dist-info/RECORD,,\n"),
    ];
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in &members {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        let name_length = u16::try_from(name.len()).unwrap().to_le_bytes();
        // Version 2.0, no flags, stored, 1 January 1980.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend(size);
        common.extend(size);
        common.extend(name_length);
        common.extend([0, 0]);
        let at = u32::try_from(archive.len()).unwrap().to_le_bytes();
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(*content);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at);
        directory.extend(name.as_bytes());
    }
    let (at, size) = (archive.len(), directory.len());
    archive.extend(directory);
    let count = u16::try_from(members.len()).unwrap().to_le_bytes();
    archive.extend(b"PK\x05\x06\x00\x00\x00\x00");
    archive.extend(count);
    archive.extend(count);
    archive.extend(u32::try_from(size).unwrap().to_le_bytes());
    archive.extend(u32::try_from(at).unwrap().to_le_bytes());
    archive.extend([0, 0]);
    archive
}
