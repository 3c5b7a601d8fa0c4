//! `manifest.json`: what an image is and what is in it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rootfs_builder::Recipe;
use serde::{Deserialize, Serialize};

/// Version of the file's format; a reader refuses a newer one.
pub const MANIFEST_FORMAT: u32 = 1;

/// Facts about one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// SHA-256 of the canonical archive of the tree, 64 hexadecimal digits.
    pub digest: String,
    /// The same of the tree as it is stored here, where this host could not keep the owners of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_digest: Option<String>,
    /// Name under which it was built or imported.
    pub name: String,
    /// Time of building, RFC 3339 in UTC.
    pub created: String,
    /// Bytes of all files together.
    pub size_bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Debian name of the architecture, as `amd64`.
    pub architecture: String,
    /// What it was built by; absent for an imported image.
    pub recipe: Option<Recipe>,
    /// Where the base or the imported file came from, with its SHA-256 where it has one.
    pub source: String,
    /// How the default image came to be this one, where that was a choice.
    pub chosen: Option<String>,
    /// Environment of the processes of a sandbox.
    pub env: BTreeMap<String, String>,
    /// What is installed.
    pub packages: Packages,
}

/// Installed packages by package manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// As `dpkg-query` lists them.
    pub apt: Vec<Package>,
    /// As `pip list` does.
    pub pip: Vec<Package>,
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Packages {
    /// Reads lines of `name=version`; others are skipped.
    #[must_use]
    pub fn parse_lines(text: &str, separator: &str) -> Vec<Package> {
        text.lines()
            .filter_map(|line| line.trim().split_once(separator))
            .map(|(name, version)| Package {
                name: name.to_owned(),
                version: version.to_owned(),
            })
            .collect()
    }
}

/// A time as `2026-01-31T23:59:59Z`.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days counted from 1 March of the year 0: leap days then come last, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
