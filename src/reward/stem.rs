//! The Porter stemmer, with the extensions and exceptions of NLTK, which ROUGE uses.
//!
//! M. F. Porter, An algorithm for suffix stripping, Program 14 (1980).

/// Words that the steps would maim, and their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// The stem of a word of lower-case ASCII letters and digits.
#[must_use]
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(known, _)| *known == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 || !word.is_ascii() {
        return word.to_owned();
    }
    let word = plural(word);
    let word = past_or_gerund(&word);
    let word = final_y(&word);
    let word = double_suffix(&word);
    let word = apply(&word, &STEP_3, |stem| measure(stem) > 0);
    let word = single_suffix(&word);
    double_l(&final_e(&word))
}

fn is_consonant(word: &[u8], at: usize) -> bool {
    match word.get(at) {
        Some(b'a' | b'e' | b'i' | b'o' | b'u') | None => false,
        Some(b'y') => at == 0 || !is_consonant(word, at - 1),
        Some(_) => true,
    }
}

/// How often a vowel is followed by a consonant.
fn measure(stem: &str) -> usize {
    let word = stem.as_bytes();
    (1..word.len())
        .filter(|at| is_consonant(word, *at) && !is_consonant(word, at - 1))
        .count()
}

fn has_vowel(stem: &str) -> bool {
    (0..stem.len()).any(|at| !is_consonant(stem.as_bytes(), at))
}

fn ends_double_consonant(word: &str) -> bool {
    match word.as_bytes() {
        [.., a, b] => a == b && is_consonant(word.as_bytes(), word.len() - 1),
        _ => false,
    }
}

/// Ends in consonant, vowel, consonant, the last none of w, x and y; or is a vowel and a consonant.
fn ends_cvc(word: &str) -> bool {
    let bytes = word.as_bytes();
    let consonant = |from_end: usize| is_consonant(bytes, bytes.len() - from_end);
    match bytes.len() {
        0 | 1 => false,
        2 => !consonant(2) && consonant(1),
        _ => {
            let last = bytes.last().copied();
            consonant(3)
                && !consonant(2)
                && consonant(1)
                && !matches!(last, Some(b'w' | b'x' | b'y'))
        }
    }
}

/// The first rule whose suffix fits decides, whether its condition holds or not.
fn apply(word: &str, rules: &[(&str, &str)], holds: impl Fn(&str) -> bool) -> String {
    let fits =
        |(suffix, new): &(&str, &str)| word.strip_suffix(suffix).map(|s| (s, (*new).to_owned()));
    match rules.iter().find_map(fits) {
        Some((stem, new)) if holds(stem) => format!("{stem}{new}"),
        _ => word.to_owned(),
    }
}

/// Step 1a.
fn plural(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word.trim_end_matches('s').to_owned();
    }
    let rules = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];
    apply(word, &rules, |_| true)
}

/// Step 1b.
fn past_or_gerund(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        let end = if word.len() == 4 { "ie" } else { "i" };
        return format!("{stem}{end}");
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 {
            format!("{stem}ee")
        } else {
            word.to_owned()
        };
    }
    let suffixes = ["ed", "ing"];
    let cut = |suffix: &&str| word.strip_suffix(*suffix).filter(|stem| has_vowel(stem));
    let Some(stem) = suffixes.iter().find_map(cut) else {
        return word.to_owned();
    };
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return format!("{stem}e");
    }
    if ends_double_consonant(stem) {
        let keeps = stem.ends_with(['l', 's', 'z']);
        let cut = stem.len() - usize::from(!keeps);
        return stem.get(..cut).unwrap_or(stem).to_owned();
    }
    if measure(stem) == 1 && ends_cvc(stem) {
        return format!("{stem}e");
    }
    stem.to_owned()
}

/// Step 1c.
fn final_y(word: &str) -> String {
    apply(word, &[("y", "i")], |stem| {
        stem.len() > 1 && is_consonant(stem.as_bytes(), stem.len() - 1)
    })
}

const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// Step 2.
fn double_suffix(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return double_suffix(&format!("{stem}al"));
    }
    if let Some(stem) = word.strip_suffix("logi") {
        // The `l` counts to the stem.
        return if measure(&format!("{stem}l")) > 0 {
            format!("{stem}log")
        } else {
            word.to_owned()
        };
    }
    apply(word, &STEP_2, |stem| measure(stem) > 0)
}

const STEP_3: [(&str, &str); 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Step 4.
fn single_suffix(word: &str) -> String {
    const SUFFIXES: [&str; 19] = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion",
        "ou", "ism", "ate", "iti", "ous", "ive", "ize",
    ];
    let cut = SUFFIXES
        .iter()
        .find_map(|suffix| word.strip_suffix(suffix).map(|stem| (stem, *suffix)));
    match cut {
        Some((stem, suffix))
            if measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't'])) =>
        {
            stem.to_owned()
        }
        _ => word.to_owned(),
    }
}

/// Step 5a.
fn final_e(word: &str) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_cvc(stem)) => {
            stem.to_owned()
        }
        _ => word.to_owned(),
    }
}

/// Step 5b.
fn double_l(word: &str) -> String {
    match word.strip_suffix('l') {
        Some(stem) if stem.ends_with('l') && measure(stem) > 1 => stem.to_owned(),
        _ => word.to_owned(),
    }
}
