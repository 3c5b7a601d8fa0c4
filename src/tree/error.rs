//! What can go wrong with a tree or an archive, as data that crosses a wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an archive could not be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub struct UnpackError {
    /// The member at fault, where there is one; bytes that are not printable are escaped.
    pub member: Option<String>,
    /// What is wrong.
    pub kind: UnpackErrorKind,
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.member {
            Some(member) => write!(f, "unpack member `{member}`: {}", self.kind),
            None => write!(f, "unpack archive: {}", self.kind),
        }
    }
}

/// What is wrong with an archive or one of its members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnpackErrorKind {
    /// The stream cannot be read.
    #[error("read: {0}")]
    Read(String),
    /// The stream ends before the end mark.
    #[error("the archive is cut short")]
    Truncated,
    /// The stream is not a well-formed archive.
    #[error("{0}")]
    Malformed(String),
    /// A sparse member of an unknown format, or one whose map contradicts its size.
    #[error("its sparse map is not supported or contradicts its size")]
    UnsupportedSparse,
    /// A type of member that no supported format defines.
    #[error("members of type {0} are not supported")]
    UnsupportedType(u8),
    /// `..` in a name.
    #[error("its name contains `..`")]
    ParentName,
    /// A name that begins with `/`.
    #[error("its name is absolute")]
    AbsoluteName,
    /// A name that no file can have.
    #[error("its name is empty, too long for one file or contains a zero byte")]
    BadName,
    /// A path of more bytes or names than allowed.
    #[error("its path is longer than {max_path} bytes or deeper than {max_depth} names")]
    PathTooLong {
        /// Bytes allowed.
        max_path: usize,
        /// Names allowed.
        max_depth: usize,
    },
    /// A parent directory is a symbolic link.
    #[error("one of its parent directories is a symbolic link")]
    ThroughLink,
    /// Two members need different things at one path.
    #[error("something of another kind has the same name")]
    Collision,
    /// A second member of this name.
    #[error("another member has the same name")]
    Duplicate,
    /// A hard link to what is no file of this tree.
    #[error("it is a hard link to `{0}`, which is no file of the tree")]
    BadHardLink(String),
    /// A device node, FIFO or socket.
    #[error("device nodes, FIFOs and sockets are refused here")]
    SpecialFile,
    /// A whiteout that names nothing that can be deleted.
    #[error("it is a malformed whiteout")]
    BadWhiteout,
    /// More bytes than allowed.
    #[error("the archive holds more than the {0} bytes allowed")]
    TooManyBytes(u64),
    /// More members than allowed.
    #[error("the archive holds more than the {0} members allowed")]
    TooManyEntries(u64),
    /// The kernel refused an operation.
    #[error("{operation}: {error}")]
    System {
        /// Which one.
        operation: String,
        /// What it said.
        error: String,
    },
}

impl UnpackErrorKind {
    pub(super) fn at(self, member: &[u8]) -> UnpackError {
        UnpackError {
            member: Some(printable(member)),
            kind: self,
        }
    }

    pub(super) fn alone(self) -> UnpackError {
        UnpackError {
            member: None,
            kind: self,
        }
    }

    pub(super) fn read(error: &std::io::Error) -> Self {
        Self::Read(error.to_string())
    }

    pub(super) fn system(operation: &str, error: nix::errno::Errno) -> Self {
        Self::System {
            operation: operation.to_owned(),
            error: error.desc().to_owned(),
        }
    }
}

/// Why a tree could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The archive could not be written.
    #[error("write archive")]
    Write(#[source] std::io::Error),
    /// The tree could not be read.
    #[error("{operation} `{path}`")]
    Tree {
        /// What was tried.
        operation: &'static str,
        /// On which path, relative to the tree.
        path: String,
        /// What the kernel said.
        source: nix::errno::Errno,
    },
}

/// A path for messages: at most 300 bytes of it, escaped where it is not printable.
pub(super) fn printable(path: &[u8]) -> String {
    let shown = path.get(..300).unwrap_or(path);
    let mut text = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if shown.len() < path.len() {
        text.push('…');
    }
    text
}
