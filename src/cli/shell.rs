//! `shell`: a person at a terminal inside.

use std::path::Path;

use clap::Args;

use super::error::CliError;
use super::sandbox::{SandboxArgs, keyless_launcher_config, tell_refused};
use super::terminal;
use crate::host::{Registry, SHELL, ZygoteProcess, enter};

/// Arguments of `shell`.
#[derive(Debug, Args)]
pub(super) struct ShellArgs {
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// Enter this running sandbox, see `ps`
    #[arg(long = "in", value_name = "ID", conflicts_with = "seccomp_log")]
    id: Option<String>,
}

/// Opens it; gives the exit code of the shell.
pub(super) async fn shell(
    args: ShellArgs,
    state: Option<&Path>,
    forked: Option<ZygoteProcess>,
) -> Result<u8, CliError> {
    if let Some(id) = args.id {
        let visit = enter(&Registry::open()?, &id)?;
        let failed = |e| CliError::Io("visit the sandbox", e);
        let master = visit.master.try_clone().map_err(failed)?;
        let waiting = tokio::task::spawn_blocking(move || visit.wait());
        let ended = async { waiting.await.map_err(std::io::Error::other)? };
        return terminal::connect(master, ended)
            .await
            .map_err(failed)
            .map(code);
    }
    let started = args
        .sandbox
        .start(state, "shell", keyless_launcher_config(forked))
        .await?;
    let sandbox = started.sandbox;
    let _door = sandbox.open_door()?;
    let argv = SHELL.map(str::to_owned);
    let mut inside = sandbox
        .spawn_on_terminal(&argv, &[("TERM".into(), "xterm".into())])
        .await?;
    let ended = async {
        inside
            .process
            .wait()
            .await
            .map(|s| s.code())
            .map_err(std::io::Error::other)
    };
    let connected = terminal::connect(inside.master, ended).await;
    let usage = sandbox.close().await?;
    tell_refused(&usage.refused.unwrap_or_default());
    let left = usage.left_behind.unwrap_or_default();
    super::output::note(&format!("left behind: {left}"));
    connected
        .map_err(|e| CliError::Io("use the terminal", e))
        .map(code)
}

fn code(status: i32) -> u8 {
    u8::try_from(status & 0xff).unwrap_or(crate::exit::FAILED)
}
