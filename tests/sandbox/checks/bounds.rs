//! What a sandbox can use up, and that it can be used afterwards.

use std::time::Duration;

use llm_in_sandbox::env::{Env, ExecRequest, ExitStatus};

use super::{Check, attack, prints};
use crate::fixture::text;

/// Bytes, for a sandbox with 16 MiB.
pub(crate) async fn disk_is_bounded(env: &impl Env) -> Check {
    attack(
        env,
        r#"
def fill(path):
    written, file = 0, os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while written < 64 << 20: written += os.write(file, bytes(1 << 20))
        return breach(path, 'took 64 MiB')
    except OSError as e: expect(path, e.errno, errno.ENOSPC)
    finally: os.close(file)
fill('/root/big'); fill('/testbed/more')
os.unlink('/root/big')
# Other places to write to have bounds of their own.
fill('/dev/big')
os.unlink('/root/x') if os.path.exists('/root/x') else None
"#,
    )
    .await?;
    prints(
        env,
        "rm -f /testbed/more; echo on > /testbed/f && cat /testbed/f",
        "on\n",
    )
    .await
}

/// Files, for a sandbox with 1000.
pub(crate) async fn files_are_bounded(env: &impl Env) -> Check {
    attack(
        env,
        r#"
os.mkdir('/testbed/many')
made = 0
try:
    while made < 5000: os.close(os.open('/testbed/many/%d' % made, os.O_CREAT | os.O_WRONLY)); made += 1
    breach('made 5000 files')
except OSError as e: expect('file', e.errno, errno.ENOSPC)
"#,
    )
    .await?;
    prints(
        env,
        "rm -r /testbed/many; echo on > /testbed/f && cat /testbed/f",
        "on\n",
    )
    .await
}

/// Processes, for a sandbox with 40: a bomb of 400 is cut short, and the sandbox goes on.
pub(crate) async fn processes_are_bounded(env: &impl Env) -> Check {
    attack(
        env,
        r#"
import time
children = []
try:
    while len(children) < 400:
        pid = os.fork()
        if pid == 0: time.sleep(60); os._exit(0)
        children.append(pid)
    breach('400 processes')
except OSError as e: expect('fork', e.errno, errno.EAGAIN)
for pid in children: os.kill(pid, signal.SIGKILL)
for pid in children: os.waitpid(pid, 0)
if len(children) < 20: breach('only', len(children), 'processes')
"#,
    )
    .await?;
    let mut bomb = ExecRequest::new(["bash", "-c", "b() { b | b & }; b; sleep 2"]);
    bomb.timeout = Some(Duration::from_secs(4));
    env.exec(&bomb)
        .await
        .map_err(|e| format!("after a fork bomb: {e}"))?;
    Ok(())
}

/// Memory, for a sandbox with 128 MiB and a cgroup: the hog dies, the shell or its successor goes on.
pub(crate) async fn memory_is_bounded(env: &impl Env) -> Check {
    let mut hog = ExecRequest::new([
        "python3",
        "-c",
        "b = []\nfor _ in range(64): b.append(bytearray(b'x') * (16 << 20))\nprint('got 1 GiB')",
    ]);
    hog.timeout = Some(Duration::from_secs(30));
    let result = env.exec(&hog).await.map_err(|e| e.to_string())?;
    if result.status != ExitStatus::Signal(libc::SIGKILL) || result.timed_out {
        return Err(format!("{:?} {}", result.status, text(&result.stdout)));
    }
    let limit = Duration::from_secs(20);
    let tail = "tail -c 1G /dev/zero > /dev/null; echo survived";
    let shell = env.shell(tail, limit).await.map_err(|e| e.to_string())?;
    if shell.restarted.is_none() && text(&shell.stdout) != "survived\n" {
        return Err(format!("the shell: {shell:?}"));
    }
    let after = env
        .shell("echo on", limit)
        .await
        .map_err(|e| e.to_string())?;
    if text(&after.stdout) == "on\n" {
        Ok(())
    } else {
        Err(format!("afterwards: {after:?}"))
    }
}
