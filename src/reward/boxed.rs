//! The content of the last `\boxed{…}`.

/// What the last `\boxed{…}` holds, braces balanced; the whole text, trimmed, where there is none.
#[must_use]
pub fn boxed(text: &str) -> &str {
    last_box(text).unwrap_or_else(|| text.trim())
}

/// What the last `\boxed{…}` holds, if there is one that ends.
pub(super) fn last_box(text: &str) -> Option<&str> {
    const MARK: &str = "\\boxed{";
    let (_, rest) = text.rsplit_once(MARK)?;
    let mut depth = 1_u32;
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return rest.get(..at);
        }
    }
    None
}
