//! What hostile input must never do, one function for each kind of it.
//!
//! Built for tests, which replay `fuzz/seeds`, and for cargo-fuzz (`fuzz/`), which looks for more; part of no program.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a panic is how a target tells what it has found"
)]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use serde::{Serialize, de::DeserializeOwned};

use crate::agent::PromptConfig;
use crate::agent::observation::{
    MAX_BYTES, MAX_LINES, clean_stream, render_native, render_original,
};
use crate::cli::sanitize::{Filter, sanitize};
use crate::env::ShellResult;
use crate::host::output::HeadTail;
use crate::host::shell::status::StatusLine;
use crate::image::{Manifest, OciError, OciImage, oci};
use crate::llm::assemble::{Answer, Assembler, whole};
use crate::llm::sse::SseParser;
use crate::llm::{Message, parse_text_calls};
pub use crate::packages::trial::{page as package_page, request as package_request};
use crate::sys::channel::{Channel, FDS_MAX};
use crate::tree::{self, UnpackPolicy};
use crate::wire;

/// A target and its name, which is that of its seeds.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 14] = [
    ("archive", archive),
    ("wire", wire_messages),
    ("output", output),
    ("terminal", terminal),
    ("calls", calls),
    ("answer", answer),
    ("prompt", prompt),
    ("recipe", recipe),
    ("oci", image_documents),
    ("packets", packets),
    ("names", name_answers),
    ("hello", first_bytes),
    ("request", package_request),
    ("page", package_page),
];

fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (*first, rest))
}

fn pieces(data: &[u8], size: u8) -> impl Iterator<Item = &[u8]> {
    data.chunks(usize::from(size).max(1))
}

/// Unpacks a tar whose checksums are mended first: no fuzzer guesses them. The first byte chooses what is accepted.
pub fn archive(data: &[u8]) {
    let (choice, rest) = split(data);
    let mut archive = rest.to_vec();
    mend_checksums(&mut archive);
    let _ = tree::index(archive.as_slice());
    let policy = match choice % 3 {
        0 => UnpackPolicy::copy_out(),
        1 => UnpackPolicy::image(),
        _ => UnpackPolicy::layer(),
    };
    let policy = UnpackPolicy {
        max_bytes: 1 << 20,
        max_entries: 200,
        ..policy
    };
    let _ = check_unpack(&archive, &policy);
}

/// Unpacks, and looks whether all of it is where and what it may be.
pub(crate) fn check_unpack(
    archive: &[u8],
    policy: &UnpackPolicy,
) -> Result<tree::UnpackReport, tree::UnpackError> {
    let arena = tempfile::tempdir().unwrap();
    let (root, canary) = (arena.path().join("tree"), arena.path().join("canary"));
    fs::create_dir(&root).unwrap();
    fs::write(&canary, "alive").unwrap();
    let before = fs::symlink_metadata(&canary).unwrap();
    let opened = fs::File::open(&root).unwrap();
    let done = tree::unpack(archive, opened.as_fd(), policy);
    if let Err(error) = &done {
        assert!(!error.to_string().is_empty());
    }
    // An archive may take from us even the right to look into what it made.
    let made = walk(&root, policy);
    assert!(
        made <= policy.max_entries * (policy.max_depth as u64 + 1),
        "{made} entries"
    );
    let after = fs::symlink_metadata(&canary).unwrap();
    let facts = |m: &fs::Metadata| (m.mode(), m.nlink(), m.uid(), m.mtime(), m.ctime_nsec());
    assert_eq!(
        (facts(&before), fs::read(&canary).unwrap()),
        (facts(&after), b"alive".to_vec())
    );
    assert_eq!(
        fs::read_dir(arena.path()).unwrap().count(),
        2,
        "something is outside"
    );
    done
}

fn walk(root: &Path, policy: &UnpackPolicy) -> u64 {
    let inside_only = *policy
        == UnpackPolicy {
            max_bytes: policy.max_bytes,
            max_entries: policy.max_entries,
            ..UnpackPolicy::copy_out()
        };
    let (mut entries, mut bytes) = (0, 0);
    let mut seen = std::collections::HashSet::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let mode = fs::symlink_metadata(&directory).unwrap().mode();
        assert_eq!(mode & 0o4000, 0, "{directory:?}");
        let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&directory, open).unwrap();
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            entries += 1;
            assert!(
                !(kind.is_fifo()
                    || kind.is_socket()
                    || kind.is_block_device()
                    || kind.is_char_device()),
                "{path:?}"
            );
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_symlink() {
                assert!(
                    !inside_only || stays(&path, root),
                    "{path:?} -> {:?}",
                    fs::read_link(&path)
                );
            } else {
                assert_eq!(metadata.mode() & 0o6000, 0, "{path:?}");
                if seen.insert(metadata.ino()) {
                    bytes += metadata.size();
                }
            }
        }
    }
    assert!(bytes <= policy.max_bytes, "{bytes} bytes");
    entries
}

/// Whether what a link names can only be in the tree, whatever other links are there: it climbs no higher than the root.
fn stays(link: &Path, root: &Path) -> bool {
    let depth = link.strip_prefix(root).unwrap().components().count() - 1;
    let target = fs::read_link(link).unwrap();
    let (mut climbed, mut named) = (0, false);
    target.components().all(|component| {
        match component {
            Component::ParentDir => climbed += 1,
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
        climbed <= depth && !(named && component == Component::ParentDir)
    })
}

fn mend_checksums(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + 512) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if block.iter().any(|byte| *byte != 0) {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let size = header.entry_size().unwrap_or(0).min(1 << 30) as usize;
        at += 512 + size.next_multiple_of(512);
    }
}

/// Both directions of the wire: what decodes can be said again, and no descriptor of any packet stays behind.
pub fn wire_messages(data: &[u8]) {
    let (count, rest) = split(data);
    let (kind, body) = split(rest);
    said_again::<wire::ToZygote>(body);
    said_again::<wire::FromZygote>(body);
    said_again::<wire::ToInit>(body);
    said_again::<wire::FromInit>(body);
    said_again::<wire::FileReply<u64>>(body);
    said_again::<wire::FileReply<(Vec<wire::Entry>, bool)>>(body);
    said_again::<wire::FileReply<tree::UnpackReport>>(body);
    said_again::<wire::FileReply<tree::PackReport>>(body);
    let (ours, theirs) = Channel::pair().unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    send_raw(&theirs, &[&[kind][..], body].concat(), &writer, count);
    ours.set_nonblocking(true).unwrap();
    if let Ok(Some(received)) = ours.receive() {
        assert!(received.fds.len() <= FDS_MAX + 1);
        assert!(received.bytes.len() <= body.len());
    }
    drop((ours, theirs, writer));
    let mut ready = [nix::poll::PollFd::new(
        reader.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    // Somebody who looks at the descriptors of all processes in procfs holds the one that he looks at for a moment.
    nix::poll::poll(&mut ready, 5_000_u16).unwrap();
    assert!(ready[0].any().unwrap(), "a descriptor of a packet is kept");
}

fn said_again<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    if let Ok(message) = wire::decode::<T>(bytes) {
        let said = wire::encode(&message).unwrap();
        let again: T = wire::decode(&said).unwrap();
        assert_eq!(wire::encode(&again).unwrap(), said);
    }
}

fn send_raw(channel: &Channel, packet: &[u8], fd: &impl std::os::fd::AsRawFd, count: u8) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    // The kernel passes no more at once.
    let fds = vec![fd.as_raw_fd(); usize::from(count).min(253)];
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let part = packet.get(..packet.len().min(64 << 10)).unwrap_or_default();
    let iov = [std::io::IoSlice::new(part)];
    sendmsg::<()>(
        channel.as_raw_fd(),
        &iov,
        control,
        MsgFlags::MSG_DONTWAIT,
        None,
    )
    .unwrap();
}

/// The streams of a command, as they are captured, cleaned, bounded and written for the model; its status lines.
pub fn output(data: &[u8]) {
    let (size, data) = split(data);
    let mut result = ShellResult {
        status: Some(0),
        stdout: capture(data, size, 1 << 16),
        // A small one: the cut falls anywhere.
        stderr: capture(data, size, 64),
        tty: capture(data, size, 7),
        timed_out: None,
        restarted: Some(String::from_utf8_lossy(data).into_owned()),
        struck: Vec::new(),
        wall: std::time::Duration::ZERO,
    };
    for stream in [&result.stdout, &result.stderr, &result.tty] {
        let cleaned = clean_stream(stream);
        for text in [&cleaned.head, &cleaned.tail] {
            assert!(text.len() <= MAX_BYTES && text.lines().count() <= MAX_LINES);
            assert_eq!(
                crate::agent::clean::clean(text.as_bytes()),
                *text,
                "cleaning again changes it"
            );
            assert!(
                text.chars()
                    .all(|c| !c.is_control() || matches!(c, '\n' | '\t'))
            );
        }
        assert!(cleaned.cut.is_some() || cleaned.tail.is_empty());
        assert!(cleaned.cut.is_none_or(|cut| cut.bytes >= stream.omitted));
    }
    let native = render_native(
        &result,
        &clean_stream(&result.stdout),
        &clean_stream(&result.stderr),
    );
    assert!(native.len() <= 4 * MAX_BYTES + 4 * data.len() + 1024);
    render_original(&result);
    result.restarted = None;
    let mut line = StatusLine::default();
    for piece in pieces(data, size) {
        line.push(piece, 7);
    }
}

fn capture(data: &[u8], size: u8, limit: usize) -> crate::env::Captured {
    let mut kept = HeadTail::new(limit);
    pieces(data, size).for_each(|piece| kept.push(piece));
    let captured = kept.finish();
    let (head, tail) = (&captured.head, &captured.tail);
    assert_eq!(
        (head.len() + tail.len()) as u64 + captured.omitted,
        data.len() as u64
    );
    assert!(head.len() + tail.len() <= limit);
    assert!(data.starts_with(head) && data.ends_with(tail));
    captured
}

/// What reaches a person's terminal, however it comes in pieces.
pub fn terminal(data: &[u8]) {
    let (size, data) = split(data);
    let filtered = |mut filter: Filter, size| {
        let mut out = String::new();
        pieces(data, size).for_each(|piece| filter.push(piece, &mut out));
        filter.finish(&mut out);
        out
    };
    let text = filtered(Filter::text(), size);
    assert_eq!(text, filtered(Filter::text(), 255));
    assert_eq!(text, sanitize(&text), "cleaning again changes it");
    assert!(
        text.chars()
            .all(|c| !c.is_control() || matches!(c, '\n' | '\t'))
    );
    let screen = filtered(Filter::screen(), size);
    assert_eq!(screen, filtered(Filter::screen(), 255));
    let mut again = String::new();
    Filter::screen().push(screen.as_bytes(), &mut again);
    assert_eq!(screen, again, "what passed is a sequence that would not");
    let dangerous = [
        "\u{1b}]", "\u{1b}P", "\u{1b}_", "\u{1b}^", "\u{1b}X", "\u{1b}Z", "\u{1b}[c", "\u{5}",
    ];
    assert!(dangerous.iter().all(|sequence| !screen.contains(sequence)));
    assert!(screen.chars().all(|c| !('\u{7f}'..='\u{9f}').contains(&c)));
}

/// Tool calls of a message: native where it is JSON, written in the text anyway.
pub fn calls(data: &[u8]) {
    let (step, data) = split(data);
    let text = String::from_utf8_lossy(data);
    assert!(parse_text_calls(&text).len() <= 128);
    let message = match serde_json::from_slice(data) {
        Ok(object) => object,
        Err(_) => serde_json::Map::from_iter([("content".to_owned(), text.into())]),
    };
    let mut message = Message::assistant(message);
    let calls = crate::agent::calls::extract(&mut message, u32::from(step), step % 2 == 0);
    let mut ids: Vec<_> = calls.iter().filter_map(|call| call.id.as_deref()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "two calls of one id");
    assert!(ids.iter().all(|id| !id.is_empty()));
}

/// A server's answer, streamed in any pieces or whole.
pub fn answer(data: &[u8]) {
    let (size, data) = split(data);
    let streamed = |size| -> Option<Answer> {
        let (mut parser, mut assembler) = (SseParser::default(), Assembler::default());
        for piece in pieces(data, size) {
            for event in parser.push(piece).ok()? {
                if assembler.push(&event).ok()? {
                    return assembler.finish().ok();
                }
            }
        }
        if let Some(event) = parser.finish() {
            assembler.push(&event).ok()?;
        }
        assembler.finish().ok()
    };
    let response = |answer: Option<Answer>| answer.map(|answer| answer.response.to_string());
    assert_eq!(response(streamed(size)), response(streamed(255)));
    if let Ok(answer) = whole(data) {
        let calls = answer.message.as_object().get("tool_calls");
        // Each is compared with all before it.
        assert!(
            calls
                .and_then(serde_json::Value::as_array)
                .is_none_or(|calls| calls.len() <= 128)
        );
    }
}

/// A prompt configuration.
pub fn prompt(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(config) = PromptConfig::parse(Path::new("fuzz.yaml"), &text) {
        assert!(config.working_dir.starts_with('/') && config.output_dir.starts_with('/'));
        let _ = config.system();
        let long = config.instance_prompt.len() + 4096;
        assert!(config.instance("task").len() <= long * long);
    }
}

/// A recipe, up to the steps that it asks for.
pub fn recipe(data: &[u8]) {
    if let Ok(recipe) = rootfs_builder::parse(&String::from_utf8_lossy(data)) {
        let _ = rootfs_builder::plan(&recipe);
        let text = serde_json::to_string(&recipe).unwrap();
        let again: rootfs_builder::Recipe = serde_json::from_str(&text).unwrap();
        assert_eq!(again, recipe);
    }
}

/// The documents of an image archive, separated by zero bytes, in the order in which they are asked for.
pub fn image_documents(data: &[u8]) {
    let documents = || {
        let mut all = data.split(|byte| *byte == 0).map(<[u8]>::to_vec);
        move |_: &str| Ok::<_, OciError>(all.next())
    };
    let images = [
        oci::read_layout("amd64", documents()),
        oci::read_docker(documents()),
    ];
    for OciImage { layers, .. } in images.into_iter().flatten() {
        assert!(layers.iter().all(|layer| layer.plain.len() == 64));
    }
    let _ = serde_json::from_slice::<Manifest>(data);
}

/// Packets of a sandbox, each behind its length in one byte and a time to wait in another. The first byte chooses what is allowed:
/// connections whose first bytes decide, of which none can be made, or only those to the resolver.
pub fn packets(data: &[u8]) {
    let (choice, rest) = split(data);
    crate::net::trial::packets(choice, rest);
}

/// A resolver's answer to a question for `example.com`, whose type the first byte chooses.
pub fn name_answers(data: &[u8]) {
    let (kind, message) = split(data);
    crate::net::trial::answer(kind, message);
}

/// The first bytes of a connection, as they come, to a list that has `example.com`.
pub fn first_bytes(data: &[u8]) {
    crate::net::trial::first_bytes(data);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// No input of these takes a thousandth of it.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn every_seed_is_survived() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        for (name, target) in TARGETS {
            let mut files: Vec<_> = fs::read_dir(seeds.join(name))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            files.sort();
            assert!(files.len() >= 3, "{name} has {} seeds", files.len());
            for file in files {
                let data = fs::read(&file).unwrap();
                let (done, waiting) = channel();
                std::thread::spawn(move || {
                    target(&data);
                    let _ = done.send(());
                });
                let ended = waiting.recv_timeout(DEADLINE);
                assert!(ended.is_ok(), "{} fails or hangs", file.display());
            }
        }
    }

    #[test]
    fn every_target_has_its_program() {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        for (name, _) in TARGETS {
            assert!(programs.join(format!("{name}.rs")).is_file(), "{name}");
        }
        assert_eq!(fs::read_dir(programs).unwrap().count(), TARGETS.len());
    }
}
