//! What the `image` commands tell on stdout.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

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
        let short = image.digest.get(..12).unwrap_or(image.digest);
        let names = if image.names.is_empty() {
            "-".to_owned()
        } else {
            image.names.join(",")
        };
        text.push_str(&format!(
            "{names}\t{short}\t{} MiB\t{}\n",
            image.size >> 20,
            image.created
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
    let mut text = format!(
        "name      {name}\ndigest    {digest}\nrootfs    {}\nsize      {} MiB\ncreated   {created}\nsource    {source}\n",
        image.rootfs.display(),
        size_bytes >> 20,
    );
    if let Some(reason) = chosen {
        text.push_str(&format!("chosen    {reason}\n"));
    }
    text.push_str(&format!(
        "packages  {} by apt, {} by pip\n",
        packages.apt.len(),
        packages.pip.len()
    ));
    for package in &packages.pip {
        text.push_str(&format!("  {} {}\n", package.name, package.version));
    }
    print(&text)
}

fn print_json<T: Serialize>(value: &T) -> Result<(), ImageError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| stdout_error(error.into()))?;
    print(&format!("{text}\n"))
}

pub(super) fn print(text: &str) -> Result<(), ImageError> {
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
