//! The program: first the zygote's entry, before any thread exists, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "__zygote") {
        let stage = arguments.next().unwrap_or_default();
        return ExitCode::from(llm_in_sandbox::jail::zygote_main(&stage.to_string_lossy()));
    }
    ExitCode::SUCCESS
}
