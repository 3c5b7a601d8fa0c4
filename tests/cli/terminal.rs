//! What reaches a person's terminal from a sandbox, a model or an image: text, and nothing that a terminal obeys.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use llm_in_sandbox::image::{MANIFEST_FORMAT, Manifest, Package, Packages, Store};
use nix::pty::openpty;

use crate::live::Session;
use crate::replay::{Replay, bash, calls, submit};
use crate::{bare, code, command, ended, finish, run};

/// Clipboard, title, requests that a terminal answers, other screen, C1 as UTF-8, turned text, and overwriting.
const HOSTILE: &str = "\u{1b}]52;c;ZXZpbA==\u{7}\u{1b}]0;title\u{1b}\\\u{1b}P$qm\u{1b}\\\u{1b}[21t\u{1b}[c\u{5}\u{1b}[?1049h\u{1b}[31m\
    \u{9b}2J\u{9d}0;c1\u{9c}\u{202e}\u{2066}hidden\u{8}\u{8}\u{8}shown";

/// Runs a program whose stdout and stderr are a terminal; gives its status and every byte that it wrote there.
fn on_terminal(mut command: Command) -> (i32, Vec<u8>) {
    let pty = openpty(None, None).unwrap();
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    command.stdout(end(&pty.slave)).stderr(end(&pty.slave));
    let mut child = command.spawn().unwrap();
    // The command holds copies: the reader must see the end.
    drop((command, pty.slave));
    let reader = std::thread::spawn(move || {
        let (mut master, mut all, mut buffer) = (File::from(pty.master), Vec::new(), [0; 4096]);
        // EIO is how a terminal ends.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            all.extend_from_slice(&buffer[..count]);
        }
        all
    });
    let status = ended(&mut child).code().unwrap();
    (status, reader.join().unwrap())
}

/// Fails on whatever a terminal would obey; what our own side writes there may be passed over.
fn assert_harmless(shown: &[u8], ours: &[&str]) {
    let mut text = String::from_utf8(shown.to_vec()).unwrap();
    for sequence in ours {
        text = text.replace(sequence, "");
    }
    let obeyed = text.replace("\r\n", "\n").chars().find(|c| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    });
    assert_eq!(obeyed, None, "{text:?}");
}

fn text(shown: &[u8]) -> String {
    String::from_utf8_lossy(shown).replace("\r\n", "\n")
}

#[test]
fn exec_shows_text_on_a_terminal_and_passes_bytes_to_a_pipe() {
    let script = format!("printf '%s\\rover' '{HOSTILE}'; printf '%s\\n' '{HOSTILE}' >&2");
    for flags in [&["exec"][..], &["exec", "-i"], &["exec", "--json"]] {
        let argv = [flags, &["--", "sh", "-c", &script]].concat();
        let (status, shown) = on_terminal(command(&argv));
        assert_eq!(status, 0, "{}", text(&shown));
        assert_harmless(&shown, &[]);
        let shown = text(&shown);
        assert_eq!(
            shown.matches("hidden\\x08\\x08\\x08shown").count(),
            2,
            "{shown}"
        );
        assert!(shown.contains("shown\nover"), "{shown}");
    }
    // The same command for a program that reads it: it does write all that.
    let output = run(&["exec", "--", "sh", "-c", &script]);
    assert_eq!(output.stdout, format!("{HOSTILE}\rover").into_bytes());
    assert!(output.stderr.ends_with(format!("{HOSTILE}\n").as_bytes()));
}

#[test]
fn a_very_long_line_is_shown_whole_and_a_long_title_not_at_all() {
    let script = "head -c 3000000 /dev/zero | tr '\\0' Q; printf '\\033]0;'; head -c 100000 /dev/zero | tr '\\0' Z; echo; echo end";
    let (status, shown) = on_terminal(command(&["exec", "--", "sh", "-c", script]));
    assert_eq!(status, 0);
    assert_harmless(&shown, &[]);
    let count = |wanted| shown.iter().filter(|byte| **byte == wanted).count();
    assert_eq!((count(b'Q'), count(b'Z')), (3_000_000, 0));
    assert!(text(&shown).ends_with("\nend\n"));
}

#[test]
fn a_shell_draws_but_cannot_make_the_terminal_type_or_remember() {
    let mut session = Session::start(&["shell"]);
    session.press("stty -echo; PS1=; printf 'begin-%s' $((1000 + 1))\n");
    session.expect("begin-1001");
    let script = "printf '\\033]52;c;ZXZpbA==\\007\\033]0;title\\033\\\\\\033P$qm\\033\\\\\\033[21t\\033[c\\005\\302\\2332J\\342\\200\\256'";
    session.press(&format!(
        "{script}; printf '\\033[31mred\\033[0m\\033[6nend-%s' $((1000 + 2))\n"
    ));
    session.expect("end-1002");
    let shown = session.seen.split_once("begin-1001").unwrap().1.to_owned();
    assert!(
        shown.contains("\u{fffd}\u{1b}[31mred\u{1b}[0m\u{1b}[6nend-1002"),
        "{shown:?}"
    );
    // What bash itself draws around a line.
    let ours = [
        "\u{1b}[31m",
        "\u{1b}[0m",
        "\u{1b}[6n",
        "\u{1b}[?2004h",
        "\u{1b}[?2004l",
        "\r",
    ];
    assert_harmless(shown.as_bytes(), &ours);
    session.leave(0);
}

#[test]
fn a_run_shows_only_colours_of_ours() {
    let script = format!(
        "cd /testbed/output; printf 'answer %s' '{HOSTILE}' | tee answer.txt; ln -s /etc \"$(printf 'link\\033]0;x\\007\\nerror: z')\""
    );
    let thought = format!("thought {HOSTILE}\rover");
    let replay = Replay::new(&[
        calls(&thought, &[bash(&script)]),
        calls(HOSTILE, &[submit()]),
    ]);
    let (status, shown) = on_terminal(replay.command(&[]));
    let colours = [
        "\u{1b}[0m",
        "\u{1b}[1m",
        "\u{1b}[2m",
        "\u{1b}[33m",
        "\u{1b}[36m",
    ];
    assert_harmless(&shown, &colours);
    let shown = text(&shown);
    assert_eq!(status, 0, "{shown}");
    assert!(
        shown.contains("thought") && shown.contains("answer"),
        "{shown}"
    );
    assert!(!shown.contains("\nerror: z"), "{shown}");
}

#[test]
fn lists_reports_and_errors_hold_no_control() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let hostile = || format!("{HOSTILE}\nerror: posing");
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        digest: "0123456789abcdef".repeat(4),
        tree_digest: None,
        name: hostile(),
        created: hostile(),
        size_bytes: 1,
        entries: 1,
        architecture: hostile(),
        recipe: None,
        source: hostile(),
        chosen: Some(hostile()),
        env: BTreeMap::from([(hostile(), hostile())]),
        packages: Packages {
            apt: Vec::new(),
            pip: vec![Package {
                name: hostile(),
                version: hostile(),
            }],
        },
    };
    store.commit(store.draft().unwrap(), &manifest).unwrap();
    store.set_name("hostile", &manifest.digest).unwrap();
    for arguments in [
        &["image", "ls"][..],
        &["image", "ls", "--json"],
        &["image", "inspect", "hostile"],
        &["image", "inspect", "hostile", "--json"],
        &["image", "inspect", &hostile()],
        &["shell", "--in", &hostile()],
        &["image", "import", &hostile()],
    ] {
        let start = || {
            let mut command = bare(arguments);
            command.env("LLM_IN_SANDBOX_HOME", state.path());
            command
        };
        let (_, shown) = on_terminal(start());
        // The line that tells how far something is.
        assert_harmless(&shown, &["\u{1b}[2K", "\r"]);
        let shown = text(&shown);
        assert!(
            shown.contains("shown") || arguments[1] == "ls",
            "{arguments:?}: {shown}"
        );
        assert!(!shown.contains("\nerror: posing"), "{arguments:?}: {shown}");
        if arguments.contains(&"--json") {
            let output = finish(start());
            assert_eq!(code(&output), 0);
            let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(
                value.to_string().contains('\u{9b}'),
                "nothing is lost for who reads JSON"
            );
        }
    }
}

#[test]
fn a_running_command_is_listed_as_text() {
    let script = format!(": '{HOSTILE}'; echo begun; exec sleep 600");
    let mut child = command(&["exec", "--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    crate::live::lines_until(child.stdout.take().unwrap(), "begun");
    for arguments in [&["ps"][..], &["ps", "--json"]] {
        let (status, shown) = on_terminal(command(arguments));
        assert_eq!(status, 0);
        assert_harmless(&shown, &[]);
        assert!(text(&shown).contains("hidden"));
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    ended(&mut child);
}
