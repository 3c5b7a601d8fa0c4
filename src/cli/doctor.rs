//! `doctor`: what this host can do.

use clap::Args;

use super::error::CliError;
use super::output;
use crate::exit;
use crate::host::probe::{self, State};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything, by trying where it can be tried; 3 where a sandbox cannot start.
pub(super) async fn doctor(args: &DoctorArgs) -> Result<u8, CliError> {
    let findings = probe::all().await;
    if args.json {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            let mark = match finding.state {
                State::Ok => "ok      ",
                State::Degraded => "degraded",
                State::Missing => "missing ",
            };
            output::result(&format!("{mark} {:20} {}", finding.name, finding.detail));
            if let Some(mend) = &finding.mend {
                output::result(&format!("         {:20} mend: {mend}", ""));
            }
        }
    }
    let broken = findings
        .iter()
        .any(|finding| finding.state == State::Missing);
    Ok(if broken { exit::HOST } else { 0 })
}
