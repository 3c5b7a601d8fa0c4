//! What the `image` commands tell on stdout.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::to_json;
use super::sanitize::{one_line, sanitize};
use crate::image::{Image, ImageError, Manifest, Packages, Store};

#[derive(Debug, Serialize)]
struct Listed<'a> {
    names: Vec<&'a str>,
    digest: &'a str,
    rootfs: &'a Path,
    size: u64,
    created: &'a str,
}

pub(super) fn list(store: &Store, json: bool) -> Result<(), ImageError> {
    let (images, names) = (store.list()?, store.names()?);
    let listed: Vec<_> = images
        .iter()
        .map(|image| Listed {
            names: names
                .iter()
                .filter(|(_, digest)| *digest == image.manifest.digest)
                .map(|(name, _)| name.as_str())
                .collect(),
            digest: &image.manifest.digest,
            rootfs: &image.rootfs,
            size: image.manifest.size_bytes,
            created: &image.manifest.created,
        })
        .collect();
    if json {
        return print_json(&listed);
    }
    let mut text = String::new();
    for image in &listed {
        let short = one_line(image.digest.get(..12).unwrap_or(image.digest));
        let names = if image.names.is_empty() {
            "-".to_owned()
        } else {
            one_line(&image.names.join(","))
        };
        text.push_str(&format!(
            "{names}\t{short}\t{} MiB\t{}\n",
            image.size >> 20,
            one_line(image.created)
        ));
    }
    print(&text)
}

#[derive(Debug, Serialize)]
struct Inspected<'a> {
    digest: &'a str,
    rootfs: &'a Path,
    size: u64,
    name: &'a str,
    created: &'a str,
    architecture: &'a str,
    source: &'a str,
    chosen: Option<&'a str>,
    recipe: Option<&'a rootfs_builder::Recipe>,
    env: &'a std::collections::BTreeMap<String, String>,
    packages: &'a Packages,
}

pub(super) fn inspect(image: &Image, json: bool) -> Result<(), ImageError> {
    let Manifest {
        digest,
        name,
        created,
        size_bytes,
        architecture,
        recipe,
        source,
        chosen,
        env,
        packages,
        ..
    } = &image.manifest;
    if json {
        return print_json(&Inspected {
            digest,
            rootfs: &image.rootfs,
            size: *size_bytes,
            name,
            created,
            architecture,
            source,
            chosen: chosen.as_deref(),
            recipe: recipe.as_ref(),
            env,
            packages,
        });
    }
    let mut text = String::new();
    for (label, value) in [
        ("name", Some(name)),
        ("digest", Some(digest)),
        ("rootfs", Some(&image.rootfs.display().to_string())),
        ("size", Some(&format!("{} MiB", size_bytes >> 20))),
        ("created", Some(created)),
        ("source", Some(source)),
        ("chosen", chosen.as_ref()),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("{label:9} {}\n", one_line(value)));
        }
    }
    text.push_str(&format!(
        "packages  {} by apt, {} by pip\n",
        packages.apt.len(),
        packages.pip.len()
    ));
    for package in &packages.pip {
        let (name, version) = (one_line(&package.name), one_line(&package.version));
        text.push_str(&format!("  {name} {version}\n"));
    }
    print(&text)
}

fn print_json<T: Serialize>(value: &T) -> Result<(), ImageError> {
    let text = to_json(value).map_err(|error| stdout_error(error.into()))?;
    write(&format!("{text}\n"))
}

pub(super) fn print(text: &str) -> Result<(), ImageError> {
    write(&sanitize(text))
}

fn write(text: &str) -> Result<(), ImageError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(stdout_error),
    }
}

fn stdout_error(source: std::io::Error) -> ImageError {
    ImageError::Io {
        operation: "write to",
        path: PathBuf::from("stdout"),
        source,
    }
}
