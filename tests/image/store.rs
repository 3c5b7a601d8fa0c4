//! The store: one build among many processes, nothing left of a killed one, nothing removed in use.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llm_in_sandbox::image::{MANIFEST_FORMAT, Manifest, Packages, Store, StoreError};

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Tells the test binary, started once more, where to begin a build that never ends.
const ENDLESS_BUILD: &str = "TEST_ENDLESS_BUILD";

fn manifest() -> Manifest {
    Manifest {
        format: MANIFEST_FORMAT,
        digest: DIGEST.to_owned(),
        tree_digest: None,
        name: "small".to_owned(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        size_bytes: 1,
        entries: 1,
        architecture: "amd64".to_owned(),
        recipe: None,
        source: "test".to_owned(),
        chosen: None,
        env: BTreeMap::new(),
        packages: Packages::default(),
    }
}

fn unfinished(state: &Path) -> usize {
    std::fs::read_dir(state.join("tmp")).unwrap().count()
}

#[test]
fn ten_that_want_the_same_image_build_it_once() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let builds = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..10)
        .map(|_| {
            let (state, builds) = (Arc::clone(&state), Arc::clone(&builds));
            std::thread::spawn(move || {
                let store = Store::open(state.path()).unwrap();
                let _lock = store.lock_name("small", Duration::from_secs(30)).unwrap();
                if let Some(image) = store.find("small").unwrap() {
                    return image.rootfs;
                }
                builds.fetch_add(1, Ordering::SeqCst);
                let draft = store.draft().unwrap();
                std::fs::write(draft.rootfs().join("file"), "1").unwrap();
                let image = store.commit(draft, &manifest()).unwrap();
                store.set_name("small", DIGEST).unwrap();
                image.rootfs
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(
            std::fs::read_to_string(thread.join().unwrap().join("file")).unwrap(),
            "1"
        );
    }
    assert_eq!(builds.load(Ordering::SeqCst), 1);
    assert_eq!(unfinished(state.path()), 0);
}

/// Every opening of a store cleans up; a draft that is just beginning is no garbage.
#[test]
fn drafts_begin_while_others_clean_up() {
    let state = tempfile::tempdir().unwrap();
    let (path, done) = (state.path(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.load(Ordering::SeqCst) == 0 {
                    Store::open(path).unwrap();
                }
            });
        }
        let makers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = Store::open(path).unwrap();
                    (0..2000).try_for_each(|_| store.draft().map(drop))
                })
            })
            .collect();
        let made: Vec<_> = makers
            .into_iter()
            .map(|maker| maker.join().unwrap())
            .collect();
        done.store(1, Ordering::SeqCst);
        for result in made {
            result.unwrap();
        }
    });
    Store::open(path).unwrap();
    assert_eq!(unfinished(path), 0);
}

#[test]
fn two_that_made_the_same_image_keep_the_first() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let drafts = [store.draft().unwrap(), store.draft().unwrap()];
    for (index, draft) in drafts.into_iter().enumerate() {
        std::fs::write(draft.rootfs().join("maker"), index.to_string()).unwrap();
        store.commit(draft, &manifest()).unwrap();
    }
    let image = store.find(&DIGEST[..12]).unwrap().unwrap();
    assert_eq!(
        std::fs::read_to_string(image.rootfs.join("maker")).unwrap(),
        "0"
    );
    assert_eq!(unfinished(state.path()), 0);
}

/// Not a test by itself: see [`a_killed_build_leaves_nothing`].
#[test]
fn endless_build() {
    let Some(state) = std::env::var_os(ENDLESS_BUILD) else {
        return;
    };
    let store = Store::open(Path::new(&state)).unwrap();
    let draft = store.draft().unwrap();
    std::fs::write(draft.rootfs().join("half"), "made").unwrap();
    println!("\nbuilding");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_build_leaves_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::endless_build", "--nocapture"])
        .env(ENDLESS_BUILD, state.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "building"));
    let store = Store::open(state.path()).unwrap();
    assert_eq!(
        unfinished(state.path()),
        2,
        "a live build was taken for garbage"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(Store::open(state.path()).unwrap().reclaimed(), 1);
    assert_eq!(unfinished(state.path()), 0);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn an_image_in_use_is_not_removed() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let image = store.commit(store.draft().unwrap(), &manifest()).unwrap();
    store.set_name("small", DIGEST).unwrap();
    let holds = [store.hold(&image).unwrap(), store.hold(&image).unwrap()];
    assert!(matches!(store.remove(&image), Err(StoreError::InUse(_))));
    assert!(image.rootfs.exists());
    drop(holds);
    store.remove(&image).unwrap();
    assert!(!image.rootfs.exists());
    assert!(store.find("small").unwrap().is_none());
    assert!(store.names().unwrap().is_empty());
}

#[test]
fn a_lock_is_waited_for_only_so_long() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let _lock = store.lock_name("small", Duration::ZERO).unwrap();
    let error = store
        .lock_name("small", Duration::from_millis(120))
        .unwrap_err();
    assert!(matches!(error, StoreError::LockTimeout { .. }), "{error:?}");
}

#[test]
fn names_cannot_leave_the_store() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    for name in ["../x", "a/b", "", ".hidden", "UPPER", &"n".repeat(65)] {
        assert!(
            matches!(store.set_name(name, DIGEST), Err(StoreError::BadName(_))),
            "{name}"
        );
    }
}

#[test]
fn a_manifest_of_a_newer_format_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let newer = Manifest {
        format: MANIFEST_FORMAT + 1,
        ..manifest()
    };
    assert!(matches!(
        store.commit(store.draft().unwrap(), &newer),
        Err(StoreError::Manifest { .. })
    ));
}
