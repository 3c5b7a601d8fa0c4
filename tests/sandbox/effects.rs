//! What each call did, by the account of PID 1.

use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Env, GuestPath};
use llm_in_sandbox::host::Sandbox;
use llm_in_sandbox::spec::{
    Bound, Change, ChangedKind, Effects, FileChange, FileChanges, Root, SandboxSpec, Upper,
};

use crate::fixture::{Scene, block_on, exec, has, out, spec, text, with_spec};

/// Of `printf 'a\nb\n'`.
const A_B: &str = "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2";

fn recorded() -> SandboxSpec {
    SandboxSpec {
        record_effects: true,
        ..spec()
    }
}

async fn files(sandbox: &Sandbox) -> FileChanges {
    account(sandbox).await.files
}

async fn account(sandbox: &Sandbox) -> Effects {
    let effects = sandbox.effects().await.expect("no account");
    assert!(effects.took_us < 5_000_000, "{effects:?}");
    effects
}

/// What one command changes.
async fn changes(sandbox: &Sandbox, command: &str) -> FileChanges {
    out(sandbox, command).await;
    files(sandbox).await
}

fn at<'a>(files: &'a FileChanges, path: &str) -> &'a FileChange {
    let found = files.listed.iter().find(|change| change.path == path);
    found.unwrap_or_else(|| panic!("no {path} in {files:?}"))
}

/// Paths with what happened to them, but for readings.
fn short(files: &FileChanges) -> Vec<(&str, Change)> {
    let told = files.listed.iter().map(|c| (c.path.as_str(), c.change));
    told.filter(|(_, change)| *change != Change::Read).collect()
}

async fn own_files_are_told(sandbox: &Sandbox) {
    files(sandbox).await;
    assert_eq!(files(sandbox).await, FileChanges::default());

    let seen = changes(
        sandbox,
        "printf 'a\\nb\\n' >x; mkdir d; ln -s x d/l; mkfifo d/p",
    )
    .await;
    let created = [
        ("/testbed/d", Change::Created),
        ("/testbed/d/l", Change::Created),
        ("/testbed/d/p", Change::Created),
        ("/testbed/x", Change::Created),
    ];
    assert_eq!(short(&seen), created);
    assert_eq!((seen.created, seen.changed, seen.deleted), (4, 0, 0));
    let x = at(&seen, "/testbed/x");
    assert_eq!((x.kind, x.size), (ChangedKind::File, Some(4)));
    assert_eq!(x.sha256.as_deref(), Some(A_B));
    assert_eq!(x.diff.as_deref(), Some("@@ -1 +1 @@\n+a\n+b\n"));
    assert_eq!(at(&seen, "/testbed/d/l").kind, ChangedKind::Symlink);
    assert_eq!(at(&seen, "/testbed/d/p").kind, ChangedKind::Other);

    // Written again as it was: nothing has changed.
    assert!(short(&changes(sandbox, "printf 'a\\nb\\n' >x").await).is_empty());
    let seen = changes(sandbox, "sed -i s/b/c/ x").await;
    let x = at(&seen, "/testbed/x");
    assert_eq!(x.change, Change::Changed);
    assert_eq!(x.diff.as_deref(), Some("@@ -2 +2 @@\n-b\n+c\n"));
    let seen = changes(sandbox, "chmod 600 x").await;
    assert_eq!(short(&seen), [("/testbed/x", Change::Changed)]);
    assert_eq!(at(&seen, "/testbed/x").diff, None);

    let seen = changes(sandbox, "rm -r d; mv x y").await;
    assert_eq!((seen.created, seen.changed, seen.deleted), (1, 0, 4));
    assert_eq!(at(&seen, "/testbed/d").kind, ChangedKind::Directory);
    // Made and taken away between two looks.
    assert!(short(&changes(sandbox, "touch z; rm z").await).is_empty());
}

async fn files_of_the_image_are_told(sandbox: &Sandbox) {
    files(sandbox).await;
    let seen = changes(sandbox, "echo new >>/etc/passwd").await;
    assert_eq!(short(&seen), [("/etc/passwd", Change::Changed)]);
    let diff = at(&seen, "/etc/passwd").diff.as_deref().unwrap();
    assert_eq!(diff.lines().skip(1).collect::<Vec<_>>(), ["+new"], "{diff}");

    let seen = changes(sandbox, "chmod 700 /etc; rm /etc/group; touch /etc/shadow").await;
    assert_eq!(
        short(&seen),
        [("/etc", Change::Changed), ("/etc/group", Change::Deleted)]
    );
    let seen = changes(sandbox, "echo other >/etc/group").await;
    assert_eq!(short(&seen), [("/etc/group", Change::Created)]);

    // A directory as a whole, and one in whose place there is another.
    out(
        sandbox,
        "test -e /etc/skel/.profile -a -e /etc/apt/sources.list.d",
    )
    .await;
    let seen = changes(sandbox, "rm -r /etc/apt").await;
    assert_eq!(short(&seen), [("/etc/apt", Change::Deleted)]);
    let seen = changes(
        sandbox,
        "rm -r /etc/skel; mkdir /etc/skel; echo x >/etc/skel/.bashrc",
    )
    .await;
    assert_eq!(at(&seen, "/etc/skel/.bashrc").change, Change::Changed);
    assert_eq!(at(&seen, "/etc/skel/.profile").change, Change::Deleted);
    let seen = changes(
        sandbox,
        "echo x >/etc/skel/.profile; mkdir /etc/apt; touch /etc/apt/sources.list.d",
    )
    .await;
    assert_eq!(at(&seen, "/etc/skel/.profile").change, Change::Created);
    assert_eq!(at(&seen, "/etc/apt").change, Change::Created);
    assert_eq!(at(&seen, "/etc/apt/sources.list.d").change, Change::Created);
}

#[test]
fn what_a_call_does_to_its_own_files_is_told() {
    with_spec(recorded(), |sandbox| async move {
        own_files_are_told(&sandbox).await;
    });
}

#[test]
fn what_a_call_does_to_files_of_the_image_is_told() {
    with_spec(recorded(), |sandbox| async move {
        files_of_the_image_are_told(&sandbox).await;
    });
}

#[test]
fn a_layer_on_disk_is_looked_at_like_one_in_memory() {
    if !has("a_layer_on_disk_is_looked_at_like_one_in_memory", &["root"]) {
        return;
    }
    block_on(async {
        let uppers = tempfile::tempdir_in("/var/tmp").unwrap();
        let scene = Scene::on_disk(uppers.path()).await;
        let mut spec = recorded();
        let Root::Overlay { upper, .. } = &mut spec.root else {
            unreachable!()
        };
        *upper = Upper::Disk;
        for limited in [true, false] {
            spec.limits.disk_bytes = limited.then_some(64 << 20);
            let sandbox = scene.start(spec.clone()).await;
            own_files_are_told(&sandbox).await;
            files_of_the_image_are_told(&sandbox).await;
            sandbox.close().await.unwrap();
        }
    });
}

#[test]
fn the_first_reading_after_a_change_is_told() {
    with_spec(recorded(), |sandbox| async move {
        let path = GuestPath::from("/testbed/input.txt");
        sandbox.write_file(&path, b"text", false).await.unwrap();
        // In the same tick of the kernel's clock, writing and reading cannot be told apart.
        out(&*sandbox, "touch -d '1 minute ago' /testbed/input.txt").await;
        assert_eq!(files(&sandbox).await.read, 0);
        let seen = changes(&sandbox, "cat input.txt").await;
        assert_eq!((seen.created, seen.changed, seen.read), (0, 0, 1));
        assert_eq!(at(&seen, "/testbed/input.txt").change, Change::Read);
        assert!(changes(&sandbox, "true").await.is_empty());
    });
}

#[test]
fn a_large_tree_is_summed_up_and_small_changes_beside_it_are_listed() {
    with_spec(recorded(), |sandbox| async move {
        files(&sandbox).await;
        let script = "mkdir -p /usr/local/lib/pkg/{a,b}; \
            for i in {1..1500}; do echo 12345 >/usr/local/lib/pkg/a/$i; : >/usr/local/lib/pkg/b/$i; done; echo 1 >answer";
        let seen = changes(&sandbox, script).await;
        assert_eq!(at(&seen, "/testbed/answer").size, Some(2));
        assert_eq!(seen.created, 3004, "{seen:?}");
        let [part] = seen.directories.as_slice() else {
            panic!("{:?}", seen.directories)
        };
        assert_eq!(part.path, "/usr/local/lib");
        assert_eq!((part.created, part.bytes), (3003, 1500 * 6));
        assert!(changes(&sandbox, "true").await.is_empty());
        let seen = changes(
            &sandbox,
            "rm -r /usr/local/lib/pkg/a; echo y >/usr/local/lib/pkg/b/7",
        )
        .await;
        assert_eq!((seen.created, seen.changed, seen.deleted), (0, 1, 1501));
    });
}

#[test]
fn more_than_is_kept_in_mind_is_said_to_be() {
    with_spec(recorded(), |sandbox| async move {
        files(&sandbox).await;
        let script = "import os\nos.mkdir('many')\nfor i in range(60000): os.mknod(f'many/{i}')";
        let result = exec(&*sandbox, &format!("python3 -c \"{script}\"")).await;
        assert!(result.status.code() == 0, "{}", text(&result.stderr));
        let seen = files(&sandbox).await;
        // On a slow machine the time is used up, too, or first.
        let of_this = |bound: &Bound| matches!(bound, Bound::Entries | Bound::Time);
        assert!(
            !seen.bounds.is_empty() && seen.bounds.iter().all(of_this),
            "{:?}",
            seen.bounds
        );
        assert!(seen.created > 1000, "{seen:?}");
        out(&*sandbox, "echo still here").await;
    });
}

#[test]
fn hostile_trees_neither_hold_it_up_nor_lead_it_astray() {
    with_spec(recorded(), |sandbox| async move {
        files(&sandbox).await;
        let seen = changes(
            &sandbox,
            "touch $'a\\xff\\\\b' $'new\\nline'; ln -s / root; echo x >1; ln 1 2",
        )
        .await;
        for path in [
            "/testbed/a\\xff\\\\b",
            "/testbed/new\nline",
            "/testbed/root",
            "/testbed/1",
            "/testbed/2",
        ] {
            assert_eq!(at(&seen, path).change, Change::Created);
        }
        assert_eq!(seen.created, 5);

        let deep = "import os\nfor i in range(300):\n  os.mkdir('d'); os.chdir('d')\n  open('f','w').close()";
        let result = exec(&*sandbox, &format!("python3 -c \"{deep}\"")).await;
        assert_eq!(result.status.code(), 0, "{}", text(&result.stderr));
        let seen = files(&sandbox).await;
        assert_eq!(seen.bounds, [Bound::Depth]);
        assert!(seen.created > 100, "{}", seen.created);
        // 300 levels are more than a path may have bytes of, for rm of some images.
        out(
            &*sandbox,
            "python3 -c \"import shutil; shutil.rmtree('d')\" || mv d /tmp/away",
        )
        .await;
        files(&sandbox).await;
    });
}

#[test]
fn what_changes_while_it_looks_does_no_harm() {
    with_spec(recorded(), |sandbox| async move {
        files(&sandbox).await;
        let swap = "import os,random\nos.mkdir('r'); os.chdir('r')\nwhile True:\n  n=str(random.randrange(20)); k=random.randrange(5)\n  try:\n    if k==0: os.mkfifo(n)\n    elif k==1: os.mkdir(n)\n    elif k==2: os.symlink('/', n)\n    elif k==3: f=os.open(n, os.O_CREAT|os.O_WRONLY|os.O_NONBLOCK); os.write(f, b'x'*random.randrange(9999)); os.close(f)\n    else: os.rename(n, str(random.randrange(20)))\n  except OSError:\n    try: os.rmdir(n)\n    except OSError:\n      try: os.unlink(n)\n      except OSError: pass";
        out(
            &*sandbox,
            &format!("(python3 -c \"{swap}\" >/dev/null 2>&1 </dev/null &)"),
        )
        .await;
        let began = Instant::now();
        let mut changed = 0;
        while began.elapsed() < Duration::from_secs(2) {
            let seen = files(&sandbox).await;
            let below = |change: &FileChange| change.path.starts_with("/testbed/r");
            assert!(seen.listed.iter().all(below), "{seen:?}");
            changed += seen.created + seen.changed + seen.deleted;
        }
        assert!(changed > 20, "{changed}");
        out(&*sandbox, "pkill python3").await;
    });
}

#[test]
fn time_and_programs_are_told() {
    with_spec(recorded(), |sandbox| async move {
        account(&sandbox).await;
        out(&*sandbox, "true").await;
        let idle = account(&sandbox).await.processes;
        assert!(idle.cpu_us < 200_000, "{idle:?}");
        let busy = "import time\nwhile time.process_time() < 0.4: pass";
        let result = exec(&*sandbox, &format!("ls; python3 -c \"{busy}\"")).await;
        assert_eq!(result.status.code(), 0);
        let seen = account(&sandbox).await.processes;
        assert!((300_000..5_000_000).contains(&seen.cpu_us), "{seen:?}");
        assert!(seen.started >= 2, "{seen:?}");
        assert!(
            seen.programs.iter().any(|name| name == "python3"),
            "{seen:?}"
        );
        // In the shell, too.
        out(&*sandbox, "python3 -c 'import time; time.sleep(0.5)'").await;
        let seen = account(&sandbox).await.processes;
        let ran = |name: &str| seen.programs.iter().any(|program| program == name);
        assert!(ran("python3"), "{seen:?}");
        // Only what ran since.
        out(&*sandbox, "sleep 60 & sleep 0.3").await;
        let seen = account(&sandbox).await.processes;
        let ran = |name: &str| seen.programs.iter().any(|program| program == name);
        assert!(ran("sleep") && !ran("python3"), "{seen:?}");
        assert!(seen.cpu_us < 200_000, "{seen:?}");
    });
}

#[test]
fn no_account_is_kept_where_nobody_asks() {
    with_spec(spec(), |sandbox| async move {
        out(&*sandbox, "echo x >x").await;
        assert_eq!(sandbox.effects().await, None);
    });
}

/// Lists every open directory that a command can reach.
const REACH: &str =
    "cd /tmp; for fd in /proc/[0-9]*/fd/*; do ls -d $fd/only-here; done 2>/dev/null; true";

#[test]
fn no_command_reaches_the_layers_or_ends_the_account() {
    with_spec(recorded(), |sandbox| async move {
        out(&*sandbox, "mkdir /only-here").await;
        files(&sandbox).await;
        assert_eq!(out(&*sandbox, REACH).await, "");
        let seen = out(&*sandbox, &format!("exec 9</; {REACH}")).await;
        assert!(
            seen.contains("/fd/9/only-here"),
            "the check finds nothing: {seen}"
        );
        // Nor does a file operation, which is a child of PID 1 that runs no other program.
        for fd in 3..32 {
            let path = GuestPath::new(format!("/proc/self/fd/{fd}/only-here"));
            assert!(sandbox.stat(&path).await.is_err(), "{path}");
        }
        let _ = exec(&*sandbox, "echo x >/testbed/x; kill -9 -1").await;
        assert_eq!(at(&files(&sandbox).await, "/testbed/x").size, Some(2));
    });
}
