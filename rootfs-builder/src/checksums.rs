//! Lists of checksums as `sha256sum` writes them.

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name of the file.
    pub file: String,
    /// Its SHA-256 in lower-case hexadecimal digits.
    pub sha256: String,
}

/// Why a list does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no line of the checksum list matches `{pattern}`")]
pub struct ChecksumError {
    /// What was looked for.
    pub pattern: String,
}

/// The file that matches `pattern`, in which one `*` stands for anything; of several, the newest
/// by the numbers in its name.
///
/// # Errors
///
/// When none matches.
pub fn choose(list: &str, pattern: &str) -> Result<Listed, ChecksumError> {
    let (head, tail) = pattern
        .split_once('*')
        .map_or((pattern, None), |(head, tail)| (head, Some(tail)));
    let matches = |file: &str| match tail {
        Some(tail) => {
            file.len() >= head.len() + tail.len() && file.starts_with(head) && file.ends_with(tail)
        }
        None => file == head,
    };
    list.lines()
        .filter_map(line)
        .filter(|listed| matches(&listed.file))
        .max_by_key(|listed| numbers(&listed.file))
        .ok_or_else(|| ChecksumError {
            pattern: pattern.to_owned(),
        })
}

fn line(line: &str) -> Option<Listed> {
    let (sha256, file) = line.split_once(' ')?;
    // The character after the first space tells binary from text mode.
    let file = file.strip_prefix(['*', ' ']).unwrap_or(file);
    let valid = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    let plain = !file.is_empty() && !file.contains('/') && file != "..";
    (valid && plain).then(|| Listed {
        file: file.to_owned(),
        sha256: sha256.to_ascii_lowercase(),
    })
}

fn numbers(file: &str) -> Vec<u64> {
    file.split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_match_is_chosen_by_number() {
        let line = |digit: &str, file: &str| format!("{} *{file}\n", digit.repeat(64));
        let list = line("a", "base-24.04.9-amd64.tar.gz")
            + &line("b", "base-24.04.10-amd64.tar.gz")
            + &line("c", "base-24.04.11-arm64.tar.gz");
        let chosen = choose(&list, "base-24.04.*-amd64.tar.gz").unwrap();
        assert_eq!(
            (chosen.file.as_str(), chosen.sha256),
            ("base-24.04.10-amd64.tar.gz", "b".repeat(64))
        );
        assert!(choose(&list, "base-22.04.*-amd64.tar.gz").is_err());
        assert!(choose(&line("z", "file"), "file").is_err());
        assert!(choose(&line("a", "../file"), "*file").is_err());
    }
}
