//! What a command can do to the sandbox that carries it out, and what the next command meets.

use std::path::Path;
use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Env, EnvError, ExecRequest, ExitStatus, FileError, GuestPath};

use llm_in_sandbox::outcome::LimitHit;

use crate::fixture::{exec, in_sandbox, out, sh, text};

#[test]
fn attempts_to_leave_are_refused_and_the_shell_goes_on() {
    in_sandbox(async |sandbox| {
        for attempt in [
            "unshare --mount true",
            "unshare --user true",
            "unshare --pid --fork true",
            "mount -t tmpfs none /mnt",
            "umount -l /proc",
            "nsenter --target 1 --mount true",
        ] {
            let result = sh(&*sandbox, attempt).await;
            let status = result.status.unwrap();
            assert!(![0, 127].contains(&status), "{attempt}: {result:?}");
            assert_eq!(out(&*sandbox, "echo fine").await, "fine\n");
        }
        // Allowed, and of no use: the new root is a directory of the sandbox.
        assert_eq!(
            out(
                &*sandbox,
                "chroot /usr /bin/ls /etc/passwd 2>&1 || echo fine"
            )
            .await
            .lines()
            .last(),
            Some("fine")
        );
    });
}

#[test]
fn nothing_that_is_taken_away_stops_the_next_command() {
    in_sandbox(async |sandbox| {
        for damage in [
            "unset HOME; cd",
            "rm -rf /tmp; mkdir -p /var/x; seq 1 100000",
            "rm -f /dev/null; mv /dev/null /dev/away",
            "mkdir /var/gone; cd /var/gone; rmdir /var/gone",
            "rm -rf /run/* /var /home /root 2>/dev/null; true",
            "echo /no/such/library.so > /etc/ld.so.preload",
            "head -c 5000 /dev/urandom > /lib/broken.so; echo /lib/broken.so > /etc/ld.so.preload",
        ] {
            sh(&*sandbox, damage).await;
            let result = sh(&*sandbox, "echo fine").await;
            assert_eq!(text(&result.stdout), "fine\n", "{damage}: {result:?}");
            assert_eq!(exec(&*sandbox, "exit 3").await.status, ExitStatus::Code(3));
        }
    });
}

#[test]
fn without_its_working_directory_a_shell_starts_at_the_root() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        sh(sandbox, "cd /; rm -rf /testbed; kill -9 $$").await;
        assert_eq!(out(sandbox, "pwd").await, "/\n");
        let passwd = GuestPath::from("/etc/passwd");
        sandbox.read_file(&passwd, 1 << 20).await.unwrap();
        let refused = sandbox.read_file(&GuestPath::from("passwd"), 1 << 20).await;
        assert!(
            matches!(
                &refused,
                Err(EnvError::File {
                    error: FileError::NotFound,
                    ..
                })
            ),
            "{refused:?}"
        );
        // A program that is to start there says why it cannot.
        let result = exec(sandbox, "true").await;
        assert_eq!(result.status, ExitStatus::Code(126));
        assert!(text(&result.stderr).contains("/testbed"), "{result:?}");
        out(sandbox, "mkdir /testbed").await;
        assert_eq!(exec(sandbox, "true").await.status, ExitStatus::Code(0));
    });
}

/// Bash is gone, another program, or never gets so far: each command ends with a reason.
#[test]
fn without_bash_every_command_tells_why() {
    let fifo = "mkfifo /fifo; chmod 700 /fifo; echo /fifo > /etc/ld.so.preload";
    for (damage, reason) in [
        (
            "rm -f /bin/bash /usr/bin/bash",
            "bash or a library of it is missing",
        ),
        (
            "chmod 600 /usr/bin/bash",
            "bash or a library of it is missing",
        ),
        (
            "rm -f /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1",
            "is missing",
        ),
        (
            "printf '#!/bin/sh\\nexit 5\\n' > /new; chmod 755 /new; mv /new /usr/bin/bash",
            "status 5",
        ),
        (
            "printf '#!/bin/sh\\nexec sleep 1000\\n' > /new; chmod 755 /new; mv /new /usr/bin/bash",
            "stopped reporting",
        ),
        (fifo, "stopped reporting"),
    ] {
        in_sandbox(async |sandbox| {
            let sandbox = &*sandbox;
            sh(sandbox, &format!("{damage}; kill -9 $$")).await;
            for _ in 0..2 {
                let began = Instant::now();
                let result = sandbox
                    .shell("echo reached", Duration::from_secs(40))
                    .await
                    .unwrap();
                assert!(
                    began.elapsed() < Duration::from_secs(15),
                    "{damage}: it hangs"
                );
                let notice = result.restarted.clone().unwrap_or_default();
                assert!(notice.contains(reason), "{damage}: {result:?}");
                assert_eq!(text(&result.stdout), "");
            }
            // The files can still be taken out.
            let content = sandbox
                .read_file(&GuestPath::from("/etc/passwd"), 1 << 20)
                .await;
            assert!(!content.unwrap().is_empty());
        });
    }
}

#[test]
fn a_shell_is_replaced_though_the_disk_is_full() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        sh(sandbox, "head -c 2G /dev/zero > /full; kill -9 $$").await;
        let result = sandbox
            .shell("echo fine; echo x > /more", Duration::from_secs(10))
            .await;
        let result = result.unwrap();
        assert_eq!(text(&result.stdout), "fine\n");
        assert!(text(&result.stderr).contains("No space left"), "{result:?}");
        let written = sandbox
            .write_file(&GuestPath::from("/more"), b"content", false)
            .await;
        assert!(
            matches!(
                &written,
                Err(EnvError::File {
                    error: FileError::NoSpace,
                    ..
                })
            ),
            "{written:?}"
        );
        // Long output loses its copy, not its ends.
        let long = sh(sandbox, "seq 1 200000; echo last").await;
        assert!(long.stdout.tail.ends_with(b"last\n"));
        assert!(long.stdout.full_copy.is_none_or(|copy| copy.partial));
        assert_eq!(
            out(sandbox, "rm /full; echo x > /more; cat /more").await,
            "x\n"
        );
    });
}

#[test]
fn commands_and_arguments_of_any_length() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let limit = Duration::from_secs(40);
        let long = format!("x='{}'; echo ${{#x}}", "y".repeat(10 << 20));
        let result = sandbox.shell(&long, limit).await.unwrap();
        assert_eq!(text(&result.stdout), "10485760\n", "{:?}", result.status);
        let refused = sandbox
            .shell(&format!(": '{}'", "y".repeat(40 << 20)), limit)
            .await;
        assert!(
            matches!(
                &refused,
                Err(EnvError::File {
                    error: FileError::NoSpace,
                    ..
                })
            ),
            "the model is told: {refused:?}"
        );
        assert_eq!(out(sandbox, "echo fine").await, "fine\n");
        // MAX_ARG_STRLEN is 128 KiB (execve(2)).
        let argument = "x".repeat(200_000);
        let result = sh(sandbox, &format!("/bin/echo {argument}")).await;
        assert_eq!(result.status, Some(126));
        assert!(text(&result.stderr).contains("Argument list too long"));
        let result = sandbox
            .exec(&ExecRequest::new(["echo", &argument]))
            .await
            .unwrap();
        assert_eq!(result.status, ExitStatus::Code(126));
        assert!(
            text(&result.stderr).contains("Argument list too long"),
            "{result:?}"
        );
    });
}

#[test]
fn two_commands_at_once_come_one_after_the_other() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let one = "echo one-begins >> /tmp/log; sleep 0.3; echo one-ends >> /tmp/log; echo one";
        let (one, other) = tokio::join!(
            sh(sandbox, one),
            sh(sandbox, "echo other >> /tmp/log; echo other")
        );
        assert_eq!(
            (text(&one.stdout), text(&other.stdout)),
            ("one\n".into(), "other\n".into())
        );
        assert_eq!(
            out(sandbox, "cat /tmp/log").await,
            "one-begins\none-ends\nother\n"
        );
    });
}

/// Before there is a shell, which needs one: that it cannot start is the model's doing, not the host's.
#[test]
fn terminals_that_are_all_in_use_are_the_limits() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let hoard = "setsid python3 -c 'import os,time
held=[]
try:
    while True: held.append(os.openpty())
except OSError as e: print(len(held), e, flush=True)
os.close(1)
time.sleep(1000)' > /tmp/hoard 2>&1 & while ! test -s /tmp/hoard; do sleep 0.05; done; cat /tmp/hoard";
        let hoarded = text(&exec(sandbox, hoard).await.stdout);
        assert!(
            hoarded.starts_with("64 ") && hoarded.contains("No space left"),
            "{hoarded}"
        );
        let limit = EnvError::Limit(LimitHit::Terminals { max: 64 });
        let argv = ["true".to_owned()];
        let refused = sandbox.spawn_on_terminal(&argv, &[]).await.map(|_| ());
        assert_eq!(refused, Err(limit.clone()));
        let refused = sandbox.shell("true", Duration::from_secs(10)).await;
        assert_eq!(refused.map(|_| ()), Err(limit));
        exec(
            sandbox,
            "pkill python3; while pgrep python3; do sleep 0.05; done",
        )
        .await;
        assert!(sandbox.spawn_on_terminal(&argv, &[]).await.is_ok());
        assert_eq!(out(sandbox, "echo again").await, "again\n");
    });
}

/// Waits use `Instant`, which is CLOCK_MONOTONIC: a clock that jumps moves none of them.
#[test]
fn the_wall_clock_is_only_ever_written_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    if !source.exists() {
        println!("SKIP the_wall_clock_is_only_ever_written_down: the sources are elsewhere");
        return;
    }
    let mut found = Vec::new();
    let mut pending = vec![source.clone()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            if entry.path().is_dir() {
                pending.push(entry.path());
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if ["SystemTime::now", "Utc::now", "CLOCK_REALTIME"]
                .iter()
                .any(|now| text.contains(now))
            {
                let path = entry.path();
                found.push(path.strip_prefix(&source).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    let written_down = [
        "agent/ready.rs",         // the start in the record
        "cli/benchmark.rs",       // the name of the folder
        "cli/benchmark/merge.rs", // the same
        "cli/run/session.rs",     // the same
        "host/slot.rs",           // what `ps` shows
        "hub/client.rs",          // the date of a Retry-After, whose wait has a cap
        "image/build.rs",         // when an image was made
        "image/derive.rs",        // the same
        "image/import.rs",        // the same
        "jail/effects/layers.rs", // compared with times of files, which are of the same clock
        "llm/http.rs",            // the date of a Retry-After, whose wait has a cap
        "net/dns/resolvers.rs",   // when a file of the host's was changed
        "overhead/machine.rs",    // the date of the figures
        "packages/store.rs",      // when a file was used last
    ];
    assert_eq!(found, written_down);
}

/// Status and output come through different pipes, and who hears of the one first must not miss the other.
#[test]
fn no_output_is_lost_however_short_the_command() {
    in_sandbox(async |sandbox| {
        let spinning = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let load: Vec<_> = (0..4)
            .map(|_| {
                let spinning = std::sync::Arc::clone(&spinning);
                std::thread::spawn(move || {
                    while spinning.load(std::sync::atomic::Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        for number in 0..1500 {
            let shell = sh(&*sandbox, &format!("echo {number}")).await;
            assert_eq!(text(&shell.stdout), format!("{number}\n"), "{shell:?}");
            if number % 5 == 0 {
                let program = exec(&*sandbox, &format!("echo {number}")).await;
                assert_eq!(text(&program.stdout), format!("{number}\n"), "{program:?}");
            }
        }
        spinning.store(false, std::sync::atomic::Ordering::Relaxed);
        load.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
