//! Images from files: our own, OCI layouts, `docker save` archives and plain root file systems.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

use super::Tell;
use super::build::{architecture, inventory, make_default_if_first};
use super::decompress::{Compression, Section, io, pump};
use super::draft::Draft;
use super::error::ImageError;
use super::manifest::{MANIFEST_FORMAT, Manifest, rfc3339};
use super::oci::{self, MAX_JSON, OciError, OciImage};
use super::store::{Image, Store};
use super::workshop;
use crate::host::Launcher;
use crate::spec::Network;
use crate::tree::{self, UnpackPolicy};

/// Plain bytes of a compressed archive of layers.
const MAX_PLAIN: u64 = 64 << 30;

/// What a file turned out to be.
#[derive(Debug)]
pub enum Contents {
    /// Layers, and where the files of the archive are in it.
    Layers(OciImage, HashMap<Vec<u8>, (u64, u64)>),
    /// A root file system.
    Tree,
}

/// Looks what a plain tar is.
///
/// # Errors
///
/// When it is no tar, or its documents contradict each other.
pub fn read_archive(path: &Path) -> Result<Contents, ImageError> {
    let section = Section::whole(path)?;
    let files = match tree::index(std::io::BufReader::new(section.open()?)) {
        Ok(files) => files,
        // More files than any archive of layers has: a tree.
        Err(error) if matches!(error.kind, tree::UnpackErrorKind::TooManyEntries(_)) => {
            return Ok(Contents::Tree);
        }
        Err(error) => return Err(io("read", path, std::io::Error::other(error))),
    };
    let read = |name: &str| -> Result<Option<Vec<u8>>, ImageError> {
        let Some(&(offset, length)) = files.get(name.as_bytes()) else {
            return Ok(None);
        };
        if length > MAX_JSON {
            let problem = format!("more than {MAX_JSON} bytes");
            return Err(OciError::Json {
                file: name.to_owned(),
                problem,
            }
            .into());
        }
        let mut content = Vec::new();
        let mut reader = Section {
            offset,
            length,
            ..section.clone()
        }
        .open()?;
        std::io::Read::read_to_end(&mut reader, &mut content)
            .map_err(|source| io("read", path, source))?;
        Ok(Some(content))
    };
    let image = if files.contains_key(b"index.json".as_slice())
        && files.contains_key(b"oci-layout".as_slice())
    {
        oci::read_layout(architecture(), read)?
    } else if files.contains_key(b"manifest.json".as_slice()) {
        oci::read_docker(read)?
    } else {
        return Ok(Contents::Tree);
    };
    Ok(Contents::Layers(image, files))
}

/// Takes a file into the store under a name; without one, under the name it was exported by.
///
/// # Errors
///
/// When the file is no image, or does not hold what its digests promise.
pub async fn import(
    store: &Store,
    launcher: &Launcher,
    file: &Path,
    name: Option<&str>,
    tell: Tell<'_>,
) -> Result<Image, ImageError> {
    let draft = store.draft()?;
    let filled = fill(launcher, &draft, file, name, tell).await;
    let manifest = workshop::or_clear(launcher, &draft, filled).await?;
    let image = store.commit(draft, &manifest)?;
    store.set_name(name.unwrap_or(&manifest.name), &manifest.digest)?;
    make_default_if_first(store, &image)?;
    Ok(image)
}

async fn fill(
    launcher: &Launcher,
    draft: &Draft,
    file: &Path,
    name: Option<&str>,
    tell: Tell<'_>,
) -> Result<Manifest, ImageError> {
    let Unpacked {
        own,
        env,
        owners_lost,
    } = unpack_file(launcher, draft, file, tell).await?;
    let packages = match &own {
        // Nothing of the image runs before its digest is compared.
        Some(own) => own.packages.clone(),
        None => inventory(launcher, &draft.rootfs()).await?,
    };
    tell("computing the digest");
    let sandbox = workshop::open(launcher, &draft.rootfs(), Network::None, Vec::new()).await?;
    let (digest, report) = workshop::digest(&sandbox).await?;
    sandbox.close().await?;
    Ok(match own {
        Some(own) if own.digest == digest => own,
        // Its layer has the digest already; only the owners can differ, and only for this reason.
        Some(own) if owners_lost > 0 => Manifest {
            tree_digest: Some(digest),
            ..own
        },
        Some(own) => {
            let what = format!("the tree in {}", file.display());
            return Err(ImageError::Digest {
                what,
                expected: own.digest,
                actual: digest,
            });
        }
        None => Manifest {
            format: MANIFEST_FORMAT,
            digest,
            tree_digest: None,
            name: name.unwrap_or("imported").to_owned(),
            created: rfc3339(SystemTime::now()),
            size_bytes: report.bytes,
            entries: report.entries,
            architecture: architecture().to_owned(),
            recipe: None,
            source: file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            chosen: None,
            env,
            packages,
        },
    })
}

/// What came out of a file, beside the tree.
pub(super) struct Unpacked {
    /// Our own manifest, where the file has one that its only layer bears out.
    own: Option<Manifest>,
    /// Environment that the image asks for.
    env: BTreeMap<String, String>,
    /// Entries whose owner this host cannot keep.
    owners_lost: u64,
}

/// Unpacks any supported file into the tree of a draft; returns our own manifest where the file
/// has one, and the environment that the image asks for.
pub(super) async fn unpack_file(
    launcher: &Launcher,
    draft: &Draft,
    file: &Path,
    tell: Tell<'_>,
) -> Result<Unpacked, ImageError> {
    let whole = Section::whole(file)?;
    let scratch = draft.scratch("plain.tar");
    let plain = if whole.compression()? == Compression::None {
        file.to_path_buf()
    } else {
        tell("decompressing");
        let to = scratch.clone();
        let pumped = tokio::task::spawn_blocking(move || {
            let out = std::fs::File::create(&to).map_err(|source| io("write", &to, source))?;
            pump(&whole, std::io::BufWriter::new(out), MAX_PLAIN)
        });
        pumped.await.map_err(|_| ImageError::Worker)??;
        scratch
    };
    let contents = read_archive(&plain)?;
    let sandbox = workshop::open(launcher, &draft.rootfs(), Network::None, Vec::new()).await?;
    let result = match contents {
        Contents::Tree => {
            tell("unpacking the root file system");
            let whole = Section::whole(&plain)?;
            let (_, report) = workshop::unpack(&sandbox, whole, UnpackPolicy::image()).await?;
            Unpacked {
                own: None,
                env: BTreeMap::new(),
                owners_lost: report.owners_lost,
            }
        }
        Contents::Layers(image, files) => {
            if !image.architecture.is_empty() && image.architecture != architecture() {
                let machine = architecture().to_owned();
                return Err(ImageError::Architecture {
                    image: image.architecture,
                    machine,
                });
            }
            let count = image.layers.len();
            let mut owners_lost = 0;
            for (number, layer) in image.layers.iter().enumerate() {
                tell(&format!("unpacking layer {} of {count}", number + 1));
                let (offset, length) = *files
                    .get(layer.file.as_bytes())
                    .ok_or_else(|| OciError::Missing(layer.file.clone()))?;
                let section = Section {
                    path: plain.clone(),
                    offset,
                    length,
                };
                let (pumped, report) =
                    workshop::unpack(&sandbox, section, UnpackPolicy::layer()).await?;
                owners_lost += report.owners_lost;
                expect(&layer.file, Some(&layer.plain), &pumped.plain)?;
                expect(&layer.file, layer.stored.as_ref(), &pumped.stored)?;
            }
            Unpacked {
                own: own_manifest(&image)?,
                env: image.env,
                owners_lost,
            }
        }
    };
    sandbox.close().await?;
    draft.discard("plain.tar");
    Ok(result)
}

fn own_manifest(image: &OciImage) -> Result<Option<Manifest>, ImageError> {
    let Some(text) = &image.own_manifest else {
        return Ok(None);
    };
    let manifest: Manifest = serde_json::from_str(text).map_err(|error| OciError::Json {
        file: oci::OWN_MANIFEST.to_owned(),
        problem: error.to_string(),
    })?;
    // The plain layer of an export is the canonical archive itself.
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.plain.as_str())
        .collect();
    if layers != [manifest.digest.as_str()] {
        let what = "the only layer of an export".to_owned();
        let actual = layers.join(",");
        return Err(ImageError::Digest {
            what,
            expected: manifest.digest,
            actual,
        });
    }
    if manifest.format > MANIFEST_FORMAT {
        let problem = format!(
            "its format {} is newer than {MANIFEST_FORMAT}",
            manifest.format
        );
        return Err(OciError::Json {
            file: oci::OWN_MANIFEST.to_owned(),
            problem,
        }
        .into());
    }
    Ok(Some(manifest))
}

fn expect(what: &str, expected: Option<&String>, actual: &str) -> Result<(), ImageError> {
    match expected {
        Some(expected) if expected != actual => Err(ImageError::Digest {
            what: what.to_owned(),
            expected: expected.clone(),
            actual: actual.to_owned(),
        }),
        _ => Ok(()),
    }
}
