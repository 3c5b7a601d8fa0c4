//! The name in the first bytes of a connection: the SNI of TLS, the host of HTTP.
//!
//! Hostile input, looked at from its beginning each time; the caller bounds it.

use std::net::IpAddr;

use super::names::Name;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hello {
    /// TLS for this name.
    Tls(Name),
    /// TLS without a name.
    NamelessTls,
    /// TLS that hides its name (RFC 9849): the one that can be read need not be the one that is meant.
    HiddenTls,
    /// An HTTP request to this host.
    Http(Asked),
    /// A request that contradicts itself, or TLS or HTTP that is none.
    Malformed(&'static str),
    /// Something else.
    Other,
    /// More bytes are needed.
    NeedMore,
}

/// What an HTTP request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) host: AskedHost,
    /// When one is written.
    pub(super) port: Option<u16>,
    /// It asks a proxy: the request line names the host.
    pub(super) form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AskedHost {
    Name(Name),
    Address(IpAddr),
}

/// How the request line names its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By path.
    Origin,
    /// By address, for a proxy.
    Absolute,
    /// A tunnel.
    Connect,
}

/// Reads the first bytes of a connection.
pub(super) fn read(bytes: &[u8]) -> Hello {
    match bytes.first() {
        None => Hello::NeedMore,
        Some(0x16) => tls(bytes).unwrap_or(Hello::Malformed("TLS that cannot be read")),
        Some(b'A'..=b'Z') => http(bytes),
        Some(_) => Hello::Other,
    }
}

/// Takes fields of TLS from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let number = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        Some(self.take(bytes)?.iter().fold(0, number))
    }

    /// A vector whose length takes so many bytes.
    fn vector(&mut self, bytes: usize) -> Option<Self> {
        let length = self.number(bytes)?;
        self.take(length).map(Fields)
    }
}

/// A `ClientHello` (RFC 8446, 4.1.2), however its records cut it. Nothing for what is none.
fn tls(bytes: &[u8]) -> Option<Hello> {
    let mut records = Fields(bytes);
    let mut handshake = Vec::new();
    loop {
        let mut header = Fields(&handshake);
        if let (Some(kind), Some(length)) = (header.number(1), header.number(3)) {
            if kind != 1 {
                return None;
            }
            if let Some(hello) = header.take(length) {
                return client_hello(hello);
            }
        }
        if records.0.is_empty() {
            return Some(Hello::NeedMore);
        }
        let Some(kind) = records.number(1) else {
            return Some(Hello::NeedMore);
        };
        let (Some(version), Some(length)) = (records.number(2), records.number(2)) else {
            return Some(Hello::NeedMore);
        };
        // An empty record, or one larger than the protocol knows, is sent only to confuse.
        if kind != 0x16 || version >> 8 != 3 || length == 0 || length > 1 << 14 {
            return None;
        }
        let Some(record) = records.take(length) else {
            return Some(Hello::NeedMore);
        };
        handshake.extend_from_slice(record);
    }
}

fn client_hello(hello: &[u8]) -> Option<Hello> {
    const SERVER_NAME: usize = 0;
    const ENCRYPTED_CLIENT_HELLO: usize = 0xfe0d;
    let mut hello = Fields(hello);
    hello.take(2 + 32)?;
    hello.vector(1)?;
    hello.vector(2)?;
    hello.vector(1)?;
    if hello.0.is_empty() {
        return Some(Hello::NamelessTls);
    }
    let mut extensions = hello.vector(2)?;
    let (mut name, mut hidden) = (None, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut content = extensions.vector(2)?;
        hidden |= kind == ENCRYPTED_CLIENT_HELLO;
        if kind != SERVER_NAME {
            continue;
        }
        let mut list = content.vector(2)?;
        // One name of the only kind there is: what a second would mean differs between servers.
        let (kind, host) = (list.number(1)?, list.vector(2)?);
        if kind != 0 || name.is_some() || !list.0.is_empty() || !content.0.is_empty() {
            return None;
        }
        let text = std::str::from_utf8(host.0).ok()?;
        name = Some(Name::new(text)?);
    }
    if hidden {
        return Some(Hello::HiddenTls);
    }
    Some(name.map_or(Hello::NamelessTls, Hello::Tls))
}

/// Whether the beginning can be that of a request line, and whether it is whole.
fn http(bytes: &[u8]) -> Hello {
    const LONGEST_METHOD: usize = 20;
    let method = bytes.iter().take_while(|b| b.is_ascii_uppercase()).count();
    match bytes.get(method) {
        Some(b' ') if method <= LONGEST_METHOD => {}
        None if method <= LONGEST_METHOD => return Hello::NeedMore,
        _ => return Hello::Other,
    }
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
        return Hello::NeedMore;
    };
    let line = bytes.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Ok(line) = std::str::from_utf8(line) else {
        return Hello::Other;
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Hello::Other;
    };
    match version {
        "HTTP/1.1" | "HTTP/1.0" => {}
        // The preface of HTTP/2 says nothing of a host.
        _ if version.starts_with("HTTP/") => {
            return Hello::Malformed("HTTP of a version whose host cannot be read");
        }
        _ => return Hello::Other,
    }
    let rest = bytes.get(end + 1..).unwrap_or_default();
    match host_fields(rest) {
        Err(why) => Hello::Malformed(why),
        Ok(None) => Hello::NeedMore,
        Ok(Some(host)) => request(method, target, host).map_or_else(Hello::Malformed, Hello::Http),
    }
}

/// The value of the only Host field; nothing while the header goes on.
fn host_fields(mut rest: &[u8]) -> Result<Option<Option<&str>>, &'static str> {
    let mut host = None;
    loop {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return Ok(None);
        };
        let line = rest.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.is_empty() {
            return Ok(Some(host));
        }
        // Servers differ about folded lines, spaces before the colon and lone carriage returns (RFC 9112, 5).
        if line.starts_with(b" ")
            || line.starts_with(b"\t")
            || line.contains(&b'\r')
            || line.contains(&0)
        {
            return Err("HTTP with a field that is read in more than one way");
        }
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = line.split_at(colon.ok_or("HTTP with a field that is none")?);
        if name.iter().any(u8::is_ascii_whitespace) {
            return Err("HTTP with a field that is read in more than one way");
        }
        if name.eq_ignore_ascii_case(b"host") {
            let value = value.get(1..).unwrap_or_default();
            let value = std::str::from_utf8(value).map_err(|_| "HTTP with a host that is none")?;
            if host.replace(value.trim_matches([' ', '\t'])).is_some() {
                return Err("HTTP with two hosts");
            }
        }
    }
}

fn request(method: &str, target: &str, host: Option<&str>) -> Result<Asked, &'static str> {
    const NO_HOST: &str = "HTTP without a host that can be read";
    let (form, named) = if method == "CONNECT" {
        (Form::Connect, Some(target))
    } else if target.starts_with('/') || target == "*" {
        (Form::Origin, None)
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(NO_HOST)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err("HTTP to something else than the web");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        (Form::Absolute, rest.get(..end))
    };
    let read = |text: Option<&str>| match text {
        Some(text) => authority(text).map(Some).ok_or(NO_HOST),
        None => Ok(None),
    };
    let asked = match (read(named)?, read(host)?) {
        // A proxy goes by the request line, a server that is none may go by the field.
        (Some(named), Some(host)) if named.0 != host.0 => return Err("HTTP with two hosts"),
        (named, host) => named.or(host),
    };
    let (host, port) = asked.ok_or(NO_HOST)?;
    Ok(Asked { host, port, form })
}

/// `name`, `name:port`, `1.2.3.4:port` or `[v6]:port`; nothing for others, one with a user's name among them.
fn authority(text: &str) -> Option<(AskedHost, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            if port.is_empty() {
                (host, None)
            } else {
                (host, Some(port.strip_prefix(':')?))
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    let host = match host.parse::<IpAddr>() {
        Ok(address) => AskedHost::Address(super::ranges::plain(address)),
        Err(_) => AskedHost::Name(Name::new(host)?),
    };
    Some((host, port))
}

#[cfg(test)]
pub(super) mod tests;
