//! Downloads, bounded in bytes and in silence.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// Bounds of one download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// To the first byte of the answer.
    pub answer: Duration,
    /// Without any byte, once it flows.
    pub silence: Duration,
    /// In all.
    pub total: Duration,
    /// Of content.
    pub max_bytes: u64,
}

impl FetchLimits {
    /// For a root file system.
    pub const ARCHIVE: Self = Self {
        answer: Duration::from_secs(15),
        silence: Duration::from_secs(30),
        total: Duration::from_secs(1800),
        max_bytes: 8 << 30,
    };
    /// For a checksum list, which also tells whether a server answers at all.
    pub const LIST: Self = Self {
        answer: Duration::from_secs(4),
        silence: Duration::from_secs(4),
        total: Duration::from_secs(8),
        max_bytes: 1 << 20,
    };
}

/// Why something could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No client could be made.
    #[error("set up https")]
    Client(#[source] reqwest::Error),
    /// No connection, or it broke.
    #[error("download {url}")]
    Transport {
        /// What.
        url: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// The server refused.
    #[error("download {url}: the server answered {status}")]
    Status {
        /// What.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// Nothing came for too long.
    #[error("download {url}: nothing came for {seconds} s")]
    Silent {
        /// What.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// It takes too long in all.
    #[error("download {url}: not done after {seconds} s")]
    TooSlow {
        /// What.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// Larger than allowed.
    #[error("download {url}: more than {limit} bytes")]
    TooLarge {
        /// What.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// A file of the host.
    #[error("write download to {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Downloads `url` to the file `to` and returns its SHA-256 in hexadecimal digits.
///
/// # Errors
///
/// When a bound is met, the server fails or the file cannot be written.
pub async fn fetch(
    url: &str,
    to: &Path,
    limits: FetchLimits,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<String, FetchError> {
    let file_error = |source| FetchError::File {
        path: to.to_path_buf(),
        source,
    };
    let mut file = tokio::fs::File::from_std(std::fs::File::create(to).map_err(file_error)?);
    let mut hash = Sha256::new();
    let mut done = 0_u64;
    let whole = async {
        let mut answer = request(url, limits).await?;
        let length = answer.content_length();
        while let Some(chunk) = next_chunk(&mut answer, url, limits).await? {
            done += chunk.len() as u64;
            if done > limits.max_bytes {
                return Err(FetchError::TooLarge {
                    url: url.to_owned(),
                    limit: limits.max_bytes,
                });
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(file_error)?;
            progress(done, length);
        }
        file.flush().await.map_err(file_error)
    };
    tokio::time::timeout(limits.total, whole)
        .await
        .map_err(|_| FetchError::TooSlow {
            url: url.to_owned(),
            seconds: limits.total.as_secs(),
        })??;
    Ok(hex(&hash.finalize()))
}

/// Downloads a short text.
///
/// # Errors
///
/// As [`fetch`].
pub async fn fetch_text(url: &str, limits: FetchLimits) -> Result<String, FetchError> {
    let whole = async {
        let mut answer = request(url, limits).await?;
        let mut content = Vec::new();
        while let Some(chunk) = next_chunk(&mut answer, url, limits).await? {
            if content.len() as u64 + chunk.len() as u64 > limits.max_bytes {
                return Err(FetchError::TooLarge {
                    url: url.to_owned(),
                    limit: limits.max_bytes,
                });
            }
            content.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&content).into_owned())
    };
    tokio::time::timeout(limits.total, whole)
        .await
        .map_err(|_| FetchError::TooSlow {
            url: url.to_owned(),
            seconds: limits.total.as_secs(),
        })?
}

async fn request(url: &str, limits: FetchLimits) -> Result<reqwest::Response, FetchError> {
    // Another part of the process may have installed it already; then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(limits.answer)
        .redirect(reqwest::redirect::Policy::limited(5))
        .user_agent(concat!("llm-in-sandbox/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(FetchError::Client)?;
    let answer = tokio::time::timeout(limits.answer, client.get(url).send())
        .await
        .map_err(|_| FetchError::Silent {
            url: url.to_owned(),
            seconds: limits.answer.as_secs(),
        })?
        .map_err(|source| FetchError::Transport {
            url: url.to_owned(),
            source: source.without_url(),
        })?;
    if !answer.status().is_success() {
        return Err(FetchError::Status {
            url: url.to_owned(),
            status: answer.status().as_u16(),
        });
    }
    Ok(answer)
}

async fn next_chunk(
    answer: &mut reqwest::Response,
    url: &str,
    limits: FetchLimits,
) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, FetchError> {
    tokio::time::timeout(limits.silence, answer.chunk())
        .await
        .map_err(|_| FetchError::Silent {
            url: url.to_owned(),
            seconds: limits.silence.as_secs(),
        })?
        .map_err(|source| FetchError::Transport {
            url: url.to_owned(),
            source: source.without_url(),
        })
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
