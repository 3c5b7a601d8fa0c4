//! `doctor`: what this host can do, and what mends it.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;

use super::error::CliError;
use super::output;
use crate::exit;
use crate::host::probe::{self, Finding, State};
use crate::image::state_dir;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long, conflicts_with = "fix")]
    json: bool,
    /// Run the commands that mend what is missing, each after asking
    #[arg(long)]
    fix: bool,
    /// With `--fix`: do not ask
    #[arg(long, requires = "fix")]
    yes: bool,
}

/// Looks at everything, by trying where it can be tried; 3 where a sandbox cannot start.
pub(super) async fn doctor(args: &DoctorArgs, state: Option<&Path>) -> Result<u8, CliError> {
    let state = state_dir(state)?;
    if args.fix && !args.yes && !io::stdin().is_terminal() {
        output::note(
            "error: --fix asks before each command, and there is no terminal; --yes answers for you",
        );
        return Ok(exit::USAGE);
    }
    let mut findings = probe::all(&state).await;
    if args.json {
        output::json(&findings)?;
    } else {
        show(&findings);
    }
    if args.fix && fix(&findings, args.yes)? {
        findings = probe::all(&state).await;
        output::result("\nafterwards:");
        show(&findings);
    }
    let broken = findings
        .iter()
        .any(|finding| finding.state == State::Missing);
    Ok(if broken { exit::HOST } else { 0 })
}

fn show(findings: &[Finding]) {
    for finding in findings {
        let mark = match finding.state {
            State::Ok => "ok      ",
            State::Degraded => "degraded",
            State::Missing => "missing ",
        };
        let detail = &finding.detail;
        output::result(&format!("{mark} {:20} {detail}", finding.name));
        if let Some(mend) = &finding.mend {
            output::result(&format!("         {:20} mend: {mend}", ""));
        }
    }
}

/// Runs the commands of all findings; `true` when one was run.
fn fix(findings: &[Finding], yes: bool) -> Result<bool, CliError> {
    let mut any = false;
    let gaps = findings.iter().filter(|finding| finding.state != State::Ok);
    for finding in gaps.clone().filter(|finding| finding.fix.is_empty()) {
        output::result(&format!("no command mends `{}`: see above", finding.name));
    }
    for command in gaps.flat_map(|finding| &finding.fix) {
        let command = if nix::unistd::geteuid().is_root() {
            command.clone()
        } else {
            format!("sudo {command}")
        };
        output::result(&format!("+ {command}"));
        if !yes && !agreed()? {
            continue;
        }
        any = true;
        let status = Command::new("/bin/sh")
            .args(["-c", &command])
            .stdin(Stdio::inherit())
            .status()
            .map_err(|e| CliError::Io("start /bin/sh", e))?;
        if !status.success() {
            output::note(&format!("`{command}` failed: {status}"));
        }
    }
    if !any {
        output::result("nothing was changed");
    }
    Ok(any)
}

fn agreed() -> Result<bool, CliError> {
    output::note("run it? [y/N]");
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|e| CliError::Io("read the answer", e))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
