//! One row of data.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{TaskError, hex};

/// What files are called in data sets.
const FILES: [&str; 2] = ["input_files", "documents"];

/// One problem and its truth, with whatever else the data hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Row(Map<String, Value>);

impl Row {
    /// A row of a data set; one without an id is named after its place.
    pub(super) fn new(mut object: Map<String, Value>, at: usize) -> Self {
        let id = match object.get("id") {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => format!("row_{at:05}"),
        };
        object.insert("id".into(), Value::String(id));
        Self(object)
    }

    /// Its problem becomes this text, which has the files in it.
    pub(super) fn take_in(&mut self, text: String) {
        for name in FILES {
            self.0.remove(name);
        }
        self.0
            .insert("problem_statement".into(), Value::String(text));
    }

    /// All of it.
    #[must_use]
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Its name in the data set.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// The problem.
    #[must_use]
    pub fn problem(&self) -> &str {
        self.text("problem_statement")
    }

    /// Field of knowledge; empty where the data do not tell.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.text("domain")
    }

    /// Kind of question; empty where the data do not tell.
    #[must_use]
    pub fn qa_type(&self) -> &str {
        self.text("qa_type")
    }

    /// The expected answer as text.
    #[must_use]
    pub fn truth(&self) -> String {
        match self.0.get("ground_truth") {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// Other accepted answers.
    #[must_use]
    pub fn aliases(&self) -> Vec<String> {
        let list = self.0.get("answer_aliases").and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }

    /// Names and texts of the files that belong to the problem: an object, or the same as JSON in a string.
    ///
    /// # Errors
    /// What is wrong with them: a name that leads elsewhere, or a content that is no text.
    pub fn files(&self) -> Result<Vec<(String, String)>, String> {
        let parsed;
        let found = FILES.iter().find_map(|name| self.0.get(*name));
        let map = match found {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(map)) => map,
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
            Some(Value::String(text)) => {
                parsed = serde_json::from_str::<Map<String, Value>>(text)
                    .map_err(|e| format!("its files are no JSON object: {e}"))?;
                &parsed
            }
            Some(_) => return Err("its files are neither an object nor a text".into()),
        };
        let mut files = Vec::new();
        for (name, content) in map {
            let bad = name.is_empty()
                || name.contains('\0')
                || name.split('/').any(|part| matches!(part, "" | "." | ".."));
            match content {
                Value::Null => {}
                _ if bad => return Err(format!("{name:?} is no name for a file")),
                Value::String(text) => files.push((name.clone(), text.clone())),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(format!("the file {name:?} is no text"));
                }
            }
        }
        Ok(files)
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or("")
    }
}

/// Whether the rows can be worked on.
pub(super) fn check(rows: &[Row], task: &str) -> Result<(), TaskError> {
    let mut seen = HashSet::new();
    for row in rows {
        let wrong = |problem: String| TaskError::NoData {
            task: task.to_owned(),
            problem: format!("row {:?}: {problem}", row.id()),
        };
        if !seen.insert(row.id()) {
            return Err(wrong("another row has the same id".into()));
        }
        if row.problem().is_empty() {
            return Err(wrong("it has no problem_statement".into()));
        }
        row.files().map_err(wrong)?;
    }
    Ok(())
}

/// Digest of rows in their order.
pub(super) fn digest(rows: &[Row]) -> String {
    let mut hash = Sha256::new();
    for row in rows {
        // Plain JSON always encodes.
        hash.update(serde_json::to_vec(row).unwrap_or_default());
        hash.update(b"\n");
    }
    hex(&hash.finalize())
}
