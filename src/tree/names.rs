//! Judges the names of an archive; knows no file system.

use super::UnpackErrorKind;

/// Longest name of one file (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// The path without `.` and double slashes, refused where it is none that a tree can have.
pub(super) fn clean(
    path: &[u8],
    max_path: usize,
    max_depth: usize,
) -> Result<Vec<u8>, UnpackErrorKind> {
    let limit = || UnpackErrorKind::PathTooLong {
        max_path,
        max_depth,
    };
    if path.is_empty() || path.contains(&0) {
        return Err(UnpackErrorKind::BadName);
    }
    if path.starts_with(b"/") {
        return Err(UnpackErrorKind::AbsoluteName);
    }
    if path.len() > max_path {
        return Err(limit());
    }
    let mut clean = Vec::with_capacity(path.len());
    let mut depth = 0;
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(UnpackErrorKind::ParentName),
            _ if name.len() > MAX_NAME => return Err(UnpackErrorKind::BadName),
            _ => {}
        }
        depth += 1;
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(name);
    }
    if depth > max_depth {
        return Err(limit());
    }
    Ok(clean)
}

/// Whether following a link in `directory` could lead out of the tree.
///
/// `..` is harmless only in front, as often as the directory is deep: behind a name it climbs from
/// wherever that name, possibly a link itself, leads.
pub(super) fn may_leave(target: &[u8], directory: &[u8]) -> bool {
    let depth = if directory.is_empty() {
        0
    } else {
        directory.split(|byte| *byte == b'/').count()
    };
    if target.starts_with(b"/") {
        return true;
    }
    let mut climbed = 0;
    let mut named = false;
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if named => return true,
            b".." => climbed += 1,
            _ => named = true,
        }
    }
    climbed > depth
}

/// Splits a clean path into its directory and its name; `None` for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some((path.get(..slash)?, path.get(slash + 1..)?)),
        None => Some((b"", path)),
    }
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}
