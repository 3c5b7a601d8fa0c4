//! Tasks from directories as the original has them.

use std::path::Path;

use super::*;

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn wanted(task: &Path) -> Wanted {
    Wanted {
        task: task.to_str().unwrap().to_owned(),
        ..Wanted::default()
    }
}

fn load(task: &Path) -> Result<Task, String> {
    Task::load(&wanted(task)).map_err(|error| error.to_string())
}

const CONFIG: &str =
    "dataset: json\ndata_files: rows.json\nsystem_prompt: |\n  s {working_dir}\ninput_dir: /in\n";

#[test]
fn a_directory_of_the_original_is_read_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let task = root.path().join("my_task");
    write(&task.join("config.yaml"), CONFIG);
    write(
        &task.join("reward.py"),
        "def compute_score(*a, **k): return 1.0",
    );
    write(
        &task.join("vanilla_llm_prompt.py"),
        "def create_prompt(row): return ''",
    );
    // The data stand beside the directory.
    write(
        &root.path().join("rows.json"),
        r#"[{"id": 7, "problem_statement": "p", "ground_truth": 4, "input_files": "{\"a/b.txt\": \"t\", \"c\": null}"}]"#,
    );
    let loaded = load(&task).unwrap();
    assert_eq!(loaded.name, "my_task");
    let directory = task.canonicalize().unwrap();
    assert_eq!(loaded.scorer, Scorer::Python(directory.clone()));
    assert_eq!(loaded.vanilla, Vanilla::Python(directory));
    assert_eq!(loaded.prompt.input_dir, "/in");
    assert_eq!(loaded.prompt.output_dir, "/testbed");
    assert_eq!(loaded.prompt.system(), "s /testbed\n");
    let row = &loaded.rows[0];
    assert_eq!((row.id(), row.truth().as_str()), ("7", "4"));
    assert_eq!(row.files().unwrap(), [("a/b.txt".into(), "t".into())]);
    // Those inside come first, and what decides a score is in the digest.
    write(&task.join("rows.json"), r#"[{"problem_statement": "q"}]"#);
    let inside = load(&task).unwrap();
    assert_eq!(inside.rows[0].id(), "row_00000");
    assert_eq!(inside.digest, loaded.digest);
    assert_ne!(inside.data_digest, loaded.data_digest);
    write(
        &task.join("reward.py"),
        "def compute_score(*a, **k): return 0.0",
    );
    assert_ne!(load(&task).unwrap().digest, loaded.digest);
}

#[test]
fn mistakes_are_named() {
    let root = tempfile::tempdir().unwrap();
    let task = root.path().join("t");
    assert!(load(&task).unwrap_err().contains("long_context"));
    write(&task.join("config.yaml"), CONFIG);
    assert!(load(&task).unwrap_err().contains("reward.py"));
    write(
        &task.join("config.yaml"),
        &format!("reward: exact\n{CONFIG}"),
    );
    assert!(load(&task).unwrap_err().contains("rows.json"));
    for (rows, why) in [
        (
            "{\"id\": \"a\", \"problem_statement\": \"p\"}\nno\n",
            "line 2",
        ),
        ("[1]", "list"),
        ("", "none of its 0 rows"),
        ("{\"id\": \"a\"}", "problem_statement"),
        (
            "{\"id\": \"a\", \"problem_statement\": \"p\"}\n{\"id\": \"a\", \"problem_statement\": \"p\"}",
            "same id",
        ),
        (
            "{\"problem_statement\": \"p\", \"input_files\": {\"../x\": \"\"}}",
            "../x",
        ),
        (
            "{\"problem_statement\": \"p\", \"input_files\": {\"/etc/x\": \"\"}}",
            "/etc/x",
        ),
        (
            "{\"problem_statement\": \"p\", \"input_files\": {\"x\": 1}}",
            "no text",
        ),
    ] {
        write(&task.join("rows.json"), rows);
        let error = load(&task).unwrap_err();
        assert!(error.contains(why), "{rows}: {error}");
    }
    write(
        &task.join("config.yaml"),
        "dataset: some/name\nreward: exact\nwords: 1\n",
    );
    let error = load(&task).unwrap_err();
    assert!(error.contains("some/name were not fetched"), "{error}");
    let set = data_set(&wanted(&task)).unwrap().unwrap();
    assert_eq!((&*set.name, set.split), ("some/name", None));
    write(
        &task.join("config.yaml"),
        "reward: exact\nworking_dir: here\n",
    );
    assert!(load(&task).unwrap_err().contains("working_dir"));
}

#[test]
fn rows_are_chosen_as_python_slices() {
    let demo = |start, end| {
        let wanted = Wanted {
            task: "demo".into(),
            start,
            end,
            ..Wanted::default()
        };
        Task::load(&wanted).map(|task| task.rows.len()).ok()
    };
    assert_eq!(demo(None, None), Some(4));
    assert_eq!(demo(Some(1), Some(3)), Some(2));
    assert_eq!(demo(Some(3), Some(9)), Some(1));
    assert_eq!(demo(None, Some(0)), None);
    assert_eq!(demo(Some(2), Some(1)), None);
}

#[test]
fn documents_go_into_the_prompt_when_asked() {
    let root = tempfile::tempdir().unwrap();
    let task = root.path().join("t");
    write(
        &task.join("config.yaml"),
        &format!("reward: exact\n{CONFIG}"),
    );
    write(
        &task.join("rows.json"),
        r#"[{"id": "a", "problem_statement": "p", "input_files": {"d.txt": "THE TEXT"}}, {"id": "b", "problem_statement": "q"}]"#,
    );
    let load = |in_prompt| {
        let wanted = Wanted {
            context_in_prompt: in_prompt,
            ..wanted(&task)
        };
        Task::load(&wanted).unwrap()
    };
    let (files, prompt) = (load(false), load(true));
    assert_eq!(files.rows[0].files().unwrap().len(), 1);
    assert_eq!(files.rows[0].problem(), "p");
    assert!(prompt.rows[0].files().unwrap().is_empty());
    let text = prompt.rows[0].problem();
    assert!(
        text.contains("THE TEXT") && text.contains("\np\n"),
        "{text}"
    );
    assert_eq!(prompt.rows[1], files.rows[1]);
    // A plain model is asked the same, once.
    let asked = Vanilla::Documents.message(&prompt.rows[0]).unwrap();
    assert_eq!(asked, text);
    assert_ne!(files.data_digest, prompt.data_digest);
}

#[test]
fn the_built_in_tasks_are_whole() {
    let rows = tempfile::NamedTempFile::new().unwrap();
    let files =
        r#"{"id": "a", "problem_statement": "THE PROBLEM", "input_files": {"d.txt": "THE TEXT"}}"#;
    std::fs::write(rows.path(), files).unwrap();
    for name in NAMES {
        let wanted = Wanted {
            task: name.into(),
            data: Some(rows.path().to_owned()),
            ..Wanted::default()
        };
        let task = Task::load(&wanted).unwrap();
        let (system, instance) = (task.prompt.system(), task.prompt.instance("THE PROBLEM"));
        for text in [&system, &instance] {
            let bare = text.replace("\\boxed{}", "");
            assert!(!bare.contains(['{', '}']), "{name}: {text}");
            assert!(text.contains(&task.prompt.output_dir), "{name}");
        }
        assert!(
            system.contains("answer.txt") && system.contains("submit"),
            "{name}"
        );
        assert!(instance.contains("THE PROBLEM"), "{name}");
        assert!(task.notes.is_empty());
        let plain = task.vanilla.message(&task.rows[0]).unwrap();
        assert!(plain.contains("THE PROBLEM"), "{name}");
        let documents = matches!(name, "long_context" | "instruct_pretrain" | "demo");
        assert_eq!(plain.contains("THE TEXT"), documents, "{name}");
    }
}
