//! What an image is made of, as a small TOML file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One image to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name under which the image is stored: lower-case letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// What the rest is built on.
    pub base: Base,
    /// Packages to install with apt.
    #[serde(default)]
    pub apt: Vec<String>,
    /// Packages to install with pip, each as `name==version`.
    #[serde(default)]
    pub pip: Vec<String>,
    /// Packages to install with pip alone, without those that they ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pip_no_deps: Vec<String>,
    /// Environment of the processes of a sandbox.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute paths of directories to make.
    #[serde(default)]
    pub directories: Vec<String>,
    /// Files to write.
    #[serde(default)]
    pub files: Vec<ExtraFile>,
}

/// What an image is built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Base {
    /// A root file system in a tar, plain or compressed by gzip or zstd.
    Tar {
        /// Path, or `http:` or `https:` address. `{arch}` becomes the Debian name of the
        /// architecture. With `checksums` its last part may contain one `*`: the newest match is taken.
        location: String,
        /// SHA-256 of the file, 64 hexadecimal digits.
        sha256: Option<String>,
        /// Path or address of a list of lines `sha256  file`; exactly one of the two is needed
        /// for an address.
        checksums: Option<String>,
    },
    /// The packages that every system has, downloaded and extracted by mmdebstrap from its
    /// default archive for a suite.
    Mmdebstrap {
        /// Name of the release, as `trixie`.
        suite: String,
    },
    /// An image in an OCI layout or as `docker save` writes it.
    Image {
        /// Path of the archive.
        path: String,
    },
}

/// A file to write into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraFile {
    /// Absolute path inside.
    pub path: String,
    /// What is in it.
    pub content: String,
    /// It can be executed.
    #[serde(default)]
    pub executable: bool,
}

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Not TOML, or not of the right shape.
    #[error("parse recipe")]
    Toml(#[from] toml::de::Error),
    /// A value that cannot be.
    #[error("recipe field `{field}`: {problem}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The recipes that need no file, by name: `ubuntu`, `debian`, and `grader` for the scores of evaluations.
#[must_use]
pub fn built_in(name: &str) -> Option<&'static str> {
    match name {
        "ubuntu" => Some(include_str!("../recipes/ubuntu.toml")),
        "debian" => Some(include_str!("../recipes/debian.toml")),
        "grader" => Some(include_str!("../recipes/grader.toml")),
        _ => None,
    }
}

/// Reads and checks a recipe.
///
/// # Errors
///
/// When the text is no recipe, or a value in it cannot be right.
pub fn parse(text: &str) -> Result<Recipe, RecipeError> {
    let recipe: Recipe = toml::from_str(text)?;
    let name = &recipe.name;
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(field(
            "name",
            "needs 1 to 64 of the characters a-z 0-9 . _ - and no dot in front".to_owned(),
        ));
    }
    // A package beginning with `-` would be an option of apt or pip, that is: a command.
    for package in recipe.apt.iter() {
        if package.is_empty()
            || !package
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+.-:=~".contains(&byte))
            || package.starts_with('-')
        {
            return Err(field("apt", format!("`{package}` is no package name")));
        }
    }
    for package in recipe.pip.iter().chain(&recipe.pip_no_deps) {
        let pinned = package
            .split_once("==")
            .is_some_and(|(name, version)| !name.is_empty() && !version.is_empty());
        if !pinned || package.starts_with('-') || package.contains(char::is_whitespace) {
            return Err(field(
                "pip",
                format!("`{package}` is not of the form name==version"),
            ));
        }
    }
    let paths = recipe
        .directories
        .iter()
        .chain(recipe.files.iter().map(|file| &file.path));
    for path in paths {
        let inside =
            path.starts_with('/') && path.len() > 1 && !path.split('/').any(|name| name == "..");
        if !inside || path.contains('\0') {
            return Err(field(
                "directories",
                format!("`{path}` is no absolute path below /"),
            ));
        }
    }
    check_base(&recipe.base)?;
    Ok(recipe)
}

fn check_base(base: &Base) -> Result<(), RecipeError> {
    match base {
        Base::Tar {
            location,
            sha256,
            checksums,
        } => {
            let remote = location.starts_with("http:") || location.starts_with("https:");
            if sha256.is_some() && checksums.is_some() {
                return Err(field(
                    "base",
                    "takes `sha256` or `checksums`, not both".to_owned(),
                ));
            }
            if remote && sha256.is_none() && checksums.is_none() {
                return Err(field(
                    "base",
                    "needs `sha256` or `checksums`, as it comes over a network".to_owned(),
                ));
            }
            let is_digest = |text: &String| {
                text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            };
            if sha256.as_ref().is_some_and(|text| !is_digest(text)) {
                return Err(field(
                    "base",
                    "`sha256` needs 64 hexadecimal digits".to_owned(),
                ));
            }
            Ok(())
        }
        Base::Mmdebstrap { suite } => {
            if suite.is_empty()
                || !suite
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
                || suite.starts_with('-')
            {
                return Err(field("base", format!("`{suite}` is no name of a release")));
            }
            Ok(())
        }
        Base::Image { .. } => Ok(()),
    }
}

fn field(field: &'static str, problem: String) -> RecipeError {
    RecipeError::Field { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_recipes_parse_and_bear_their_names() {
        for name in ["ubuntu", "debian", "grader"] {
            assert_eq!(parse(built_in(name).unwrap()).unwrap().name, name);
        }
        assert!(built_in("arch").is_none());
    }

    #[test]
    fn wrong_values_are_refused_by_field() {
        let good = "name = \"x\"\n[base]\nkind = \"mmdebstrap\"\nsuite = \"trixie\"\n";
        assert!(parse(good).is_ok());
        for (bad, field) in [
            (good.replace("\"x\"", "\"../x\""), "name"),
            (good.replace("trixie", "--hook"), "base"),
            (
                good.replace("name", "apt = [\"-oDPkg::Pre-Invoke=id\"]\nname"),
                "apt",
            ),
            (good.replace("name", "pip = [\"numpy\"]\nname"), "pip"),
            (
                good.replace("name", "pip = [\"--index-url==x\"]\nname"),
                "pip",
            ),
            (
                good.replace("name", "directories = [\"/a/../b\"]\nname"),
                "directories",
            ),
            (
                "name = \"x\"\n[base]\nkind = \"tar\"\nlocation = \"https://example.org/x.tar\"\n"
                    .to_owned(),
                "base",
            ),
        ] {
            match parse(&bad) {
                Err(RecipeError::Field { field: named, .. }) => assert_eq!(named, field, "{bad}"),
                other => panic!("{bad}: {other:?}"),
            }
        }
        let unknown = good.replace("name", "apk = []\nname");
        assert!(matches!(parse(&unknown), Err(RecipeError::Toml(_))));
    }
}
