//! The rules of the paper: words in commands and programs.

use serde_json::{Map, Value};

use super::Kinds;

const EXTERNAL: [&str; 8] = [
    "pip install",
    "apt-get install",
    "requests.get(",
    "curl",
    "wget",
    "BeautifulSoup",
    "rdkit",
    "biopython",
];
const FILES: [&str; 11] = [
    "open(",
    "json.load",
    "pd.read_csv",
    "cat",
    "grep",
    "find",
    "os.path",
    "pathlib",
    "glob",
    "pickle.load",
    "np.load",
];
const COMPUTATION: [&str; 10] = [
    "scipy.optimize",
    "fsolve",
    "minimize",
    "odeint",
    "solve_ivp",
    "quad",
    "range(",
    "while ",
    "itertools.permutations",
    "combinations",
];

pub(super) fn kinds(function: &str, parameters: &Map<String, Value>) -> Kinds {
    let code = code(function, parameters);
    let any = |words: &[&str]| words.iter().any(|word| names(&code, word));
    Kinds {
        external: any(&EXTERNAL),
        files: any(&FILES),
        computation: any(&COMPUTATION),
    }
}

/// The command, or what the editor writes.
fn code(function: &str, parameters: &Map<String, Value>) -> String {
    let members: &[&str] = match function {
        "execute_bash" => &["command"],
        "str_replace_editor" => &["file_text", "new_str"],
        _ => &[],
    };
    let texts = members
        .iter()
        .filter_map(|name| parameters.get(*name)?.as_str());
    texts.collect::<Vec<_>>().join("\n")
}

/// Whether a text holds a pattern whose ends are ends of words.
fn names(text: &str, pattern: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let begins = pattern.starts_with(is_word);
    let ends = pattern.ends_with(is_word);
    text.match_indices(pattern).any(|(at, _)| {
        let before = text.get(..at).is_some_and(|head| head.ends_with(is_word));
        let after = text.get(at + pattern.len()..);
        let after = after.is_some_and(|tail| tail.starts_with(is_word));
        !(begins && before || ends && after)
    })
}
