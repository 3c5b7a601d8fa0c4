//! Trees and archives that nobody would make by hand.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use proptest::prelude::*;

use super::{PackOptions, UnpackPolicy, pack};
use crate::fuzz::check_unpack;

/// What a hostile program leaves in its output directory.
#[derive(Debug, Clone)]
enum Thing {
    File { mode: u32, size: u64, sparse: bool },
    Directory { mode: u32 },
    Link { target: String },
    HardLink { to: usize },
    Fifo,
    Socket,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c]".prop_map(String::into_bytes),
        "(\u{1b}\\]0;x\u{7}|\n|ü|\\.\\.\\.|\\.wh\\.a|-rf|a{200})".prop_map(String::into_bytes),
        proptest::collection::vec(1_u8..=255, 1..20),
    ]
}

fn target() -> impl Strategy<Value = String> {
    "(/|\\.\\./|a/|b/|\\./){0,4}(a|b|canary|etc/passwd|\\.\\.)"
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        (0_u32..0o10000, 0_u64..200_000, any::<bool>())
            .prop_map(|(mode, size, sparse)| Thing::File { mode, size, sparse }),
        (0_u32..0o10000).prop_map(|mode| Thing::Directory { mode }),
        target().prop_map(|target| Thing::Link { target }),
        (0_usize..20).prop_map(|to| Thing::HardLink { to }),
        Just(Thing::Fifo),
        Just(Thing::Socket),
    ]
}

/// Makes it as far as the names allow: a second thing of one name is not made.
fn make(root: &Path, plan: &[(Vec<usize>, Vec<u8>, Thing)]) {
    let (mut directories, mut files, mut modes) = (vec![root.to_owned()], Vec::new(), Vec::new());
    for (way, name, thing) in plan {
        let parent: &PathBuf = &directories[way.iter().sum::<usize>() % directories.len()];
        let path = parent.join(std::ffi::OsString::from_vec(name.clone()));
        if name.contains(&b'/') || path.symlink_metadata().is_ok() {
            continue;
        }
        match thing {
            Thing::File { mode, size, sparse } => {
                let Ok(file) = File::create_new(&path) else {
                    continue;
                };
                if *sparse {
                    file.set_len(*size).unwrap();
                } else {
                    fs::write(&path, vec![7; usize::try_from(*size).unwrap()]).unwrap();
                }
                modes.push((path.clone(), *mode));
                files.push(path);
            }
            Thing::Directory { mode } => {
                if fs::create_dir(&path).is_ok() {
                    modes.push((path.clone(), *mode));
                    directories.push(path);
                }
            }
            Thing::Link { target } => drop(symlink(target, &path)),
            Thing::HardLink { to } => {
                if let Some(file) = files.get(to % files.len().max(1)) {
                    let _ = fs::hard_link(file, &path);
                }
            }
            Thing::Fifo => drop(nix::unistd::mkfifo(&path, Mode::S_IRWXU)),
            Thing::Socket => drop(std::os::unix::net::UnixListener::bind(&path)),
        }
    }
    for (path, mode) in modes.into_iter().rev() {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Gives everything back to its owner, so that it can be deleted.
fn open_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            open_all(&entry.path());
        }
    }
}

fn tar(members: &[(u8, Vec<u8>, String, u32, usize)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (kind, name, link, mode, size) in members {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        let name = name.get(..name.len().min(100)).unwrap();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        old.linkflag = [*kind];
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(*size as u64);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.resize(archive.len() + size.next_multiple_of(512), b'x');
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_tree_holds_only_harmless_things_are_copied_out(
        plan in proptest::collection::vec((proptest::collection::vec(0_usize..9, 0..3), name(), thing()), 0..40),
        max_bytes in 0_u64..1_000_000,
    ) {
        let source = tempfile::tempdir().unwrap();
        make(source.path(), &plan);
        let root = File::open(source.path()).unwrap();
        let mut archive = Vec::new();
        let options = PackOptions { max_bytes, ..PackOptions::copy_out() };
        let packed = pack(root.as_fd(), &mut archive, &options);
        open_all(source.path());
        let report = packed.unwrap();
        prop_assert!(report.bytes <= max_bytes);
        // What our own side packs is never refused, and fits where it was meant to fit.
        let policy = UnpackPolicy { max_bytes, ..UnpackPolicy::copy_out() };
        let unpacked = check_unpack(&archive, &policy);
        prop_assert!(unpacked.is_ok(), "{:?}", unpacked);
    }

    #[test]
    fn whatever_an_archive_holds_it_is_unpacked_below_its_root(
        members in proptest::collection::vec(
            (
                prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5'), Just(b'3'), Just(b'6'), Just(b'7'), any::<u8>()],
                prop_oneof![name(), target().prop_map(String::into_bytes)],
                target(),
                0_u32..0o10000,
                prop_oneof![Just(0_usize), 0_usize..30_000],
            ),
            0..30,
        ),
        layer in any::<bool>(),
    ) {
        let archive = tar(&members);
        let choices = [UnpackPolicy::copy_out(), UnpackPolicy::image(), UnpackPolicy::layer()];
        for policy in &choices[usize::from(layer)..] {
            let policy = UnpackPolicy { max_bytes: 20_000, max_entries: 25, ..policy.clone() };
            let _ = check_unpack(&archive, &policy);
        }
    }
}
