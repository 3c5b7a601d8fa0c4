use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn vector(bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&length[4 - bytes..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, content)].concat()
}

fn sni(host: &str) -> Vec<u8> {
    let entry = [&[0_u8][..], &vector(2, host.as_bytes())].concat();
    extension(0, &vector(2, &entry))
}

/// The handshake message of a client with these extensions.
fn handshake(extensions: &[u8]) -> Vec<u8> {
    let hello = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 1]),
        &vector(1, &[0]),
        &vector(2, extensions),
    ]
    .concat();
    [&[1_u8][..], &vector(3, &hello)].concat()
}

fn record(content: &[u8]) -> Vec<u8> {
    [&[0x16, 3, 1][..], &vector(2, content)].concat()
}

pub(crate) fn client_hello(host: &str) -> Vec<u8> {
    record(&handshake(&[extension(10, &[1, 2]), sni(host)].concat()))
}

fn asked(host: &str, port: Option<u16>, form: Form) -> Hello {
    let host = match host.parse() {
        Ok(address) => AskedHost::Address(address),
        Err(_) => AskedHost::Name(name(host)),
    };
    Hello::Http(Asked { host, port, form })
}

#[test]
fn the_name_of_tls_is_read_however_it_is_cut() {
    let whole = client_hello("PyPI.org");
    assert_eq!(read(&whole), Hello::Tls(name("pypi.org")));
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]), Hello::NeedMore, "{end}");
    }
    let message = handshake(&sni("pypi.org"));
    let cut: Vec<u8> = message.chunks(7).flat_map(record).collect();
    assert_eq!(read(&cut), Hello::Tls(name("pypi.org")));
    assert_eq!(read(&record(&handshake(&[]))), Hello::NamelessTls);
}

#[test]
fn tls_that_can_be_read_in_two_ways_is_none() {
    let twice = [sni("a.org"), sni("b.org")].concat();
    let entry = |host: &str| [&[0_u8][..], &vector(2, host.as_bytes())].concat();
    let two = extension(0, &vector(2, &[entry("a.org"), entry("b.org")].concat()));
    let address = sni("127.0.0.1");
    for bad in [
        twice,
        two,
        address,
        sni(""),
        sni("a.org\0"),
        extension(0, b"x"),
        vec![0],
    ] {
        assert!(matches!(
            read(&record(&handshake(&bad))),
            Hello::Malformed(_)
        ));
    }
    let hidden = [sni("a.org"), extension(0xfe0d, &[0; 40])].concat();
    assert_eq!(read(&record(&handshake(&hidden))), Hello::HiddenTls);
    for bad in [
        &[0x16, 3, 1, 0, 0][..],
        &[0x16, 3, 1, 0xff, 0xff],
        &[0x16, 2, 0, 0, 1],
        &record(b"\x02\0\0\0"),
    ] {
        assert!(matches!(read(bad), Hello::Malformed(_)), "{bad:?}");
    }
}

#[test]
fn the_host_of_http_is_read() {
    for (text, hello) in [
        (
            "GET / HTTP/1.1\r\nA: b\r\nhOST:  Pypi.org \r\n\r\n",
            asked("pypi.org", None, Form::Origin),
        ),
        (
            "GET / HTTP/1.1\nHost: a.org:8080\n\n",
            asked("a.org", Some(8080), Form::Origin),
        ),
        (
            "GET / HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n",
            asked("1.2.3.4", None, Form::Origin),
        ),
        (
            "GET / HTTP/1.1\r\nHost: [2a00::1]:80\r\n\r\n",
            asked("2a00::1", Some(80), Form::Origin),
        ),
        (
            "GET http://a.org/x HTTP/1.1\r\nHost: a.org\r\n\r\n",
            asked("a.org", None, Form::Absolute),
        ),
        (
            "CONNECT a.org:443 HTTP/1.1\r\n\r\n",
            asked("a.org", Some(443), Form::Connect),
        ),
        (
            "CONNECT [::ffff:10.0.0.1]:1 HTTP/1.1\r\n\r\n",
            asked("10.0.0.1", Some(1), Form::Connect),
        ),
    ] {
        assert_eq!(read(text.as_bytes()), hello, "{text}");
        for end in 0..text.len() {
            assert_eq!(
                read(&text.as_bytes()[..end]),
                Hello::NeedMore,
                "{text} {end}"
            );
        }
    }
}

#[test]
fn http_that_can_be_read_in_two_ways_is_refused() {
    for bad in [
        "GET / HTTP/1.1\r\nHost: a.org\r\nHost: b.org\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.org\r\n x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.org\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\rHost: b.org\r\nHost: a.org\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.org@b.org\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.org/b.org\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nno field\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET http://b.org/ HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "GET http://x@b.org/ HTTP/1.1\r\n\r\n",
        "GET ftp://a.org/ HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "CONNECT b.org:443 HTTP/1.1\r\nHost: a.org\r\n\r\n",
        "CONNECT 2130706433:80 HTTP/1.1\r\n\r\n",
        "CONNECT 0x7f.1:80 HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "GET b.org HTTP/1.1\r\nHost: a.org\r\n\r\n",
    ] {
        assert!(matches!(read(bad.as_bytes()), Hello::Malformed(_)), "{bad}");
    }
    for other in [
        "SSH-2.0-x\r\n",
        "EHLO me\r\n",
        "\x13BitTorrent",
        "GET  / HTTP/1.1\r\n",
        "get / HTTP/1.1\r\n",
    ] {
        assert_eq!(read(other.as_bytes()), Hello::Other, "{other}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes);
        let _ = read(&[&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], &bytes[..]].concat());
        let _ = read(&[b"GET / HTTP/1.1\r\n", &bytes[..]].concat());
    }

    /// More bytes never take a name back: what was judged is what is sent.
    #[test]
    fn a_judgement_stands(at in 0_usize..200, byte: u8, tail in prop::collection::vec(any::<u8>(), 0..50)) {
        let mut bytes = client_hello("a.example.org");
        let at = at % bytes.len();
        bytes[at] = byte;
        let judged = read(&bytes);
        if judged != Hello::NeedMore {
            prop_assert_eq!(read(&[bytes, tail].concat()), judged);
        }
    }
}
