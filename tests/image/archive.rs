//! Makes archives byte by byte: no writer would make these.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use llm_in_sandbox::tree::{self, UnpackError, UnpackErrorKind, UnpackPolicy, UnpackReport};
use tar::{EntryType, Header};

/// A tar under construction.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(name.as_bytes(), EntryType::Regular, b"", 0o644, content)
    }

    pub(crate) fn mode(self, name: &str, mode: u32) -> Self {
        self.raw(name.as_bytes(), EntryType::Regular, b"", mode, b"x")
    }

    #[allow(dead_code, reason = "for the tests that need the runtime")]
    pub(crate) fn program(self, name: &str, content: &[u8]) -> Self {
        self.raw(name.as_bytes(), EntryType::Regular, b"", 0o755, content)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.raw(name.as_bytes(), EntryType::Directory, b"", 0o755, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(
            name.as_bytes(),
            EntryType::Symlink,
            target.as_bytes(),
            0o777,
            b"",
        )
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(
            name.as_bytes(),
            EntryType::Link,
            target.as_bytes(),
            0o644,
            b"",
        )
    }

    pub(crate) fn special(self, name: &str, kind: EntryType) -> Self {
        self.raw(name.as_bytes(), kind, b"", 0o666, b"")
    }

    pub(crate) fn raw(
        mut self,
        name: &[u8],
        kind: EntryType,
        link: &[u8],
        mode: u32,
        content: &[u8],
    ) -> Self {
        for (field, letter) in [(name, b'L'), (link, b'K')] {
            if field.len() > 100 {
                let long = [field, b"\0"].concat();
                self.push(
                    &header(
                        b"././@LongLink",
                        EntryType::new(letter),
                        b"",
                        0,
                        long.len() as u64,
                    ),
                    &long,
                );
            }
        }
        self.push(
            &header(name, kind, link, mode, content.len() as u64),
            content,
        );
        self
    }

    /// A pax record in front of the next member.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.push(
            &header(b"pax", EntryType::XHeader, b"", 0o644, body.len() as u64),
            &body,
        );
        self
    }

    pub(crate) fn push(&mut self, header: &Header, content: &[u8]) {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The bytes with the end mark.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(crate) fn header(name: &[u8], kind: EntryType, link: &[u8], mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    for (slot, byte) in old.name.iter_mut().zip(name) {
        *slot = *byte;
    }
    for (slot, byte) in old.linkname.iter_mut().zip(link) {
        *slot = *byte;
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(u64::from(nix::unistd::getuid().as_raw()));
    header.set_gid(u64::from(nix::unistd::getgid().as_raw()));
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

/// A tree to unpack into, with a canary beside it that no archive may reach.
pub(crate) struct Arena {
    directory: tempfile::TempDir,
}

impl Arena {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tree")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/canary"), "alive").unwrap();
        Self { directory }
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    pub(crate) fn unpack(
        &self,
        archive: &[u8],
        policy: &UnpackPolicy,
    ) -> Result<UnpackReport, UnpackError> {
        let result = unpack(archive, &self.tree(), policy);
        self.assert_outside_is_untouched();
        result
    }

    /// The archive is refused for this reason and at this member; nothing but `left` is in the tree.
    #[track_caller]
    pub(crate) fn refuses(
        &self,
        archive: &[u8],
        policy: &UnpackPolicy,
        member: Option<&str>,
        kind: &UnpackErrorKind,
        left: &[&str],
    ) {
        let error = self
            .unpack(archive, policy)
            .expect_err("the archive was accepted");
        assert_eq!(&error.kind, kind);
        assert_eq!(error.member.as_deref(), member);
        assert_eq!(names(&self.tree()), left);
    }

    #[track_caller]
    pub(crate) fn assert_outside_is_untouched(&self) {
        assert_eq!(
            names(self.directory.path()),
            ["outside", "outside/canary", "tree"]
                .map(String::from)
                .into_iter()
                .chain(
                    names(&self.tree())
                        .into_iter()
                        .map(|name| format!("tree/{name}"))
                )
                .collect::<Vec<_>>()
        );
        let canary = self.outside().join("canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
        assert_eq!(fs::metadata(&canary).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&canary).unwrap().mode() & 0o7777, 0o644);
    }
}

pub(crate) fn unpack(
    archive: &[u8],
    tree: &Path,
    policy: &UnpackPolicy,
) -> Result<UnpackReport, UnpackError> {
    tree::unpack(archive, fs::File::open(tree).unwrap().as_fd(), policy)
}

/// Every path below `root`, sorted; links are not followed.
pub(crate) fn names(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            found.push(
                entry
                    .path()
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
            );
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
