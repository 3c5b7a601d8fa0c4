//! Abilities that are taken away from the model, to see what each is worth.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ablation {
    /// The sandbox has no network.
    NoNetwork,
    /// Every command has a sandbox of its own: no file but the answer lasts until the next.
    NoFiles,
    /// There is no function that runs commands.
    NoExecution,
}

impl Ablation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NoNetwork, Self::NoFiles, Self::NoExecution];
}

impl fmt::Display for Ablation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNetwork => "no-network",
            Self::NoFiles => "no-files",
            Self::NoExecution => "no-execution",
        })
    }
}

impl FromStr for Ablation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|ablation| ablation.to_string() == text)
            .ok_or_else(|| "it must be no-network, no-files or no-execution".to_owned())
    }
}
