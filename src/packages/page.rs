//! The page of a project: read as HTML (PEP 503) or JSON (PEP 691), written as either, with our own addresses of its files.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use super::address::bare;

/// Files of one project.
const MAX_FILES: usize = 50_000;
/// What a page is asked for as.
pub(super) const ACCEPTED: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.2, application/vnd.pypi.simple.v1+html;q=0.2";
pub(super) const JSON: &str = "application/vnd.pypi.simple.v1+json";
pub(super) const HTML: &str = "text/html; charset=utf-8";

/// A page.
#[derive(Debug, Default)]
pub(super) struct Page {
    files: Vec<File>,
    by_digest: HashMap<String, usize>,
    html: OnceLock<Arc<str>>,
    json: OnceLock<Arc<str>>,
}

/// A file of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    name: String,
    pub url: Url,
    /// Without one it is not ours to serve.
    sha256: Option<String>,
    /// Of the metadata beside it (PEP 658).
    pub metadata: Option<String>,
    requires_python: Option<String>,
    /// Why it should not be used (PEP 592).
    yanked: Option<String>,
    size: Option<u64>,
    upload_time: Option<String>,
}

#[derive(Deserialize)]
struct Listing {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Listed {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    requires_python: Option<String>,
    #[serde(default)]
    yanked: Value,
    #[serde(
        default,
        alias = "data-dist-info-metadata",
        alias = "dist-info-metadata"
    )]
    core_metadata: Value,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    upload_time: Option<String>,
}

impl Page {
    /// Reads what came from `url`; nothing for what is no page.
    pub(super) fn read(url: &Url, kind: &str, text: &str) -> Option<Self> {
        let files = if kind.contains("json") {
            read_json(url, text)?
        } else {
            read_html(url, text)
        };
        let digests = files.iter().enumerate();
        let by_digest = digests
            .filter_map(|(at, file)| Some((file.sha256.clone()?, at)))
            .collect();
        Some(Self {
            files,
            by_digest,
            ..Self::default()
        })
    }

    pub(super) fn file(&self, sha256: &str) -> Option<&File> {
        self.files.get(*self.by_digest.get(sha256)?)
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// With our addresses, which begin with `base`.
    pub(super) fn html(&self, base: &str) -> Arc<str> {
        let write = || {
            let mut text = String::from(
                "<!DOCTYPE html>\n<html><head><meta name=\"pypi:repository-version\" content=\"1.0\"></head><body>\n",
            );
            for file in &self.files {
                file.write_anchor(&mut text, base);
            }
            text.push_str("</body></html>\n");
            text.into()
        };
        Arc::clone(self.html.get_or_init(write))
    }

    /// See [`Page::html`].
    pub(super) fn json(&self, project: &str, base: &str) -> Arc<str> {
        let write = || {
            let files: Vec<_> = self.files.iter().map(|file| file.json(base)).collect();
            json!({ "meta": { "api-version": "1.0" }, "name": project, "files": files })
                .to_string()
                .into()
        };
        Arc::clone(self.json.get_or_init(write))
    }
}

impl File {
    /// Only what can be checked is passed through us.
    fn address(&self, base: &str) -> String {
        match &self.sha256 {
            Some(sha256) => format!("{base}{sha256}/{}", escaped(&self.name)),
            None => bare(&self.url),
        }
    }

    fn write_anchor(&self, text: &mut String, base: &str) {
        let digest = |sha256: &String| format!("sha256={sha256}");
        let fragment = self
            .sha256
            .as_ref()
            .map_or_else(String::new, |sha256| format!("#{}", digest(sha256)));
        let attributes = [
            ("href", Some(self.address(base) + &fragment)),
            ("data-requires-python", self.requires_python.clone()),
            ("data-yanked", self.yanked.clone()),
            (
                "data-dist-info-metadata",
                self.metadata.as_ref().map(digest),
            ),
            ("data-core-metadata", self.metadata.as_ref().map(digest)),
        ];
        text.push_str("<a");
        for (name, value) in attributes {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = write!(text, " {name}=\"{}\"", quoted(&value));
            }
        }
        let _ = writeln!(text, ">{}</a><br>", quoted(&self.name));
    }

    fn json(&self, base: &str) -> Value {
        let digest = |sha256: &String| json!({ "sha256": sha256 });
        let mut file = json!({
            "filename": self.name,
            "url": self.address(base),
            "hashes": self.sha256.as_ref().map_or_else(|| json!({}), digest),
            "requires-python": self.requires_python,
            "yanked": match self.yanked.as_deref() {
                None => Value::Bool(false),
                Some("") => Value::Bool(true),
                Some(reason) => reason.into(),
            },
            "core-metadata": self.metadata.as_ref().map_or(Value::Bool(false), digest),
        });
        if let Value::Object(members) = &mut file {
            members.extend(self.size.map(|size| ("size".to_owned(), size.into())));
            let time = self.upload_time.clone();
            members.extend(time.map(|time| ("upload-time".to_owned(), time.into())));
        }
        file
    }
}

fn read_json(url: &Url, text: &str) -> Option<Vec<File>> {
    let listing: Listing = serde_json::from_str(text).ok()?;
    let file = |listed: Listed| {
        let digest = |value: &Value| digest(value.get("sha256")?.as_str()?);
        Some(File {
            name: file_name(&listed.filename)?,
            url: fetchable(url.join(&listed.url).ok()?)?,
            sha256: listed
                .hashes
                .get("sha256")
                .and_then(|text| self::digest(text)),
            metadata: digest(&listed.core_metadata),
            requires_python: listed.requires_python,
            yanked: match listed.yanked.as_str() {
                Some(reason) => Some(reason.to_owned()),
                None => (listed.yanked == true).then(String::new),
            },
            size: listed.size,
            upload_time: listed.upload_time,
        })
    };
    let files = listing.files.into_iter().take(MAX_FILES);
    Some(files.filter_map(file).collect())
}

fn read_html(url: &Url, text: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<a") {
        rest = after;
        if !after.starts_with(|c: char| c.is_ascii_whitespace()) {
            continue;
        }
        let (attributes, after) = attributes(after);
        rest = after;
        let name = after.split('<').next().unwrap_or("");
        files.extend(anchor(url, &attributes, &unquoted(name.trim())));
        if files.len() >= MAX_FILES {
            break;
        }
    }
    files
}

fn anchor(url: &Url, attributes: &HashMap<String, String>, name: &str) -> Option<File> {
    let mut target = url.join(attributes.get("href")?.trim()).ok()?;
    let sha256 = target
        .fragment()
        .and_then(|fragment| digest(fragment.strip_prefix("sha256=")?));
    target.set_fragment(None);
    let metadata = ["data-core-metadata", "data-dist-info-metadata"]
        .iter()
        .find_map(|name| digest(attributes.get(*name)?.strip_prefix("sha256=")?));
    Some(File {
        name: file_name(name)?,
        url: fetchable(target)?,
        sha256,
        metadata,
        requires_python: attributes.get("data-requires-python").cloned(),
        yanked: attributes.get("data-yanked").cloned(),
        size: None,
        upload_time: None,
    })
}

/// The attributes of a tag, and what follows it.
fn attributes(mut text: &str) -> (HashMap<String, String>, &str) {
    let mut found = HashMap::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return (found, "");
        }
        if let Some(rest) = text.strip_prefix('>') {
            return (found, rest);
        }
        let ends = |c: char| matches!(c, '=' | '>') || c.is_whitespace();
        let end = text.find(ends).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let Some(rest) = rest.trim_start().strip_prefix('=') else {
            // A slash, or an attribute without value.
            found.entry(name.to_ascii_lowercase()).or_default();
            // What is left of nothing: never the same place twice.
            text = if end == 0 {
                rest.get(1..).unwrap_or("")
            } else {
                rest
            };
            continue;
        };
        let rest = rest.trim_start();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, rest) = match quote {
            Some(quote) => rest[1..].split_once(quote).unwrap_or((&rest[1..], "")),
            None => rest.split_at(
                rest.find(|c: char| c == '>' || c.is_whitespace())
                    .unwrap_or(rest.len()),
            ),
        };
        found
            .entry(name.to_ascii_lowercase())
            .or_insert_with(|| unquoted(value));
        text = rest;
    }
}

/// Of what is fetched for sandboxes.
fn fetchable(mut url: Url) -> Option<Url> {
    // Its password, if any, is that of the index and is added where it goes.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// The digest, when it is one.
pub(super) fn digest(text: &str) -> Option<String> {
    let hexadecimal = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then(|| text.to_ascii_lowercase())
}

fn file_name(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte);
    let good = (1..=255).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.');
    good.then(|| text.to_owned())
}

/// In a path, where clients differ about these.
fn escaped(name: &str) -> String {
    name.replace('+', "%2B").replace('!', "%21")
}

fn quoted(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn unquoted(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#x27;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("https://me:secret@index.example/simple/six/").unwrap()
    }

    #[test]
    fn both_kinds_of_pages_are_read_alike_and_lead_to_us() {
        let (one, other) = ("a".repeat(64), "B".repeat(64));
        let html = format!(
            "<!DOCTYPE html><html><body><h1>Links</h1><abbr>x</abbr>\n\
             <a href=\"../../files/six-1.0+l-py3-none-any.whl#sha256={one}\" data-requires-python=\"&gt;=3.8,&lt;4\" data-core-metadata=\"sha256={other}\">six-1.0+l-py3-none-any.whl</a>\n\
             <a data-yanked=\"\" href='https://files.example/six-0.9.tar.gz#md5=0123'\n >six-0.9.tar.gz</a><br/>\n\
             <a href=\"javascript:x\">six-x.whl</a><a href=\"/../../etc/passwd#sha256={one}\">../passwd</a>"
        );
        let json = json!({ "meta": { "api-version": "1.1" }, "name": "six", "versions": [], "files": [
            { "filename": "six-1.0+l-py3-none-any.whl", "url": "../../files/six-1.0+l-py3-none-any.whl", "hashes": { "sha256": one, "md5": "x" },
              "requires-python": ">=3.8,<4", "core-metadata": { "sha256": other }, "yanked": false },
            { "filename": "six-0.9.tar.gz", "url": "https://files.example/six-0.9.tar.gz", "hashes": { "md5": "0123" }, "yanked": true },
            { "filename": "six-x.whl", "url": "ftp://files.example/x" },
        ]});
        let html = Page::read(&base(), "text/html", &html).unwrap();
        let json = Page::read(&base(), JSON, &json.to_string()).unwrap();
        assert_eq!(html.files, json.files);
        assert_eq!(html.files.len(), 2);
        let file = html.file(&one).unwrap();
        assert_eq!(
            file.url.as_str(),
            "https://index.example/files/six-1.0+l-py3-none-any.whl"
        );
        assert_eq!(file.metadata, Some("b".repeat(64)));
        assert!(html.file(&"c".repeat(64)).is_none());
        let text = html.html("/0/files/six/");
        assert!(text.contains(&format!(
            "<a href=\"/0/files/six/{one}/six-1.0%2Bl-py3-none-any.whl#sha256={one}\" data-requires-python=\"&gt;=3.8,&lt;4\""
        )), "{text}");
        // What has no digest is the client's to fetch.
        assert!(
            text.contains("<a href=\"https://files.example/six-0.9.tar.gz\" data-yanked=\"\">"),
            "{text}"
        );
        let again = Page::read(&base(), "text/html", &text).unwrap();
        assert_eq!(again.files.len(), 2);
        let listing: Value = serde_json::from_str(&json.json("six", "/0/files/six/")).unwrap();
        assert_eq!(listing["files"][0]["hashes"]["sha256"], one);
        assert!(!format!("{text}{listing}").contains("secret"));
    }

    #[test]
    fn what_is_broken_ends() {
        for text in [
            "<a",
            "<a ",
            "<a href",
            "<a href=",
            "<a href=\"",
            "<a =",
            "<a = >",
            "<a / />",
            "<a \u{a0}=x",
            "<a href='é",
        ] {
            assert!(
                Page::read(&base(), "text/html", text)
                    .unwrap()
                    .files
                    .is_empty(),
                "{text}"
            );
        }
        assert!(Page::read(&base(), JSON, "[]").is_none());
        assert!(Page::read(&base(), JSON, "{\"files\":[{}]}").is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_page_is_read_to_its_end(text in "(<a|href|=|\"|'|>|</a>|[ a-zé#/.&;:\n]){0,60}") {
            if let Some(page) = Page::read(&base(), "text/html", &text) {
                let again = Page::read(&base(), "text/html", &page.html("/0/files/x/")).unwrap();
                proptest::prop_assert_eq!(again.files.len(), page.files.len());
            }
        }
    }
}
