//! Arguments and the pure edits; whole calls are tested on an environment in `tests/agent`.

use serde_json::json;

use super::*;

fn parsed(arguments: &Value, style: Style) -> Result<String, ToolErrorKind> {
    match parse(arguments.as_object().unwrap(), style) {
        Ok((command, path)) => Ok(format!("{command:?} {path}")),
        Err(observation) => Err(observation.error.unwrap()),
    }
}

#[test]
fn wrong_arguments_have_a_class() {
    for wrong in [
        json!({}),
        json!({"command": "view"}),
        json!({"command": 1, "path": "a"}),
        json!({"command": "view", "path": ["a"]}),
        json!({"command": "view", "path": ""}),
        json!({"command": "view", "path": "a\0b"}),
        json!({"command": "view", "path": "a", "view_range": "1"}),
        json!({"command": "view", "path": "a", "view_range": [1]}),
        json!({"command": "view", "path": "a", "view_range": [1, {}]}),
        json!({"command": "create", "path": "a"}),
        json!({"command": "create", "path": "a", "file_text": 3}),
        json!({"command": "str_replace", "path": "a", "old_str": ""}),
        json!({"command": "insert", "path": "a", "insert_line": 1}),
        json!({"command": "insert", "path": "a", "insert_line": 1.5, "new_str": ""}),
        json!({"command": "delete", "path": "a"}),
    ] {
        assert_eq!(
            parsed(&wrong, Style::Native),
            Err(ToolErrorKind::BadArguments),
            "{wrong}"
        );
    }
    assert!(
        parsed(
            &json!({"command": "undo_edit", "path": "a"}),
            Style::Original
        )
        .is_err()
    );
    assert!(parsed(&json!({"command": "undo_edit", "path": "a"}), Style::Native).is_ok());
    let string_number = json!({"command": "insert", "path": "a b", "insert_line": "3", "new_str": "x", "view_range": null});
    assert_eq!(
        parsed(&string_number, Style::Native).unwrap(),
        "Insert { line: 3, text: \"x\" } a b"
    );
}

#[test]
fn replacing_changes_nothing_else() {
    let bytes = b"\tall:\r\n\x80\xff old\x1b[0m\r\nlast";
    let edited = edit::replace(bytes, " old", " new").unwrap();
    assert_eq!(edited.bytes, b"\tall:\r\n\x80\xff new\x1b[0m\r\nlast");
    assert_eq!(edited.line, 1);
    let crlf = edit::replace(b"a\r\nb\r\n", "a\nb", "x\ny\nz").unwrap();
    assert_eq!(crlf.bytes, b"x\r\ny\r\nz\r\n");
    assert_eq!(
        edit::replace(b"aXbXc", "X", "").unwrap_err().error,
        Some(ToolErrorKind::Ambiguous)
    );
    assert_eq!(
        edit::replace(b"abc", "X", "").unwrap_err().error,
        Some(ToolErrorKind::NoMatch)
    );
    assert_eq!(edit::replace(b"aaa", "aa", "b").unwrap().bytes, b"ba");
}

#[test]
fn inserting_keeps_line_ends_and_a_missing_last_newline() {
    for (before, line, text, after) in [
        (&b"a\nb\n"[..], 0, "x", &b"x\na\nb\n"[..]),
        (b"a\nb\n", 1, "x\n", b"a\nx\nb\n"),
        (b"a\nb\n", 2, "x", b"a\nb\nx\n"),
        (b"a\nb", 2, "x", b"a\nb\nx"),
        (b"a\nb", 1, "x", b"a\nx\nb"),
        (b"", 0, "x", b"x\n"),
        (b"a\r\nb\r\n", 1, "x\ny", b"a\r\nx\r\ny\r\nb\r\n"),
    ] {
        let edited = edit::insert(before, line, text).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&edited.bytes),
            String::from_utf8_lossy(after)
        );
    }
    for line in [-1, 3] {
        assert_eq!(
            edit::insert(b"a\nb\n", line, "x").unwrap_err().error,
            Some(ToolErrorKind::OutOfRange)
        );
    }
}

#[test]
fn remembered_contents_are_bounded() {
    let mut history = History::default();
    let path = GuestPath::from("a");
    for _ in 0..40 {
        history.push(&path, vec![0; 8 << 20], b"");
    }
    assert!(history.bytes <= MAX_UNDO_BYTES);
    let mut left = 0;
    while history.pop(&path).is_some() {
        left += 1;
    }
    assert_eq!((left, history.bytes), (8, 0));
}
