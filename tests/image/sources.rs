//! Where images come from: servers, layouts, archives of others.

use std::path::Path;
use std::time::{Duration, Instant};

use llm_in_sandbox::image::{
    Contents, FetchError, ImageError, OciError, choose_default, fetch_base, read_archive,
};
use rootfs_builder::{Base, Recipe, built_in, parse, resolve_base};
use sha2::{Digest, Sha256};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::archive::Archive;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The built-in recipe, pointed to a server of the test.
fn ubuntu_at(server: &str) -> Recipe {
    let text = built_in("ubuntu")
        .unwrap()
        .replace("https://cdimage.ubuntu.com", server);
    parse(&text).unwrap()
}

const DIRECTORY: &str = "/ubuntu-base/releases/noble/release";

/// Serves a list with this checksum for two point releases, and the content of the newer one.
async fn server(content: &[u8], checksum: &str) -> MockServer {
    let server = MockServer::start().await;
    let list = format!(
        "{} *ubuntu-base-24.04.2-base-amd64.tar.gz\n{checksum} *ubuntu-base-24.04.10-base-amd64.tar.gz\n",
        "0".repeat(64)
    );
    for (name, body) in [
        ("SHA256SUMS", list.into_bytes()),
        ("ubuntu-base-24.04.10-base-amd64.tar.gz", content.to_vec()),
    ] {
        Mock::given(path(format!("{DIRECTORY}/{name}")))
            .respond_with(ResponseTemplate::new(200).set_body_bytes(body))
            .mount(&server)
            .await;
    }
    server
}

async fn get(base: &Base, to: &Path) -> Result<String, ImageError> {
    let base = resolve_base(base, "amd64");
    fetch_base(&base, to, &|_| ())
        .await
        .map(|(_, source)| source)
}

#[tokio::test]
async fn the_newest_ubuntu_base_is_downloaded_and_checked() {
    let content = Archive::default()
        .file("etc/os-release", b"ID=ubuntu\n")
        .bytes();
    let server = server(&content, &sha256(&content)).await;
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("base");
    let source = get(&ubuntu_at(&server.uri()).base, &to).await.unwrap();
    assert_eq!(std::fs::read(to).unwrap(), content);
    assert!(
        source.ends_with(&format!(
            "ubuntu-base-24.04.10-base-amd64.tar.gz sha256:{}",
            sha256(&content)
        )),
        "{source}"
    );
}

#[tokio::test]
async fn a_wrong_checksum_is_refused() {
    let server = server(b"tampered", &sha256(b"genuine")).await;
    let directory = tempfile::tempdir().unwrap();
    let error = get(
        &ubuntu_at(&server.uri()).base,
        &directory.path().join("base"),
    )
    .await
    .unwrap_err();
    let ImageError::Digest {
        expected, actual, ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(
        (expected, actual),
        (sha256(b"genuine"), sha256(b"tampered"))
    );
}

#[tokio::test]
async fn a_local_base_is_checked_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("base.tar");
    std::fs::write(&file, b"content").unwrap();
    let base = |sha256| Base::Tar {
        location: file.to_string_lossy().into_owned(),
        sha256,
        checksums: None,
    };
    assert!(get(&base(Some(sha256(b"content"))), &file).await.is_ok());
    assert!(matches!(
        get(&base(Some(sha256(b"other"))), &file).await,
        Err(ImageError::Digest { .. })
    ));
}

#[tokio::test]
async fn a_missing_file_of_the_server_is_an_error_with_its_status() {
    let server = MockServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let error = get(
        &ubuntu_at(&server.uri()).base,
        &directory.path().join("base"),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Fetch(FetchError::Status { status: 404, .. })
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_silent_server_lets_the_default_fall_back_within_seconds() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let debian = parse(built_in("debian").unwrap()).unwrap();
    let start = Instant::now();
    let choice = choose_default(ubuntu_at(&server), debian).await;
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(choice.recipe.name, "debian");
    assert!(
        choice
            .reason
            .unwrap()
            .starts_with("taking image `debian` instead of `ubuntu`: ")
    );
}

#[tokio::test]
async fn a_server_that_answers_keeps_the_default() {
    let server = server(b"", &sha256(b"")).await;
    let debian = parse(built_in("debian").unwrap()).unwrap();
    let choice = choose_default(ubuntu_at(&server.uri()), debian).await;
    assert_eq!(
        (choice.recipe.name.as_str(), choice.reason),
        ("ubuntu", None)
    );
}

const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

struct Parts {
    config: String,
    layer: Vec<u8>,
}

fn parts() -> Parts {
    let layer = Archive::default().file("hello", b"world").bytes();
    let config = format!(
        r#"{{"architecture":"{ARCHITECTURE}","os":"linux","config":{{"Env":["PATH=/bin","A=b=c"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        sha256(&layer)
    );
    Parts { config, layer }
}

fn oci(Parts { config, layer }: &Parts, platform: &str) -> Archive {
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"sha256:{}","size":1}},"layers":[{{"digest":"sha256:{}","size":1}}]}}"#,
        sha256(config.as_bytes()),
        sha256(layer)
    );
    let inner = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{}","size":1,"platform":{{"architecture":"{platform}","os":"linux"}}}}]}}"#,
        sha256(manifest.as_bytes())
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:{}","size":1}}]}}"#,
        sha256(inner.as_bytes())
    );
    let blob = |content: &[u8]| format!("blobs/sha256/{}", sha256(content));
    Archive::default()
        .file("oci-layout", b"{}")
        .file("index.json", index.as_bytes())
        .file(&blob(inner.as_bytes()), inner.as_bytes())
        .file(&blob(manifest.as_bytes()), manifest.as_bytes())
        .file(&blob(config.as_bytes()), config.as_bytes())
        .file(&blob(layer), layer)
}

fn read(archive: Archive) -> Result<Contents, ImageError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("archive");
    std::fs::write(&file, archive.bytes()).unwrap();
    read_archive(&file)
}

#[test]
fn an_oci_layout_is_understood_through_nested_indexes() {
    let parts = parts();
    let Contents::Layers(image, files) = read(oci(&parts, ARCHITECTURE)).unwrap() else {
        panic!("a tree")
    };
    assert_eq!(image.env["A"], "b=c");
    assert_eq!(image.layers.len(), 1);
    assert_eq!(image.layers[0].plain, sha256(&parts.layer));
    assert_eq!(image.layers[0].stored, Some(sha256(&parts.layer)));
    let (_, length) = files[image.layers[0].file.as_bytes()];
    assert_eq!(length, parts.layer.len() as u64);
}

#[test]
fn an_image_for_other_machines_only_is_refused() {
    let error = read(oci(&parts(), "s390x")).unwrap_err();
    assert!(
        matches!(error, ImageError::Oci(OciError::NoPlatform(_))),
        "{error:?}"
    );
}

#[test]
fn a_docker_save_archive_is_understood() {
    let parts = parts();
    let manifest = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["a/layer.tar"]}]"#;
    let archive = Archive::default()
        .file("a/layer.tar", &parts.layer)
        .file("c.json", parts.config.as_bytes())
        .file("manifest.json", manifest.as_bytes());
    let Contents::Layers(image, _) = read(archive).unwrap() else {
        panic!("a tree")
    };
    assert_eq!(
        (image.layers[0].file.as_str(), &image.layers[0].stored),
        ("a/layer.tar", &None)
    );
    assert_eq!(image.env["PATH"], "/bin");
}

#[test]
fn documents_that_contradict_each_other_are_refused() {
    let parts = parts();
    let manifest = r#"[{"Config":"c.json","Layers":["a","b"]}]"#;
    let archive = Archive::default()
        .file("c.json", parts.config.as_bytes())
        .file("manifest.json", manifest.as_bytes());
    let error = read(archive).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Oci(OciError::LayerCount {
                layers: 2,
                digests: 1
            })
        ),
        "{error:?}"
    );
    let archive = Archive::default().file("manifest.json", manifest.as_bytes());
    let error = read(archive).unwrap_err();
    assert!(
        matches!(&error, ImageError::Oci(OciError::Missing(file)) if file == "c.json"),
        "{error:?}"
    );
    let index =
        r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}"#;
    let archive = Archive::default()
        .file("oci-layout", b"{}")
        .file("index.json", index.as_bytes());
    let error = read(archive).unwrap_err();
    assert!(
        matches!(error, ImageError::Oci(OciError::BadDigest(_))),
        "{error:?}"
    );
}

#[test]
fn anything_else_is_a_root_file_system() {
    assert!(matches!(
        read(Archive::default().directory("etc").file("etc/passwd", b"")).unwrap(),
        Contents::Tree
    ));
}
