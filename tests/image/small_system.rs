//! The smallest system that a recipe can be carried out in.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::archive::Archive;

/// Programs of the host that the steps of a recipe use; with their libraries they are a small base system.
const PROGRAMS: [&str; 11] = [
    "sh", "bash", "rm", "mkdir", "chmod", "find", "cat", "touch", "true", "env", "sleep",
];

/// A root file system that has a shell, and stand-ins for the package managers that note what they are asked.
pub(crate) fn small_system() -> Archive {
    let mut files = Vec::new();
    for program in PROGRAMS {
        let found = ["/bin", "/usr/bin"]
            .iter()
            .map(|directory| format!("{directory}/{program}"));
        files.push((
            format!("bin/{program}"),
            found.clone().find(|path| Path::new(path).exists()).unwrap(),
        ));
        let output = Command::new("ldd")
            .arg(&files.last().unwrap().1)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
        files.extend(libraries.map(|library| {
            (
                library.trim_start_matches('/').to_owned(),
                library.to_owned(),
            )
        }));
    }
    files.sort();
    files.dedup();
    let mut archive = Archive::default();
    for (name, source) in files {
        archive = archive.program(&name, &fs::read(source).unwrap());
    }
    let note = b"#!/bin/sh\necho \"$0 $*\" >> /packages\nenv > /environment-of-the-last\n";
    archive
        .program("usr/bin/apt-get", note)
        .program("usr/bin/python3", note)
        .program(
            "usr/bin/dpkg-query",
            b"#!/bin/sh\necho base-files=1\necho apt=2\n",
        )
        .file("usr/lib/python3.12/EXTERNALLY-MANAGED", b"")
        .symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        .directory("tmp")
        .directory("var/log")
        .directory("var/tmp")
        .directory("run")
}
