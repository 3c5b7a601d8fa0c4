//! The rules of the repository that no compiler checks.
//!
//! Each rule is a function over text that returns what is wrong, and has a test that shows it can fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program: a panic is its way to fail"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Module, and the modules of ours that it may name. Modules that are not listed may name no others.
const LAYERS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("outcome", &[]),
    ("wire", &["spec", "tree"]),
    ("spec", &["outcome"]),
    ("env", &["outcome", "spec"]),
    ("tree", &["sys"]),
    ("policy", &[]),
    ("plan", &["spec", "wire", "policy"]),
    ("jail", &["sys", "wire", "tree", "policy"]),
    (
        "host",
        &[
            "sys", "wire", "outcome", "spec", "env", "plan", "tree", "policy", "net", "packages",
        ],
    ),
    ("image", &["host", "spec", "env", "tree"]),
    ("overhead", &["host", "image", "spec", "env", "plan"]),
    ("llm", &[]),
    ("trajectory", &["outcome", "env", "spec", "llm"]),
    ("agent", &["llm", "trajectory", "outcome", "env", "spec"]),
    ("settings", &["llm"]),
    ("net", &["sys", "outcome"]),
    ("packages", &["sys", "net"]),
    ("reward", &[]),
    ("hub", &["llm"]),
    ("task", &["agent", "reward", "hub"]),
    (
        "bench",
        &[
            "task",
            "hub",
            "reward",
            "agent",
            "llm",
            "trajectory",
            "outcome",
            "env",
            "spec",
        ],
    ),
];

/// Modules at the top, free to name everything.
const TOP: &[&str] = &["lib", "main", "cli", "fuzz"];

/// Module, and outside names that must not appear in it.
const BANNED: &[(&str, &[&str])] = &[
    ("plan", &["std::fs", "tokio", "reqwest", "tracing"]),
    ("policy", &["std::fs", "tokio", "reqwest", "tracing"]),
    ("jail", &["tokio", "reqwest", "tracing"]),
    ("net", &["tokio", "reqwest"]),
    ("sys", &["tokio", "reqwest", "tracing"]),
    ("wire", &["tokio", "reqwest", "tracing"]),
    ("spec", &["tokio", "reqwest"]),
    ("env", &["tokio", "reqwest"]),
    ("agent", &["reqwest"]),
    ("reward", &["std::fs", "tokio", "reqwest", "tracing"]),
    ("hub", &["tracing"]),
    ("task", &["tokio", "reqwest"]),
    ("bench", &["reqwest"]),
];

/// Lines before the tests of a file: aim for 400.
const MAX_LINES: usize = 450;

struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// `host` for `src/host/shell.rs` and `src/host.rs`; nothing for files outside `src/`.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        rest.split('/').next()?.split('.').next()
    }

    fn is_test_file(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
            || self.path.contains("/tests/")
    }

    /// What is compiled into the product: without the inline tests at the end.
    fn production(&self) -> &str {
        if self.is_test_file() {
            return "";
        }
        let end = self
            .text
            .match_indices("#[cfg(test)]")
            .find(|(at, mark)| {
                self.text[at + mark.len()..]
                    .trim_start()
                    .starts_with("mod ")
            })
            .map_or(self.text.len(), |(at, _)| at);
        &self.text[..end]
    }
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name)
    })
}

/// The modules named by `crate::…` paths, one level of braces included.
fn named_modules(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for (at, mark) in code.match_indices("crate::") {
        if code[..at].ends_with(is_name) {
            continue;
        }
        let rest = &code[at + mark.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(rest.chars().take_while(|c| is_name(*c)).collect());
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.insert(std::mem::take(&mut item));
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        names.insert(item);
    }
    names
        .iter()
        .map(|name| name.trim().chars().take_while(|c| is_name(*c)).collect())
        .filter(|name: &String| name.starts_with(|c: char| c.is_lowercase()))
        .collect()
}

fn layering(source: &Source) -> Vec<String> {
    let Some(module) = source.module().filter(|m| !TOP.contains(m)) else {
        return Vec::new();
    };
    let allowed = LAYERS
        .iter()
        .find(|(name, _)| *name == module)
        .map_or(&[][..], |(_, allowed)| allowed);
    let mut wrong: Vec<String> = named_modules(source.production())
        .into_iter()
        .filter(|name| name != module && !allowed.contains(&name.as_str()))
        .map(|name| format!("{}: {module} must not name crate::{name}", source.path))
        .collect();
    let banned = BANNED
        .iter()
        .filter(|(name, _)| *name == module)
        .flat_map(|(_, banned)| *banned);
    for name in banned {
        if source.production().lines().any(|l| has_word(code(l), name)) {
            wrong.push(format!("{}: {module} must not use {name}", source.path));
        }
    }
    wrong
}

fn unsafe_code(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        // The keyword, not the word: strings and texts may speak of it.
        let marks = ["{", "fn ", "impl ", "trait ", "extern "];
        let before_strings = code(line).split('"').next().unwrap_or("");
        let found = marks
            .iter()
            .any(|mark| before_strings.contains(&format!("unsafe {mark}")));
        if !found {
            continue;
        }
        let place = format!("{}:{}", source.path, at + 1);
        if source.module() != Some("sys") {
            wrong.push(format!("{place}: unsafe outside src/sys"));
        }
        let is_block = code(line).contains("unsafe {") || code(line).contains("unsafe impl");
        // The reason stands right above, with nothing but the start of the same statement between.
        let explained = lines
            .iter()
            .take(at + 1)
            .skip(at.saturating_sub(8))
            .any(|l| l.contains("SAFETY:"));
        if is_block && !explained {
            wrong.push(format!("{place}: no SAFETY comment"));
        }
    }
    wrong
}

fn size(source: &Source) -> Vec<String> {
    let lines = source.production().lines().count();
    if lines > MAX_LINES {
        return vec![format!(
            "{}: {lines} lines before the tests, at most {MAX_LINES}",
            source.path
        )];
    }
    Vec::new()
}

fn leftovers(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    // Written in two parts, so that this file passes its own rule.
    let attributes = [concat!("#[ign", "ore"), concat!("#[should_", "panic")];
    let calls = [
        concat!("tod", "o!("),
        concat!("unimpl", "emented!("),
        concat!("db", "g!("),
    ];
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    for (at, line) in source.text.lines().enumerate() {
        let place = format!("{}:{}", source.path, at + 1);
        let rust = source.path.ends_with(".rs");
        for name in attributes.iter().chain(&calls).filter(|_| rust) {
            if line.contains(name) {
                wrong.push(format!("{place}: {name} is not used here"));
            }
        }
        for name in places {
            // `some/work/dir` is fine, the absolute path of somebody's machine is not.
            let absolute = line
                .match_indices(name)
                .any(|(at, _)| !line[..at].ends_with(|c: char| is_name(c) || "./}*".contains(c)));
            if absolute {
                wrong.push(format!("{place}: a path of one machine ({name})"));
            }
        }
    }
    wrong
}

/// Every ADR has its number, the four parts, and a line in the index.
fn adrs(index: &str, files: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let name = file.path.rsplit('/').next().unwrap_or("");
        if !name.starts_with(&format!("{:04}-", at + 1)) {
            wrong.push(format!("{name}: number {:04} expected", at + 1));
        }
        if !index.contains(&format!("({name})")) {
            wrong.push(format!("{name}: not in the index"));
        }
        for part in [
            "## Context",
            "## Decision",
            "## Consequences",
            "## Revisit when",
        ] {
            if !file.text.contains(part) {
                wrong.push(format!("{name}: no part \"{part}\""));
            }
        }
        if file.text.lines().count() > 40 {
            wrong.push(format!("{name}: more than 40 lines"));
        }
    }
    wrong
}

/// Environment variables of ours that the sources read.
fn variables(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for prefix in ["LLM_", "LIS_"] {
        for (at, _) in text.match_indices(prefix) {
            if text[..at].ends_with(is_name) {
                continue;
            }
            let name: String = text[at..]
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
                .collect();
            if name.len() > prefix.len() && !name.ends_with('_') {
                names.insert(name);
            }
        }
    }
    names
}

fn undocumented_variables(sources: &[Source], docs: &str) -> Vec<String> {
    let known = variables(docs);
    sources
        .iter()
        .flat_map(|source| {
            variables(source.production())
                .into_iter()
                .map(|name| (name, &source.path))
        })
        .filter(|(name, _)| !known.contains(name))
        .map(|(name, path)| format!("{path}: {name} is in neither README.md nor docs/"))
        .collect()
}

/// Names in the dependency tables of a manifest.
fn direct_dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            inside = table.trim_end().ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside) {
            let name = name.trim().split('.').next().unwrap_or("").trim();
            if !name.is_empty() && !name.starts_with('#') {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

fn unexplained_dependencies(manifest: &str, docs: &str) -> Vec<String> {
    direct_dependencies(manifest)
        .into_iter()
        .filter(|name| !docs.contains(&format!("`{name}`")))
        .map(|name| format!("{name}: no line in docs/dependencies.md"))
        .collect()
}

fn changelog(text: &str) -> Vec<String> {
    if text.contains("## [Unreleased]") || text.contains("\n## [") {
        return Vec::new();
    }
    vec!["CHANGELOG.md: no section of a version".to_owned()]
}

// The repository.

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn walk(dir: &Path, extensions: &[&str], found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let wanted = path
            .extension()
            .is_some_and(|e| extensions.iter().any(|wanted| e == *wanted));
        if path.is_dir() {
            walk(&path, extensions, found);
        } else if wanted {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
            found.push(Source::new(name, &read(name)));
        }
    }
}

fn files(dirs: &[&str], extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for dir in dirs {
        walk(&root().join(dir), extensions, &mut found);
    }
    found
}

fn docs() -> String {
    let mut text = read("README.md");
    for file in files(&["docs"], &["md"]) {
        text.push_str(&file.text);
    }
    text
}

fn assert_clean(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn check_each(sources: &[Source], rule: fn(&Source) -> Vec<String>) {
    assert!(!sources.is_empty());
    assert_clean(&sources.iter().flat_map(rule).collect::<Vec<_>>());
}

#[test]
fn layers_name_only_lower_layers() {
    check_each(&files(&["src"], &["rs"]), layering);
}

#[test]
fn unsafe_code_is_in_sys_and_explained() {
    check_each(
        &files(&["src", "rootfs-builder", "tests", "benches"], &["rs"]),
        unsafe_code,
    );
}

#[test]
fn files_stay_small() {
    check_each(&files(&["src", "rootfs-builder"], &["rs"]), size);
}

#[test]
fn nothing_is_left_over() {
    let dirs = [
        "src",
        "rootfs-builder",
        "tests",
        "benches",
        "scripts",
        "docs",
    ];
    let kinds = ["rs", "md", "sh", "py", "toml", "yaml", "jinja"];
    let mut sources = files(&dirs, &kinds);
    for name in ["README.md", "CHANGELOG.md", "Cargo.toml", "justfile"] {
        sources.push(Source::new(name, &read(name)));
    }
    check_each(&sources, leftovers);
}

#[test]
fn decisions_are_numbered_and_indexed() {
    let (index, files): (Vec<_>, Vec<_>) = files(&["docs/adr"], &["md"])
        .into_iter()
        .partition(|file| file.path.ends_with("README.md"));
    assert_eq!(index.len(), 1);
    assert!(!files.is_empty());
    assert_clean(&adrs(&index[0].text, &files));
}

#[test]
fn environment_variables_are_documented() {
    assert_clean(&undocumented_variables(
        &files(&["src", "rootfs-builder/src"], &["rs"]),
        &docs(),
    ));
}

#[test]
fn dependencies_are_explained() {
    let docs = read("docs/dependencies.md");
    for manifest in ["Cargo.toml", "rootfs-builder/Cargo.toml"] {
        assert_clean(&unexplained_dependencies(&read(manifest), &docs));
    }
}

#[test]
fn the_changelog_has_a_section() {
    assert_clean(&changelog(&read("CHANGELOG.md")));
}

/// Each rule meets text that breaks it.
mod rules_can_fail {
    use super::*;

    #[test]
    fn layering_sees_paths_braces_and_banned_crates() {
        let of = |path, text| layering(&Source::new(path, text)).len();
        assert_eq!(of("src/host/a.rs", "use crate::jail::apply;"), 1);
        assert_eq!(
            of("src/host.rs", "use crate::{sys, agent::{A, B}, jail};"),
            2
        );
        assert_eq!(of("src/plan/mod.rs", "fn f() { std::fs::read(p) }"), 1);
        assert_eq!(of("src/jail/a.rs", "use tokio::net::UnixStream;"), 1);
        assert_eq!(of("src/newcomer.rs", "use crate::host::Sandbox;"), 1);
        assert_eq!(of("src/host/a.rs", "use crate::{sys, wire::Ops};"), 0);
        assert_eq!(of("src/host/a.rs", "//! See [`crate::jail`]."), 0);
        assert_eq!(of("src/cli/run.rs", "use crate::agent::run;"), 0);
        assert_eq!(
            of(
                "src/plan/a.rs",
                "#[cfg(test)]\nmod tests { use crate::host; }"
            ),
            0
        );
    }

    #[test]
    fn unsafe_needs_its_place_and_its_reason() {
        let of = |path, text| unsafe_code(&Source::new(path, text)).len();
        assert_eq!(of("src/host/a.rs", "// SAFETY: no\nunsafe { f() }"), 1);
        assert_eq!(of("src/sys/a.rs", "let x = unsafe { f() };"), 1);
        assert_eq!(
            of(
                "src/sys/a.rs",
                "// SAFETY: f has no preconditions.\nunsafe { f() }"
            ),
            0
        );
        assert_eq!(
            of("src/host/a.rs", "// no unsafe here\nlet unsafely = 1;"),
            0
        );
    }

    #[test]
    fn size_counts_lines_before_the_tests() {
        let long = "fn f() {}\n".repeat(MAX_LINES + 1);
        assert_eq!(size(&Source::new("src/a.rs", &long)).len(), 1);
        let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}");
        assert_eq!(size(&Source::new("src/a.rs", &tests)).len(), 0);
        let helper = format!("#[cfg(test)]\nfn g() {{}}\n{long}");
        assert_eq!(size(&Source::new("src/a.rs", &helper)).len(), 1);
    }

    #[test]
    fn leftovers_are_seen() {
        let of = |path, text: &str| leftovers(&Source::new(path, text)).len();
        assert_eq!(of("src/a.rs", concat!("tod", "o!()")), 1);
        assert_eq!(of("src/a.rs", concat!("#[ign", "ore]")), 1);
        assert_eq!(
            of("README.md", concat!("cd /wo", "rk/x && ls /ho", "me/y")),
            2
        );
        assert_eq!(of("README.md", "target/work/x"), 0);
    }

    #[test]
    fn decisions_need_number_parts_and_index() {
        let text = "# t\n## Context\n## Decision\n## Consequences\n## Revisit when\n";
        let good = Source::new("docs/adr/0001-a.md", text);
        assert_eq!(adrs("- [a](0001-a.md)", &[good]).len(), 0);
        let bad = Source::new("docs/adr/0002-b.md", "# t\n## Context\n## Decision\n");
        assert_eq!(adrs("", &[bad]).len(), 4);
    }

    #[test]
    fn variables_must_be_in_the_docs() {
        let source = [Source::new("src/a.rs", "env = \"LLM_SECRET_SWITCH\"")];
        assert_eq!(undocumented_variables(&source, "`LLM_NAME`").len(), 1);
        assert_eq!(
            undocumented_variables(&source, "`LLM_SECRET_SWITCH`").len(),
            0
        );
    }

    #[test]
    fn dependencies_must_be_explained() {
        let manifest = "[dependencies]\nnix = \"1\"\nserde.workspace = true\n[lints]\nx = 1\n";
        assert_eq!(unexplained_dependencies(manifest, "`nix`: calls").len(), 1);
        assert_eq!(
            unexplained_dependencies(manifest, "`nix`, `serde`").len(),
            0
        );
    }

    #[test]
    fn an_empty_changelog_is_seen() {
        assert_eq!(changelog("# Changelog\n").len(), 1);
        assert_eq!(changelog("# Changelog\n\n## [Unreleased]\n").len(), 0);
    }
}
