//! Images as others write them: OCI layouts and what `docker save` makes. Pure parsing, bounded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A JSON document of an image is no larger than this.
pub(super) const MAX_JSON: u64 = 4 << 20;
/// Layers of one image.
const MAX_LAYERS: usize = 500;
/// Annotation of an exported image under which its own manifest travels.
pub(super) const OWN_MANIFEST: &str = "llm-in-sandbox.manifest";

/// Why an archive of layers is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OciError {
    /// A file that must be there is not.
    #[error("image archive: `{0}` is missing")]
    Missing(String),
    /// A document that is no JSON of the right shape.
    #[error("image archive: read `{file}`: {problem}")]
    Json {
        /// Which one.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A reference that names no content.
    #[error("image archive: `{0}` is no sha256 digest")]
    BadDigest(String),
    /// No image for this machine.
    #[error("image archive: holds no image for linux/{0}")]
    NoPlatform(String),
    /// More layers than any builder makes.
    #[error("image archive: {0} layers are more than 500")]
    TooManyLayers(usize),
    /// Layers and their plain digests do not go together.
    #[error("image archive: {layers} layers but {digests} digests of them")]
    LayerCount {
        /// Layers.
        layers: usize,
        /// Digests.
        digests: usize,
    },
}

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciImage {
    /// Architecture as OCI names it, as `amd64`.
    pub architecture: String,
    /// Environment of its processes.
    pub env: BTreeMap<String, String>,
    /// From the lowest up.
    pub layers: Vec<LayerSource>,
    /// Our own manifest, where we wrote the archive.
    pub own_manifest: Option<String>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSource {
    /// File of the archive.
    pub file: String,
    /// SHA-256 of that file, where the archive tells it.
    pub stored: Option<String>,
    /// SHA-256 of the plain tar.
    pub plain: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u32,
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerList {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) created: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) config: ConfigDetails,
    pub(super) rootfs: ConfigRootfs,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ConfigDetails {
    #[serde(rename = "Env", default)]
    pub(super) env: Option<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConfigRootfs {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    pub(super) diff_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// Reads an OCI layout through `read`, which gives a small file of the archive or `None`.
pub(crate) fn read_layout<E: From<OciError>>(
    architecture: &str,
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<OciImage, E> {
    let mut index: Index = json(&mut read, "index.json")?;
    // An index may stand for one image on several machines, in an index of its own.
    let mut depth = 0;
    let list: LayerList = loop {
        let descriptor = choose(&index, architecture)?;
        let file = blob(&descriptor.digest)?;
        if !descriptor.media_type.contains("index")
            && !descriptor.media_type.contains("manifest.list")
        {
            break json(&mut read, &file)?;
        }
        depth += 1;
        if depth > 2 {
            return Err(OciError::NoPlatform(architecture.to_owned()).into());
        }
        index = json(&mut read, &file)?;
    };
    let config: Config = json(&mut read, &blob(&list.config.digest)?)?;
    let mut layers = Vec::new();
    for layer in &list.layers {
        layers.push((blob(&layer.digest)?, Some(sha256(&layer.digest)?)));
    }
    let own_manifest = list.annotations.get(OWN_MANIFEST).cloned();
    Ok(image(&config, layers, own_manifest)?)
}

/// Reads an archive of `docker save` from before it was an OCI layout as well.
pub(crate) fn read_docker<E: From<OciError>>(
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<OciImage, E> {
    let entries: Vec<DockerEntry> = json(&mut read, "manifest.json")?;
    let entry = entries
        .into_iter()
        .next()
        .ok_or_else(|| OciError::Missing("an image in manifest.json".to_owned()))?;
    let config: Config = json(&mut read, &entry.config)?;
    let layers = entry.layers.into_iter().map(|file| (file, None)).collect();
    Ok(image(&config, layers, None)?)
}

fn image(
    config: &Config,
    files: Vec<(String, Option<String>)>,
    own_manifest: Option<String>,
) -> Result<OciImage, OciError> {
    let digests = &config.rootfs.diff_ids;
    if files.len() > MAX_LAYERS {
        return Err(OciError::TooManyLayers(files.len()));
    }
    if files.len() != digests.len() {
        return Err(OciError::LayerCount {
            layers: files.len(),
            digests: digests.len(),
        });
    }
    let mut layers = Vec::new();
    for ((file, stored), plain) in files.into_iter().zip(digests) {
        layers.push(LayerSource {
            file,
            stored,
            plain: sha256(plain)?,
        });
    }
    let env = config
        .config
        .env
        .iter()
        .flatten()
        .filter_map(|pair| pair.split_once('='));
    Ok(OciImage {
        architecture: config.architecture.clone(),
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        layers,
        own_manifest,
    })
}

fn choose<'a>(index: &'a Index, architecture: &str) -> Result<&'a Descriptor, OciError> {
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture)
    };
    index
        .manifests
        .iter()
        .find(fits)
        .ok_or_else(|| OciError::NoPlatform(architecture.to_owned()))
}

fn json<T: serde::de::DeserializeOwned, E: From<OciError>>(
    read: &mut impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
    file: &str,
) -> Result<T, E> {
    let bytes = read(file)?.ok_or_else(|| OciError::Missing(file.to_owned()))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        OciError::Json {
            file: file.to_owned(),
            problem: error.to_string(),
        }
        .into()
    })
}

fn sha256(digest: &str) -> Result<String, OciError> {
    let valid = |hex: &&str| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hex = digest.strip_prefix("sha256:").filter(valid);
    hex.map(str::to_ascii_lowercase)
        .ok_or_else(|| OciError::BadDigest(digest.to_owned()))
}

fn blob(digest: &str) -> Result<String, OciError> {
    Ok(format!("blobs/sha256/{}", sha256(digest)?))
}
