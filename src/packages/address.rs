//! Addresses of indexes, with the passwords that they may hold.

use std::fmt;

use reqwest::Url;

/// An address of HTTP, whose user and password are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

/// No address of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no address of a server of HTTP")]
pub struct BadAddress;

impl Address {
    /// Reads one; without a scheme it is `http`.
    ///
    /// # Errors
    /// It is none.
    pub fn new(text: &str) -> Result<Self, BadAddress> {
        let text = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let url = Url::parse(&text).map_err(|_| BadAddress)?;
        let known = matches!(url.scheme(), "http" | "https") && url.has_host();
        known.then_some(Self(url)).ok_or(BadAddress)
    }

    /// Password and all.
    pub(super) fn url(&self) -> &Url {
        &self.0
    }

    /// The page of a project.
    pub(super) fn page(&self, project: &str) -> Url {
        let mut url = self.0.clone();
        let path = format!("{}/{project}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// On the same server, so that the password is for it, too.
    pub(super) fn serves(&self, url: &Url) -> bool {
        self.0.origin() == url.origin()
    }

    /// The same with our user and password, where they are for it.
    pub(super) fn signed(&self, mut url: Url) -> Url {
        // Both fail only for addresses without a host, which these are not.
        let own = self.serves(&url);
        let _ = url.set_username(if own { self.0.username() } else { "" });
        let _ = url.set_password(self.0.password().filter(|_| own));
        url
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bare(&self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without user and password.
pub(super) fn bare(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_to_its_own_server_and_is_never_shown() {
        let index = Address::new("https://me:hunter2@index.example/root/simple").unwrap();
        assert_eq!(index.to_string(), "https://index.example/root/simple");
        assert!(!format!("{index:?}").contains("hunter2"));
        let page = index.page("six");
        assert_eq!(
            page.as_str(),
            "https://me:hunter2@index.example/root/simple/six/"
        );
        let at = |text: &str| index.signed(Url::parse(text).unwrap()).to_string();
        assert_eq!(
            at("https://index.example/f/x.whl"),
            "https://me:hunter2@index.example/f/x.whl"
        );
        for other in [
            "http://index.example/f",
            "https://index.example:8443/f",
            "https://a:b@files.example/f",
        ] {
            assert!(!at(other).contains('@'), "{other}");
        }
        assert!(Address::new("ftp://x.example/").is_err() && Address::new("http://").is_err());
    }
}
