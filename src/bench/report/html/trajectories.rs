//! Samples turn by turn, as far as a budget of bytes goes: what failed and the worst scores come first.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Map, Value};

use super::endings::{mark, sample_name};
use super::text::{bytes, clip, count, escape, line, plural, time};
use crate::bench::ledger::Record;
use crate::outcome::Connection;
use crate::spec::{Change, Effects};
use crate::task::Row;
use crate::trajectory::Event;

/// Bytes of one sample; the middle of a longer one is left out.
const MAX_SAMPLE: usize = 192 << 10;
/// Of these, for its end, and for each turn: a model may make any number of calls in one.
const MAX_TAIL: usize = MAX_SAMPLE / 3;
/// Characters of the problem, a thought or a reasoning, of a call, and of an observation.
const PROBLEM: usize = 3000;
const THOUGHT: usize = 2000;
const CALL: usize = 1600;
const OBSERVATION: usize = 1600;
/// Members of a call's arguments.
const MEMBERS: usize = 12;
/// Connections, changed files and the like of one turn.
const NOTES: usize = 16;

/// The trajectories of the page.
#[derive(Debug)]
pub struct Trajectories {
    budget: usize,
    pages: Vec<String>,
    bytes: usize,
    left_out: u64,
}

/// One sample while it is read.
#[derive(Debug)]
pub(in crate::bench::report) struct View {
    head: String,
    first: String,
    last: VecDeque<String>,
    last_bytes: usize,
    omitted: u64,
    turn: String,
    notes: usize,
    /// Of the turn, for want of room.
    cut: u64,
}

impl Trajectories {
    /// With room for so many bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            pages: Vec::new(),
            bytes: 0,
            left_out: 0,
        }
    }

    /// A view of the next sample, where there is room for one.
    pub(in crate::bench::report) fn begin(&mut self, record: &Record, row: &Row) -> Option<View> {
        if self.bytes >= self.budget {
            self.left_out += 1;
            return None;
        }
        let (class, score) = mark(record.status, record.score);
        let mut head = format!(
            "<details class=\"sample\"><summary><span class=\"mark {class}\">{score}</span><b><bdi>{}</bdi></b><span class=\"aside\">{} · {} · {} tokens written</span></summary>\n",
            sample_name(&record.id, record.repeat),
            plural(record.steps.into(), "turn", "turns"),
            time(record.times.total),
            count(record.usage.completion_tokens)
        );
        let _ = write!(
            head,
            "<div class=\"problem\"><h4>Problem</h4>{}",
            prose(row.problem(), PROBLEM)
        );
        let expected = row.truth();
        let answers = [
            ("Expected", Some(&expected)),
            ("Answered", record.answer.as_ref()),
        ];
        head.push_str("<div class=\"answers\">");
        for (name, text) in answers {
            match text {
                Some(text) => {
                    let _ = write!(
                        head,
                        "<div><h4>{name}</h4>{}</div>",
                        prose(text, PROBLEM / 3)
                    );
                }
                None => {
                    let _ = write!(
                        head,
                        "<div><h4>{name}</h4><p class=\"note\">nothing</p></div>"
                    );
                }
            }
        }
        head.push_str("</div></div>\n");
        Some(View {
            head,
            first: String::new(),
            last: VecDeque::new(),
            last_bytes: 0,
            omitted: 0,
            turn: String::new(),
            notes: 0,
            cut: 0,
        })
    }

    /// Takes a sample that is over.
    pub(in crate::bench::report) fn end(
        &mut self,
        mut view: View,
        why: Option<&str>,
        incomplete: bool,
    ) {
        view.close();
        let mut page = view.head;
        if let Some(why) = why {
            let _ = writeln!(page, "<p class=\"why\"><bdi>{}</bdi></p>", line(why, 420));
        }
        if incomplete {
            page.push_str(
                "<p class=\"why\">The record is not there, or parts of it cannot be read.</p>\n",
            );
        }
        page.push_str(&view.first);
        if view.omitted > 0 {
            let _ = writeln!(
                page,
                "<p class=\"gap\">⋯ {} turns left out ⋯</p>",
                count(view.omitted)
            );
        }
        for turn in &view.last {
            page.push_str(turn);
        }
        page.push_str("</details>\n");
        self.bytes += page.len();
        self.pages.push(page);
    }

    pub(super) fn section(&self, out: &mut impl Write) -> io::Result<()> {
        let (shown, left_out) = (count(self.pages.len() as u64), count(self.left_out));
        let lead = match (self.pages.len(), self.left_out) {
            (0, 0) => "There are none.".to_owned(),
            (_, 0) => format!(
                "{}: what failed first, then by score. Long texts are cut in the middle.",
                plural(self.pages.len() as u64, "sample", "samples")
            ),
            _ => format!(
                "{shown} samples of {}: what failed first, then the lowest scores. {left_out} are left out to keep this page small; \
                 their records are in the run folder.",
                count(self.pages.len() as u64 + self.left_out)
            ),
        };
        writeln!(
            out,
            "<section id=\"trajectories\"><h2>Turn by turn</h2>\n<p class=\"lead\">{lead}</p>"
        )?;
        for page in &self.pages {
            out.write_all(page.as_bytes())?;
        }
        writeln!(out, "</section>")
    }
}

impl View {
    /// Takes the next event.
    pub(in crate::bench::report) fn event(&mut self, event: &Event) {
        if matches!(event, Event::Completion { .. }) {
            self.close();
        }
        let before = self.turn.len();
        self.add(event);
        if self.turn.len() > MAX_TAIL {
            self.turn.truncate(before);
            self.cut += 1;
        }
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::Completion { .. } => self.completion(event),
            Event::ToolCall {
                function,
                parameters,
                ..
            } => self.call(function, parameters),
            Event::ToolResult { .. } => self.result(event),
            Event::Connection { connection, .. } => self.connection(connection),
            Event::Effects { effects, .. } => self.effects(effects),
            Event::Warning { text } => self.note("warning", text),
            // Before the first turn it is the problem, which is shown already.
            Event::Message { message } if message.role() == "user" && !self.turn.is_empty() => {
                self.note("told", message.content());
            }
            Event::End { stop, detail, .. } => {
                self.note("end", stop.as_str());
                if let Some(detail) = detail {
                    self.note("end", detail);
                }
            }
            Event::Message { .. } | Event::Suffix { .. } | Event::TurnEnd { .. } => {}
        }
    }

    /// A turn begins with what the model says.
    fn completion(&mut self, event: &Event) {
        let Event::Completion {
            step,
            message,
            usage,
            model_us,
            finish_reason,
            ..
        } = event
        else {
            return;
        };
        let _ = write!(
            self.turn,
            "<section class=\"turn\"><h4>Turn {step}<span class=\"aside\">{}",
            micros(*model_us)
        );
        if let Some(usage) = usage {
            let (prompt, completion) = (usage.prompt_tokens, usage.completion_tokens);
            let _ = write!(
                self.turn,
                " · {} → {} tokens",
                count(prompt),
                count(completion)
            );
        }
        if finish_reason.as_deref() == Some("length") {
            self.turn.push_str(" · cut off");
        }
        self.turn.push_str("</span></h4>\n");
        if !message.reasoning().trim().is_empty() {
            let _ = writeln!(
                self.turn,
                "<details class=\"reasoning\"><summary>Reasoning</summary>{}</details>",
                prose(message.reasoning(), THOUGHT)
            );
        }
        if !message.content().trim().is_empty() {
            self.turn.push_str(&prose(message.content(), THOUGHT));
        }
    }

    fn result(&mut self, event: &Event) {
        let Event::ToolResult {
            observation,
            error,
            tool_us,
            struck,
            ..
        } = event
        else {
            return;
        };
        let _ = write!(
            self.turn,
            "<div class=\"result\"><p class=\"aside\">{}",
            micros(*tool_us)
        );
        if let Some(error) = error {
            let name = serde_json::to_value(error).unwrap_or_default();
            let name = line(name.as_str().unwrap_or("error"), 40);
            let _ = write!(self.turn, " · <span class=\"mark zero\">{name}</span>");
        }
        for hit in struck.iter().take(NOTES) {
            let hit = line(&hit.to_string(), 120);
            let _ = write!(self.turn, " · <span class=\"mark failed\">{hit}</span>");
        }
        let _ = writeln!(self.turn, "</p>{}</div>", code(observation, OBSERVATION));
    }

    fn call(&mut self, function: &str, parameters: &Map<String, Value>) {
        let _ = write!(
            self.turn,
            "<div class=\"call\"><p><code>{}</code></p>",
            line(function, 80)
        );
        let command = parameters.get("command").and_then(Value::as_str);
        if let (1, Some(command)) = (parameters.len(), command) {
            self.turn.push_str(&code(command, CALL));
        } else {
            for (name, value) in parameters.iter().take(MEMBERS) {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                if text.len() < 80 && !text.contains('\n') {
                    let _ = write!(
                        self.turn,
                        "<p class=\"argument\">{} <code>{}</code></p>",
                        line(name, 40),
                        escape(&text)
                    );
                } else {
                    let _ = write!(
                        self.turn,
                        "<p class=\"argument\">{}</p>{}",
                        line(name, 40),
                        code(&text, CALL)
                    );
                }
            }
        }
        self.turn.push_str("</div>\n");
    }

    fn connection(&mut self, connection: &Connection) {
        let name = connection.name.as_deref().unwrap_or_default();
        let text = format!(
            "{} {name} {}:{} {}: {} up, {} down",
            connection.protocol,
            connection.address,
            connection.port,
            connection.verdict,
            bytes(connection.up),
            bytes(connection.down)
        );
        self.note("network", &text);
    }

    /// What a call did: each path that is listed, and what it computed.
    fn effects(&mut self, effects: &Effects) {
        let files = &effects.files;
        let (shown, more) = files.listed.split_at(files.listed.len().min(NOTES));
        for change in shown {
            let word = match change.change {
                Change::Created => "created",
                Change::Changed => "changed",
                Change::Deleted => "deleted",
                Change::Read => "read",
            };
            let size = change
                .size
                .map_or_else(String::new, |size| format!(", {}", bytes(size)));
            self.note(&format!("{word}{size}"), &change.path);
            if let Some(diff) = &change.diff {
                let _ = writeln!(
                    self.turn,
                    "<details class=\"reasoning\"><summary>The change</summary>{}</details>",
                    code(diff, CALL / 2)
                );
            }
        }
        let all = files.created + files.changed + files.deleted;
        if !more.is_empty() || !files.directories.is_empty() {
            self.note("files", &format!("{} paths in all", count(all)));
        }
        let counts = &effects.processes;
        if counts.started > 0 {
            let programs: Vec<&str> = counts
                .programs
                .iter()
                .take(NOTES)
                .map(String::as_str)
                .collect();
            let text = format!(
                "{}; {} of CPU time; {}",
                plural(counts.started, "process", "processes"),
                micros(counts.cpu_us),
                programs.join(", ")
            );
            self.note("ran", text.trim_end_matches("; "));
        }
    }

    /// A line below a turn; only the first ones of each are kept.
    fn note(&mut self, kind: &str, text: &str) {
        self.notes += 1;
        if self.notes <= NOTES {
            let _ = writeln!(
                self.turn,
                "<p class=\"event\"><span>{kind}</span> <bdi>{}</bdi></p>",
                line(text, 300)
            );
        } else if self.notes == NOTES + 1 {
            self.turn.push_str("<p class=\"event\">⋯</p>\n");
        }
    }

    /// The turn is over: it joins the beginning while there is room, else the end, out of which older turns go.
    fn close(&mut self) {
        self.notes = 0;
        if self.turn.is_empty() {
            return;
        }
        let mut turn = std::mem::take(&mut self.turn);
        if self.cut > 0 {
            let cut = count(std::mem::take(&mut self.cut));
            let _ = writeln!(
                turn,
                "<p class=\"gap\">⋯ {cut} more entries of this turn left out ⋯</p>"
            );
        }
        if turn.starts_with("<section") {
            turn.push_str("</section>\n");
        }
        if self.last.is_empty() && self.first.len() + turn.len() <= MAX_SAMPLE - MAX_TAIL {
            self.first.push_str(&turn);
            return;
        }
        self.last_bytes += turn.len();
        self.last.push_back(turn);
        while self.last_bytes > MAX_TAIL && self.last.len() > 1 {
            self.last_bytes -= self.last.pop_front().map_or(0, |turn| turn.len());
            self.omitted += 1;
        }
    }
}

fn micros(number: u64) -> String {
    time(std::time::Duration::from_micros(number).as_secs_f64())
}

/// Text as it was written, in the letters of the page.
fn prose(text: &str, limit: usize) -> String {
    format!(
        "<div class=\"prose\" dir=\"auto\">{}</div>",
        escape(&clip(text.trim(), limit))
    )
}

/// Text as a terminal shows it.
fn code(text: &str, limit: usize) -> String {
    format!("<pre tabindex=\"0\">{}</pre>", escape(&clip(text, limit)))
}
