//! Cleaning and layout.

use proptest::prelude::*;

use std::time::Duration;

use super::*;
use crate::env::GuestPath;

fn captured(text: &[u8]) -> Captured {
    Captured {
        head: text.to_vec(),
        ..Captured::default()
    }
}

fn result(stdout: &[u8], stderr: &[u8], status: Option<i32>) -> ShellResult {
    ShellResult {
        status,
        stdout: captured(stdout),
        stderr: captured(stderr),
        tty: Captured::default(),
        timed_out: None,
        restarted: None,
        struck: Vec::new(),
        wall: Duration::ZERO,
    }
}

fn native(result: &ShellResult) -> String {
    render_native(
        result,
        &clean_stream(&result.stdout),
        &clean_stream(&result.stderr),
    )
}

#[test]
fn bytes_become_what_a_terminal_shows_last() {
    for (bytes, text) in [
        (&b"10%\r50%\r100%\ndone\r\n"[..], "100%\ndone\n"),
        (
            b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b]52;c;AAAA\x1b\\y",
            "red xy",
        ),
        (b"\x1bPq#0;2\x1b\\a\x1b(Bb\x1b=c\x1b[?25lz", "abcz"),
        (b"broken \x1b]0;never ends\nnext", "broken \nnext"),
        (b"half \x1b[3", "half "),
        (b"a\xff\xfeb", "a\u{fffd}\u{fffd}b"),
        (b"nul\0bell\x07 bs\x08\x08x", "nul\\x00bell x"),
        ("c1 \u{9b}31m".as_bytes(), "c1 \\x9b31m"),
        (b"\r\r\n", "\n"),
        ("tab\tü\u{202e}".as_bytes(), "tab\tü\u{202e}"),
    ] {
        assert_eq!(clean(bytes), text, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn the_native_layout_has_no_stray_backslash() {
    assert_eq!(
        native(&result(b"out\n", b"", Some(0))),
        "Exit code: 0\nExecution output of [execute_bash]:\n[STDOUT]\nout"
    );
    assert_eq!(
        native(&result(b"", b"oops\n", Some(2))),
        "Exit code: Error: Exit code 2\nExecution output of [execute_bash]:\n[STDOUT]\n\n[STDERR]\noops"
    );
}

#[test]
fn terminal_output_timeouts_and_restarts_are_told() {
    let mut result = result(b"part", b"", Some(137));
    result.tty = captured(b"Password: ");
    result.timed_out = Some(Duration::from_millis(1500));
    result.restarted = Some("killed\x1b[0m".into());
    let text = native(&result);
    assert!(
        text.starts_with("Exit code: -1\n")
            && text.contains("\n[STDOUT]\npart\n[TERMINAL]\nPassword: \n[NOTICE]\n"),
        "{text}"
    );
    assert!(
        text.contains("1.5 s") && text.contains("new one was started") && !text.contains('\x1b')
    );
}

#[test]
fn limits_that_struck_are_told_once_and_not_to_the_original() {
    let mut result = result(b"part", b"", Some(137));
    result.struck = vec![
        LimitHit::Memory {
            max_bytes: 2 << 30,
            killed: 1,
            peak_bytes: None,
            sandbox_ended: false,
        },
        // Told as a timeout, as a cut, and not at all.
        LimitHit::WallTime {
            after: Duration::from_secs(1),
        },
        LimitHit::Output { omitted_bytes: 9 },
        LimitHit::CpuThrottled {
            periods: 1,
            time: Duration::ZERO,
        },
    ];
    let text = native(&result);
    assert!(
        text.ends_with("\n[NOTICE]\nLIMIT memory: memory limit 2g struck: 1 process killed."),
        "{text}"
    );
    assert!(!render_original(&result).contains("LIMIT"));
}

#[test]
fn the_original_layout_is_kept_on_request() {
    let text = render_original(&result(b"\x1b[32mok\x1b[0m\r\n", b"warn", Some(1)));
    assert_eq!(
        text,
        "Exit code: Error: Exit code 1\nExecution output of \\[execute_bash]:\n\\[STDOUT]\nok\n\n\\[STDERR]\nwarn"
    );
    let mut slow = result(b"lost", b"lost", None);
    slow.timed_out = Some(Duration::from_secs(120));
    let text = render_original(&slow);
    assert!(text.starts_with("Exit code: -1\n") && text.contains("120") && !text.contains("lost"));
}

#[test]
fn many_lines_keep_their_head_and_tail() {
    let lines: String = (1..=200).map(|n| format!("line {n}\n")).collect();
    for text in [
        native(&result(lines.as_bytes(), b"", Some(0))),
        render_original(&result(lines.as_bytes(), b"", Some(0))),
    ] {
        assert!(
            text.contains("\nline 40\n--------------------------------------------------\n<"),
            "{text}"
        );
        assert!(
            text.contains(">\n--------------------------------------------------\nline 161\n"),
            "{text}"
        );
        assert!(text.ends_with("line 200"));
    }
    let cut = clean_stream(&captured(lines.as_bytes())).cut.unwrap();
    assert_eq!(
        (cut.bytes, cut.lines),
        (60 * 8 + 60 * 9, Some(120)).max((cut.bytes, Some(120)))
    );
}

#[test]
fn one_long_line_is_cut_at_characters() {
    let long = "ü".repeat(MAX_BYTES);
    let cleaned = clean_stream(&captured(long.as_bytes()));
    let cut = cleaned.cut.clone().unwrap();
    let kept = cleaned.head.len() + cleaned.tail.len();
    assert!(kept <= MAX_BYTES && kept > MAX_BYTES - 8);
    assert_eq!(kept as u64 + cut.bytes, long.len() as u64);
}

#[test]
fn a_stream_cut_by_the_sandbox_tells_how_much_and_where() {
    let euro = "€".as_bytes();
    let stream = Captured {
        head: [b"start ", &euro[..2]].concat(),
        omitted: 1_000_000,
        tail: [&euro[1..], b" end\n"].concat(),
        full_copy: Some(FullCopy {
            path: GuestPath::from("/tmp/out.1"),
            partial: false,
        }),
    };
    let mut text = String::new();
    clean_stream(&stream).write(&mut text);
    let rule = "-".repeat(50);
    assert_eq!(
        text,
        format!(
            "start \n{rule}\n<1000004 bytes left out here; the whole is in /tmp/out.1>\n{rule}\n end"
        )
    );
}

proptest! {
    /// Text without controls is cut at characters only, and every byte of it is either shown or counted.
    #[test]
    fn what_is_cut_is_counted_to_the_byte(
        parts in proptest::collection::vec("[aü€😀\n]{0,400}", 0..80),
        capture in 8_usize..100_000,
        piece in 1_usize..5_000,
    ) {
        let text = parts.concat();
        let mut kept = crate::host::output::HeadTail::new(capture);
        text.as_bytes().chunks(piece).for_each(|bytes| kept.push(bytes));
        let stream = kept.finish();
        let cleaned = clean_stream(&stream);
        prop_assert!(text.starts_with(&cleaned.head) && text.ends_with(&cleaned.tail));
        let shown = cleaned.head.len() + cleaned.tail.len();
        let cut = cleaned.cut.map_or(0, |cut| cut.bytes);
        prop_assert_eq!(shown as u64 + cut, text.len() as u64);
    }

    #[test]
    fn any_bytes_are_cleaned_once_and_for_all(
        pieces in proptest::collection::vec(
            prop_oneof!["\u{1b}[\\[\\]PX^_()0-9;?m\u{7}\\\\]{0,6}", "[\r\n\u{8}\u{7}\t]{1,4}", "\\PC{0,12}"],
            0..60,
        ),
        size in any::<u8>(),
    ) {
        crate::fuzz::output(&[&[size], pieces.concat().as_bytes()].concat());
    }
}
