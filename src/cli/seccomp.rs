//! `--seccomp default|strict|FILE`.

use std::io::Read;

use crate::plan;
use crate::spec::Seccomp;

/// Largest profile: every call there is takes 10 KiB.
const MAX_BYTES: u64 = 64 << 10;

/// Reads a profile and checks it. A file has `deny`, a list of names of calls, and may have `strict`;
/// there is no key that would loosen.
pub(super) fn profile(text: &str) -> Result<Seccomp, String> {
    match text {
        "default" => return Ok(Seccomp::default()),
        "strict" => {
            return Ok(Seccomp {
                strict: true,
                ..Seccomp::default()
            });
        }
        _ => {}
    }
    let mut content = String::new();
    std::fs::File::open(text)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut content))
        .map_err(|e| format!("{text} is not `default` or `strict`, and as a file: {e}"))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(format!("{text} is larger than {MAX_BYTES} bytes"));
    }
    let seccomp: Seccomp = toml::from_str(&content).map_err(|e| {
        format!(
            "{text} holds more than `deny` and `strict`: {}",
            e.message()
        )
    })?;
    plan::profile(&seccomp).map_err(|e| format!("{text}: {e}"))?;
    Ok(seccomp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &str) -> Result<Seccomp, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        profile(file.path().to_str().unwrap())
    }

    #[test]
    fn a_file_adds_and_nothing_else() {
        assert_eq!(of("deny = []"), Ok(Seccomp::default()));
        let denies = of("# no links\nstrict = true\ndeny = ['symlink', 'symlinkat']\n").unwrap();
        assert_eq!((denies.strict, denies.deny.len()), (true, 2));
        for (content, sign) in [
            ("allow = ['mount']", "allow"),
            ("default = 'allow'", "default"),
            ("deny = ['mont']", "mont"),
            ("deny = ['execve']", "execve"),
            ("deny = 'mount'", "deny"),
            ("{", "deny"),
        ] {
            let error = of(content).unwrap_err();
            assert!(error.contains(sign), "{content}: {error}");
        }
        assert!(of(&"#".repeat(1 << 20)).unwrap_err().contains("larger"));
    }

    #[test]
    fn names_are_names_and_the_rest_is_a_file() {
        assert!(profile("default").is_ok_and(|s| !s.strict));
        assert!(profile("strict").is_ok_and(|s| s.strict));
        assert!(profile("strikt").unwrap_err().contains("strikt"));
    }
}
