//! Files of the host and of the kernel.

use llm_in_sandbox::env::Env;

use super::{Check, attack};

/// A file of the host, by every way that leads out of a root directory. `path` is its place on the
/// host, `content` what it holds.
pub(crate) async fn host_files_are_out_of_reach(
    env: &impl Env,
    path: &str,
    content: &str,
) -> Check {
    let script = format!(
        r#"
CANARY, CONTENT = {path:?}, {content:?}
def look(way, path):
    try:
        with open(path) as file:
            if CONTENT in file.read(): breach('read by', way)
    except (OSError, UnicodeDecodeError): pass
look('its path', CANARY)
look('..', '/..' * 50 + CANARY)
roots = ['/proc/self/root', '/proc/self/cwd', '/proc/thread-self/root', '/proc/thread-self/cwd']
for pid in filter(str.isdigit, os.listdir('/proc')):
    roots += ['/proc/%s/root' % pid, '/proc/%s/cwd' % pid]
    try: roots += ['/proc/%s/fd/%s' % (pid, fd) for fd in os.listdir('/proc/%s/fd' % pid)]
    except OSError: pass
for root in roots:
    look(root, root + CANARY); look(root + '/..', root + '/..' * 50 + CANARY)
for fd in range(1024):
    try: os.close(os.open(CANARY[1:], os.O_RDONLY, dir_fd=fd)); breach('descriptor', fd)
    except OSError: pass
# The classic way out of a chroot: a directory from before, then upwards.
if os.fork() == 0:
    try:
        before = os.open('/', os.O_RDONLY)
        os.makedirs('/tmp/cell', exist_ok=True)
        os.chroot('/tmp/cell'); os.fchdir(before)
        for _ in range(200): os.chdir('..')
        os.chroot('.')
        look('chroot', CANARY); look('chroot', '.' + CANARY)
        # What the root lies on is not to be had, either.
        if not os.path.samestat(os.stat('/'), os.fstat(before)): breach('chroot', os.listdir('/'))
    finally: os._exit(0)
os.wait()
# No mount shows a directory of the host.
for line in open('/proc/self/mountinfo'):
    fields = line.split()
    kind = fields[fields.index('-') + 1]
    device = fields[3] in ('/null', '/zero', '/full', '/random', '/urandom', '/tty')
    if kind not in ('overlay', 'proc', 'tmpfs', 'devpts') and not device: breach('mount', line)
"#
    );
    attack(env, &script).await
}

/// Files of proc that tell about the host.
pub(crate) async fn masked_files_hold_nothing(env: &impl Env) -> Check {
    attack(
        env,
        r#"
for name in 'interrupts kcore keys key-users latency_stats timer_list kallsyms sched_debug'.split():
    path = '/proc/' + name
    try:
        with open(path, 'rb') as file:
            if file.read(100): breach(path, 'can be read')
    except OSError as e: expect(path, e.errno, errno.ENOENT)
    if os.path.exists(path): expect('umount ' + path, syscall((166, 39)[arm], path.encode(), 2), errno.EPERM)
    try: os.unlink(path); breach('unlinked', path)
    except OSError: pass
for name in 'acpi asound scsi'.split():
    if os.path.isdir('/proc/' + name) and os.listdir('/proc/' + name): breach('/proc/' + name)
"#,
    )
    .await
}

/// Switches of the kernel: nothing below proc's read-only parts opens for writing.
pub(crate) async fn kernel_settings_are_read_only(env: &impl Env) -> Check {
    attack(
        env,
        r#"
count = 0
for top in ('/proc/sys', '/proc/fs', '/proc/irq', '/proc/bus'):
    for directory, _, names in os.walk(top):
        for name in names:
            count += 1
            if opens(os.path.join(directory, name), os.O_WRONLY) == 0: breach('writable', directory, name)
if count < 100: breach('only', count, 'files seen')
for path in ('/proc/sysrq-trigger', '/proc/sys/net/ipv4/ip_forward', '/proc/sys/kernel/core_pattern'):
    if os.path.exists(path): expect(path, opens(path, os.O_WRONLY), errno.EROFS, errno.EACCES)
try: os.chmod('/proc/sys/kernel/core_pattern', 0o666); breach('chmod')
except OSError: pass
if not os.statvfs('/proc/sys').f_flag & os.ST_RDONLY: breach('/proc/sys is not read-only')
"#,
    )
    .await
}

/// /sys has nothing and takes nothing.
pub(crate) async fn sys_is_empty_and_read_only(env: &impl Env) -> Check {
    attack(
        env,
        r#"
if os.listdir('/sys'): breach('/sys holds', os.listdir('/sys'))
try: os.mkdir('/sys/x'); breach('made /sys/x')
except OSError as e: expect('/sys/x', e.errno, errno.EROFS, errno.EACCES)
"#,
    )
    .await
}

/// Device nodes can neither be made nor used where they might appear.
pub(crate) async fn devices_cannot_be_made(env: &impl Env) -> Check {
    attack(
        env,
        r#"
import stat
for kind, numbers in ((stat.S_IFCHR, ((0, 0), (1, 1), (1, 3), (5, 1), (10, 200))), (stat.S_IFBLK, ((8, 0), (7, 0), (254, 0)))):
    for number in numbers:
        for directory in ('/tmp', '/dev', '/dev/shm', '/root'):
            path = directory + '/node'
            try: os.mknod(path, kind | 0o666, os.makedev(*number)); breach('made', path, number); os.unlink(path)
            except OSError as e: expect(path, e.errno, errno.EPERM, errno.EACCES)
for directory in ('/', '/dev', '/dev/shm', '/proc'):
    if not os.statvfs(directory).f_flag & 4: breach(directory, 'is not nodev')
allowed = {'null', 'zero', 'full', 'random', 'urandom', 'tty', 'fd', 'stdin', 'stdout', 'stderr', 'ptmx', 'pts', 'shm'}
if set(os.listdir('/dev')) != allowed: breach('/dev holds', sorted(set(os.listdir('/dev')) ^ allowed))
for name in ('null', 'zero', 'full', 'random', 'urandom'):
    if opens('/dev/' + name, os.O_RDWR): breach('/dev/' + name, 'does not open')
"#,
    )
    .await
}

/// Terminals are the sandbox's own, and few.
pub(crate) async fn terminals_are_its_own_and_few(env: &impl Env) -> Check {
    attack(
        env,
        r#"
found = set(os.listdir('/dev/pts')) - {'ptmx'}
if found - {'0'}: breach('/dev/pts holds', found)
masters = []
try:
    while len(masters) < 100: masters.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))
except OSError as e: expect('one more', e.errno, errno.ENOSPC)
if not 32 <= len(masters) <= 64: breach(len(masters), 'terminals')
"#,
    )
    .await
}
