//! Which files of a data set hold a split: what its card says, else what the names say. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

/// Kinds of file that can be read; only those of the first kind that is there are taken.
const ENDINGS: [&str; 5] = ["parquet", "jsonl", "json", "csv", "tsv"];
/// Splits that are meant when none is named, in this order.
const SPLITS: [&str; 2] = ["test", "train"];

/// The ending of a name, if such files can be read.
pub(super) fn ending(path: &str) -> Option<&'static str> {
    let (_, ending) = path.rsplit_once('.')?;
    ENDINGS.iter().find(|known| **known == ending).copied()
}

/// The files of a split, in order.
pub(super) fn files(
    all: &[String],
    configs: &Value,
    config: Option<&str>,
    split: Option<&str>,
) -> Vec<String> {
    let named = |split: &str| match entry(configs, config) {
        Some(entry) => by_card(all, entry, split),
        // Which of several is meant has to be said.
        None if config.is_none() && cards(configs) > 1 => Vec::new(),
        None => by_name(all, config, split),
    };
    first(split, named)
}

/// The same in a hub's own conversion: `CONFIG/SPLIT/0000.parquet`.
pub(super) fn converted(all: &[String], config: Option<&str>, split: Option<&str>) -> Vec<String> {
    let configs: BTreeSet<&str> = all
        .iter()
        .filter_map(|path| path.split('/').next())
        .collect();
    let only = (configs.len() == 1).then(|| configs.iter().next().copied());
    let config = config.or(only.flatten()).unwrap_or("default");
    first(split, |split| {
        let below = format!("{config}/{split}/");
        let mut files: Vec<String> = (all.iter())
            .filter(|path| path.starts_with(&below) && ending(path) == Some("parquet"))
            .cloned()
            .collect();
        files.sort();
        files
    })
}

/// What could have been named.
pub(super) fn known(all: &[String], configs: &Value) -> String {
    let names: Vec<&str> = (configs.as_array().into_iter().flatten())
        .filter_map(|entry| entry.get("config_name")?.as_str())
        .take(20)
        .collect();
    if !names.is_empty() {
        return format!("its configs are {}", names.join(", "));
    }
    let readable = all.iter().filter(|path| ending(path).is_some());
    let readable: Vec<&str> = readable.take(20).map(String::as_str).collect();
    match readable.is_empty() {
        true => format!("none of its files ends in {}", ENDINGS.join(", ")),
        false => format!("its files are {}", readable.join(", ")),
    }
}

fn first(split: Option<&str>, named: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    match split {
        Some(split) => named(split),
        None => (SPLITS.iter().map(|split| named(split)))
            .find(|files| !files.is_empty())
            .unwrap_or_default(),
    }
}

/// How many configs the card says something of.
fn cards(configs: &Value) -> usize {
    let all = configs.as_array().into_iter().flatten();
    all.filter(|entry| entry.get("data_files").is_some())
        .count()
}

/// What the card says of a config; of the only one, or the default, where none is named.
fn entry<'a>(configs: &'a Value, config: Option<&str>) -> Option<&'a Value> {
    let all = configs.as_array()?;
    let name = |entry: &Value| {
        entry
            .get("config_name")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let wanted = config.unwrap_or("default");
    let named = all
        .iter()
        .find(|entry| name(entry).as_deref() == Some(wanted));
    let is_default = |entry: &&Value| entry.get("default") == Some(&Value::Bool(true));
    let found = named.or_else(|| match config {
        Some(_) => None,
        None => (all.iter().find(is_default)).or_else(|| all.first().filter(|_| all.len() == 1)),
    })?;
    found.get("data_files").is_some().then_some(found)
}

/// `data_files`: patterns of the training split, or a list of splits with their patterns.
fn by_card(all: &[String], entry: &Value, split: &str) -> Vec<String> {
    let texts = |value: &Value| -> Vec<String> {
        let many = value.as_array().into_iter().flatten();
        let one = std::iter::once(value);
        (one.chain(many).filter_map(Value::as_str).map(str::to_owned)).collect()
    };
    let Some(files) = entry.get("data_files") else {
        return Vec::new();
    };
    let mut patterns = if split == "train" {
        texts(files)
    } else {
        Vec::new()
    };
    for part in files.as_array().into_iter().flatten() {
        if part.get("split").and_then(Value::as_str) == Some(split) {
            patterns.extend(part.get("path").map(texts).unwrap_or_default());
        }
    }
    let mut chosen = Vec::new();
    for pattern in patterns {
        let mut found: Vec<&String> = (all.iter())
            .filter(|path| ending(path).is_some() && matches(&pattern, path))
            .collect();
        found.sort();
        for path in found {
            if !chosen.contains(path) {
                chosen.push(path.clone());
            }
        }
    }
    chosen
}

/// Files whose path has the split as a word, below a directory of the config's name where one is named.
fn by_name(all: &[String], config: Option<&str>, split: &str) -> Vec<String> {
    let words = |path: &str| -> Vec<String> {
        let words = path.split(|c: char| !c.is_alphanumeric());
        words.map(str::to_lowercase).collect()
    };
    let in_config = |path: &&String| match config {
        None | Some("default") => true,
        Some(config) => path
            .rsplit_once('/')
            .is_some_and(|(directory, _)| directory.split('/').any(|part| part == config)),
    };
    let hidden = |path: &str| path.split('/').any(|part| part.starts_with(['.', '_']));
    for kind in ENDINGS {
        let candidates: Vec<&String> = (all.iter().filter(in_config))
            .filter(|path| ending(path) == Some(kind) && !hidden(path))
            .collect();
        let has = |path: &str, split: &str| words(path).iter().any(|word| word == split);
        let mut files: Vec<String> = candidates
            .iter()
            .filter(|path| has(path, split))
            .map(|path| (*path).clone())
            .collect();
        // Files that name no split are the training split.
        let named = |path: &&String| {
            ["train", "test", "validation", "dev"]
                .iter()
                .any(|s| has(path, s))
        };
        if files.is_empty() && split == "train" && !candidates.iter().any(named) {
            files = candidates.into_iter().cloned().collect();
        }
        if !files.is_empty() {
            files.sort();
            return files;
        }
    }
    Vec::new()
}

/// `*` is anything within a directory, `**` anything, `?` one character. A table, so that no pattern takes for ever.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.trim_start_matches("./").as_bytes(), path.as_bytes());
    // `at[j]`: the pattern so far matches the first j bytes of the path.
    let mut at = vec![false; path.len() + 1];
    if let Some(first) = at.first_mut() {
        *first = true;
    }
    let mut rest = pattern;
    while let [byte, tail @ ..] = rest {
        (at, rest) = match (byte, tail) {
            // `a/**/b` is also `a/b`.
            (b'*', [b'*', b'/', beyond @ ..]) => {
                let below = step(&any(&at, path, true), path, |c| c == b'/');
                let either = below.iter().zip(&at).map(|(below, here)| *below || *here);
                (either.collect(), beyond)
            }
            (b'*', [b'*', beyond @ ..]) => (any(&at, path, true), beyond),
            (b'*', beyond) => (any(&at, path, false), beyond),
            (b'?', beyond) => (step(&at, path, |c| c != b'/'), beyond),
            (byte, beyond) => (step(&at, path, |c| c == *byte), beyond),
        };
    }
    at.last() == Some(&true)
}

/// One byte further.
fn step(at: &[bool], path: &[u8], fits: impl Fn(u8) -> bool) -> Vec<bool> {
    let mut next = vec![false];
    next.extend(at.iter().zip(path).map(|(here, byte)| *here && fits(*byte)));
    next
}

/// Any number of bytes further.
fn any(at: &[bool], path: &[u8], deep: bool) -> Vec<bool> {
    let mut next = Vec::with_capacity(at.len());
    let mut reached = false;
    for (place, here) in at.iter().enumerate() {
        let crossed = place.checked_sub(1).and_then(|before| path.get(before)) == Some(&b'/');
        reached = *here || (reached && (deep || !crossed));
        next.push(reached);
    }
    next
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn patterns_match_as_those_of_data_sets() {
        for (pattern, path, fits) in [
            ("data/test-*", "data/test-00000-of-00001.parquet", true),
            ("data/test-*", "data/deep/test-0.parquet", false),
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", "a/b.jsonl", false),
            ("**/*.jsonl", "a/b/c.jsonl", true),
            ("**/*.jsonl", "c.jsonl", true),
            ("**", "a/b", true),
            ("a/**/b.csv", "a/b.csv", true),
            ("a/**/b.csv", "a/x/y/b.csv", true),
            ("a/**", "a/x/y.csv", true),
            ("a?.csv", "ab.csv", true),
            ("a?.csv", "a/.csv", false),
            ("./a.csv", "a.csv", true),
            ("a.csv", "a.csvx", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, path), fits, "{pattern} {path}");
        }
        let long = "a".repeat(1000);
        assert!(!matches(&"*a".repeat(400), &format!("{long}b")));
    }

    #[test]
    fn the_card_decides_where_it_says_something() {
        let all = list(&[
            "math/test.parquet",
            "chem/test.parquet",
            "README.md",
            "x/train.jsonl",
        ]);
        let configs = json!([
            {"config_name": "math", "data_files": [{"split": "test", "path": "math/test*"}]},
            {"config_name": "chem", "data_files": [{"split": "test", "path": ["chem/*", "math/*"]}]},
            {"config_name": "plain", "data_files": "x/*"},
        ]);
        let of = |config, split| files(&all, &configs, Some(config), split);
        assert_eq!(of("math", Some("test")), ["math/test.parquet"]);
        assert_eq!(of("math", None), ["math/test.parquet"]);
        assert_eq!(
            of("chem", Some("test")),
            ["chem/test.parquet", "math/test.parquet"]
        );
        assert_eq!(of("plain", None), ["x/train.jsonl"]);
        assert!(of("math", Some("train")).is_empty());
        // None of them is the default one.
        assert!(files(&all, &configs, None, None).is_empty());
        let mut with_default = configs.clone();
        with_default[1]["default"] = json!(true);
        assert_eq!(
            files(&all, &with_default, None, None),
            ["chem/test.parquet", "math/test.parquet"]
        );
        assert!(known(&all, &configs).contains("math, chem, plain"));
    }

    #[test]
    fn names_tell_the_split_where_no_card_does() {
        let none = Value::Null;
        let all = list(&[
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
            "train.jsonl",
            ".hidden/test.parquet",
        ]);
        let of = |split| files(&all, &none, None, Some(split));
        assert_eq!(
            of("train"),
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet"
            ]
        );
        assert_eq!(of("test"), ["data/test-00000-of-00001.parquet"]);
        assert!(of("validation").is_empty());
        let all = list(&["main/rows.jsonl", "other/rows.jsonl"]);
        assert_eq!(
            files(&all, &none, Some("main"), Some("train")),
            ["main/rows.jsonl"]
        );
        assert!(files(&all, &none, Some("third"), None).is_empty());
        assert!(known(&list(&["a.bin"]), &none).contains("none of its files"));
    }

    #[test]
    fn the_conversion_has_a_directory_for_each() {
        let all = list(&[
            "default/test/0001.parquet",
            "default/test/0000.parquet",
            "default/train/0000.parquet",
        ]);
        assert_eq!(
            converted(&all, None, None),
            ["default/test/0000.parquet", "default/test/0001.parquet"]
        );
        assert!(converted(&all, Some("x"), None).is_empty());
    }
}
