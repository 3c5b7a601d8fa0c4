# Row: switches of the kernel. Opening for writing is the proof; no byte is written.
WRITE = os.O_WRONLY


def knobs(*paths):
    tried = []
    for path in paths:
        result = opens(path, WRITE)
        if result == 0:
            raise Escaped(f'{path} opened for writing')
        tried.append(f'{path}: {name_of(-result)}')
    return '; '.join(tried)


@attack
def core_pattern():
    return knobs('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/core_pipe_limit')


@attack
def modprobe():
    return knobs('/proc/sys/kernel/modprobe', '/proc/sys/kernel/modules_disabled')


@attack
def binfmt_misc():
    return knobs('/proc/sys/fs/binfmt_misc/register', '/proc/sys/fs/binfmt_misc/status')


@attack
def sysrq():
    return knobs('/proc/sysrq-trigger', '/proc/sys/kernel/sysrq')


@attack
def uevent_helper():
    return knobs('/sys/kernel/uevent_helper', '/sys/kernel/uevent_seqnum', '/proc/sys/kernel/hotplug')


@attack
def release_agent():
    # CVE-2022-0492: in a version 1 hierarchy that can be mounted, or is there.
    for top in ('/sys/fs/cgroup', '/tmp/lis-cg'):
        if top.startswith('/tmp'):
            os.makedirs(top, exist_ok=True)
            for options in (b'memory', b'pids', b'cpu'):
                if libc.mount(b'cgroup', top.encode(), b'cgroup', 0, options) == 0:
                    break
        for directory, names, _ in os.walk(top):
            names[:] = names[:8] if directory.count('/') < 6 else []
            for name in ('release_agent', 'cgroup.procs'):
                path = os.path.join(directory, name)
                if opens(path, WRITE) == 0:
                    libc.umount2(top.encode(), 2)
                    raise Escaped(f'{path} opened for writing')
    return 'no hierarchy is there, none can be mounted'


@attack
def mtrr():
    return knobs('/proc/mtrr')


@attack
def host_wide_sysctls():
    return knobs(*(f'/proc/sys/{name}' for name in (
        'kernel/panic', 'kernel/kptr_restrict', 'kernel/dmesg_restrict', 'kernel/randomize_va_space',
        'kernel/yama/ptrace_scope', 'kernel/perf_event_paranoid', 'kernel/unprivileged_bpf_disabled',
        'kernel/poweroff_cmd', 'kernel/usermodehelper/bset', 'vm/overcommit_memory', 'vm/drop_caches',
        'vm/mmap_min_addr', 'fs/protected_symlinks', 'fs/suid_dumpable', 'fs/file-max', 'net/core/bpf_jit_enable',
    )))


@attack
def sysctls_of_own_namespaces():
    # Its own, yet attack surface: no program of a sandbox needs to write them.
    return knobs(*(f'/proc/sys/{name}' for name in (
        'kernel/hostname', 'kernel/domainname', 'kernel/shmmax', 'kernel/msgmni', 'kernel/sem',
        'fs/mqueue/queues_max', 'net/ipv4/ip_forward', 'net/ipv4/ping_group_range',
        'user/max_user_namespaces', 'user/max_inotify_instances', 'kernel/ns_last_pid',
    )))


@attack
def everything_that_proc_has():
    found, seen = [], 0
    for directory, names, files in os.walk('/proc'):
        if directory == '/proc':
            names[:] = [n for n in names if not n.isdigit() and n not in ('self', 'thread-self')]
        for name in files:
            path = os.path.join(directory, name)
            seen += 1
            if os.path.islink(path) or opens(path, WRITE) != 0:
                continue
            # The null device is what masks a file.
            if os.stat(path).st_rdev != os.makedev(1, 3):
                found.append(path)
    if found:
        raise Escaped(f'{len(found)} open for writing: {found[:12]}')
    return f'none of {seen} files opens for writing'


@attack
def everything_that_sys_has():
    found, seen = [], 0
    for directory, _, files in os.walk('/sys'):
        for name in files:
            seen += 1
            if opens(os.path.join(directory, name), WRITE) == 0:
                found.append(os.path.join(directory, name))
        if seen > 3000 or found:
            break
    if found:
        raise Escaped(f'{found[:5]} open for writing')
    return f'none of {seen} files opens for writing'


@attack
def masks_cannot_be_peeled_off():
    tried = []
    for path in ('/proc/keys', '/proc/kallsyms', '/proc/timer_list', '/proc/sys'):
        if not os.path.exists(path):
            continue
        before = os.stat(path).st_dev
        result = syscall((166, 39), path.encode(), 2)
        if result == 0 and os.path.exists(path) and os.stat(path).st_dev != before:
            raise Escaped(f'umount of {path} uncovered what is below')
        tried.append(name_of(-result))
    if opens('/proc/kcore') == 0 and content('/proc/kcore'):
        raise Escaped('/proc/kcore can be read')
    return 'umount2: ' + ', '.join(sorted(set(tried)))


@attack
def another_proc_without_masks():
    os.makedirs('/tmp/lis-proc', exist_ok=True)
    if libc.mount(b'proc', b'/tmp/lis-proc', b'proc', 0, None) == 0:
        result = opens('/tmp/lis-proc/sys/kernel/core_pattern', WRITE)
        libc.umount2(b'/tmp/lis-proc', 2)
        if result == 0:
            raise Escaped('a second proc has core_pattern open for writing')
        raise Escaped('a second proc was mounted')
    return f'mount: {name_of(ctypes.get_errno())}'


@attack
def secrets_of_the_kernel():
    # Addresses, other hosts' interrupts, keys, power meters (side channels).
    for path in ('/proc/kallsyms', '/proc/modules', '/proc/interrupts', '/proc/timer_list', '/proc/keys',
                 '/proc/key-users', '/proc/locks', '/proc/kmsg', '/proc/slabinfo', '/proc/kpagecount',
                 '/sys/devices/virtual/powercap', '/sys/firmware', '/sys/kernel/debug'):
        try:
            seen = content(path) if os.path.isfile(path) or not os.path.isdir(path) else os.listdir(path)
        except OSError:
            continue
        # No modules are no secret; those without their addresses are none either.
        if seen and not (path == '/proc/modules' and b'0x0000000000000000' in seen):
            raise Escaped(f'{path} can be read')
    return 'empty, masked or absent'


main()
