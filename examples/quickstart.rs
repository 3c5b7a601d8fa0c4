use std::io::Write;
use std::process::ExitCode;

use llm_in_sandbox::env::{Env, ExecRequest};
use llm_in_sandbox::host::{Launcher, LauncherConfig};
use llm_in_sandbox::image::{Store, state_dir};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    // The program starts itself once more, as the process from which sandboxes are cloned.
    if let Some(code) = llm_in_sandbox::zygote_entry() {
        return Ok(code);
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let image = Store::open(&state_dir(None)?)?.find("default")?;
        let image = image.ok_or("no image yet: llm-in-sandbox image build")?;
        let launcher = Launcher::start(LauncherConfig::default()).await?;
        let sandbox = launcher.sandbox(image.spec()).await?;

        let numbers = "/testbed/numbers.txt".into();
        sandbox
            .write_file(&numbers, b"19 23\n", /*exclusive*/ true)
            .await?;
        let add = "a, b = open('numbers.txt').read().split(); print(int(a) + int(b))";
        let sum = sandbox
            .exec(&ExecRequest::new(["python3", "-c", add]))
            .await?;
        std::io::stdout().write_all(&sum.stdout.head)?;

        let usage = sandbox.close().await?;
        writeln!(std::io::stderr(), "the sandbox lived for {:?}", usage.wall)?;
        Ok(ExitCode::SUCCESS)
    })
}
