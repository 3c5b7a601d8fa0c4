# Row: processes of the host are seen, signalled or traced. The victim is the runner's own.
VICTIM, MARK = FACTS['victim'], FACTS['victim_mark']


def victim():
    """The victim's number here, if it can be seen at all."""
    for pid in pids():
        try:
            line = content(f'/proc/{pid}/cmdline')
            # This program was told the mark, too; only it was also told the secret.
            if MARK.encode() in line and FACTS['secret'].encode() not in line:
                return pid
        except OSError:
            pass
    return None


@attack
def it_is_listed():
    pid = victim()
    if pid:
        raise Escaped(f'process {pid} of the host is in /proc')
    return f'{len(pids())} processes, all of this sandbox'


@attack
def signals():
    # Signal 0: asks only for the right.
    tried = []
    for pid in {VICTIM, victim() or VICTIM, -VICTIM}:
        try:
            os.kill(pid, 0)
        except OSError as e:
            tried.append(name_of(e.errno))
            continue
        if MARK.encode() in content(f'/proc/{abs(pid)}/cmdline'):
            raise Escaped(f'process {pid} can be signalled')
    return 'kill: ' + ', '.join(tried)


@attack
def pidfds():
    fd = syscall(434, VICTIM, 0)
    if fd >= 0 and MARK.encode() in content(f'/proc/{VICTIM}/cmdline'):
        raise Escaped('pidfd_open of the victim')
    return 'pidfd_open: no such process'


def target():
    # Where the victim cannot be seen, PID 1 of this pid namespace is the process to get hold of.
    pid = victim()
    if pid is None and os.stat('/proc/self/ns/pid').st_ino == FACTS['namespaces']['pid']:
        raise Skip('the victim is not visible, and PID 1 is the host\'s')
    return pid or 1


def stopped(pid):
    """Lets go of what was attached."""
    os.waitpid(pid, 0x40000000)
    syscall((101, 117), 17, pid, 0, 0)


@attack
def ptrace_attach():
    pid = target()
    result = syscall((101, 117), 16, pid, 0, 0)
    if result == 0:
        stopped(pid)
    return refused(f'PTRACE_ATTACH to {pid}', result, errno.EPERM)


@attack
def ptrace_seize():
    pid = target()
    return refused(f'PTRACE_SEIZE of {pid}', syscall((101, 117), 0x4206, pid, 0, 0), errno.EPERM)


def vectors(address):
    here = ctypes.create_string_buffer(64)
    return here, (ctypes.c_ulong * 2)(ctypes.addressof(here), 64), (ctypes.c_ulong * 2)(address, 64)


def mapped(pid):
    """An address that can be read, where maps tell one."""
    try:
        return int(content(f'/proc/{pid}/maps').split(b'-')[0], 16)
    except (OSError, ValueError):
        return 0x400000


@attack
def process_vm_readv():
    pid = target()
    _, local, remote = vectors(mapped(pid))
    return refused('process_vm_readv', syscall((310, 270), pid, local, 1, remote, 1, 0), errno.EPERM)


@attack
def process_vm_writev():
    # At an address that nobody has: the right is checked first.
    pid = target()
    _, local, remote = vectors(8)
    result = syscall((311, 271), pid, local, 1, remote, 1, 0)
    if result == -errno.EFAULT:
        raise Escaped('process_vm_writev was let in, only the address was wrong')
    return refused('process_vm_writev', result, errno.EPERM)


@attack
def memory():
    pid = target()
    for path in (f'/proc/{pid}/mem', f'/proc/{pid}/task/{pid}/mem'):
        refused(path, opens(path, os.O_RDWR), errno.EACCES, errno.EPERM, errno.EROFS)
    return 'mem: refused'


@attack
def process_madvise():
    pid = target()
    fd = os.pidfd_open(pid)
    _, _, remote = vectors(mapped(pid))
    return refused('process_madvise', syscall(440, fd, remote, 1, 20, 0), errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS)


@attack
def pidfd_getfd():
    pid = target()
    return refused('pidfd_getfd', syscall(438, os.pidfd_open(pid), 0, 0), errno.EPERM)


@attack
def kcmp():
    pid = target()
    return refused('kcmp', syscall((312, 272), os.getpid(), pid, 0, 0, 0), errno.EPERM)


@attack
def secrets_of_pid_1():
    pid = target()
    read = []
    for name in ('environ', 'maps', 'auxv', 'syscall', 'stack', 'personality', 'io', 'smaps', 'pagemap', 'timers'):
        path = f'/proc/{pid}/{name}'
        try:
            if content(path):
                read.append(name)
        except OSError:
            pass
    # Which timers and how many bytes tell nothing; the rest is checked as ptrace is.
    read = [name for name in read if name not in ('timers', 'io')]
    if read:
        raise Escaped(f'{read} of process {pid}')
    return 'nothing can be read'


class Limit(ctypes.Structure):
    _fields_ = [('soft', ctypes.c_ulong), ('hard', ctypes.c_ulong)]


@attack
def limits_of_pid_1():
    # RLIMIT_CPU 0 would have the kernel kill PID 1, RLIMIT_NOFILE 0 leave it without hands: a
    # command could make its own end look like a failure of the host.
    pid, limit = target(), Limit()
    got = syscall((302, 261), pid, 7, 0, ctypes.byref(limit))
    if got < 0:
        return refused('prlimit64', got, errno.EPERM)
    return refused('prlimit64', syscall((302, 261), pid, 7, ctypes.byref(limit), 0), errno.EPERM)


@attack
def namespaces_of_pid_1():
    same = []
    for kind in ('mnt', 'pid', 'net', 'ipc', 'uts', 'user', 'cgroup'):
        number = os.stat(f'/proc/self/ns/{kind}').st_ino
        if number == FACTS['namespaces'].get(kind):
            same.append(kind)
    if same:
        raise Escaped(f'namespaces of the host: {same}')
    return 'seven namespaces, none of the host'


@attack
def killing_and_stopping_pid_1():
    if not MINE:
        raise Skip('PID 1 is not ours')
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV, signal.SIGILL):
        os.kill(1, number)
        fd = os.pidfd_open(1)
        signal.pidfd_send_signal(fd, number)
    # And as a flood, of those that queue.
    for _ in range(5000):
        libc.sigqueue(1, 40, 0)
    state = next(l for l in open('/proc/1/status') if l.startswith('State')).split()[1]
    if state in 'TtZX':
        raise Escaped(f'PID 1 is in state {state}')
    return f'PID 1 goes on, state {state}; the runner asks it next'


@attack
def files_of_its_process_directory():
    # What a process of the same id may write of another.
    pid, open_for_writing = target(), []
    for name in sorted(os.listdir(f'/proc/{pid}')):
        path = f'/proc/{pid}/{name}'
        if not os.path.isfile(path) or opens(path, os.O_WRONLY) != 0:
            continue
        if name == 'timerslack_ns' and MINE:
            # Anybody may open it; who may write is asked at the write.
            try:
                with open(path, 'w') as file:
                    file.write('50000')
            except PermissionError:
                continue
        open_for_writing.append(name)
    if open_for_writing:
        raise Escaped(f'{open_for_writing} of process {pid} open for writing')
    return 'none opens for writing'


main()
