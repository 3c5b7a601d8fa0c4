//! The program: first the zygote's entry or its fork, before any thread exists, then the command line.

use std::process::ExitCode;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    if let Some(code) = llm_in_sandbox::zygote_entry() {
        return code;
    }
    let argv = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let argv: Vec<String> = argv.collect();
    let raised = llm_in_sandbox::sys::process::raise_open_files();
    // Before a thread exists, and before there is much to copy.
    let forked = llm_in_sandbox::cli::fork_zygote(argv.get(1).map(String::as_str));
    log_to_stderr();
    llm_in_sandbox::sys::process::ignore_file_size_signal();
    let runtime = raised.and_then(|()| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    });
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(llm_in_sandbox::cli::main(argv, forked));
            // A thread that waits for a person's key must not keep the program.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(error) => {
            llm_in_sandbox::cli::output::error(&error);
            ExitCode::from(llm_in_sandbox::exit::FAILED)
        }
    }
}

/// Warnings, or what `LLM_IN_SANDBOX_LOG` asks for (as in `debug` or `llm_in_sandbox::host=debug`).
fn log_to_stderr() {
    let asked = std::env::var("LLM_IN_SANDBOX_LOG").ok();
    // Not EnvFilter: the tables of its regular expressions cost every start 0.1 ms. An empty text would ask for errors alone.
    let asked = asked.filter(|asked| !asked.is_empty());
    let filter: Option<Targets> = asked.and_then(|asked| asked.parse().ok());
    let filter = filter.unwrap_or_default();
    let filter = match filter.default_level() {
        None => filter.with_default(LevelFilter::WARN),
        Some(_) => filter,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(llm_in_sandbox::cli::output::log)
        .with_target(false);
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
}
