//! Mathematical answers, as far as their text decides.
//!
//! Equal after normalising is equal; two numbers are equal or not. Anything else takes a computer algebra system: `None`.

use super::boxed::{boxed, last_box};

/// Two decimals nearer than this share may be roundings of each other.
const NEAR: f64 = 1e-3;
/// How far a numeric answer may be off: textbook answers are often rounded to two digits.
const TOLERANCE: f64 = 0.05;

/// Whether the answer equals the expected one; `None` where the text does not tell.
#[must_use]
pub fn math(answer: &str, truth: &str) -> Option<bool> {
    let answer = normalised(boxed(answer));
    let truth = normalised(boxed(truth));
    if answer.is_empty() {
        return Some(false);
    }
    if answer == truth {
        return Some(true);
    }
    match (Number::parse(&answer), Number::parse(&truth)) {
        (Some(a), Some(b)) => a.equals(b),
        _ => None,
    }
}

/// Whether the number in the answer is within five per cent of the expected one.
#[must_use]
pub fn numeric(answer: &str, truth: &str) -> bool {
    let value = |text: &str| Number::parse(&normalised(text)).map(Number::value);
    let Some(truth) = value(boxed(truth)) else {
        return false;
    };
    let given = last_box(answer).and_then(value);
    let given = given
        .or_else(|| value(answer))
        .or_else(|| last_number(answer));
    given.is_some_and(|given| (given - truth).abs() <= TOLERANCE * truth.abs())
}

/// The last word of a text that is a number.
fn last_number(text: &str) -> Option<f64> {
    let words = text.split(|c: char| c.is_whitespace() || "=$,;()".contains(c));
    words
        .rev()
        .map(|word| word.trim_end_matches(['.', '%']))
        .find_map(|word| Number::parse(&normalised(word)))
        .map(Number::value)
}

/// Without space, delimiters and the marks of layout.
fn normalised(text: &str) -> String {
    let mut text = text.trim().to_owned();
    for pair in [("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$")] {
        let inner = text
            .strip_prefix(pair.0)
            .and_then(|rest| rest.strip_suffix(pair.1));
        if let Some(inner) = inner {
            text = inner.trim().to_owned();
        }
    }
    for (from, to) in [
        ("\\left", ""),
        ("\\right", ""),
        ("\\!", ""),
        ("\\,", ""),
        ("\\;", ""),
        ("\\ ", ""),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("\\cdot", "\\times"),
        ("×", "\\times"),
        ("−", "-"),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
    ] {
        text = text.replace(from, to);
    }
    text.retain(|c| !c.is_whitespace());
    text
}

/// A decimal or a fraction of two whole numbers.
#[derive(Debug, Clone, Copy)]
enum Number {
    Fraction(i128, i128),
    Float(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let number = Self::fraction(text)
            .or_else(|| Self::scientific(text))
            .or_else(|| Self::decimal(text))?;
        Some(match (negative, number) {
            (true, Self::Fraction(a, b)) => Self::Fraction(-a, b),
            (true, Self::Float(x)) => Self::Float(-x),
            (false, number) => number,
        })
    }

    /// `\frac{a}{b}`, `\frac12` or `a/b`.
    fn fraction(text: &str) -> Option<Self> {
        let (above, below) = match text.strip_prefix("\\frac") {
            Some(rest) if rest.len() == 2 => rest.split_at_checked(1)?,
            Some(rest) => rest
                .strip_prefix('{')?
                .strip_suffix('}')?
                .split_once("}{")?,
            None => text.split_once('/')?,
        };
        let (above, below) = (whole(above)?, whole(below)?);
        (below != 0).then_some(Self::Fraction(above, below))
    }

    /// `1.5\times10^{3}`, `10^3` or `1.5e3`.
    fn scientific(text: &str) -> Option<Self> {
        let power = |exponent: &str| -> Option<i32> {
            let exponent = exponent
                .strip_prefix('{')
                .and_then(|inner| inner.strip_suffix('}'))
                .unwrap_or(exponent);
            exponent.parse().ok()
        };
        if let Some((factor, exponent)) = text.split_once("\\times10^") {
            let factor = Self::decimal(factor)?.value();
            return Some(Self::Float(factor * 10_f64.powi(power(exponent)?)));
        }
        if let Some(exponent) = text.strip_prefix("10^") {
            return Some(Self::Float(10_f64.powi(power(exponent)?)));
        }
        let (factor, exponent) = text.split_once(['e', 'E'])?;
        let factor = Self::decimal(factor)?.value();
        Some(Self::Float(factor * 10_f64.powi(power(exponent)?)))
    }

    /// Digits, perhaps in groups of three, and perhaps a point and more digits.
    fn decimal(text: &str) -> Option<Self> {
        // A point at the end is no number for math-verify.
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let (before, after) = match text.split_once('.') {
            Some((before, after)) if !after.is_empty() && digits(after) => (before, after),
            Some(_) => return None,
            None if text.is_empty() => return None,
            None => (text, ""),
        };
        let before = ungrouped(before)?;
        // Thirty digits fit, and so do their products in `equals`.
        if before.len() + after.len() > 18 {
            return format!("0{before}.{after}0").parse().ok().map(Self::Float);
        }
        let all: i128 = format!("0{before}{after}").parse().ok()?;
        let scale = 10_i128.checked_pow(u32::try_from(after.len()).ok()?)?;
        Some(Self::Fraction(all, scale))
    }

    fn value(self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact up to 53 bits, and near beyond"
        )]
        match self {
            Self::Fraction(a, b) => a as f64 / b as f64,
            Self::Float(x) => x,
        }
    }

    /// `None` where one may be a rounding of the other.
    fn equals(self, other: Self) -> Option<bool> {
        if let (Self::Fraction(a, b), Self::Fraction(c, d)) = (self, other)
            && let (Some(left), Some(right)) = (a.checked_mul(d), c.checked_mul(b))
        {
            if left == right {
                return Some(true);
            }
            if b == 1 && d == 1 {
                return Some(false);
            }
        }
        let (x, y) = (self.value(), other.value());
        let near = (x - y).abs() <= NEAR * x.abs().max(y.abs());
        (!near).then_some(false)
    }
}

fn whole(text: &str) -> Option<i128> {
    let short = text.len() <= 18;
    short.then(|| text.parse().ok()).flatten()
}

/// `1,234` and `1{,}234` without their commas; `None` where these are not before groups of three.
fn ungrouped(text: &str) -> Option<String> {
    let text = text.replace("{,}", ",");
    let mut groups = text.split(',');
    let first = groups.next().unwrap_or_default();
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let rest: Vec<&str> = groups.collect();
    let grouped = rest.iter().all(|group| group.len() == 3 && digits(group));
    let head = rest.is_empty() || (1..=3).contains(&first.len());
    (digits(first) && grouped && head).then(|| text.replace(',', ""))
}
