//! System calls that are refused, and those that must go on working.

use std::time::Duration;

use llm_in_sandbox::env::{Env, ExecRequest, ExitStatus};

use super::{Check, attack};
use crate::fixture::text;

/// What only the set-up of a sandbox needs.
pub(crate) async fn mounts_and_namespaces_are_refused(env: &impl Env) -> Check {
    attack(
        env,
        r#"
calls = dict(mount=(165, 40), umount2=(166, 39), pivot_root=(155, 41), setns=(308, 268),
    sethostname=(170, 161), setdomainname=(171, 162), keyctl=(250, 219))
for call, numbers in calls.items():
    expect(call, syscall(numbers[arm], 0, 0, 0, 0, 0), errno.EPERM)
new = dict(open_tree=428, move_mount=429, fsopen=430, fsconfig=431, fsmount=432, fspick=433,
    mount_setattr=442, open_tree_attr=467)
for call, number in new.items():
    expect(call, syscall(number, 0, 0, 0, 0, 0), errno.EPERM)
flags = dict(NEWTIME=0x80, NEWNS=0x20000, NEWCGROUP=0x2000000, NEWUTS=0x4000000, NEWIPC=0x8000000,
    NEWUSER=0x10000000, NEWPID=0x20000000, NEWNET=0x40000000)
for flag, bit in flags.items():
    expect('unshare ' + flag, syscall((272, 97)[arm], bit), errno.EPERM)
    if flag == 'NEWTIME': continue  # in clone these bits are a signal
    number = (56, 220)[arm]
    libc.syscall.restype = ctypes.c_long
    ctypes.set_errno(0)
    pid = libc.syscall(ctypes.c_long(number), ctypes.c_long(bit | signal.SIGCHLD), *[ctypes.c_long(0)] * 4)
    if pid == 0: os._exit(0)
    if pid > 0: os.waitpid(pid, 0)
    expect('clone ' + flag, 0 if pid > 0 else ctypes.get_errno(), errno.EPERM)
"#,
    )
    .await
}

/// What nobody in a sandbox needs: the kernel's insides, other processes' descriptors, files by handle.
pub(crate) async fn dangerous_calls_are_refused(env: &impl Env) -> Check {
    attack(
        env,
        r#"
calls = dict(bpf=(321, 280), perf_event_open=(298, 241), userfaultfd=(323, 282), add_key=(248, 217),
    request_key=(249, 218), open_by_handle_at=(304, 265), name_to_handle_at=(303, 264),
    kcmp=(312, 272), init_module=(175, 105), finit_module=(313, 273), kexec_load=(246, 104),
    reboot=(169, 142), syslog=(103, 116), swapon=(167, 224), acct=(163, 89), settimeofday=(164, 170),
    clock_settime=(227, 112), adjtimex=(159, 171), fanotify_init=(300, 262), quotactl=(179, 60),
    vmsplice=(278, 75), mbind=(237, 235), set_mempolicy=(238, 237), move_pages=(279, 239))
for call, numbers in calls.items():
    expect(call, syscall(numbers[arm], 0, 0, 0, 0, 0), errno.EPERM)
for call, number in dict(io_uring_setup=425, io_uring_enter=426, io_uring_register=427,
        pidfd_getfd=438, process_madvise=440, quotactl_fd=443, memfd_secret=447, cachestat=451,
        statmount=457, listmount=458).items():
    expect(call, syscall(number, 0, 0, 0, 0, 0), errno.EPERM)
expect('personality', syscall((135, 92)[arm], 0x0400000), errno.EPERM)
expect('PR_SET_MM', syscall((157, 167)[arm], 35, 1, 0, 0, 0), errno.EPERM)
for high in (0, 1 << 32):
    for request in (16, 0x4206): expect('ptrace of PID 1', syscall((101, 117)[arm], request, high | 1, 0, 0), errno.EPERM)
    for call, numbers in dict(readv=(310, 270), writev=(311, 271)).items():
        expect('process_vm_' + call, syscall(numbers[arm], high | 1, 0, 0, 0, 0, 0), errno.EPERM)
    expect('prlimit64 of PID 1', syscall((302, 261)[arm], high | 1, 7, 0, 0), errno.EPERM)
"#,
    )
    .await
}

/// Typing into the terminal, also with bits set that the kernel ignores (CVE-2019-10063).
pub(crate) async fn terminals_cannot_be_typed_into(env: &impl Env) -> Check {
    attack(
        env,
        r#"
# Only the controlling terminal can be typed into.
import fcntl
master, slave = os.openpty()
if os.fork() != 0: os.wait(); sys.exit()
os.setsid(); fcntl.ioctl(slave, 0x540e, 0)
for call, request in dict(TIOCSTI=0x5412, TIOCLINUX=0x541c, TIOCSETD=0x5423).items():
    for high in (0, 1 << 32, 0xdeadbeef << 32):
        value = ctypes.c_long(high | request)
        text = ctypes.create_string_buffer(b'x')
        ctypes.set_errno(0)
        libc.syscall(ctypes.c_long((16, 29)[arm]), ctypes.c_long(slave), value, text)
        expect('%s with %#x' % (call, high), ctypes.get_errno(), errno.EPERM)
"#,
    )
    .await
}

/// Address families but UNIX, INET, INET6 and the routes of NETLINK; raw sockets too.
pub(crate) async fn other_socket_families_are_refused(env: &impl Env) -> Check {
    attack(
        env,
        r#"
def make(*args):
    try: socket.socket(*args).close(); return 0
    except OSError as e: return e.errno
for what, family in dict(PACKET=17, VSOCK=40, ALG=38, KEY=15, BLUETOOTH=31, CAN=29, TIPC=30, XDP=44).items():
    expect('AF_' + what, make(family, socket.SOCK_RAW, 0), errno.EAFNOSUPPORT)
    expect('AF_%s, high bits' % what, syscall((41, 198)[arm], (1 << 32) | family, 3, 0), errno.EAFNOSUPPORT)
pair = ctypes.create_string_buffer(8)
for family in (30, 40, 38): expect('socketpair %d' % family, syscall((53, 199)[arm], family, 1, 0, pair), errno.EAFNOSUPPORT)
for kind, protocol in ((1, 132), (5, 132), (5, 0), (1, 262), (6, 33), (2, 115), (1, 256)):
    for family in (2, 10):
        expect('family %d type %d protocol %d' % (family, kind, protocol), make(family, kind, protocol), errno.EAFNOSUPPORT)
for kind, protocol in ((1, 0), (1, 6), (2, 0), (2, 17)):
    for family in (2, 10): expect('family %d type %d' % (family, kind), make(family, kind, protocol), 0)
for protocol in (4, 9, 12, 15, 16):
    expect('NETLINK %d' % protocol, make(socket.AF_NETLINK, socket.SOCK_RAW, protocol), errno.EAFNOSUPPORT)
for family, protocol in ((socket.AF_INET, 1), (socket.AF_INET6, 58)):
    expect('raw socket', make(family, socket.SOCK_RAW, protocol), errno.EPERM, errno.EAFNOSUPPORT)
expect('NETLINK_ROUTE', make(socket.AF_NETLINK, socket.SOCK_RAW, 0), 0)
"#,
    )
    .await
}

/// What the strict profile refuses beside the default.
pub(crate) async fn neither_networks_nor_other_processes(env: &impl Env) -> Check {
    attack(
        env,
        r#"
for family in (2, 10): expect('family %d' % family, syscall((41, 198)[arm], family, 1, 0), errno.EAFNOSUPPORT)
expect('NETLINK', syscall((41, 198)[arm], 16, 3, 0), errno.EAFNOSUPPORT)
expect('UNIX', syscall((41, 198)[arm], 1, 1, 0), 0)
child = os.fork()
if child == 0: signal.pause()
expect('ptrace', syscall((101, 117)[arm], 0x4206, child, 0, 0), errno.EPERM)
for call, numbers in dict(readv=(310, 270), writev=(311, 271)).items():
    expect('process_vm_' + call, syscall(numbers[arm], child, 0, 0, 0, 0, 0), errno.EPERM)
expect('pidfd_open', syscall(434, child, 0), errno.EPERM)
os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
try: os.chroot('/tmp'); breach('chroot succeeded')
except OSError as e: expect('chroot', e.errno, errno.EPERM)
"#,
    )
    .await
}

/// clone3 and what the filters have no opinion on, x32 included.
pub(crate) async fn unknown_calls_do_not_exist(env: &impl Env) -> Check {
    attack(
        env,
        r#"
arguments = (ctypes.c_ulong * 11)(*([0] * 4 + [signal.SIGCHLD] + [0] * 6))
ctypes.set_errno(0)
pid = libc.syscall(ctypes.c_long(435), arguments, ctypes.c_long(88))
if pid == 0: os._exit(0)
if pid > 0: os.waitpid(pid, 0)
expect('clone3', 0 if pid > 0 else ctypes.get_errno(), errno.ENOSYS)
for number in (470, 471, 500, 1000, 0x7fffffff):
    expect('call %d' % number, syscall(number, 0, 0, 0), errno.ENOSYS)
if not arm:
    for number in (1, 39, 165, 520):
        expect('x32 call %d' % number, syscall(0x40000000 | number, 0, 0, 0), errno.ENOSYS)
"#,
    )
    .await
}

/// Threads, processes and pools go another way when clone3 is not there.
pub(crate) async fn threads_and_processes_work(env: &impl Env) -> Check {
    env.write_file(
        &"/tmp/pool.py".into(),
        b"\
import multiprocessing, subprocess, threading
def square(x): return x * x
if __name__ == '__main__':
    seen = []
    threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(20)]
    [t.start() for t in threads]; [t.join() for t in threads]
    assert sorted(seen) == list(range(20)), seen
    for method in ('fork', 'spawn', 'forkserver'):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(square, range(5)) == [0, 1, 4, 9, 16], method
    assert subprocess.run(['echo', 'child'], capture_output=True).stdout == b'child\\n'
",
        false,
    )
    .await
    .map_err(|e| e.to_string())?;
    super::prints(env, "python3 /tmp/pool.py && echo works", "works\n").await
}

/// 32-bit calls have other numbers: no filter of 64-bit numbers may see them pass.
pub(crate) async fn calls_of_other_architectures_kill(env: &impl Env) -> Check {
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(());
    }
    let program = "\
int main(void) { /* getpid of i386 */ int r; __asm__ volatile(\"int $0x80\" : \"=a\"(r) : \"a\"(20) : \"memory\"); return 42; }\n";
    env.write_file(&"/tmp/i386.c".into(), program.as_bytes(), false)
        .await
        .map_err(|e| e.to_string())?;
    super::prints(
        env,
        "gcc -o /tmp/i386 /tmp/i386.c && echo compiled",
        "compiled\n",
    )
    .await?;
    let mut request = ExecRequest::new(["/tmp/i386"]);
    request.timeout = Some(Duration::from_secs(10));
    let result = env.exec(&request).await.map_err(|e| e.to_string())?;
    match result.status {
        // A kernel without 32-bit calls has no such gate at all.
        ExitStatus::Signal(libc::SIGSYS | libc::SIGSEGV) => Ok(()),
        other @ (ExitStatus::Code(_) | ExitStatus::Signal(_)) => {
            Err(format!("int 0x80: {other:?} {}", text(&result.stderr)))
        }
    }
}
