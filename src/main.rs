//! The program: first the zygote's entry, before any thread exists, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = llm_in_sandbox::zygote_entry() {
        return code;
    }
    let argv = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(llm_in_sandbox::cli::main(argv));
            // A thread that waits for a person's key must not keep the program.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(_) => ExitCode::from(llm_in_sandbox::exit::FAILED),
    }
}
