//! What is packed comes back the same, and the same tree always gives the same bytes.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use llm_in_sandbox::tree::{self, LeftOutReason, PackOptions, PackReport, UnpackPolicy};

use super::archive::{Archive, Arena, names, unpack};

fn pack(tree: &Path, options: &PackOptions) -> (Vec<u8>, PackReport) {
    let mut bytes = Vec::new();
    let report = tree::pack(fs::File::open(tree).unwrap().as_fd(), &mut bytes, options).unwrap();
    (bytes, report)
}

#[test]
fn every_kind_of_entry_survives() {
    let from = tempfile::tempdir().unwrap();
    let path = |name: &str| from.path().join(name);
    fs::create_dir_all(path("d/empty")).unwrap();
    fs::write(path("d/data"), vec![9; 300_000]).unwrap();
    fs::hard_link(path("d/data"), path("second")).unwrap();
    symlink("d/data", path("link")).unwrap();
    symlink("x".repeat(300), path("long link")).unwrap();
    fs::write(path(&"n".repeat(200)), "long").unwrap();
    fs::write(path("line\nbreak"), "nl").unwrap();
    fs::write(from.path().join(OsStr::from_bytes(b"\xff\xfe")), "latin").unwrap();
    fs::set_permissions(path("d"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::set_permissions(path("second"), fs::Permissions::from_mode(0o604)).unwrap();
    let (bytes, report) = pack(from.path(), &PackOptions::image());
    assert_eq!(report.left_out.total(), 0);
    assert_eq!(report.entries, 10);

    let to = tempfile::tempdir().unwrap();
    unpack(&bytes, to.path(), &UnpackPolicy::image()).unwrap();
    assert_eq!(pack(to.path(), &PackOptions::image()).0, bytes);
    assert_eq!(
        fs::read(to.path().join(OsStr::from_bytes(b"\xff\xfe"))).unwrap(),
        b"latin"
    );
    assert_eq!(
        fs::metadata(to.path().join("d")).unwrap().mode() & 0o7777,
        0o500
    );
    let (first, second) = (to.path().join("d/data"), to.path().join("second"));
    assert_eq!(
        fs::metadata(first).unwrap().ino(),
        fs::metadata(second).unwrap().ino()
    );
    for tree in [from.path(), to.path()] {
        fs::set_permissions(tree.join("d"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn the_order_of_making_does_not_matter() {
    let trees = [["b", "a", "c"], ["c", "b", "a"]].map(|order| {
        let tree = tempfile::tempdir().unwrap();
        for name in order {
            fs::write(tree.path().join(name), name).unwrap();
            let file = fs::File::options()
                .write(true)
                .open(tree.path().join(name))
                .unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        fs::File::open(tree.path())
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        tree
    });
    let [first, second] = trees.map(|tree| pack(tree.path(), &PackOptions::image()).0);
    assert_eq!(first, second);
}

#[test]
fn unpacking_an_upper_layer_does_not_disturb_times() {
    let arena = Arena::new();
    let lower = Archive::default()
        .directory("d")
        .file("d/a", b"1")
        .directory("./")
        .bytes();
    arena.unpack(&lower, &UnpackPolicy::layer()).unwrap();
    arena
        .unpack(
            &Archive::default()
                .file("d/b", b"2")
                .file("d/.wh.a", b"")
                .bytes(),
            &UnpackPolicy::layer(),
        )
        .unwrap();
    assert_eq!(names(&arena.tree()), ["d", "d/b"]);
    for path in [arena.tree(), arena.tree().join("d")] {
        assert_eq!(fs::metadata(path).unwrap().mtime(), 1_000_000_000);
    }
}

#[test]
fn a_hole_larger_than_the_bound_is_left_out_without_being_read() {
    let tree = tempfile::tempdir().unwrap();
    fs::File::create(tree.path().join("hole"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    fs::write(tree.path().join("small"), "1").unwrap();
    let (bytes, report) = pack(tree.path(), &PackOptions::copy_out());
    assert!(bytes.len() < 10_000);
    assert_eq!(report.left_out.count(LeftOutReason::TooLarge), 1);
    let to = tempfile::tempdir().unwrap();
    unpack(&bytes, to.path(), &UnpackPolicy::copy_out()).unwrap();
    assert_eq!(names(to.path()), ["small"]);
}

#[test]
fn sockets_and_fifos_are_left_out_and_listed() {
    let tree = tempfile::tempdir().unwrap();
    nix::unistd::mkfifo(&tree.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    let (_, report) = pack(tree.path(), &PackOptions::copy_out());
    assert_eq!(
        (
            report.entries,
            report.left_out.count(LeftOutReason::Special)
        ),
        (1, 2)
    );
}

#[test]
fn entries_and_depth_are_bounded() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("a/b/c")).unwrap();
    let (_, report) = pack(
        tree.path(),
        &PackOptions {
            max_depth: 2,
            ..PackOptions::image()
        },
    );
    assert_eq!(report.left_out.listed[0].path, "a/b");
    assert_eq!(report.left_out.listed[0].reason, LeftOutReason::TooDeep);
    let (_, report) = pack(
        tree.path(),
        &PackOptions {
            max_entries: 2,
            ..PackOptions::image()
        },
    );
    assert_eq!(report.left_out.listed[0].reason, LeftOutReason::TooMany);
}

#[test]
fn sparse_members_of_gnu_tar_keep_their_holes() {
    for format in ["--format=gnu", "--format=pax"] {
        let tree = tempfile::tempdir().unwrap();
        let file = fs::File::create(tree.path().join("sparse")).unwrap();
        for index in 0..40_u64 {
            std::os::unix::fs::FileExt::write_at(&file, &[1; 4096], index * (1 << 20)).unwrap();
        }
        file.set_len(50 << 20).unwrap();
        let output = std::process::Command::new("tar")
            .args([
                "-C".as_ref(),
                tree.path().as_os_str(),
                format.as_ref(),
                "-Scf".as_ref(),
                "-".as_ref(),
                "sparse".as_ref(),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let to = tempfile::tempdir().unwrap();
        let report = unpack(&output.stdout, to.path(), &UnpackPolicy::copy_out()).unwrap();
        assert_eq!(report.bytes, 50 << 20);
        let made = to.path().join("sparse");
        assert!(fs::metadata(&made).unwrap().blocks() * 512 < 1 << 20);
        assert!(fs::read(made).unwrap() == fs::read(tree.path().join("sparse")).unwrap());
    }
}

#[test]
fn pax_values_may_hold_newlines() {
    let arena = Arena::new();
    let archive = Archive::default()
        .pax(&[("path", b"two\nlines"), ("mtime", b"5.25")])
        .file("short", b"1")
        .bytes();
    arena.unpack(&archive, &UnpackPolicy::copy_out()).unwrap();
    assert_eq!(
        fs::metadata(arena.tree().join("two\nlines"))
            .unwrap()
            .mtime(),
        5
    );
}
