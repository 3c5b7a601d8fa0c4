//! Text on its way into a report. Models, sandboxes and servers wrote it: nothing of it is markup, turns the direction of what
//! stands beside it, or is longer than it may be.

use std::borrow::Cow;
use std::fmt::Write as _;

/// As text between tags or in a quoted attribute. Control characters are shown, as `␛`; those that turn the direction of writing
/// or are not seen at all (CVE-2021-42574) as their numbers.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // U+2400 and on are the pictures of these.
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            '\u{7f}' => out.push('\u{2421}'),
            c if is_special(c) => {
                let _ = write!(out, "\u{27e8}{:X}\u{27e9}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn is_special(c: char) -> bool {
    matches!(c, '&' | '<' | '>' | '"' | '\'') || c.is_control() || is_unseen(c)
}

/// Turns the direction of writing, or is not seen.
pub(super) fn is_unseen(c: char) -> bool {
    matches!(
        c,
        // Soft hyphen; zero-width and direction marks; separators; embeddings; isolates; annotations; noncharacters; tags.
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{fffe}'..='\u{ffff}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// One line of text.
pub(super) fn line(text: &str, limit: usize) -> String {
    let text = match ends(text, limit) {
        Some((before, _, after)) => Cow::Owned([before, "…", after].concat()),
        None => Cow::Borrowed(text),
    };
    let flat: String = text
        .chars()
        .map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c })
        .collect();
    escape(&flat).into_owned()
}

/// The beginning and the end of a text that is too long, with what is left out between them.
pub(super) fn clip(text: &str, limit: usize) -> Cow<'_, str> {
    let Some((before, left_out, after)) = ends(text, limit) else {
        return Cow::Borrowed(text);
    };
    let left_out = count(left_out.chars().count() as u64);
    let gap = format!("\n⋯ {left_out} characters left out ⋯\n");
    Cow::Owned([before, &gap, after].concat())
}

/// Beginning, middle and end of a text that is too long.
fn ends(text: &str, limit: usize) -> Option<(&str, &str, &str)> {
    // No character is shorter than a byte.
    if text.len() <= limit {
        return None;
    }
    let mut places = text.char_indices().map(|(at, _)| at);
    let (head, tail) = (limit - limit / 3, limit / 3);
    let begin = places.nth(head)?;
    let end = text.char_indices().rev().map(|(at, _)| at);
    let end = end.take(tail).last().unwrap_or(text.len());
    if end <= begin {
        return None;
    }
    let (before, rest) = text.split_at(begin);
    let (left_out, after) = rest.split_at(end - begin);
    Some((before, left_out, after))
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `87`, `12.9 K`, `3.4 M`.
pub(super) fn short_count(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} K", n / 1e3),
        n if n >= 1e3 => format!("{},{:03.0}", (n.round() / 1e3).floor(), n.round() % 1e3),
        n => format!("{n:.0}"),
    }
}

/// `0.83`, `8.2`, `6,478`.
pub(super) fn rate(number: f64) -> String {
    match number {
        n if n >= 100.0 => short_count(n),
        n if n >= 1.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// `1 turn`, `2 turns`.
pub(super) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `3 to 4 turns`.
pub(super) fn turns(from: u64, to: u64) -> String {
    if from == to {
        return plural(from, "turn", "turns");
    }
    format!("{from} to {to} turns")
}

/// `0.8 s`, `3.2 min`, `5.1 h`.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 5400.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.1} min", s / 60.0),
        s if s >= 9.95 => format!("{s:.0} s"),
        s if s >= 0.1 => format!("{s:.1} s"),
        s if s >= 1e-4 => format!("{:.1} ms", s * 1e3),
        s if s > 0.0 => format!("{:.0} µs", s * 1e6),
        _ => "0 s".to_owned(),
    }
}

/// `512 B`, `4.0 KiB`, `1.1 GiB`.
pub(super) fn bytes(number: u64) -> String {
    let mut value = super::totals::real(number);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let decimals = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A share of 1, as `62.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A share of counts; a dash for none.
pub(super) fn part(part: u64, of: u64) -> String {
    ratio(part, of).map_or_else(|| DASH.to_owned(), percent)
}

pub(super) fn ratio(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| super::totals::real(part) / super::totals::real(of))
}

/// What is not known.
pub(super) const DASH: &str = "–";

/// Base64 of a digest, as policies of content name it.
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0_u8; 4];
        for (to, from) in group.iter_mut().skip(1).zip(chunk) {
            *to = *from;
        }
        let bits = u32::from_be_bytes(group);
        for at in 0..4_usize {
            let six = (bits >> (18 - 6 * at)) & 63;
            let letter = LETTERS.get(usize::try_from(six).unwrap_or(0));
            out.push(match letter {
                Some(letter) if at <= chunk.len() => char::from(*letter),
                _ => '=',
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_written_elsewhere_is_markup_or_turns_the_page() {
        assert_eq!(
            escape("</script><img src=x onerror='a'>&\""),
            "&lt;/script&gt;&lt;img src=x onerror=&#39;a&#39;&gt;&amp;&quot;"
        );
        assert_eq!(escape("\0\u{1b}[31m\r\n\t\u{7f}"), "␀␛[31m␍\n\t␡");
        assert_eq!(escape("a\u{202e}b\u{9b}\u{2028}"), "a⟨202E⟩b⟨9B⟩⟨2028⟩");
        for c in '\0'..=char::MAX {
            let seen = escape(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(!seen.contains(['<', '>', '"', '\'']));
            let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
            assert!(!seen.contains(odd), "{c:?}");
        }
        assert_eq!(escape("Grüße, 你好, שלום"), "Grüße, 你好, שלום");
    }

    #[test]
    fn what_is_too_long_keeps_both_ends() {
        assert_eq!(clip("ääääää", 6), "ääääää");
        let long = format!("{}{}", "é".repeat(1_000_000), "end");
        let clipped = clip(&long, 30);
        assert!(clipped.starts_with(&"é".repeat(20)) && clipped.ends_with("end"));
        assert!(clipped.contains("999,973 characters left out"), "{clipped}");
        assert!(clipped.chars().count() < 80);
        assert_eq!(line("a\nb\u{1b}", 10), "a b␛");
        assert_eq!(line("abcdefghi<", 6), "abcd…i&lt;");
        assert_eq!(line("äöüß", 3), "äö…ß");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(short_count(102_900.0), "102.9 K");
        assert_eq!(
            (time(0.0321), time(4e-6)),
            ("32.1 ms".into(), "4 µs".into())
        );
        assert_eq!(
            [0.25, 8.22, 201_627.7].map(rate),
            ["0.25", "8.2", "201.6 K"]
        );
        assert_eq!(
            (turns(1, 1), turns(3, 4)),
            ("1 turn".into(), "3 to 4 turns".into())
        );
        assert_eq!(
            (short_count(6478.2), short_count(1004.0)),
            ("6,478".into(), "1,004".into())
        );
        assert_eq!(time(90.0), "90 s");
        assert_eq!(bytes(1_181_116_006), "1.1 GiB");
        assert_eq!(bytes(200), "200 B");
        assert_eq!(part(1, 3), "33.3 %");
        assert_eq!(part(0, 0), DASH);
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
