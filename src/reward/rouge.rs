//! ROUGE-L as the Python package `rouge-score` computes it with its stemmer.

use std::collections::HashMap;

use super::f1;
use super::stem::stem;

/// The F-measure of the longest common subsequence of words.
#[must_use]
pub fn rouge_l(expected: &str, answer: &str) -> f64 {
    let mut numbers = HashMap::new();
    let mut words = |text: &str| -> Vec<usize> {
        tokens(text)
            .into_iter()
            .map(|word| {
                let next = numbers.len();
                *numbers.entry(word).or_insert(next)
            })
            .collect()
    };
    let (expected, answer) = (words(expected), words(answer));
    f1(
        common_subsequence(&expected, &answer),
        answer.len(),
        expected.len(),
    )
}

/// Words of ASCII letters and digits in lower case; those of more than three characters are stemmed.
fn tokens(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(|word| {
            if word.len() > 3 {
                stem(word)
            } else {
                word.to_owned()
            }
        })
        .collect()
}

/// Its length, in time of the product and memory of the shorter.
fn common_subsequence(a: &[usize], b: &[usize]) -> usize {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let mut row = vec![0; short.len() + 1];
    for word in long {
        let mut diagonal = 0;
        let mut left = 0;
        for (other, cell) in short.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            *cell = if word == other {
                diagonal + 1
            } else {
                above.max(left)
            };
            diagonal = above;
            left = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}
