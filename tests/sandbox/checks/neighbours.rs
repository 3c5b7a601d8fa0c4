//! Two sandboxes at once: what one makes, the other cannot find.

use std::time::Duration;

use llm_in_sandbox::env::Env;

use super::{Check, attack};
use crate::fixture::text;

/// Leaves something of every kind behind, under names that the other looks for.
const PLANT: &str = r#"
import ctypes, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
key = int(sys.argv[1])
for make in (lambda: libc.shmget(key, 4096, 0o1666), lambda: libc.semget(key, 1, 0o1666), lambda: libc.msgget(key, 0o1666)):
    if make() < 0: sys.exit('cannot make System V objects')
if libc.mq_open(b'/lis-%d' % key, os.O_CREAT | os.O_RDWR, 0o666, None) < 0: sys.exit('cannot make a message queue')
for directory in ('/dev/shm', '/tmp', '/testbed', '/root', '/run'):
    open('%s/lis-%d' % (directory, key), 'w').write('planted')
a = socket.socket(socket.AF_UNIX); a.bind('\0lis-%d' % key); a.listen()
t = socket.socket(); t.bind(('127.0.0.1', 10000 + key % 20000)); t.listen()
u = socket.socket(socket.AF_INET6); u.bind(('::1', 10000 + key % 20000)); u.listen()
print('planted', flush=True)
time.sleep(1000)
"#;

/// Plants in one sandbox; it stays until that sandbox ends.
pub(crate) async fn plant(env: &impl Env, key: u32) -> Check {
    env.write_file(&"/tmp/plant.py".into(), PLANT.as_bytes(), false)
        .await
        .map_err(|e| e.to_string())?;
    let command = format!(
        "mkfifo /tmp/said; python3 /tmp/plant.py {key} > /tmp/said 2>&1 & read line < /tmp/said; echo $line"
    );
    let result = env
        .shell(&command, Duration::from_secs(20))
        .await
        .map_err(|e| e.to_string())?;
    match text(&result.stdout).as_str() {
        "planted\n" => Ok(()),
        other => Err(format!("could not plant: {other} {}", text(&result.stderr))),
    }
}

/// Looks for it in another.
pub(crate) async fn nothing_is_shared(env: &impl Env, key: u32) -> Check {
    let script = format!(
        r#"
key = {key}
for what, result in (('shm', libc.shmget(key, 4096, 0)), ('sem', libc.semget(key, 1, 0)), ('msg', libc.msgget(key, 0))):
    if result >= 0: breach('System V', what)
if libc.mq_open(b'/lis-%d' % key, os.O_RDWR) >= 0: breach('message queue')
for directory in ('/dev/shm', '/tmp', '/testbed', '/root', '/run'):
    if os.path.exists('%s/lis-%d' % (directory, key)): breach('file in', directory)
def connects(family, address):
    s = socket.socket(family)
    try: s.connect(address); return True
    except OSError: return False
if connects(socket.AF_UNIX, '\0lis-%d' % key): breach('abstract socket')
port = 10000 + key % 20000
if connects(socket.AF_INET, ('127.0.0.1', port)): breach('loopback port')
if connects(socket.AF_INET6, ('::1', port)): breach('loopback port, IPv6')
if 'lis-%d' % key in open('/proc/net/unix').read(): breach('/proc/net/unix')
"#
    );
    attack(env, &script).await
}

/// Serial number of the session keyring, for sandboxes in which `keyctl` is let through.
pub(crate) async fn session_keyring(env: &impl Env) -> Result<i32, String> {
    let script = "import ctypes, platform\n\
        n = 219 if platform.machine() == 'aarch64' else 250\n\
        print(ctypes.CDLL(None).syscall(ctypes.c_long(n), 0, -3, 0))";
    let request = llm_in_sandbox::env::ExecRequest::new(["python3", "-c", script]);
    let result = env.exec(&request).await.map_err(|e| e.to_string())?;
    match text(&result.stdout).trim().parse() {
        Ok(serial @ 1..) => Ok(serial),
        other => Err(format!("no keyring: {other:?} {}", text(&result.stderr))),
    }
}
