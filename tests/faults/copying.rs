//! Copies of trees that are changed, odd or enormous: bounded, listed, and never a hang.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use llm_in_sandbox::env::{EnvError, GuestPath};
use llm_in_sandbox::host::{CopiedOut, Sandbox};
use llm_in_sandbox::outcome::LimitHit;
use llm_in_sandbox::spec::{Limits, SandboxSpec};

use crate::fixture::{Scene, block_on, in_sandbox, out, sh, spec};

const TREE: &str = "/testbed/tree";

async fn take_out(sandbox: &Sandbox) -> (tempfile::TempDir, Result<CopiedOut, EnvError>) {
    let to = tempfile::tempdir().unwrap();
    let from = GuestPath::from(TREE);
    let copy = sandbox.copy_out(&from, to.path());
    let result = tokio::time::timeout(Duration::from_secs(40), copy).await;
    (to, result.expect("the copy hangs"))
}

#[test]
fn odd_files_are_left_out_and_the_rest_arrives() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let make = "mkdir -p tree/sub && cd tree && echo plain > plain && mkfifo fifo
            python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'
            truncate -s 1T sparse; ln plain second; ln -s plain link; ln -s /etc/passwd outside
            printf x > \"$(printf 'new\\nline')\"; printf x > \"$(printf 'bad\\377name')\"
            echo secret > sub/unreadable; chmod 000 sub/unreadable
            cp /bin/true setuid; chmod 6755 setuid
            setfattr -n user.note -v 1 plain 2>/dev/null; cd ..; true";
        out(sandbox, make).await;
        let (to, result) = take_out(sandbox).await;
        result.unwrap();
        let at = |name: &str| to.path().join(name);
        assert_eq!(fs::read_to_string(at("plain")).unwrap(), "plain\n");
        for absent in ["fifo", "socket", "sparse", "outside"] {
            assert!(fs::symlink_metadata(at(absent)).is_err(), "{absent}");
        }
        assert_eq!(fs::read_link(at("link")).unwrap().to_str(), Some("plain"));
        let inode = |name: &str| fs::metadata(at(name)).unwrap().ino();
        assert_eq!(inode("plain"), inode("second"), "hard links stay links");
        assert!(at("new\nline").exists());
        let names = fs::read_dir(to.path()).unwrap().flatten();
        assert!(
            names
                .map(|n| n.file_name())
                .any(|n| n.as_encoded_bytes() == b"bad\xffname")
        );
        assert_eq!(fs::metadata(at("setuid")).unwrap().mode() & 0o7000, 0);
        let owner = fs::metadata(at("plain")).unwrap().uid();
        assert_eq!(owner, nix::unistd::geteuid().as_raw());
    });
}

#[test]
fn a_tree_that_changes_all_the_time_is_copied_or_refused_in_time() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let churn = "mkdir -p tree; cd tree; (while :; do
                for n in 1 2 3 4 5 6 7 8; do
                    mkdir -p d$n; echo $n > d$n/f; rm -rf d$(( (n + 3) % 8 + 1 ))
                    rm -rf swap; mkfifo swap; rm -f swap; mkdir swap; rmdir swap; ln -s /etc swap
                    head -c $((RANDOM * 4)) /dev/zero > shrinks
                done; done) >/dev/null 2>&1 & (while :; do yes | head -c 20M > grows; done) 2>/dev/null & cd ..";
        out(sandbox, churn).await;
        for _ in 0..10 {
            let (to, result) = take_out(sandbox).await;
            // Nothing that is no error of ours, and never another's file.
            assert!(!matches!(&result, Err(EnvError::Died(_))), "{result:?}");
            assert!(!to.path().join("swap/passwd").exists());
        }
        sh(sandbox, "kill %1 %2").await;
        assert_eq!(out(sandbox, "echo fine").await, "fine\n");
    });
}

#[test]
fn more_files_than_are_let_out_are_counted() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        out(
            sandbox,
            "mkdir tree; cd tree; seq 1 100000 | xargs touch; cd ..",
        )
        .await;
        let began = Instant::now();
        let (to, result) = take_out(sandbox).await;
        result.unwrap();
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 100_000);
        assert!(began.elapsed() < Duration::from_secs(40));
    });
}

#[test]
fn a_tree_deeper_than_any_path_is_cut_and_the_rest_arrives() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let deep = "mkdir tree; echo shallow > tree/shallow; python3 -c '
import os
os.chdir(\"tree\")
for _ in range(300):
    os.mkdir(\"d\" * 50); os.chdir(\"d\" * 50)
open(\"bottom\", \"w\").close()'";
        out(sandbox, deep).await;
        let (to, result) = take_out(sandbox).await;
        let deep = LimitHit::CopiedDepth {
            max: 64,
            left_out: 1,
        };
        assert_eq!(result.unwrap().struck, [deep]);
        assert_eq!(
            fs::read_to_string(to.path().join("shallow")).unwrap(),
            "shallow\n"
        );
        let depth = std::iter::successors(Some(to.path().to_owned()), |at| {
            let next = at.join("d".repeat(50));
            next.exists().then_some(next)
        });
        assert!((32..=65).contains(&depth.count()));
    });
}

#[test]
fn limits_of_a_copy_are_named_when_they_strike() {
    let limits = Limits {
        copied_bytes: 1 << 20,
        copied_entries: 8,
        ..Limits::default()
    };
    block_on(async {
        let spec = SandboxSpec { limits, ..spec() };
        let sandbox = Scene::new().await.start(spec).await;
        out(&sandbox, "mkdir tree; touch tree/a").await;
        assert_eq!(take_out(&sandbox).await.1.unwrap().struck, []);
        // In the order of their names: one that is too large, seven that go along with their
        // directory, and fourteen more.
        let more = "head -c 2M /dev/zero > tree/00; for n in $(seq 10 29); do touch tree/$n; done";
        out(&sandbox, more).await;
        let (to, result) = take_out(&sandbox).await;
        let hits = [
            LimitHit::CopiedBytes {
                max_bytes: 1 << 20,
                left_out: 1,
            },
            LimitHit::CopiedEntries {
                max: 8,
                left_out: 14,
            },
        ];
        assert_eq!(result.unwrap().struck, hits);
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 7);
        assert_eq!(sandbox.close().await.unwrap().struck, hits);
    });
}

/// What is copied in comes from a person's directory, which is as odd.
#[test]
fn what_is_copied_in_is_bounded_as_well() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let from = tempfile::tempdir().unwrap();
        let at = |name: &str| from.path().join(name);
        fs::write(at("plain"), "plain").unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        symlink("/etc/shadow", at("outside")).unwrap();
        fs::File::create(at("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        fs::write(at("locked"), "").unwrap();
        fs::set_permissions(at("locked"), PermissionsExt::from_mode(0o000)).unwrap();
        let to = GuestPath::from(TREE);
        let copy = sandbox.copy_in(from.path(), &to);
        let copied = tokio::time::timeout(Duration::from_secs(40), copy).await;
        copied.expect("the copy hangs").unwrap();
        let listed = out(sandbox, "cat tree/plain; ls tree").await;
        assert!(listed.starts_with("plain"), "{listed}");
        for absent in ["fifo", "outside", "sparse"] {
            assert!(!listed.contains(absent), "{listed}");
        }
    });
}

/// The one who gives up first knows why: the other only sees a broken pipe.
#[test]
fn a_copy_that_fails_names_its_cause() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let from = tempfile::tempdir().unwrap();
        fs::write(from.path().join("large"), vec![b'x'; 8 << 20]).unwrap();
        out(sandbox, "head -c 2G /dev/zero > /full 2>/dev/null; true").await;
        let refused = sandbox.copy_in(from.path(), &GuestPath::from(TREE)).await;
        let reason = format!("{:?}", refused.unwrap_err());
        assert!(reason.to_lowercase().contains("no space left"), "{reason}");
        out(
            sandbox,
            "rm /full; mkdir -p tree; echo x > tree/taken; head -c 8M /dev/zero > tree/z",
        )
        .await;
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(to.path().join("taken")).unwrap();
        let refused = sandbox.copy_out(&GuestPath::from(TREE), to.path()).await;
        let reason = format!("{:?}", refused.unwrap_err());
        assert!(
            reason.contains("taken") && reason.contains("same name"),
            "{reason}"
        );
    });
}
