//! The letter of a choice, found in what a model wrote.

use super::boxed::last_box;

/// 1 when the answer names the expected letter, else 0.
#[must_use]
pub fn letter(answer: &str, truth: &str) -> f64 {
    let truth = truth.trim().to_uppercase();
    let whole = answer.trim().to_uppercase() == truth;
    let named = || chosen(answer).is_some_and(|letter| truth == letter.to_string());
    f64::from(!truth.is_empty() && (whole || named()))
}

/// The letter that the text settles on, in upper case.
fn chosen(text: &str) -> Option<char> {
    let text = text.trim();
    announced(text)
        .or_else(|| last_box(text).and_then(boxed_letter))
        .or_else(|| alone(text))
        .or_else(|| text.chars().next().filter(char::is_ascii_alphabetic))
        .map(|letter| letter.to_ascii_uppercase())
}

/// The letter after `"answer": "`, `answer:`, `answer is` or `choice is`.
fn announced(text: &str) -> Option<char> {
    // ASCII only, so that every place is the same in both.
    let lower = text.to_ascii_lowercase();
    let after = |mark: &str, links: &[&str]| {
        lower.match_indices(mark).find_map(|(at, _)| {
            let rest = text.get(at + mark.len()..)?;
            let rest = rest.trim_start_matches(['"', '\'', '*']).trim_start();
            let rest = links.iter().find_map(|link| {
                let head = rest.get(..link.len())?;
                let tail = rest.get(link.len()..)?;
                let whole = !(*link == "is" && tail.starts_with(char::is_alphabetic));
                (head.eq_ignore_ascii_case(link) && whole).then_some(tail)
            })?;
            let rest =
                rest.trim_start_matches([' ', '\t', '\n', ':', '"', '\'', '*', '(', '[', '$']);
            let rest = rest.strip_prefix("\\boxed{").unwrap_or(rest);
            standing(rest)
        })
    };
    after("answer", &[":", "："])
        .or_else(|| after("answer", &["is"]))
        .or_else(|| after("choice", &["is"]))
}

/// The first character, if it is a letter on its own.
fn standing(text: &str) -> Option<char> {
    let mut chars = text.chars();
    let first = chars.next().filter(char::is_ascii_alphabetic)?;
    let next = chars.next();
    (!next.is_some_and(|c| c.is_alphanumeric() || "_'’".contains(c))).then_some(first)
}

/// `C`, `(C)`, `\text{C}` or `C. because` in a box.
fn boxed_letter(content: &str) -> Option<char> {
    let content = content.trim();
    let inner = ["\\text{", "\\textbf{", "\\mathrm{", "\\mathbf{"]
        .iter()
        .find_map(|wrapper| content.strip_prefix(wrapper));
    let content = inner.unwrap_or(content);
    let content = content.trim_start_matches(['(', '[', ' ']);
    content.chars().next().filter(char::is_ascii_alphabetic)
}

/// The last letter on its own, a capital before a small one. `A` and `I` before a word in small letters are words themselves
/// ("A dose", "I think"), and count only where there is no other; the letters of `e.g.` never do.
fn alone(text: &str) -> Option<char> {
    let chars: Vec<char> = text.chars().collect();
    let holds = |at: Option<usize>, test: fn(char) -> bool| {
        let found = at.and_then(|at| chars.get(at));
        found.is_some_and(|c| test(*c))
    };
    let in_word = |c: char| c.is_alphanumeric() || c == '_' || c == '\'';
    let (mut small, mut fallback) = (None, None);
    for (at, c) in chars.iter().enumerate().rev() {
        let before = |n: usize| at.checked_sub(n);
        let after = |n: usize| at.checked_add(n);
        let joined = holds(before(1), in_word) || holds(after(1), in_word);
        let dot = |c: char| c == '.';
        let shortened = (holds(after(1), dot) && holds(after(2), char::is_alphabetic))
            && !holds(after(3), in_word)
            || (holds(before(1), dot) && holds(before(2), char::is_alphabetic))
                && !holds(before(3), in_word);
        if !c.is_ascii_alphabetic() || joined || shortened {
            continue;
        }
        let before_word = holds(after(1), |c| c == ' ') && holds(after(2), char::is_lowercase);
        if matches!(c, 'A' | 'I' | 'a' | 'i') && before_word {
            let capital = Some(*c).filter(char::is_ascii_uppercase);
            fallback = fallback.or(capital);
        } else if c.is_ascii_uppercase() {
            return Some(*c);
        } else {
            small = small.or(Some(*c));
        }
    }
    small.or(fallback)
}
