//! The persistent shell, against everything that commands do to shells.

use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Env, GuestPath};

use crate::fixture::{Scene, exec, in_sandbox, out, sh, spec, text};
use crate::traces::memory;

#[test]
fn state_lives_on_between_commands() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        out(
            sandbox,
            "cd /usr; A=5; export B=6; f() { echo \"f $A\"; }; alias g='echo alias'",
        )
        .await;
        assert_eq!(
            out(sandbox, "f; echo $B; pwd; g").await,
            "f 5\n6\n/usr\nalias\n"
        );
        out(
            sandbox,
            "python3 -m venv --without-pip /tmp/v && . /tmp/v/bin/activate",
        )
        .await;
        assert_eq!(
            out(sandbox, "command -v python").await,
            "/tmp/v/bin/python\n"
        );
        out(sandbox, "sleep 1000 & echo $! > /tmp/pid").await;
        assert_eq!(
            out(sandbox, "kill -0 $(cat /tmp/pid) && echo alive").await,
            "alive\n"
        );
        assert_eq!(sh(sandbox, "(exit 3)").await.status, Some(3));
    });
}

#[test]
fn output_is_told_apart_and_not_a_terminals() {
    in_sandbox(async |sandbox| {
        let result = sh(
            &*sandbox,
            "echo out; echo err >&2; echo tty > /dev/tty; test -t 1 || echo no terminal",
        )
        .await;
        assert_eq!(text(&result.stdout), "out\nno terminal\n");
        assert_eq!(text(&result.stderr), "err\n");
        assert_eq!(text(&result.tty), "tty\r\n");
        assert_eq!(
            text(&sh(&*sandbox, "read x; echo \"[$x]\"; cat").await.stdout),
            "[]\n"
        );
        assert_eq!(
            out(
                &*sandbox,
                "echo $TERM $PAGER $PYTHONUNBUFFERED $DEBIAN_FRONTEND"
            )
            .await,
            "dumb cat 1 noninteractive\n"
        );
    });
}

#[test]
fn the_text_of_a_command_is_data() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        for (command, status) in [
            ("echo 'unbalanced", 2),
            ("if then", 2),
            ("echo $(", 1),
            ("", 0),
            ("  # only a comment", 0),
            ("false", 1),
        ] {
            assert_eq!(sh(sandbox, command).await.status, Some(status), "{command}");
        }
        assert_eq!(
            out(sandbox, "cat <<'E'\n$x `y` \"z\"\nE").await,
            "$x `y` \"z\"\n"
        );
        assert_eq!(out(sandbox, "cat <<E\nnever ended").await, "never ended\n");
        assert_eq!(out(sandbox, "echo a!b !! && echo \\").await, "a!b !!\n\\\n");
        assert_eq!(out(sandbox, "printf '%s' \"a\nb\"").await, "a\nb");
        let all: String = (1..128).map(char::from).chain("äπ€𝄞".chars()).collect();
        let quoted = all.replace('\'', r"'\''");
        assert_eq!(out(sandbox, &format!("printf %s '{quoted}'")).await, all);
        let long = format!("x='{}'; echo ${{#x}}", "y".repeat(1 << 20));
        assert_eq!(out(sandbox, &long).await, "1048576\n");
        assert_eq!(
            out(sandbox, "printf '\\0\\377' | od -An -tx1").await,
            " 00 ff\n"
        );
        assert_eq!(
            sh(sandbox, "printf 'a\\0\\377b'").await.stdout.head,
            b"a\0\xffb"
        );
    });
}

#[test]
fn nothing_that_a_command_redefines_breaks_the_framing() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        for attack in [
            "eval() { echo fake; }; trap() { echo fake; }; printf() { echo fake; }; builtin() { :; }; command() { :; }",
            "unset() { :; }; set() { :; }; exec() { :; }; test() { false; }",
            "alias eval=false trap=false unset=false",
            "PS1='fake> '; PS2='fake'; PROMPT_COMMAND='echo prompt'; PS4='fake'",
            "set -x",
            "set +x; set -v",
            "set +v; set -u; echo $undefined_variable",
            "set +u; set -n",
            "unset PATH IFS LANG HOME; IFS=x",
            "PATH=/usr/bin:/bin; unset IFS; trap 'echo debug' DEBUG; trap 'echo err' ERR; trap '' INT TERM CHLD",
            "trap - DEBUG ERR INT TERM CHLD; stty raw -echo -isig </dev/tty",
            "exec >/tmp/redirected 2>&1 </dev/null",
            "exec 1>&- 2>&- 0<&-",
            "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd>&-\"; done",
            "ulimit -n 20; enable -n printf echo",
            "rm -rf /run/shell-io/* 2>/dev/null; touch /run/shell-io/x{1..100} 2>/dev/null; true",
            "printf() { :; }; PROMPT_COMMAND='/bin/echo -n title'",
            "PROMPT_COMMAND=; set -o posix",
            "POSIXLY_CORRECT=1; set -o posix; LINES=; shopt -s extdebug",
        ] {
            sandbox
                .shell(attack, Duration::from_secs(10))
                .await
                .unwrap();
            let result = sh(
                sandbox,
                "\\command echo still 2>/dev/null || /bin/echo still",
            )
            .await;
            let stdout = text(&result.stdout);
            assert!(
                stdout.contains("still") || stdout.is_empty(),
                "{attack}: {result:?}"
            );
            assert_eq!(result.timed_out, None, "{attack}");
        }
        // Whatever is left of that shell: a new command still gets its own output and status.
        assert_eq!(
            sh(sandbox, "/bin/sh -c 'echo fine; exit 7'").await.status,
            Some(7)
        );
    });
}

#[test]
fn a_lost_shell_is_replaced_and_the_model_told() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        for (command, status) in [
            ("exit 3", Some(3)),
            ("kill -9 $$", Some(137)),
            ("exec sh -c 'echo replaced; exit 4'", Some(4)),
            ("set -e; false; echo not reached", Some(1)),
        ] {
            let result = sh(sandbox, command).await;
            assert_eq!(result.status, status, "{command}: {result:?}");
            assert!(result.restarted.is_some(), "{command}");
            let next = sh(sandbox, "echo fresh; pwd").await;
            assert_eq!(
                (text(&next.stdout).as_str(), next.restarted),
                ("fresh\n/testbed\n", None),
                "{command}"
            );
        }
        // A shell that cannot evaluate is replaced before the command, which then runs once.
        sh(sandbox, "enable -n eval").await;
        let result = sh(sandbox, "echo once >> /tmp/once; cat /tmp/once").await;
        assert_eq!(text(&result.stdout), "once\n");
        assert!(result.restarted.is_some());
        // One that never reports: seen without waiting for the timeout.
        let began = Instant::now();
        let mute = "shopt -s extdebug; trap false DEBUG";
        let result = sandbox.shell(mute, Duration::from_secs(50)).await.unwrap();
        assert!(result.restarted.is_some(), "{result:?}");
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(out(sandbox, "echo fine").await, "fine\n");
    });
}

#[test]
fn a_timeout_ends_the_command_and_spares_the_rest() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        out(sandbox, "A=kept; sleep 1000 & echo $! > /tmp/older").await;
        for command in [
            "echo partial; sleep 1000; echo after",
            "echo partial; while :; do :; done",
            "echo partial; while true; do sleep 1; done",
            "echo partial; trap '' INT TERM; sleep 1000",
            "echo partial; python3 -c 'import signal,time; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN); time.sleep(1000)'",
            "echo partial; setsid sleep 1000",
            "echo partial; sleep 1000 | cat",
        ] {
            let began = Instant::now();
            let result = sandbox
                .shell(command, Duration::from_millis(500))
                .await
                .unwrap();
            assert_eq!(
                result.timed_out,
                Some(Duration::from_millis(500)),
                "{command}"
            );
            assert_eq!(text(&result.stdout), "partial\n", "{command}");
            assert_eq!(result.restarted, None, "{command}: the shell survives");
            assert!(
                began.elapsed() < Duration::from_millis(2500),
                "{command}: {:?}",
                began.elapsed()
            );
            assert_eq!(
                out(sandbox, "trap - INT TERM; echo $A").await,
                "kept\n",
                "{command}"
            );
        }
        assert_eq!(
            out(sandbox, "kill -0 $(cat /tmp/older) && echo alive").await,
            "alive\n"
        );
        assert_eq!(
            out(sandbox, "pgrep -c sleep").await,
            "1\n",
            "only the older job is left"
        );
    });
}

/// One whose start the kernel tells with the same number as that of what the next command begins.
#[test]
fn a_timeout_spares_a_daemon_of_a_moment_ago() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let mut daemons = 0;
        for _ in 0..4 {
            sh(sandbox, "true").await;
            sh(sandbox, "sleep 1000 >/dev/null 2>&1 &").await;
            let limit = Duration::from_millis(300);
            let result = sandbox
                .shell("trap '' INT; sleep 500", limit)
                .await
                .unwrap();
            daemons += 1;
            assert_eq!((result.timed_out, result.restarted), (Some(limit), None));
            let left = out(
                sandbox,
                "pgrep -c -f 'sleep 1000'; pgrep -c -f 'sleep 500' || :",
            )
            .await;
            assert_eq!(left, format!("{daemons}\n0\n"));
        }
    });
}

#[test]
fn a_stopped_shell_is_replaced_at_the_timeout() {
    in_sandbox(async |sandbox| {
        let result = sandbox
            .shell("kill -STOP $$", Duration::from_millis(500))
            .await
            .unwrap();
        assert!(
            result.timed_out.is_some() && result.restarted.is_some(),
            "{result:?}"
        );
        assert_eq!(out(&*sandbox, "echo fine").await, "fine\n");
    });
}

/// More than its socket holds: what has come of it is no command.
#[test]
fn a_command_that_bash_does_not_take_in_time_is_not_begun() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let long = format!("touch /tmp/begun # {}", "'\n".repeat(4 << 20));
        let limit = Duration::from_millis(50);
        let result = sandbox.shell(&long, limit).await.unwrap();
        assert_eq!(result.timed_out, Some(limit));
        assert!(result.restarted.is_some(), "{:?}", result.restarted);
        assert_eq!(sh(sandbox, "test -e /tmp/begun").await.status, Some(1));
    });
}

/// One after the other through the same pipes, and through others once these are gone or held.
#[test]
fn output_is_seen_whatever_becomes_of_the_pipes() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        for between in [
            "true",
            "rm -rf /run/shell-io/*",
            "rm /run/shell-io/o; mkdir /run/shell-io/o",
            "sleep 1000 &",
            "exec 7>&1",
            "exec 7>&- >/dev/null; sleep 0.1",
        ] {
            let result = sh(sandbox, between).await;
            assert_eq!(
                (result.status, result.restarted),
                (Some(0), None),
                "{between}"
            );
            for number in 0..3 {
                let result = sh(
                    sandbox,
                    &format!("echo out {number}; echo err {number} >&2"),
                )
                .await;
                let seen = (text(&result.stdout), text(&result.stderr));
                assert_eq!(
                    seen,
                    (format!("out {number}\n"), format!("err {number}\n")),
                    "{between}"
                );
                assert_eq!(result.restarted, None, "{between}");
            }
        }
        // More than a pipe holds, from a command that closed its output before.
        let late = "exec 3>&1 >/dev/null; sleep 0.2; exec >&3 3>&-; head -c 300000 /dev/zero";
        let result = sh(sandbox, late).await;
        let kept = result.stdout.head.len() + result.stdout.tail.len();
        assert_eq!(result.stdout.omitted + kept as u64, 300_000);
    });
}

#[test]
fn daemons_neither_delay_nor_write_into_later_results() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let began = Instant::now();
        out(
            sandbox,
            "(while sleep 0.05; do echo noise; echo noise >&2; done) & echo $! > /tmp/pid",
        )
        .await;
        assert!(began.elapsed() < Duration::from_secs(3));
        for _ in 0..5 {
            let result = sh(sandbox, "sleep 0.1; echo mine").await;
            assert_eq!(
                (text(&result.stdout).as_str(), text(&result.stderr).as_str()),
                ("mine\n", "")
            );
        }
        assert_eq!(
            out(sandbox, "kill -0 $(cat /tmp/pid) && echo alive").await,
            "alive\n",
            "no SIGPIPE"
        );
    });
}

/// Tells at which number bash keeps its socket while a command runs.
const SOCKET: &str = "for fd in 10 11 12; do [ -S /dev/fd/$fd ] && echo $fd && break; done";

#[test]
fn a_forged_status_line_is_at_most_a_lie_about_itself() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        assert_eq!(out(sandbox, SOCKET).await, "10\n");
        sh(sandbox, "for n in 1 2 3 4 5 6 7; do echo \"trap -- '$n:0:' RTMAX\" >&10; done; head -c 100000 /dev/zero >&10").await;
        for _ in 0..6 {
            sh(sandbox, "false").await;
        }
        assert_eq!(sh(sandbox, "echo honest; (exit 9)").await.status, Some(9));
    });
}

#[test]
fn long_output_keeps_both_ends_and_a_full_copy() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        let result = sh(sandbox, "seq 1 200000; echo last").await;
        assert!(result.stdout.head.starts_with(b"1\n2\n3\n"));
        assert!(result.stdout.tail.ends_with(b"200000\nlast\n"));
        let copy = result.stdout.full_copy.unwrap();
        assert!(!copy.partial);
        let size = sandbox.stat(&copy.path).await.unwrap().size;
        let kept = (result.stdout.head.len() + result.stdout.tail.len()) as u64;
        assert_eq!(size, result.stdout.omitted + kept);
        assert_eq!(size, 1_288_900);
        assert_eq!(
            out(sandbox, &format!("tail -n 2 {}", copy.path)).await,
            "200000\nlast\n"
        );
    });
}

#[test]
fn a_gigabyte_of_output_needs_no_memory_of_the_host() {
    in_sandbox(async |sandbox| {
        let sandbox = &*sandbox;
        out(sandbox, "true").await;
        let before = memory("VmHWM");
        let result = sandbox
            .shell(
                "yes 0123456789abcde | head -c 1000000000; echo end",
                Duration::from_secs(50),
            )
            .await;
        let grown = memory("VmHWM").saturating_sub(before);
        let result = result.unwrap();
        assert_eq!(result.status, Some(0));
        assert!(result.stdout.tail.ends_with(b"end\n"));
        assert!(
            result.stdout.full_copy.unwrap().partial,
            "a copy has a bound, too"
        );
        assert!(grown < 32 << 20, "grew by {grown} bytes");
        assert_eq!(out(sandbox, "echo on").await, "on\n");
    });
}

#[test]
fn a_flood_of_status_lines_or_of_the_terminal_delays_nobody() {
    for target in ["&10", "/dev/tty"] {
        in_sandbox(async |sandbox| {
            let sandbox = &*sandbox;
            assert_eq!(out(sandbox, SOCKET).await, "10\n");
            out(
                sandbox,
                &format!("for n in 1 2 3 4; do yes >{target} & done"),
            )
            .await;
            let limit = Duration::from_secs(1);
            for command in ["echo still here", "sleep 600"] {
                let began = Instant::now();
                let result = sandbox.shell(command, limit).await.unwrap();
                assert!(began.elapsed() < limit * 20, "{target}: {command}");
                let due = command == "sleep 600";
                assert_eq!(result.timed_out.is_some(), due, "{target}: {result:?}");
            }
        });
    }
}

/// The status may be seen before the event loop knows of output that is there already.
#[test]
fn short_output_is_never_overlooked() {
    let echo = async |scene: &Scene| {
        let sandbox = scene.start(spec()).await;
        let path = GuestPath::from("/testbed/f");
        for number in 0..100 {
            let expected = format!("{number}\n");
            sandbox.write_file(&path, b"x", false).await.unwrap();
            let result = sh(&sandbox, &format!("echo {number}")).await;
            assert_eq!(text(&result.stdout), expected, "in the shell");
            let result = exec(&sandbox, &format!("echo {number} >&2")).await;
            assert_eq!(text(&result.stderr), expected, "of a program");
        }
        sandbox.close().await.unwrap();
    };
    // As in the program: one thread, which is late.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let scene = Scene::new().await;
        let all = async { tokio::join!(echo(&scene), echo(&scene), echo(&scene), echo(&scene)) };
        tokio::time::timeout(Duration::from_secs(60), Box::pin(all))
            .await
            .unwrap();
    });
}
