//! Attacks from inside, as functions that tell what they could do.
//!
//! Each is `async fn(&impl Env) -> Result<(), String>`: `Err` says which wall was breached. `walls` and
//! `neighbours` put a whole sandbox to them, `negative` one that lacks a wall, to see them fail.

pub(crate) mod bounds;
pub(crate) mod calls;
pub(crate) mod files;
pub(crate) mod neighbours;
pub(crate) mod processes;

use std::time::Duration;

use llm_in_sandbox::env::{Env, ExecRequest, ExitStatus};

use crate::fixture::text;

/// What an attack found out.
pub(crate) type Check = Result<(), String>;

/// What all attacks in Python begin with: `breach(…)` reports one, `syscall(nr, …)` gives the errno.
const PRELUDE: &str = r#"
import ctypes, errno, os, platform, signal, socket, stat, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def breach(*what): print(*what, flush=True)
def syscall(number, *args):
    ctypes.set_errno(0)
    longs = [a if isinstance(a, bytes) or hasattr(a, '_objects') else ctypes.c_long(a) for a in args]
    result = libc.syscall(ctypes.c_long(number), *longs)
    return 0 if result >= 0 else ctypes.get_errno()
def name(number): return errno.errorcode.get(number, number)
def expect(what, got, *wanted):
    if got not in wanted: breach(what, name(got) if got else 'succeeded')
def opens(path, flags=os.O_RDONLY):
    try: os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)); return 0
    except OSError as e: return e.errno
arm = platform.machine() == 'aarch64'
"#;

/// Runs an attack in Python; every line that it prints is a breach.
async fn attack(env: &impl Env, script: &str) -> Check {
    let mut request = ExecRequest::new(["python3", "-c", &format!("{PRELUDE}\n{script}")]);
    request.timeout = Some(Duration::from_secs(40));
    let result = env
        .exec(&request)
        .await
        .map_err(|e| format!("the attack did not run: {e}"))?;
    let (out, err) = (text(&result.stdout), text(&result.stderr));
    match result.status {
        ExitStatus::Code(0) if out.is_empty() => Ok(()),
        ExitStatus::Code(0) => Err(out),
        status @ (ExitStatus::Code(_) | ExitStatus::Signal(_)) => {
            Err(format!("the attack itself failed: {status:?}\n{out}{err}"))
        }
    }
}

/// Runs a shell script that has to print exactly this.
async fn prints(env: &impl Env, script: &str, expected: &str) -> Check {
    let mut request = ExecRequest::new(["sh", "-c", script]);
    request.timeout = Some(Duration::from_secs(20));
    let result = env.exec(&request).await.map_err(|e| e.to_string())?;
    let (out, err) = (text(&result.stdout), text(&result.stderr));
    if out == expected {
        Ok(())
    } else {
        Err(format!("{script}: {out:?} instead of {expected:?}\n{err}"))
    }
}
