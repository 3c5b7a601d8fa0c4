//! An image that is damaged on disk: `image verify` says so, and what it says.

use std::fs::{self, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::{Host, finish, refused, stderr};

/// A small image in a store of its own.
fn store(host: &Host) -> (String, PathBuf) {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("bin/tool", "#!/bin/sh\n"),
        ("etc/one", "one"),
        ("etc/two", "two"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    let file = host.path().join("tree.tar");
    fs::write(&file, archive.into_inner().unwrap()).unwrap();
    let state = host.path().join("state").to_str().unwrap().to_owned();
    let arguments = ["--state-dir", &state, "image", "import", "--name", "small"];
    let output = finish(host.command(&[&arguments[..], &[file.to_str().unwrap()]].concat()));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let digest = String::from_utf8(output.stdout).unwrap();
    let rootfs = Path::new(&state)
        .join("images")
        .join(digest.trim())
        .join("rootfs");
    (state, rootfs)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Does something to a tree.
type Act<'a> = &'a dyn Fn();

#[test]
fn verify_finds_a_byte_a_file_a_mode_and_a_set_id_bit() {
    let host = Host::new();
    let (state, rootfs) = store(&host);
    let verify = || finish(host.command(&["--state-dir", &state, "image", "verify", "small"]));
    let whole = verify();
    assert_eq!(whole.status.code(), Some(0), "{}", stderr(&whole));
    assert!(String::from_utf8_lossy(&whole.stdout).contains("unchanged"));
    if fs::metadata(rootfs.join("etc")).is_err()
        || fs::File::options()
            .write(true)
            .open(rootfs.join("etc/one"))
            .is_err()
    {
        println!(
            "SKIP verify_finds_a_byte_a_file_a_mode_and_a_set_id_bit: its files are a subordinate id's"
        );
        return;
    }
    let file = rootfs.join("etc/one");
    let times = fs::metadata(&file).unwrap().modified().unwrap();
    let plain = || mode(&file, 0o755);
    let directory = rootfs.join("etc");
    let whole = fs::metadata(&directory).unwrap().mode() & 0o7777;
    let damages: [(&str, Act<'_>, Act<'_>); 7] = [
        (
            "a byte",
            &|| {
                let mut open = fs::File::options().write(true).open(&file).unwrap();
                open.seek(SeekFrom::Start(1)).unwrap();
                open.write_all(b"N").unwrap();
                open.set_modified(times).unwrap();
            },
            &|| {
                fs::write(&file, "one").unwrap();
                let open = fs::File::options().write(true).open(&file).unwrap();
                open.set_modified(times).unwrap();
            },
        ),
        ("a mode", &|| mode(&file, 0o700), &plain),
        ("a set-user-id bit", &|| mode(&file, 0o4755), &plain),
        ("a set-group-id bit", &|| mode(&file, 0o2755), &plain),
        (
            "a directory's set-user-id bit",
            &|| mode(&directory, 0o4000 | whole),
            &|| mode(&directory, whole),
        ),
        (
            "a new file",
            &|| fs::write(rootfs.join("bin/extra"), "").unwrap(),
            &|| fs::remove_file(rootfs.join("bin/extra")).unwrap(),
        ),
        (
            "a missing file",
            &|| fs::remove_file(&file).unwrap(),
            &|| (),
        ),
    ];
    let directory_times = |name: &str| {
        let open = fs::File::open(rootfs.join(name)).unwrap();
        let time = open.metadata().unwrap().modified().unwrap();
        (open, time)
    };
    let (bin, bin_time) = directory_times("bin");
    for (what, damage, mend) in damages {
        damage();
        let output = verify();
        refused(&output, &["the tree of image `small`", "sha256 is"]);
        assert!(
            stderr(&output).contains("hint: "),
            "{what}: {}",
            stderr(&output)
        );
        mend();
        bin.set_modified(bin_time).unwrap();
        if what != "a missing file" {
            let output = verify();
            assert_eq!(output.status.code(), Some(0), "{what}: {}", stderr(&output));
        }
    }
}

#[test]
fn an_image_whose_tree_or_manifest_is_gone_is_told_before_anything_starts() {
    let host = Host::new();
    let (state, rootfs) = store(&host);
    let exec =
        || finish(host.command(&["--state-dir", &state, "exec", "--image", "small", "--", "x"]));
    let away = rootfs.with_file_name("away");
    fs::rename(&rootfs, &away).unwrap();
    refused(&exec(), &[rootfs.to_str().unwrap()]);
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
    fs::rename(&away, &rootfs).unwrap();
    let manifest = rootfs.with_file_name("manifest.json");
    fs::write(&manifest, "{").unwrap();
    refused(&exec(), &[manifest.to_str().unwrap()]);
    fs::write(&manifest, [0xff; 100]).unwrap();
    refused(&exec(), &[manifest.to_str().unwrap()]);
    assert_eq!(host.entries(), Vec::<PathBuf>::new());
}
