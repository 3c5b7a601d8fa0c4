//! How a model without a sandbox is asked: one user message.

use std::path::PathBuf;

use serde::Deserialize;

use super::Row;

/// Kinds of prompt for a model that only answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vanilla {
    /// The problem as it is.
    #[default]
    Plain,
    /// The problem, and that the answer belongs in a box.
    Boxed,
    /// The documents, if there are any, then the problem.
    Documents,
    /// What `create_prompt` of the task's `vanilla_llm_prompt.py` gives; the directory that holds it.
    #[serde(skip)]
    Python(PathBuf),
}

impl Vanilla {
    /// The message; nothing where Python makes it.
    #[must_use]
    pub fn message(&self, row: &Row) -> Option<String> {
        let problem = row.problem();
        Some(match self {
            Self::Plain => problem.to_owned(),
            Self::Boxed => format!(
                "{problem}\n\nThink step by step, and end with the final answer in \\boxed{{}}."
            ),
            Self::Documents => documents(row).unwrap_or_else(|| problem.to_owned()),
            Self::Python(_) => return None,
        })
    }
}

/// The documents of a row, if it has any, before its problem.
fn documents(row: &Row) -> Option<String> {
    // Rows are checked when they are read.
    let files = row.files().unwrap_or_default();
    if files.is_empty() {
        return None;
    }
    let documents = files.iter().enumerate().map(|(at, (name, text))| {
        let number = at + 1;
        format!("BEGIN DOCUMENT {number} ({name})\n{text}\nEND DOCUMENT {number}\n\n")
    });
    Some(format!(
        "BEGIN INPUT DOCUMENTS\n\n{}END INPUT DOCUMENTS\n\nAnswer this question about the documents.\n\n\
         START QUESTION\n{}\nEND QUESTION",
        documents.collect::<String>(),
        row.problem()
    ))
}

/// Moves the documents of a row from files into the problem.
pub(super) fn with_documents(row: &mut Row) {
    if let Some(text) = documents(row) {
        let text = format!("All documents stand in this message; there are no files.\n\n{text}");
        row.take_in(text);
    }
}
