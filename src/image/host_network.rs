//! What a sandbox needs of the host to use the host's network: names, certificates, proxies, indexes.
//!
//! Bound and passed at run time, never sealed into an image.

use std::path::{Path, PathBuf};

use crate::spec::BindMount;

/// Where the CA bundle of the host is shown inside, whatever becomes of the image's own.
const BUNDLE: &str = "/run/host/ca-certificates.crt";
/// Where distributions of the Debian family have theirs.
const DEBIAN_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where else a distribution may have one.
const BUNDLES: [&str; 4] = [
    DEBIAN_BUNDLE,
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// By which programs are told of a bundle: OpenSSL, Python, pip, curl, git, Node.js, Rust.
const BUNDLE_VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
];
/// Passed as they are.
const PASSED: [&str; 17] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
];

/// Where the host's CA bundle is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CaBundle {
    /// Beside the image's own, with variables that point there: for a tree that is being built,
    /// whose own bundle the package `ca-certificates` writes.
    Beside,
    /// Also in place of the image's own, for programs that read no variable. The package
    /// `ca-certificates` cannot be upgraded meanwhile: its bundle is then a mount point.
    InPlace,
}

/// What to bind and which variables to set so that an image can be built over the host's network: as they are, passwords included.
pub(super) fn host_network_settings() -> (Vec<BindMount>, Vec<(String, String)>) {
    collect(CaBundle::Beside, Path::new("/"), |name| {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    })
}

fn collect(
    bundle: CaBundle,
    host: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> (Vec<BindMount>, Vec<(String, String)>) {
    let on_host = |path: &str| host.join(path.trim_start_matches('/'));
    let mut binds = Vec::new();
    let mut env = Vec::new();
    certificates(bundle, host, &variable, &mut binds, &mut env);
    env.extend(
        PASSED
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), variable(name)?))),
    );
    for path in ["/etc/resolv.conf", "/etc/hosts"] {
        binds.extend(file(on_host(path)).map(|source| BindMount {
            source,
            target: path.to_owned(),
        }));
    }
    let user_configuration =
        variable("HOME").map(|home| PathBuf::from(home).join(".config/pip/pip.conf"));
    let pip = variable("PIP_CONFIG_FILE")
        .map(PathBuf::from)
        .into_iter()
        .chain(user_configuration)
        .chain([on_host("/etc/pip.conf")]);
    if let Some(source) = pip.into_iter().find_map(file) {
        let target = "/run/host/pip.conf";
        binds.push(BindMount {
            source,
            target: target.to_owned(),
        });
        env.push(("PIP_CONFIG_FILE".to_owned(), target.to_owned()));
    }
    binds.extend(apt_proxies(&on_host("/etc/apt/apt.conf.d")));
    (binds, env)
}

/// The host's CA bundle, and the variables that name it.
pub(super) fn certificates(
    bundle: CaBundle,
    host: &Path,
    variable: &impl Fn(&str) -> Option<String>,
    binds: &mut Vec<BindMount>,
    env: &mut Vec<(String, String)>,
) {
    let named = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
        .into_iter()
        .filter_map(variable)
        .map(PathBuf::from);
    let usual = BUNDLES
        .into_iter()
        .map(|path| host.join(path.trim_start_matches('/')));
    if let Some(source) = named.chain(usual).find_map(file) {
        binds.push(BindMount {
            source: source.clone(),
            target: BUNDLE.to_owned(),
        });
        if bundle == CaBundle::InPlace {
            binds.push(BindMount {
                source,
                target: DEBIAN_BUNDLE.to_owned(),
            });
        }
        env.extend(BUNDLE_VARIABLES.map(|name| (name.to_owned(), BUNDLE.to_owned())));
    }
}

/// Files that say how apt reaches a network; others of that directory are the host's own business.
pub(super) fn apt_proxies(directory: &Path) -> Vec<BindMount> {
    let Ok(listing) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<_> = listing
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.to_ascii_lowercase().contains("proxy"))
        .collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|name| {
            let source = file(directory.join(&name))?;
            Some(BindMount {
                source,
                target: format!("/etc/apt/apt.conf.d/{name}"),
            })
        })
        .collect()
}

/// The file itself: what is bound must not be a link that means something else inside.
pub(super) fn file(path: PathBuf) -> Option<PathBuf> {
    let real = std::fs::canonicalize(path).ok()?;
    real.is_file().then_some(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_is_bound_beside_or_in_place_and_secrets_are_not_passed() {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(path("etc/ssl/certs")).unwrap();
        std::fs::create_dir_all(path("etc/apt/apt.conf.d")).unwrap();
        for name in [
            "etc/ssl/certs/ca-certificates.crt",
            "etc/resolv.conf",
            "etc/apt/apt.conf.d/01proxy",
            "etc/apt/apt.conf.d/20other",
        ] {
            std::fs::write(path(name), "x").unwrap();
        }
        let variable = |name: &str| match name {
            "https_proxy" => Some("http://proxy:3128".to_owned()),
            "LLM_API_KEY" => Some("secret".to_owned()),
            _ => None,
        };
        let targets = |binds: &[BindMount]| {
            binds
                .iter()
                .map(|bind| bind.target.clone())
                .collect::<Vec<_>>()
        };
        let (binds, env) = collect(CaBundle::Beside, host.path(), variable);
        assert_eq!(
            targets(&binds),
            [BUNDLE, "/etc/resolv.conf", "/etc/apt/apt.conf.d/01proxy"]
        );
        assert!(env.contains(&("PIP_CERT".to_owned(), BUNDLE.to_owned())));
        assert!(env.contains(&("https_proxy".to_owned(), "http://proxy:3128".to_owned())));
        assert!(env.iter().all(|(_, value)| value != "secret"));
        let (binds, _) = collect(CaBundle::InPlace, host.path(), variable);
        assert!(targets(&binds).contains(&DEBIAN_BUNDLE.to_owned()));
    }

    #[test]
    fn a_host_without_any_of_it_gives_nothing() {
        let host = tempfile::tempdir().unwrap();
        assert_eq!(
            collect(CaBundle::InPlace, host.path(), |_| None),
            (Vec::new(), Vec::new())
        );
    }
}
