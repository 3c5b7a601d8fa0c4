//! PID 1, the host's processes, and what every process inside has.

use llm_in_sandbox::env::Env;

use super::{Check, attack, prints};

/// Only processes of the sandbox exist, and none of the host's can be signalled.
pub(crate) async fn host_processes_do_not_exist(env: &impl Env) -> Check {
    let script = format!(
        r#"
for pid in filter(str.isdigit, os.listdir('/proc')):
    try: comm = open('/proc/%s/comm' % pid).read().strip()
    except FileNotFoundError: continue
    if (comm == 'lis-init') != (pid == '1'): breach(pid, comm)
    if comm not in ('lis-init', 'python3', 'bash', 'sh'): breach('process', pid, comm)
for pid in (os.getppid(), ):
    if pid != 1: breach('parent is', pid)
for pid in ({host}, {host} + 1, 1 << 21):
    try: os.kill(pid, 0); breach('signalled', pid)
    except ProcessLookupError: pass
expect('pidfd_open', syscall(434, {host}, 0), errno.ESRCH)
os.kill(1, signal.SIGTERM); os.kill(1, signal.SIGKILL)
"#,
        host = std::process::id()
    );
    attack(env, &script).await
}

/// Capabilities, no_new_privs and seccomp of every process.
pub(crate) async fn every_process_is_restricted(env: &impl Env) -> Check {
    attack(
        env,
        r#"
# chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
CAPABILITIES = 0x800405fb
wanted = dict(CapInh=0, CapPrm=CAPABILITIES, CapEff=CAPABILITIES, CapBnd=CAPABILITIES, CapAmb=0)
for pid in filter(str.isdigit, os.listdir('/proc')):
    fields = dict(l.split(':', 1) for l in open('/proc/%s/status' % pid))
    for field, value in wanted.items():
        if int(fields[field], 16) != value: breach(pid, field, fields[field].strip())
    if fields['NoNewPrivs'].strip() != '1': breach(pid, 'no_new_privs')
    if fields['Seccomp'].strip() != '2': breach(pid, 'seccomp', fields['Seccomp'])
    if fields['Seccomp_filters'].strip() != '3': breach(pid, 'filters', fields['Seccomp_filters'])
"#,
    )
    .await
}

/// Memory, program, environment and descriptors of PID 1.
pub(crate) async fn pid_1_is_out_of_reach(env: &impl Env) -> Check {
    attack(
        env,
        r#"
def reads(path):
    try:
        with open(path, 'rb', buffering=0) as file: file.read(64)
        return 0
    except OSError as e: return e.errno
for what in ('mem', 'environ', 'maps', 'auxv', 'syscall', 'stack', 'personality'):
    expect('/proc/1/' + what, reads('/proc/1/' + what), errno.EACCES, errno.EPERM, errno.ENOENT)
expect('write /proc/1/mem', opens('/proc/1/mem', os.O_RDWR), errno.EACCES, errno.EPERM, errno.EROFS)
for what in ('exe', 'root', 'cwd', 'ns/mnt', 'ns/user', 'fd/0', 'fd/3'):
    try: breach('/proc/1/' + what, os.readlink('/proc/1/' + what))
    except OSError as e: expect('/proc/1/' + what, e.errno, errno.EACCES, errno.EPERM, errno.ENOENT)
    expect('open /proc/1/' + what, opens('/proc/1/' + what), errno.EACCES, errno.EPERM, errno.ENOENT)
# Whose ids the host does not change may list the numbers, and no more.
try: numbers = os.listdir('/proc/1/fd')
except OSError as e: numbers = []
for number in numbers:
    try: breach('/proc/1/fd/' + number, os.readlink('/proc/1/fd/' + number))
    except OSError: pass
# A PID 1 that is not guarded would stop at PTRACE_ATTACH.
seized = syscall((101, 117)[arm], 0x4206, 1, 0, 0)
expect('PTRACE_SEIZE', seized, errno.EPERM)
if seized: expect('PTRACE_ATTACH', syscall((101, 117)[arm], 16, 1, 0, 0), errno.EPERM)
here = ctypes.create_string_buffer(64)
local = (ctypes.c_ulong * 2)(ctypes.addressof(here), 64)
remote = (ctypes.c_ulong * 2)(0x400000, 64)
for call, numbers in dict(process_vm_readv=(310, 270), process_vm_writev=(311, 271)).items():
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(numbers[arm]), ctypes.c_long(1), local, ctypes.c_long(1), remote, ctypes.c_long(1), ctypes.c_long(0))
    expect(call, ctypes.get_errno(), errno.EPERM)
"#,
    )
    .await
}

/// Programs have their three descriptors and no other.
pub(crate) async fn no_descriptor_leaks_in(env: &impl Env) -> Check {
    attack(
        env,
        r#"
for fd in map(int, os.listdir('/proc/self/fd')):
    if fd > 3: breach('descriptor', fd, os.readlink('/proc/self/fd/%d' % fd))
def mount(fd):
    return [line for line in open('/proc/self/fdinfo/%d' % fd) if line.startswith('mnt_id')]
# The sandbox's own null device, not the host's node of it.
null = os.open('/dev/null', os.O_RDONLY)
if os.readlink('/proc/self/fd/0') != '/dev/null' or mount(0) != mount(null): breach(0, os.readlink('/proc/self/fd/0'), mount(0))
for fd in (1, 2):
    if not os.readlink('/proc/self/fd/%d' % fd).startswith('pipe:'): breach(fd, os.readlink('/proc/self/fd/%d' % fd))
"#,
    )
    .await?;
    let shell = env
        .shell("ls /proc/self/fd | cat", std::time::Duration::from_secs(10))
        .await;
    let listed = crate::fixture::text(&shell.map_err(|e| e.to_string())?.stdout);
    if listed == "0\n1\n2\n3\n" {
        Ok(())
    } else {
        Err(format!("from the shell: {listed}"))
    }
}

/// A set-user-id program is an ordinary one.
pub(crate) async fn set_user_id_programs_give_nothing(env: &impl Env) -> Check {
    attack(
        env,
        r#"
import shutil, subprocess
shutil.copy('/usr/bin/id', '/tmp/suid'); os.chmod('/tmp/suid', 0o6755)
# With a single id inside there is nobody to become, and so nobody to come from.
ranges = sum(int(l.split()[2]) for l in open('/proc/self/uid_map'))
if ranges > 1:
    found = subprocess.run(['/tmp/suid', '-u'], user=1000, group=1000, extra_groups=[], capture_output=True, text=True)
    if found.stdout.strip() != '1000': breach('became', found.stdout, found.stderr)
    sudo = subprocess.run(['su', '-c', 'id'], user=1000, group=1000, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if sudo.returncode == 0: breach('su', sudo.stdout)
if not os.statvfs('/').f_flag & os.ST_NOSUID: breach('/ is not nosuid')
"#,
    )
    .await
}

/// Nothing of the host's environment arrives, in no process.
pub(crate) async fn the_environment_is_its_own(env: &impl Env) -> Check {
    attack(
        env,
        r#"
known = set('''PATH HOME USER LANG LC_ALL LC_CTYPE TERM PAGER GIT_PAGER MANPAGER PYTHONUNBUFFERED DEBIAN_FRONTEND
    NO_COLOR PIP_DISABLE_PIP_VERSION_CHECK PIP_ROOT_USER_ACTION PIP_NO_WARN_SCRIPT_LOCATION PIP_PROGRESS_BAR'''.split())
for name in set(os.environ) - known: breach(name, os.environ[name])
"#,
    )
    .await
}

/// The own loopback, up, and nothing else; ping works on it.
pub(crate) async fn only_loopback_exists(env: &impl Env) -> Check {
    attack(
        env,
        r#"
import fcntl
names = [n for _, n in socket.if_nameindex()]
if names != ['lo']: breach('interfaces', names)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flags = struct.unpack('16sh', fcntl.ioctl(s, 0x8913, struct.pack('16sh', b'lo', 0))[:18])[1]
if not flags & 1: breach('lo is down')
p = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
p.settimeout(5); p.sendto(struct.pack('!BBHHH', 8, 0, 0, 0, 1) + b'hello', ('127.0.0.1', 0))
if not p.recv(100).endswith(b'hello'): breach('no echo')
for address in ('1.1.1.1', '169.254.169.254', '10.0.0.1'):
    try: s.connect((address, 53)); breach('a route to', address)
    except OSError as e: expect(address, e.errno, errno.ENETUNREACH)
"#,
    )
    .await
}

/// Resource limits that hold without a cgroup.
pub(crate) async fn resource_limits_are_set(env: &impl Env) -> Check {
    prints(
        env,
        "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc",
        "4096\n4096\n0\n0\n",
    )
    .await?;
    attack(
        env,
        r#"
import resource
for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
    try: resource.setrlimit(limit, (1 << 20, 1 << 20)); breach('raised', limit)
    except (ValueError, PermissionError): pass
for limit, most in ((resource.RLIMIT_SIGPENDING, 4096), (resource.RLIMIT_MSGQUEUE, 800 << 10), (resource.RLIMIT_MEMLOCK, 64 << 20)):
    if not 0 <= resource.getrlimit(limit)[1] <= most: breach(limit, resource.getrlimit(limit))
"#,
    )
    .await
}
