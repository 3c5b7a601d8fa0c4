# Row: parts of the kernel that no sandbox needs. Arguments are such that success does no harm.
import fcntl, mmap
NAMESPACES = dict(NEWTIME=0x80, NEWNS=0x20000, NEWCGROUP=0x2000000, NEWUTS=0x4000000, NEWIPC=0x8000000,
                  NEWUSER=0x10000000, NEWPID=0x20000000, NEWNET=0x40000000)


@attack
def unshare():
    for name, flag in NAMESPACES.items():
        refused(f'unshare {name}', syscall((272, 97), flag), errno.EPERM)
    return 'unshare: EPERM, for all eight'


def cloned(number, *args):
    """Result of a clone: the child ends at once."""
    result = syscall(number, *args)
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0x40000000)
    return result


@attack
def clone():
    for name, flag in NAMESPACES.items():
        if name != 'NEWTIME':  # in clone these bits are a signal
            refused(f'clone {name}', cloned((56, 220), flag | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM)
            refused(f'clone {name}, high bits', cloned((56, 220), 1 << 40 | flag | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM)
    return 'clone: EPERM, for all flags'


@attack
def clone3():
    # Its flags are in memory: it must not be there at all.
    arguments = (ctypes.c_ulong * 11)(0x10000000, 0, 0, 0, signal.SIGCHLD, *[0] * 6)
    return refused('clone3', cloned(435, arguments, 88), errno.ENOSYS)


@attack
def nested_user_namespace():
    # Capabilities over a new network or mount namespace open most of the kernel.
    if os.system('unshare -Ur true 2>/dev/null') == 0:
        raise Escaped('unshare -Ur')
    return 'unshare(1): refused'


@attack
def setns():
    tried = []
    for pid in (os.getpid(), 1):
        for kind in ('mnt', 'net', 'user', 'pid', 'ipc', 'uts', 'cgroup'):
            try:
                fd = os.open(f'/proc/{pid}/ns/{kind}', os.O_RDONLY)
            except OSError as e:
                tried.append(name_of(e.errno))
                continue
            result = syscall((308, 268), fd, 0)
            if result == 0:
                raise Escaped(f'setns to {kind} of {pid}')
            tried.append(name_of(-result))
    refused('setns by pidfd', syscall((308, 268), os.pidfd_open(os.getpid()), 0x4000000), errno.EPERM)
    return 'setns: ' + ', '.join(sorted(set(tried)))


@attack
def mount():
    os.makedirs('/tmp/lis-mnt', exist_ok=True)
    flags = dict(tmpfs=(b'none', b'tmpfs', 0), bind=(b'/etc', None, 4096), overlay=(b'none', b'overlay', 0),
                 remount=(b'none', None, 32 | 4096), private=(b'none', None, 1 << 18))
    for name, (source, kind, flag) in flags.items():
        target = b'/tmp/lis-mnt' if name in ('tmpfs', 'bind', 'overlay') else b'/'
        options = b'lowerdir=/etc,upperdir=/tmp,workdir=/tmp' if name == 'overlay' else 0
        result = syscall((165, 40), source, target, kind or 0, flag, options)
        refused(f'mount {name}', result, errno.EPERM)
    return 'mount: EPERM'


@attack
def umount_and_pivot():
    # Of a directory that is no mount point: the right is checked first.
    os.makedirs('/tmp/lis-umount', exist_ok=True)
    for name, result in (('umount2', syscall((166, 39), b'/tmp/lis-umount', 0)),
                         ('pivot_root', syscall((155, 41), b'/tmp/lis-umount', b'/tmp/lis-umount'))):
        if -result in (errno.EINVAL, errno.EBUSY):
            raise Escaped(f'{name} was let in, only the argument was wrong')
        refused(name, result, errno.EPERM)
    return 'EPERM'


@attack
def new_mount_calls():
    let_in, tried = [], []
    calls = dict(open_tree=(428, -100, b'/etc', 1), move_mount=(429, -1, b'', -1, b'', 0), fsopen=(430, b'tmpfs', 0),
                 fsconfig=(431, -1, 0, 0, 0, 0), fsmount=(432, -1, 0, 0), fspick=(433, -100, b'/', 0),
                 mount_setattr=(442, -1, b'', 0, 0, 0), open_tree_attr=(467, -100, b'/etc', 1, 0, 0),
                 statmount=(457, 0, 0, 0, 0), listmount=(458, 0, 0, 0, 0))
    for name, (number, *args) in calls.items():
        result = syscall(number, *args)
        # What looks at its arguments has let us in.
        (tried if result in (-errno.EPERM, -errno.ENOSYS) else let_in).append(f'{name}: {name_of(-result)}')
    if let_in:
        raise Escaped('; '.join(let_in))
    return '; '.join(tried)


def present(calls, *answers):
    """Calls that look at their arguments are there; those that are refused are not."""
    let_in = []
    for name, (number, *args) in calls.items():
        result = syscall(number, *args)
        if -result not in answers:
            let_in.append(f'{name}: {name_of(-result) if result < 0 else "succeeded"}')
    if let_in:
        raise Escaped('; '.join(let_in))
    return ', '.join(calls) + ': ' + '/'.join(map(name_of, answers))


@attack
def bpf():
    return present(dict(bpf=((321, 280), 0, 0, 0), bpf_prog=((321, 280), 5, 0, 128)), errno.EPERM)


@attack
def perf():
    return present(dict(perf_event_open=((298, 241), 0, 0, -1, -1, 0)), errno.EPERM)


@attack
def io_uring():
    return present(dict(setup=(425, 1, 0), enter=(426, -1, 0, 0, 0), register=(427, -1, 0, 0)), errno.EPERM, errno.ENOSYS)


@attack
def userfaultfd():
    if opens('/dev/userfaultfd') == 0:
        raise Escaped('/dev/userfaultfd')
    return present(dict(userfaultfd=((323, 282), 1)), errno.EPERM)


@attack
def keys():
    return present(dict(add_key=((248, 217), b'user', b'lis-attack', b'x', 1, -2),
                        request_key=((249, 218), b'user', b'lis-attack', 0, 0),
                        keyctl=((250, 219), 0, -3, 0)), errno.EPERM)


@attack
def modules_and_other_kernels():
    return present(dict(init_module=((175, 105), 0, 0, 0), finit_module=((313, 273), -1, 0, 0),
                        delete_module=((176, 106), b'lis-no-such-module', 0), kexec_load=((246, 104), 0, 0, 0, 0xffff0000),
                        kexec_file_load=((320, 294), -1, -1, 0, 0, 0xffff0000)), errno.EPERM, errno.ENOSYS)


@attack
def clocks_log_and_power():
    # A wrong magic number, a null pointer, a wrong clock: none could do anything.
    return present(dict(reboot=((169, 142), 0, 0, 0, 0), syslog=((103, 116), 10, 0, 0), settimeofday=((164, 170), 1, 0),
                        clock_settime=((227, 112), 0, 0), adjtimex=((159, 171), 0), swapon=((167, 224), 0, 0),
                        swapoff=((168, 225), 0), acct=((163, 89), 1), quotactl=((179, 60), 0, 0, 0, 0),
                        quotactl_fd=(443, -1, 0, 0, 0)), errno.EPERM)


@attack
def fanotify():
    return present(dict(init=((300, 262), 0, 0), mark=((301, 263), -1, 0, 0, 0, 0)), errno.EPERM)


@attack
def ports_and_tables_of_the_processor():
    if ARM:
        raise Skip('this architecture has no such calls')
    return present(dict(iopl=(172, 3), ioperm=(173, 0x80, 1, 1), modify_ldt=(154, 0, 0, 0)), errno.EPERM)


FAMILIES = dict(AX25=3, X25=9, KEY=15, PACKET=17, RDS=21, PPPOX=24, CAN=29, TIPC=30, BLUETOOTH=31,
                RXRPC=33, PHONET=35, IEEE802154=36, ALG=38, NFC=39, VSOCK=40, KCM=41, QIPCRTR=42, SMC=43, XDP=44, MCTP=45)


if not MINE:
    # Asking for the others could load modules into the host's kernel.
    FAMILIES = dict(PACKET=17)


def families(name, number, extra):
    reached = []
    for family, value in FAMILIES.items():
        for disguise in (0, 1 << 32, 0xffffffff << 32):
            for kind in (1, 2, 3, 5):
                result = syscall(number, disguise | value, kind, 0, *extra)
                if result >= 0 and not extra:
                    os.close(result)
                if result != -errno.EAFNOSUPPORT:
                    reached.append(f'{family} with kind {kind}: {name_of(-result)}')
    if reached:
        raise Escaped(f'{name} reached {len(reached)} of other families: {reached[:6]}')
    return f'{name}: EAFNOSUPPORT for {len(FAMILIES)} families, high bits or none'


@attack
def socket_families():
    return families('socket', (41, 198), ())


@attack
def socketpair_families():
    # It makes two sockets of the family before it finds that they cannot be a pair; of TIPC they can.
    return families('socketpair', (53, 199), ((ctypes.c_int * 2)(),))


@attack
def netlink():
    reached = []
    for protocol in range(1, 24) if MINE else (9, 15, 16):
        for number, extra in (((41, 198), ()), ((53, 199), ((ctypes.c_int * 2)(),))):
            result = syscall(number, 16, 3, protocol, *extra)
            if result != -errno.EAFNOSUPPORT:
                reached.append(f'{protocol}: {name_of(-result) if result < 0 else "opened"}')
    if reached:
        raise Escaped(f'netlink protocols {reached[:6]}')
    return 'EAFNOSUPPORT, for all but the routes'


@attack
def raw_sockets():
    for family, protocol in ((2, 1), (2, 255), (10, 58)):
        refused('a raw socket', syscall((41, 198), family, 3, protocol), errno.EPERM, errno.EAFNOSUPPORT)
    return 'EPERM'


@attack
def netfilter_and_links():
    # What a network namespace of one's own would let its owner do.
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.setsockopt(socket.SOL_IP, 64, b'\0' * 92)  # IPT_SO_SET_REPLACE
        raise Escaped('netfilter took a table')
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.ENOPROTOOPT):
            raise Escaped(f'netfilter looked at the table: {name_of(e.errno)}')
        answer = name_of(e.errno)
    try:
        fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 0x49))  # SIOCSIFFLAGS, lo as it is
    except OSError as e:
        return f'netfilter: {answer}, interface flags: {name_of(e.errno)}'
    raise Escaped('interface flags can be set')


def program(source, name):
    import subprocess
    path = f'/tmp/lis-{name}'
    compiled = subprocess.run(['gcc', '-x', 'c', '-o', path, '-'], input=source, text=True, capture_output=True)
    if compiled.returncode:
        raise Skip('no compiler: ' + compiled.stderr[-100:])
    return subprocess.run([path], capture_output=True, text=True)


@attack
def calls_of_32_bits():
    if ARM:
        raise Skip('this architecture has no int 0x80')
    # mount(2) of i386 has number 21, which is access(2) here.
    ran = program('int main(void) { int r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory"); return r > 0 ? 42 : 43; }', 'i386')
    if ran.returncode == 42:
        raise Escaped('getpid of i386 was carried out')
    if ran.returncode not in (-signal.SIGSYS, -signal.SIGSEGV):
        raise AssertionError(f'status {ran.returncode}')
    return f'killed by {signal.Signals(-ran.returncode).name}'


@attack
def calls_of_x32():
    if ARM:
        raise Skip('this architecture has no x32')
    for number in (39, 165, 272, 512, 520, 527, 544, 547):
        result = syscall(0x40000000 | number, 0, 0, 0, 0, 0)
        refused(f'x32 call {number}', result, errno.ENOSYS)
    return 'ENOSYS'


@attack
def unknown_numbers():
    # ENOSYS alone says nothing: a kernel that is older than the number says so, too.
    # Not 335: the kernel lets uretprobe past every filter, and kills whoever is no probe with it.
    for number in (337, 387, 423, 470, 471, 480, 600, 0x7fffffff, 0xffffffff):
        refused(f'call {number}', syscall(number, 0, 0, 0, 0, 0), errno.ENOSYS)
    return 'ENOSYS'


def on_a_terminal(work):
    """`work(slave)` in a process whose controlling terminal it is; gives what it returned."""
    master, slave = os.openpty()
    reader, writer = os.pipe()

    def inside():
        os.setsid()
        fcntl.ioctl(slave, 0x540e, 0)
        os.write(writer, json.dumps(work(slave)).encode())
    child(inside)
    os.close(writer)
    return json.loads(os.read(reader, 1 << 16) or b'null')


@attack
def typing_into_the_terminal():
    def types(slave):
        text = ctypes.create_string_buffer(b'x')
        return [(name, high, syscall((16, 29), slave, high | request, text))
                for name, request in (('TIOCSTI', 0x5412), ('TIOCLINUX', 0x541c))
                for high in (0, 1 << 32, 0xdeadbeef << 32, -1 << 32)]
    for name, high, result in on_a_terminal(types):
        refused(f'{name} with {high:#x}', result, errno.EPERM)
    return 'TIOCSTI, TIOCLINUX: EPERM with any high bits'


@attack
def line_disciplines():
    # Loads modules that nothing here needs (CVE-2017-2636, CVE-2020-14416).
    def sets(slave):
        return [syscall((16, 29), slave, 0x5423, ctypes.byref(ctypes.c_int(n))) for n in ((1, 13, 21, 5, 3) if MINE else (0,))]
    answers = on_a_terminal(sets)
    if any(answer != -errno.EPERM for answer in answers):
        raise Escaped(f'TIOCSETD was let in: {[name_of(-a) if a < 0 else "set" for a in answers]}')
    return 'TIOCSETD: EPERM'


@attack
def personality():
    # READ_IMPLIES_EXEC and ADDR_NO_RANDOMIZE weaken whatever is started next.
    for flags in (0x400000, 0x40000, 0x100000):
        result = syscall((135, 92), flags)
        refused(f'personality {flags:#x}', result, errno.EPERM)
    return 'EPERM'


@attack
def memory_at_zero():
    try:
        m = libc.mmap
        m.restype = ctypes.c_void_p
        address = m(ctypes.c_void_p(0), 4096, 3, 0x32, -1, 0)
    except OSError:
        address = None
    if address is not None and address != ctypes.c_void_p(-1).value:
        raise Escaped('a page at address 0')
    return f'mmap: {name_of(ctypes.get_errno())}'


@attack
def capabilities():
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    # dac_read_search linux_immutable net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_ptrace
    # sys_admin sys_boot sys_nice sys_resource sys_time mknod mac_* syslog audit_* perfmon bpf checkpoint_restore
    for number in (2, 9, 12, 13, 14, 15, 16, 17, 19, 21, 22, 23, 24, 25, 27, 32, 33, 36, 37, 38, 39, 40):
        for kind in ('CapEff', 'CapPrm', 'CapBnd', 'CapInh', 'CapAmb'):
            if int(status[kind], 16) >> number & 1:
                raise Escaped(f'capability {number} in {kind}')
    return 'CapEff ' + status['CapEff'].strip()


@attack
def set_user_id_programs():
    import shutil, subprocess
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    if status['NoNewPrivs'].strip() != '1':
        raise Escaped('no_new_privs is not set')
    if sum(int(line.split()[2]) for line in open('/proc/self/uid_map')) < 2:
        return 'no_new_privs; there is no second id to come from'
    shutil.copy('/usr/bin/id', '/tmp/lis-suid')
    os.chmod('/tmp/lis-suid', 0o6755)
    became = subprocess.run(['/tmp/lis-suid', '-u'], user=1000, group=1000, extra_groups=[], capture_output=True, text=True)
    if became.stdout.strip() == '0':
        raise Escaped('a set-user-id program became root')
    return 'no_new_privs, and it stays ' + became.stdout.strip()


@attack
def file_capabilities():
    import shutil, subprocess
    shutil.copy('/usr/bin/grep', '/tmp/lis-cap')
    # Version 2, effective: cap_net_raw, cap_sys_admin.
    value = struct.pack('<IIIII', 0x02000001, 1 << 13 | 1 << 21, 0, 0, 0)
    try:
        os.setxattr('/tmp/lis-cap', 'security.capability', value)
    except OSError as e:
        return f'setxattr: {name_of(e.errno)}'
    shown = subprocess.run(['/tmp/lis-cap', 'CapEff', '/proc/self/status'], capture_output=True, text=True).stdout
    if int(shown.split()[1], 16) & (1 << 21):
        raise Escaped(f'the program has {shown.strip()}')
    return f'set, and it has {shown.strip()}'


@attack
def real_time_scheduling():
    # It would take the processor from everybody, the host included.
    parameter = ctypes.c_int(1)
    for policy in (1, 2):
        refused('sched_setscheduler', syscall((144, 119), 0, policy, ctypes.byref(parameter)), errno.EPERM)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except PermissionError:
        return 'EPERM'
    raise Escaped('nice -20')


main()
