//! The part of a Dockerfile that can be carried out here as it is meant; anything else is refused by its line.

use std::path::{Component, Path, PathBuf};

/// What a Dockerfile asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// The image that it begins with.
    pub from: String,
    /// What is done to it, in order.
    pub instructions: Vec<Instruction>,
}

/// One change of an image. Texts may have variables, as `$NAME` and `${NAME}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// Runs a program.
    Run(Vec<String>),
    /// Sets a variable.
    Env(String, String),
    /// Changes the directory, which is made where it is missing.
    Workdir(String),
    /// Copies files of the context; a path that ends with `/` is a directory.
    Copy(Vec<PathBuf>, String),
}

/// What stands in a line, from 1.
type Problem = (usize, String);

impl Dockerfile {
    /// Reads one.
    ///
    /// # Errors
    /// The line that is not understood, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut file = Self::default();
        for (line, instruction) in logical_lines(text) {
            let (word, rest) = match instruction.split_once(char::is_whitespace) {
                Some((word, rest)) => (word.to_ascii_uppercase(), rest.trim()),
                None => (instruction.to_ascii_uppercase(), ""),
            };
            file.add(&word, rest)
                .map_err(|problem| told((line, format!("{word}: {problem}"))))?;
        }
        if file.from.is_empty() {
            return Err("it has no FROM".to_owned());
        }
        Ok(file)
    }

    /// The directory in which its last instruction leaves off, if one names any. Variables of the base are not known here.
    #[must_use]
    pub fn workdir(&self) -> Option<String> {
        let mut variables: Vec<(String, String)> = Vec::new();
        let mut directory = None;
        for instruction in &self.instructions {
            match instruction {
                Instruction::Env(name, value) => {
                    let value = expand(value, &variables);
                    variables.push((name.clone(), value));
                }
                Instruction::Workdir(path) => {
                    let path = expand(path, &variables);
                    directory = Some(join(directory.as_deref().unwrap_or("/"), &path));
                }
                Instruction::Run(_) | Instruction::Copy(..) => {}
            }
        }
        directory
    }

    fn add(&mut self, word: &str, rest: &str) -> Result<(), String> {
        if self.from.is_empty() && word != "FROM" {
            return Err("it stands before FROM".to_owned());
        }
        let instruction = match word {
            "FROM" => return self.begin(rest),
            "RUN" => Instruction::Run(run(rest)?),
            "ENV" => {
                self.instructions.extend(
                    variables(rest)?
                        .into_iter()
                        .map(|(k, v)| Instruction::Env(k, v)),
                );
                return Ok(());
            }
            "WORKDIR" => Instruction::Workdir(one_word(rest)?),
            "COPY" => copy(rest)?,
            "USER" if matches!(rest, "root" | "0") => return Ok(()),
            "USER" => return Err("only root works here".to_owned()),
            // Nothing of these is in force while a task runs: it has a command of its own.
            "LABEL" | "MAINTAINER" | "EXPOSE" | "CMD" => return Ok(()),
            _ => {
                return Err(
                    "of a Dockerfile only FROM, RUN, ENV, WORKDIR, COPY and USER root are built here; \
                     build it elsewhere, bring it with `image import`, and name it as docker_image"
                        .to_owned(),
                );
            }
        };
        self.instructions.push(instruction);
        Ok(())
    }

    fn begin(&mut self, rest: &str) -> Result<(), String> {
        if !self.from.is_empty() {
            return Err("a second stage is not built here".to_owned());
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        match words.as_slice() {
            [image] => self.from = (*image).to_owned(),
            [image, word, _] if word.eq_ignore_ascii_case("as") => {
                self.from = (*image).to_owned();
            }
            _ => return Err("it takes the name of an image, without flags".to_owned()),
        }
        if self.from.starts_with("--") || self.from.contains('$') {
            return Err("it takes the name of an image, without flags and variables".to_owned());
        }
        Ok(())
    }
}

fn told((line, problem): Problem) -> String {
    format!("line {line}: {problem}")
}

/// Lines without comments, with those that end in a backslash joined to the next, by the number of their first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        // Comments and empty lines within a continued one are dropped, as Docker does.
        if trimmed.starts_with('#') || trimmed.is_empty() {
            continue;
        }
        let (number, mut whole) = open.take().unwrap_or((at + 1, String::new()));
        match trimmed.strip_suffix('\\') {
            Some(part) => {
                whole.push_str(part);
                open = Some((number, whole));
            }
            None => {
                whole.push_str(trimmed);
                lines.push((number, whole));
            }
        }
    }
    lines.extend(open);
    lines
}

fn run(rest: &str) -> Result<Vec<String>, String> {
    if rest.starts_with("--") {
        return Err("its flags are not known here".to_owned());
    }
    if rest.is_empty() {
        return Err("it runs nothing".to_owned());
    }
    if rest.starts_with('[') {
        return serde_json::from_str(rest).map_err(|error| format!("no list of words: {error}"));
    }
    let here = rest.split("<<").skip(1).any(|after| {
        let word = after.trim_start_matches(['-', '"', '\'']);
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    });
    if here {
        return Err("here-documents are not read here".to_owned());
    }
    Ok(["/bin/sh", "-c", rest].map(str::to_owned).into())
}

/// `NAME=VALUE …`, or `NAME VALUE` to the end of the line.
fn variables(rest: &str) -> Result<Vec<(String, String)>, String> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    let pairs = if first.contains('=') {
        let words = words(rest)?;
        let pair = |word: String| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("{word:?} is not NAME=VALUE")),
        };
        words.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?
    } else {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{rest:?} is not NAME=VALUE"))?;
        vec![(name.to_owned(), value.trim().to_owned())]
    };
    for (name, value) in &pairs {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("{name:?} is no name of a variable"));
        }
        check_variables(value)?;
    }
    Ok(pairs)
}

fn one_word(rest: &str) -> Result<String, String> {
    check_variables(rest)?;
    match words(rest)?.as_slice() {
        [word] => Ok(word.clone()),
        _ => Err("it takes one path".to_owned()),
    }
}

fn copy(rest: &str) -> Result<Instruction, String> {
    if rest.starts_with("--") {
        return Err("its flags are not known here".to_owned());
    }
    let mut words = match rest.starts_with('[') {
        true => serde_json::from_str(rest).map_err(|error| format!("no list of words: {error}"))?,
        false => words(rest)?,
    };
    let Some(target) = words.pop().filter(|_| !words.is_empty()) else {
        return Err("it takes sources and a target".to_owned());
    };
    check_variables(&target)?;
    if words.len() > 1 && !target.ends_with('/') {
        return Err("several files need a target that ends with /".to_owned());
    }
    let source = |word: String| {
        let path: PathBuf = Path::new(word.trim_start_matches('/'))
            .components()
            .filter(|part| *part != Component::CurDir)
            .collect();
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        match plain && !word.contains(['*', '?', '[', '$']) {
            true => Ok(path),
            false => Err(format!("{word:?} is no plain path in the context")),
        }
    };
    let sources = words.into_iter().map(source).collect::<Result<_, _>>()?;
    Ok(Instruction::Copy(sources, target))
}

/// Words between spaces; quotes hold them together, a backslash takes the next character as it is.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// Only `$NAME` and `${NAME}`: forms with a default, or that cut, are not carried out.
fn check_variables(text: &str) -> Result<(), String> {
    for after in text.split('$').skip(1) {
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let good = match after.strip_prefix('{') {
            Some(rest) => rest
                .split_once('}')
                .is_some_and(|(inside, _)| !inside.is_empty() && inside.chars().all(name)),
            None => after.starts_with(name),
        };
        if !good {
            return Err(format!("${after} is no plain variable"));
        }
    }
    Ok(())
}

/// Puts in what variables stand for; one that is not known is empty, and of several the last counts.
#[must_use]
pub fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut parts = text.split('$');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let (name, rest) = braced.unwrap_or_else(|| {
            let end = part.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            part.split_at(end.unwrap_or(part.len()))
        });
        let found = variables.iter().rfind(|(known, _)| known == name);
        out.push_str(found.map_or("", |(_, value)| value));
        out.push_str(rest);
    }
    out
}

/// A path from a directory; an absolute one is itself.
#[must_use]
pub fn join(directory: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_read_and_the_rest_is_refused_by_line() {
        let text = "# syntax=docker/dockerfile:1\nFROM python:3.12 AS base\nENV A=1 B=\"two words\" C=$A\nENV D all of it\n\
            WORKDIR /app\nWORKDIR $A/b\nRUN apt-get update \\\n  # why\n  && true\nRUN [\"ls\", \"-l\"]\nCOPY a b/c sub/\n\
            COPY . /ctx\nUSER root\nCMD [\"x\"]\n";
        let file = Dockerfile::parse(text).unwrap();
        assert_eq!(file.from, "python:3.12");
        assert_eq!(file.workdir().unwrap(), "/app/1/b");
        let run = |words: &[&str]| Instruction::Run(words.iter().map(|&w| w.to_owned()).collect());
        let env = |k: &str, v: &str| Instruction::Env(k.into(), v.into());
        assert_eq!(
            file.instructions,
            [
                env("A", "1"),
                env("B", "two words"),
                env("C", "$A"),
                env("D", "all of it"),
                Instruction::Workdir("/app".into()),
                Instruction::Workdir("$A/b".into()),
                run(&["/bin/sh", "-c", "apt-get update && true"]),
                run(&["ls", "-l"]),
                Instruction::Copy(vec!["a".into(), "b/c".into()], "sub/".into()),
                Instruction::Copy(vec![PathBuf::new()], "/ctx".into()),
            ]
        );
        for (bad, why) in [
            ("RUN x", "before FROM"),
            ("FROM a\nFROM b", "line 2: FROM"),
            ("FROM --platform=x a", "flags"),
            ("FROM a\n\nADD x /y", "line 3: ADD"),
            ("FROM a\nARG x", "ARG"),
            ("FROM a\nENTRYPOINT [\"x\"]", "ENTRYPOINT"),
            ("FROM a\nUSER me", "only root"),
            ("FROM a\nRUN --mount=type=cache x", "flags"),
            ("FROM a\nRUN cat <<EOF > f", "here-documents"),
            ("FROM a\nCOPY --from=b /x /y", "flags"),
            ("FROM a\nCOPY ../x /y", "no plain path"),
            ("FROM a\nCOPY *.py /y", "no plain path"),
            ("FROM a\nCOPY a b /y", "ends with /"),
            ("FROM a\nWORKDIR ${X:-y}", "no plain variable"),
            ("FROM a\nENV A='x", "quote"),
            ("", "no FROM"),
        ] {
            let error = Dockerfile::parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn variables_are_put_in_once() {
        let known = [
            ("A".to_owned(), "$B".to_owned()),
            ("B".to_owned(), "b".to_owned()),
        ];
        assert_eq!(expand("${A}x$B/$C.$A", &known), "$Bxb/.$B");
    }
}
