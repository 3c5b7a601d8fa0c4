//! From a recipe or a file to an image and back, in the real runtime.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use llm_in_sandbox::host::{Launcher, LauncherConfig};
use llm_in_sandbox::image::{Choice, ImageError, Store, build, export, import, verify};
use sha2::{Digest, Sha256};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::archive::Archive;
use super::small_system::small_system;

async fn launcher() -> Launcher {
    // The real program: this one cannot be a zygote.
    let program = std::env::var_os("LIS_TEST_BIN").map_or_else(
        || env!("CARGO_BIN_EXE_llm-in-sandbox").into(),
        PathBuf::from,
    );
    let config = LauncherConfig {
        program: Some(std::path::absolute(program).unwrap()),
        ..LauncherConfig::default()
    };
    Launcher::start(config).await.unwrap()
}

fn silent(_: &str) {}

#[tokio::test]
async fn the_ubuntu_recipe_is_built_from_a_server_of_the_same_shape() {
    let content = small_system().bytes();
    let sha256: String = Sha256::digest(&content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let server = MockServer::start().await;
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let file = format!("ubuntu-base-24.04.3-base-{architecture}.tar.gz");
    for (name, body) in [
        ("SHA256SUMS", format!("{sha256} *{file}\n").into_bytes()),
        (file.as_str(), content),
    ] {
        Mock::given(path(format!("/ubuntu-base/releases/noble/release/{name}")))
            .respond_with(ResponseTemplate::new(200).set_body_bytes(body))
            .mount(&server)
            .await;
    }
    let text = rootfs_builder::built_in("ubuntu")
        .unwrap()
        .replace("https://cdimage.ubuntu.com", &server.uri());
    let recipe = rootfs_builder::parse(&text).unwrap();

    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let launcher = launcher().await;
    let choice = Choice {
        recipe: recipe.clone(),
        reason: None,
    };
    if launcher.ids_inside() == 1 {
        let refused = build(&store, &launcher, &choice, &silent).await;
        assert!(matches!(refused, Err(ImageError::OneId)));
        println!("SKIP the_ubuntu_recipe_is_built: only one id is mapped for this user");
        return;
    }
    let image = build(&store, &launcher, &choice, &silent).await.unwrap();

    assert_eq!(store.find("default").unwrap().unwrap(), image);
    assert_eq!(image.manifest.recipe.as_ref(), Some(&recipe));
    assert!(image.manifest.source.ends_with(&sha256));
    assert_eq!(image.manifest.packages.apt.len(), 2);
    let packages = fs::read_to_string(image.rootfs.join("packages")).unwrap();
    assert!(
        packages.contains("apt-get -q")
            && packages.contains(" install -y --no-install-recommends build-essential"),
        "{packages}"
    );
    assert!(
        packages.contains("python3 -m pip install") && packages.contains("numpy=="),
        "{packages}"
    );
    assert!(image.rootfs.join("testbed").is_dir());
    assert!(
        !image
            .rootfs
            .join("usr/lib/python3.12/EXTERNALLY-MANAGED")
            .exists()
    );
    assert_eq!(
        fs::read_to_string(image.rootfs.join("etc/resolv.conf")).unwrap(),
        ""
    );
    assert!(
        !image.rootfs.join("run/host").exists(),
        "what is bound was sealed"
    );
    assert_eq!(fs::read_dir(state.path().join("tmp")).unwrap().count(), 0);
    verify(&store, &launcher, &image).await.unwrap();
}

#[tokio::test]
async fn an_exported_image_is_the_same_where_it_is_imported() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("base.tar");
    fs::write(&base, small_system().bytes()).unwrap();
    let launcher = launcher().await;
    let first = Store::open(&place.path().join("first")).unwrap();
    let image = import(&first, &launcher, &base, Some("small"), &silent)
        .await
        .unwrap();
    let again = import(&first, &launcher, &base, Some("again"), &silent)
        .await
        .unwrap();
    assert_eq!(
        again.manifest.digest, image.manifest.digest,
        "the same archive gives the same image"
    );

    let file = place.path().join("image.oci.tar");
    export(&first, &launcher, &image, &file, &silent)
        .await
        .unwrap();
    let second = Store::open(&place.path().join("second")).unwrap();
    let copy = import(&second, &launcher, &file, None, &silent)
        .await
        .unwrap();
    assert_eq!(copy.manifest, image.manifest);
    assert_eq!(second.find("small").unwrap().unwrap(), copy);
}

#[tokio::test]
async fn the_image_of_graders_is_never_the_default() {
    let place = tempfile::tempdir().unwrap();
    let launcher = launcher().await;
    let store = Store::open(&place.path().join("state")).unwrap();
    for (name, default) in [("grader", false), ("mine", false), ("debian", true)] {
        let base = place.path().join(format!("{name}.tar"));
        let archive = small_system().file("etc/hostname", name.as_bytes());
        fs::write(&base, archive.bytes()).unwrap();
        let image = import(&store, &launcher, &base, Some(name), &silent);
        let image = image.await.unwrap();
        assert_eq!(image.manifest.name, name);
        let found = store.find("default").unwrap();
        assert_eq!(found.is_some(), default, "{name}");
    }
}

/// The sandbox makes mount points in the tree, also in directories that the archive does not name.
#[tokio::test]
async fn an_image_does_not_depend_on_when_it_was_imported() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("base.tar");
    // Its package managers leave a note when they are asked what is installed.
    let archive = small_system().file("etc/os-release", b"ID=small\n");
    fs::write(&base, archive.bytes()).unwrap();
    let launcher = launcher().await;
    let mut digests = Vec::new();
    for name in ["first", "second"] {
        let store = Store::open(&place.path().join(name)).unwrap();
        let image = import(&store, &launcher, &base, None, &silent)
            .await
            .unwrap();
        assert!(
            !image.rootfs.join("packages").exists(),
            "to look has changed the tree"
        );
        digests.push(image.manifest.digest.clone());
        let second = SystemTime::now();
        while epoch(SystemTime::now()) == epoch(second) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(digests[0], digests[1]);
}

fn epoch(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test]
async fn a_step_that_fails_leaves_no_image_and_shows_its_output() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("base.tar");
    let broken = b"#!/bin/sh\necho E: no such package >&2\nexit 100\n";
    fs::write(
        &base,
        small_system().program("usr/bin/apt-get", broken).bytes(),
    )
    .unwrap();
    let text = format!(
        "name = \"broken\"\napt = [\"x\"]\n[base]\nkind = \"tar\"\nlocation = \"{}\"\n",
        base.display()
    );
    let choice = Choice {
        recipe: rootfs_builder::parse(&text).unwrap(),
        reason: None,
    };
    let store = Store::open(&place.path().join("state")).unwrap();
    let launcher = launcher().await;
    if launcher.ids_inside() == 1 {
        println!("SKIP a_step_that_fails: only one id is mapped for this user");
        return;
    }
    let error = build(&store, &launcher, &choice, &silent)
        .await
        .unwrap_err();
    let ImageError::Step {
        outcome, output, ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(
        (outcome.as_str(), output.as_str()),
        ("exit status 100", "E: no such package\n")
    );
    assert!(store.list().unwrap().is_empty());
    assert_eq!(
        fs::read_dir(place.path().join("state/tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_tree_that_was_changed_is_not_verified_and_not_exported() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("base.tar");
    fs::write(&base, small_system().bytes()).unwrap();
    let store = Store::open(&place.path().join("state")).unwrap();
    let launcher = launcher().await;
    let image = import(&store, &launcher, &base, Some("small"), &silent)
        .await
        .unwrap();
    if let Err(error) = fs::write(image.rootfs.join("bin/true"), "changed") {
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        println!("SKIP a_tree_that_was_changed: its files are a subordinate id's");
        return;
    }
    assert!(matches!(
        verify(&store, &launcher, &image).await,
        Err(ImageError::Digest { .. })
    ));
    let file = place.path().join("out.tar");
    assert!(matches!(
        export(&store, &launcher, &image, &file, &silent).await,
        Err(ImageError::Digest { .. })
    ));
    assert!(!file.exists());
}

#[tokio::test]
async fn a_hostile_archive_leaves_nothing_in_the_store() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("evil.tar");
    let archive = Archive::default()
        .symlink("out", &place.path().to_string_lossy())
        .file("out/evil", b"evil");
    fs::write(&file, archive.bytes()).unwrap();
    let store = Store::open(&place.path().join("state")).unwrap();
    let error = import(&store, &launcher().await, &file, Some("evil"), &silent)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Env(_)), "{error:?}");
    assert!(!place.path().join("evil").exists());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(
        fs::read_dir(place.path().join("state/tmp"))
            .unwrap()
            .count(),
        0
    );
}
