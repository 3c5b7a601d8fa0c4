//! An image as one file that another machine can import, and the proof that a tree is what it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Tell;
use super::decompress::{HashSink, io};
use super::error::ImageError;
use super::fetch::hex;
use super::manifest::Manifest;
use super::oci::{
    Config, ConfigDetails, ConfigRootfs, Descriptor, Index, LayerList, OWN_MANIFEST, Platform,
};
use super::store::{Image, Store};
use super::workshop;
use crate::host::Launcher;
use crate::spec::Network;

/// Level of compression: beyond it a build of a gigabyte waits longer than it saves in transfer.
const LEVEL: i32 = 3;

/// Writes an image as an OCI layout in one tar, its layer compressed by zstd, to `to`, which is replaced.
///
/// # Errors
///
/// When the tree has changed since it was made, or the file cannot be written.
pub async fn export(
    store: &Store,
    launcher: &Launcher,
    image: &Image,
    to: &Path,
    tell: Tell<'_>,
) -> Result<(), ImageError> {
    let _hold = store.hold(image)?;
    let draft = store.draft()?;
    let layer_path = draft.scratch("layer.tar.zst");
    tell("compressing");
    let sandbox = workshop::open(launcher, &image.rootfs, Network::None, Vec::new()).await?;
    let path = layer_path.clone();
    let (layer, _) = workshop::pack(&sandbox, move |reader| compress(reader, &path)).await?;
    sandbox.close().await?;
    expect_digest(image, &layer.plain)?;
    tell("writing the file");
    let (image, to) = (image.clone(), to.to_path_buf());
    let written =
        tokio::task::spawn_blocking(move || write_layout(&image, &layer, &layer_path, &to));
    written.await.map_err(|_| ImageError::Worker)?
}

/// Packs the tree of an image again and compares.
///
/// # Errors
///
/// [`ImageError::Digest`] when the tree has changed since it was made.
pub async fn verify(store: &Store, launcher: &Launcher, image: &Image) -> Result<(), ImageError> {
    let _hold = store.hold(image)?;
    let sandbox = workshop::open(launcher, &image.rootfs, Network::None, Vec::new()).await?;
    let (digest, _) = workshop::digest(&sandbox).await?;
    sandbox.close().await?;
    expect_digest(image, &digest)
}

struct Layer {
    plain: String,
    stored: String,
    size: u64,
}

fn compress(mut reader: std::io::PipeReader, path: &Path) -> Result<Layer, ImageError> {
    let failed = |source| io("write", path, source);
    let file = Both {
        hash: HashSink::default(),
        file: File::create(path).map_err(failed)?,
        size: 0,
    };
    let encoder = zstd::stream::write::Encoder::new(file, LEVEL).map_err(failed)?;
    let mut both = HashThrough {
        hash: HashSink::default(),
        inner: encoder,
    };
    workshop::copy(&mut reader, &mut both)?;
    let mut done = both.inner.finish().map_err(failed)?;
    done.file.flush().map_err(failed)?;
    Ok(Layer {
        plain: hex(&both.hash.0.finalize()),
        stored: hex(&done.hash.0.finalize()),
        size: done.size,
    })
}

fn write_layout(
    image: &Image,
    layer: &Layer,
    layer_path: &Path,
    to: &Path,
) -> Result<(), ImageError> {
    let failed = |source| io("write", to, source);
    let directory = to
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        // As any file that a user makes: his umask applies.
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(failed)?;
    let Documents {
        config,
        layers,
        index,
    } = documents(&travelling(&image.manifest, layer), layer)?;
    let mut archive = tar::Builder::new(file);
    let mut add = |name: &str, content: &mut dyn std::io::Read, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        archive
            .append_data(&mut header, name, content)
            .map_err(failed)
    };
    add(
        "oci-layout",
        &mut br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice(),
        30,
    )?;
    add("index.json", &mut index.as_slice(), index.len() as u64)?;
    for document in [&config, &layers] {
        add(
            &format!("blobs/sha256/{}", sha256(document)),
            &mut document.as_slice(),
            document.len() as u64,
        )?;
    }
    let mut blob = File::open(layer_path).map_err(|source| io("read", layer_path, source))?;
    add(
        &format!("blobs/sha256/{}", layer.stored),
        &mut blob,
        layer.size,
    )?;
    let file = archive.into_inner().map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(to).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The manifest of what is in the file, which is the tree as it is stored here.
fn travelling(manifest: &Manifest, layer: &Layer) -> Manifest {
    Manifest {
        digest: layer.plain.clone(),
        tree_digest: None,
        ..manifest.clone()
    }
}

/// The three documents of a layout.
struct Documents {
    config: Vec<u8>,
    layers: Vec<u8>,
    index: Vec<u8>,
}

fn documents(manifest: &Manifest, layer: &Layer) -> Result<Documents, ImageError> {
    let config = json(&Config {
        created: manifest.created.clone(),
        architecture: manifest.architecture.clone(),
        os: "linux".to_owned(),
        config: ConfigDetails {
            env: Some(
                manifest
                    .env
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect(),
            ),
        },
        rootfs: ConfigRootfs {
            kind: "layers".to_owned(),
            diff_ids: vec![format!("sha256:{}", layer.plain)],
        },
    })?;
    let own = serde_json::to_string(manifest).map_err(document_error)?;
    let layers = json(&LayerList {
        schema_version: 2,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        config: descriptor("application/vnd.oci.image.config.v1+json", &config),
        layers: vec![Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
            digest: format!("sha256:{}", layer.stored),
            size: layer.size,
            platform: None,
        }],
        annotations: BTreeMap::from([(OWN_MANIFEST.to_owned(), own)]),
    })?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &layers);
    entry.platform = Some(Platform {
        architecture: manifest.architecture.clone(),
        os: "linux".to_owned(),
    });
    let index = json(&Index {
        schema_version: 2,
        manifests: vec![entry],
    })?;
    Ok(Documents {
        config,
        layers,
        index,
    })
}

fn expect_digest(image: &Image, actual: &str) -> Result<(), ImageError> {
    let manifest = &image.manifest;
    let expected = manifest.tree_digest.as_ref().unwrap_or(&manifest.digest);
    if expected == actual {
        return Ok(());
    }
    let what = format!("the tree of image `{}`", image.manifest.name);
    Err(ImageError::Digest {
        what,
        expected: expected.clone(),
        actual: actual.to_owned(),
    })
}

fn json<T: serde::Serialize>(document: &T) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(document).map_err(document_error)
}

fn document_error(error: serde_json::Error) -> ImageError {
    io("make a document of", Path::new("the image"), error.into())
}

fn descriptor(media_type: &str, content: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: format!("sha256:{}", sha256(content)),
        size: content.len() as u64,
        platform: None,
    }
}

fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// A file that knows its length and hash.
struct Both {
    hash: HashSink,
    file: File,
    size: u64,
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash
            .write_all(bytes.get(..count).unwrap_or_default())?;
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Hashes what it passes on.
struct HashThrough<W> {
    hash: HashSink,
    inner: W,
}

impl<W: Write> Write for HashThrough<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash
            .write_all(bytes.get(..count).unwrap_or_default())?;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
