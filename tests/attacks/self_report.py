# What a sandbox looks like from inside. Needs nothing but Python:
#   llm-in-sandbox exec -i -- python3 - < tests/attacks/self_report.py
import ctypes, errno, os, platform, signal

CAPABILITIES = '''chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control
setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore'''.split()
# Would end or stop the prober, or wait: exit, pause, rt_sigreturn, vfork and the like.
ENDING = {'x86_64': {15, 23, 34, 57, 58, 60, 61, 130, 219, 231, 232, 247, 270, 271, 281, 335, 336, 7, 35, 230, 441, 449, 454, 455},
          'aarch64': {93, 94, 95, 101, 115, 133, 139, 72, 73, 22, 260, 441, 449, 454, 455}}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def probe(number):
    """Every argument is -1: no descriptor, pointer, process or flag is that."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(2)
        null = os.open('/dev/null', os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
        os._exit(ctypes.get_errno() if result < 0 else 0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return errno.errorcode.get(os.WEXITSTATUS(status), 'succeeds')


def ranges(numbers):
    found = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ' '.join(f'{a}-{b}' if a != b else str(a) for a, b in found) or 'none'


def main():
    status = dict(line.rstrip('\n').split(':', 1) for line in open('/proc/self/status'))
    print('kernel:      ', platform.release(), platform.machine())
    for kind in ('uid', 'gid'):
        lines = open(f'/proc/self/{kind}_map').read().splitlines()
        print(f'{kind} map:     ', '; '.join(f'{a}-{int(a) + int(n) - 1} is {b}-{int(b) + int(n) - 1} outside' for a, b, n in map(str.split, lines)))
    print('namespaces:  ', ' '.join(sorted(os.readlink(f'/proc/self/ns/{n}') for n in ('user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup', 'time'))))
    for field in ('CapEff', 'CapBnd', 'CapAmb'):
        value = int(status[field], 16)
        names = [name for bit, name in enumerate(CAPABILITIES) if value >> bit & 1]
        print(f'{field}:      ', status[field].strip(), ' '.join(names))
    for field in ('NoNewPrivs', 'Seccomp', 'Seccomp_filters'):
        print(f'{field + ":":14}', status[field].strip())
    print('cgroup:      ', ' '.join(sorted({line.strip().split(':', 2)[2] for line in open('/proc/self/cgroup')})))
    print('limits:      ', ', '.join(' '.join(line[:26].split()[1:]) + ' ' + line[26:].split()[1] for line in open('/proc/self/limits').read().splitlines()[1:] if line[26:].split()[1] != 'unlimited'))
    print('mounts:')
    for line in open('/proc/self/mountinfo'):
        fields = line.split()
        print('  ', fields[4], fields[fields.index('-') + 1], fields[5])
    report = {}
    for number in sorted(set(range(0, 480)) - ENDING):
        report.setdefault(probe(number), []).append(number)
    print('system calls with -1 for every argument:')
    for answer in ('EPERM', 'ENOSYS', 'EAFNOSUPPORT', 'SIGSYS'):
        print(f'   {answer}: {len(report.get(answer, []))}: {ranges(report.get(answer, []))}')
    rest = {answer: len(numbers) for answer, numbers in report.items() if answer not in ('EPERM', 'ENOSYS', 'EAFNOSUPPORT', 'SIGSYS')}
    print('   let in:', sum(rest.values()), rest)
    print('   not tried:', ranges(sorted(ENDING)))


main()
