use super::*;

/// What passes of bytes that come in pieces of this size.
fn passed(mut filter: Filter, bytes: &[u8], size: usize) -> String {
    let mut out = String::new();
    for piece in bytes.chunks(size) {
        filter.push(piece, &mut out);
    }
    filter.finish(&mut out);
    out
}

const HOSTILE: &str = "a\u{1b}]52;c;ZXZpbA==\u{7}b\u{1b}[2Jc\u{9b}31md\u{202e}e\r\nf\
    \u{1b}]0;title\u{1b}\\g\u{1b}P$qm\u{1b}\\h\u{5}i\u{1b}[21tj\u{1b}_x\u{9c}k\u{1b}[cl\u{1b}Zm\u{8}n\ro";

#[test]
fn nothing_reaches_the_terminal_but_text() {
    let shown = "abc\\x9b31md\u{fffd}e\nfgh\\x05ijklm\\x08n\no";
    assert_eq!(sanitize(HOSTILE), shown);
    for size in 1..9 {
        assert_eq!(passed(Filter::text(), HOSTILE.as_bytes(), size), shown);
    }
    assert_eq!(one_line("a\nerror: b\tc"), "a error: b c");
}

#[test]
fn nothing_is_overwritten() {
    for (written, shown) in [
        ("rm -rf /\rls      ", "rm -rf /\nls      "),
        ("one\r\ntwo\r\r\nthree", "one\ntwo\nthree"),
        ("\r 10 %\r 20 %\r\n\r\nend", " 10 %\n 20 %\n\nend"),
        (
            "hide\u{8}\u{8}\u{8}\u{8}show",
            "hide\\x08\\x08\\x08\\x08show",
        ),
    ] {
        assert_eq!(sanitize(written), shown);
    }
}

#[test]
fn an_unfinished_sequence_swallows_one_line_at_most() {
    for start in ["\u{1b}]0;", "\u{1b}P", "\u{1b}_", "\u{1b}[1;", "\u{1b}("] {
        let text = format!("{start}x\nsecond");
        assert!(sanitize(&text).ends_with("\nsecond"), "{text:?}");
    }
}

#[test]
fn bytes_that_are_no_text_are_marked() {
    assert_eq!(
        passed(Filter::text(), b"\x9b2J\xff\xc3", 1),
        "\u{fffd}2J\u{fffd}\u{fffd}"
    );
    assert_eq!(passed(Filter::text(), "ü€😀".as_bytes(), 1), "ü€😀");
}

#[test]
fn a_very_long_line_passes_and_a_long_sequence_is_not_kept() {
    let long = "x".repeat(1 << 20);
    assert_eq!(sanitize(&long), long);
    let mut filter = Filter::screen();
    let mut out = String::new();
    filter.push(b"\x1b[", &mut out);
    filter.push("1;".repeat(1 << 20).as_bytes(), &mut out);
    assert!(filter.sequence.capacity() <= 2 * MAX_SEQUENCE);
    filter.push(b"mtext", &mut out);
    assert_eq!(out, "text");
}

#[test]
fn programs_can_draw() {
    let drawn = "\u{1b}[?1049h\u{1b}[1;31mred\u{1b}[0m\u{1b}[2J\u{1b}[10;20Hx\u{1b}[K\u{1b}[?25l\u{1b}(0qq\u{1b}(B\
        \u{1b}7\u{1b}8\u{1b}[38:2:1:2:3m\u{1b}[6n\u{1b}[2 q\r\n\u{8}\u{7}\t\u{1b}[?2004h\u{1b}[4l\u{1b}[3J";
    for size in [1, 3, 1000] {
        assert_eq!(passed(Filter::screen(), drawn.as_bytes(), size), drawn);
    }
}

#[test]
fn a_screen_makes_the_terminal_type_remember_or_print_nothing() {
    for sequence in [
        "]52;c;ZXZpbA==\u{7}",
        "]0;title\u{1b}\\",
        "]11;?\u{7}",
        "P$qm\u{1b}\\",
        "P+q544e\u{1b}\\",
        "^x\u{1b}\\",
        "_Gi=1\u{1b}\\",
        "Xx\u{1b}\\",
        "[c",
        "[>c",
        "[5n",
        "[?6n",
        "[21t",
        "[8;1;1t",
        "[5i",
        "[>q",
        "[?1$p",
        "[1;1;1;1;1;1*y",
        "[x",
        "[?2l",
        "[?25;2l",
        "[2h",
        "[?u",
        "[>1u",
        "[>4;1m",
        "[99999b",
        "Z",
        "%@",
        " G",
        "#8",
        "Nx\u{18}",
    ] {
        let bytes = format!("a\u{1b}{sequence}b");
        let shown = passed(Filter::screen(), bytes.as_bytes(), 1);
        assert!(!shown.contains('\u{1b}'), "{sequence:?}: {shown:?}");
        assert!(
            shown.starts_with('a') && shown.ends_with('b'),
            "{sequence:?}: {shown:?}"
        );
    }
    assert_eq!(
        sanitize_screen("a\u{5}\u{9b}c\u{202e}\u{0}\u{7f}"),
        "ac\u{fffd}"
    );
}

fn sanitize_screen(text: &str) -> String {
    passed(Filter::screen(), text.as_bytes(), 1)
}

#[test]
fn json_stays_json_and_holds_no_control() {
    let value = serde_json::json!({"a\u{9b}": "\u{1b}]52;\u{7f}\u{85}\u{202e}ü\u{2066}"});
    let safe = escape_json(&value.to_string());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&safe).unwrap(),
        value
    );
    assert!(
        !safe.contains(|c: char| c.is_control() || misleads(c)),
        "{safe}"
    );
}

proptest::proptest! {
    #[test]
    fn however_it_is_cut_text_is_text_and_cleaning_again_changes_nothing(
        pieces in proptest::collection::vec(
            proptest::prop_oneof![
                "\u{1b}[\\[\\]PX^_()0-9;?hlmnu\u{7}\\\\\u{18}]{0,8}",
                "[\r\n\u{8}\u{7}\u{5}\t]{1,4}",
                "[\u{7f}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}]{1,3}",
                "\\PC{0,12}",
            ],
            0..60,
        ),
        size in proptest::prelude::any::<u8>(),
    ) {
        crate::fuzz::terminal(&[&[size], pieces.concat().as_bytes()].concat());
    }
}
