//! What people see on stderr while something takes long.

use std::io::IsTerminal;

use super::output::note;
use super::sanitize::one_line;

/// What people see while they wait: one line that changes on a terminal, lines elsewhere.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<indicatif::ProgressBar>,
}

impl Progress {
    /// Shows nothing yet.
    #[must_use]
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.enable_steady_tick(std::time::Duration::from_millis(120));
            bar
        });
        Self { bar }
    }

    /// Shows what is being done.
    pub(super) fn tell(&self, line: &str) {
        let line = one_line(line);
        match &self.bar {
            // A choice made for the user must not be overwritten by the next line.
            Some(bar) if line.starts_with("taking ") => bar.println(line),
            Some(bar) => bar.set_message(line),
            None => note(&format!("image: {line}")),
        }
    }

    /// Takes the line away.
    pub(super) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
