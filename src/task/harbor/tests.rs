//! Task directories as Harbor has them.

use std::time::Duration;

use super::*;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn task(path: &Path, toml: &str) {
    write(&path.join("instruction.md"), "Do {it}.");
    write(&path.join("task.toml"), toml);
    write(&path.join("tests/test.sh"), "true");
    write(&path.join("solution/solve.sh"), "true");
}

fn load(path: &Path) -> Result<Task, String> {
    let wanted = Wanted {
        task: path.to_str().unwrap().to_owned(),
        ..Wanted::default()
    };
    Task::load(&wanted).map_err(|error| error.to_string())
}

fn one(toml: &str) -> Result<Harbor, String> {
    let root = tempfile::tempdir().unwrap();
    task(root.path(), toml);
    Ok(load(root.path())?.harbor(0).unwrap().clone())
}

#[test]
fn a_directory_of_tasks_is_a_row_for_each() {
    let root = tempfile::tempdir().unwrap();
    let set = root.path().join("set");
    for name in ["b", "a"] {
        task(
            &set.join(name),
            "version = \"1.0\"\n[metadata]\nx = 1\n[colour]\n",
        );
    }
    write(&set.join("README.md"), "no task");
    let loaded = load(&set).unwrap();
    assert_eq!(loaded.name, "set");
    let ids: Vec<&str> = loaded.rows.iter().map(Row::id).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(
        loaded.prompt(0).instance(loaded.rows[0].problem()).trim(),
        "Do {it}."
    );
    assert_eq!(
        loaded.notes,
        ["task.toml: an unknown key is passed over: colour"]
    );
    // All that decides the score is in the digest, and the solution is not.
    let digest = |set: &Path| load(set).unwrap().data_digest;
    write(&set.join("a/solution/solve.sh"), "false");
    assert_eq!(digest(&set), loaded.data_digest);
    write(&set.join("a/tests/test.sh"), "false");
    assert_ne!(digest(&set), loaded.data_digest);
    assert_eq!(load(&set.join("a")).unwrap().rows.len(), 1);
}

#[test]
fn what_a_task_asks_for_is_read() {
    let plain = one("").unwrap();
    assert_eq!(
        (&*plain.workdir, &plain.image),
        ("/", &HarborImage::Default)
    );
    assert_eq!(
        (plain.cpus, plain.memory, plain.storage),
        (None, None, None)
    );
    assert_eq!(
        (&*plain.agent.network, plain.agent.timeout),
        ("internet", None)
    );
    assert_eq!(plain.verifier.timeout, Some(Duration::from_secs(600)));
    let all = one(
        "[environment]\ndocker_image = \"x/y:1\"\nworkdir = \"/app\"\ncpus = 2\nmemory_mb = 512\nstorage = \"1G\"\n\
         network_mode = \"no-network\"\ngpus = 0\nmcp_servers = []\nenv = { A = \"1\" }\n[agent]\ntimeout_sec = 1.5\n\
         allowed_hosts = [\"pypi.org\", \"*.example.org\"]\n[verifier]\ntimeout_sec = 9\nnetwork_mode = \"public\"\nuser = \"root\"\n",
    )
    .unwrap();
    assert_eq!(all.image, HarborImage::Named("x/y:1".into()));
    assert_eq!(
        (all.cpus, all.memory, all.storage),
        (Some(2.0), Some(512 << 20), Some(1 << 30))
    );
    assert_eq!(all.agent.network, "allow:pypi.org,*.example.org");
    assert_eq!(all.agent.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(all.verifier.network, "internet");
    assert_eq!(all.env, [("A".to_owned(), "1".to_owned())]);
    let closed = one("[environment]\nallow_internet = false\n").unwrap();
    assert_eq!(
        (&*closed.agent.network, &*closed.verifier.network),
        ("none", "none")
    );
}

#[test]
fn what_cannot_be_held_is_refused_by_its_key() {
    for (toml, why) in [
        ("[environment]\ngpus = 1\n", "environment.gpus = 1"),
        (
            "[environment]\nmcp_servers = [{ name = \"x\" }]\n",
            "environment.mcp_servers",
        ),
        (
            "[environment.healthcheck]\ncommand = \"x\"\n",
            "environment.healthcheck",
        ),
        ("[environment]\nos = \"windows\"\n", "environment.os"),
        ("[environment]\ncpus = 0\n", "environment.cpus"),
        ("[environment]\nmemory = \"much\"\n", "environment.memory"),
        ("[environment]\nmemory_mb = 0\n", "environment.memory_mb"),
        (
            "[environment]\nstorage_mb = 9223372036854775807\n",
            "environment.storage_mb",
        ),
        (
            "[environment]\nnetwork_mode = \"lan\"\n",
            "environment.network_mode",
        ),
        (
            "[environment]\nnetwork_mode = \"allowlist\"\n",
            "environment.allowed_hosts",
        ),
        (
            "[environment]\nallowed_hosts = [\"http://x\"]\n",
            "is no host",
        ),
        (
            "[agent]\nnetwork_mode = \"public\"\nallowed_hosts = [\"x\"]\n",
            "agent.allowed_hosts",
        ),
        ("[agent]\nuser = \"me\"\n", "agent.user"),
        ("[agent]\ntimeout_sec = 0\n", "agent.timeout_sec"),
        (
            "[verifier]\nenvironment_mode = \"separate\"\n",
            "verifier.environment_mode",
        ),
        ("[verifier.environment]\ncpus = 1\n", "verifier.environment"),
        (
            "[verifier.env]\nKEY = \"${OPENAI_API_KEY}\"\n",
            "verifier.env.KEY",
        ),
        ("[[steps]]\nname = \"a\"\n", "steps"),
        ("environment = 1\n", "environment"),
        ("[environment]\nworkdir = \"app\"\n", "environment.workdir"),
    ] {
        let error = one(toml).unwrap_err();
        assert!(error.contains(why), "{toml}: {error}");
    }
}

#[test]
fn files_that_ask_for_more_are_refused_and_links_too() {
    let root = tempfile::tempdir().unwrap();
    task(root.path(), "");
    write(
        &root.path().join("environment/Dockerfile"),
        "FROM a\nADD x /\n",
    );
    let error = load(root.path()).unwrap_err();
    assert!(error.contains("Dockerfile: line 2: ADD"), "{error}");
    write(&root.path().join("environment/docker-compose.yaml"), "");
    assert!(
        load(root.path())
            .unwrap_err()
            .contains("several containers")
    );
    fs::remove_dir_all(root.path().join("environment")).unwrap();
    // Nothing of the host gets into a prompt or a sandbox by a link.
    for name in ["instruction.md", "task.toml", "tests"] {
        let path = root.path().join(name);
        fs::rename(&path, root.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(root.path().join("moved"), &path).unwrap();
        assert!(
            load(root.path()).unwrap_err().contains("it is a link"),
            "{name}"
        );
        fs::rename(root.path().join("moved"), &path).unwrap_or_else(|_| {
            fs::remove_file(&path).unwrap();
            fs::rename(root.path().join("moved"), &path).unwrap();
        });
    }
    fs::remove_file(root.path().join("tests/test.sh")).unwrap();
    assert!(load(root.path()).unwrap_err().contains("tests/test.sh"));
}
