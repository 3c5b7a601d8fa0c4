//! The editor on an environment.

use std::time::Duration;

use llm_in_sandbox::agent::Style;
use llm_in_sandbox::agent::tools::{Observation, Tools};
use llm_in_sandbox::trajectory::ToolErrorKind;
use serde_json::{Value, json};

use crate::memory_env::MemoryEnv;

struct Editor {
    env: MemoryEnv,
    tools: Tools,
}

impl Editor {
    fn new(style: Style) -> Self {
        Self {
            env: MemoryEnv::default(),
            tools: Tools::new(style, Duration::from_secs(1)),
        }
    }

    async fn call(&mut self, arguments: Value) -> Observation {
        let arguments = arguments.as_object().unwrap();
        self.tools
            .call(&self.env, "str_replace_editor", arguments)
            .await
            .unwrap()
    }

    async fn text(&mut self, arguments: Value) -> String {
        let observation = self.call(arguments).await;
        assert_eq!(observation.error, None, "{}", observation.text);
        observation.text
    }

    async fn error(&mut self, arguments: Value) -> ToolErrorKind {
        self.call(arguments).await.error.expect("an error")
    }
}

#[tokio::test]
async fn any_text_file_is_viewed_with_its_tabs() {
    let mut editor = Editor::new(Style::Native);
    editor.env.put("/testbed/a b$(x).csv", "one\ttwo\r\nüml\n");
    let text = editor
        .text(json!({"command": "view", "path": "/testbed/a b$(x).csv"}))
        .await;
    assert!(
        text.starts_with("Execution output of [str_replace_editor]:\n"),
        "{text}"
    );
    assert!(text.ends_with(":\n     1\tone\ttwo\n     2\tüml"), "{text}");
    let range = editor
        .text(json!({"command": "view", "path": "a b$(x).csv", "view_range": [2, -1]}))
        .await;
    assert!(range.ends_with(":\n     2\tüml"), "{range}");
    for range in [[0, 1], [3, 3], [2, 1], [1, 9], [1, -2]] {
        let error = editor
            .error(json!({"command": "view", "path": "a b$(x).csv", "view_range": range}))
            .await;
        assert_eq!(error, ToolErrorKind::OutOfRange);
    }
}

#[tokio::test]
async fn views_that_cannot_be_are_told() {
    let mut editor = Editor::new(Style::Native);
    editor.env.put("empty", "");
    editor.env.put("binary", b"\x7fELF\0\0");
    editor.env.put("huge", vec![b'x'; (16 << 20) + 1]);
    editor.env.put("latin", b"caf\xe9\n");
    assert!(
        editor
            .text(json!({"command": "view", "path": "empty"}))
            .await
            .contains("is empty")
    );
    assert_eq!(
        editor
            .error(json!({"command": "view", "path": "binary"}))
            .await,
        ToolErrorKind::NotText
    );
    assert_eq!(
        editor
            .error(json!({"command": "view", "path": "huge"}))
            .await,
        ToolErrorKind::TooLarge
    );
    assert_eq!(
        editor
            .error(json!({"command": "view", "path": "nothing"}))
            .await,
        ToolErrorKind::NotFound
    );
    assert!(
        editor
            .text(json!({"command": "view", "path": "latin"}))
            .await
            .contains("not UTF-8")
    );
}

#[tokio::test]
async fn long_views_are_clipped() {
    let mut editor = Editor::new(Style::Native);
    editor.env.put("long", "0123456789\n".repeat(5000));
    let text = editor
        .text(json!({"command": "view", "path": "long"}))
        .await;
    assert!(text.contains("<response clipped><NOTE>") && text.len() < 11_000);
    let part = editor
        .text(json!({"command": "view", "path": "long", "view_range": [4000, 4001]}))
        .await;
    assert!(part.ends_with("  4000\t0123456789\n  4001\t0123456789"));
}

#[tokio::test]
async fn a_directory_is_listed_two_levels_deep() {
    let mut editor = Editor::new(Style::Native);
    for path in [
        "d/a.txt",
        "d/sub/b.py",
        "d/sub/deep/c.py",
        "d/.git/config",
        "d/.hidden",
    ] {
        editor.env.put(path, "");
    }
    let text = editor
        .text(json!({"command": "view", "path": "/testbed/d"}))
        .await;
    let listed: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(
        listed,
        [
            "/testbed/d",
            "/testbed/d/a.txt",
            "/testbed/d/sub/",
            "/testbed/d/sub/b.py",
            "/testbed/d/sub/deep/"
        ]
    );
    let mut compat = Editor::new(Style::Original);
    compat.env.put("d/a.txt", "");
    compat.env.put("d/sub/b.py", "");
    let text = compat
        .text(json!({"command": "view", "path": "/testbed/d"}))
        .await;
    let listed: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(
        listed,
        ["/testbed/d", "/testbed/d/sub", "/testbed/d/sub/b.py"]
    );
}

#[tokio::test]
async fn create_does_not_overwrite() {
    let mut editor = Editor::new(Style::Native);
    let create = json!({"command": "create", "path": "/new/dir/x.sh", "file_text": "a\n\tb"});
    let text = editor.text(create.clone()).await;
    assert!(text.contains("     2\t\tb"), "{text}");
    assert_eq!(editor.env.get("/new/dir/x.sh").unwrap(), b"a\n\tb");
    assert_eq!(editor.error(create).await, ToolErrorKind::Exists);
    assert_eq!(
        editor
            .error(json!({"command": "create", "path": "/new", "file_text": ""}))
            .await,
        ToolErrorKind::WrongKind
    );
}

#[tokio::test]
async fn edits_keep_every_other_byte_and_can_be_undone() {
    let mut editor = Editor::new(Style::Native);
    let before = b"all:\n\tgcc\x80 x\r\nend";
    editor.env.put("Makefile", before);
    let text = editor.text(json!({"command": "str_replace", "path": "Makefile", "old_str": "gcc", "new_str": "cc"})).await;
    assert!(text.contains("     2\t\tcc\u{fffd} x"), "{text}");
    assert_eq!(
        editor.env.get("Makefile").unwrap(),
        b"all:\n\tcc\x80 x\r\nend"
    );
    editor
        .text(json!({"command": "insert", "path": "Makefile", "insert_line": 3, "new_str": "more"}))
        .await;
    assert_eq!(
        editor.env.get("Makefile").unwrap(),
        b"all:\n\tcc\x80 x\r\nend\nmore"
    );
    let undo = json!({"command": "undo_edit", "path": "Makefile"});
    editor.text(undo.clone()).await;
    editor.text(undo.clone()).await;
    assert_eq!(editor.env.get("Makefile").unwrap(), before);
    assert_eq!(editor.error(undo.clone()).await, ToolErrorKind::NoHistory);
    editor
        .text(json!({"command": "str_replace", "path": "Makefile", "old_str": "end"}))
        .await;
    editor.env.put("Makefile", "changed by a command");
    assert_eq!(editor.error(undo).await, ToolErrorKind::NoHistory);
    assert_eq!(editor.env.get("Makefile").unwrap(), b"changed by a command");
}

#[tokio::test]
async fn a_missing_or_doubled_text_changes_nothing() {
    let mut editor = Editor::new(Style::Native);
    editor.env.put("f", "x\nx\n");
    let replace =
        |path, old| json!({"command": "str_replace", "path": path, "old_str": old, "new_str": "z"});
    assert_eq!(
        editor.error(replace("f", "x")).await,
        ToolErrorKind::Ambiguous
    );
    assert_eq!(
        editor.error(replace("f", "y")).await,
        ToolErrorKind::NoMatch
    );
    assert_eq!(
        editor.error(replace("g", "x")).await,
        ToolErrorKind::NotFound
    );
    assert_eq!(editor.env.get("f").unwrap(), b"x\nx\n");
    assert_eq!(editor.env.get("g"), None);
}
