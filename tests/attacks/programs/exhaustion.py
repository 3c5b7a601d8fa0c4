# Row: denial of service. Each asks for a little more than the runner allowed (FACTS['bounds']).
import resource, time
BOUNDS = FACTS['bounds']


@attack
def processes():
    if not BOUNDS['pids_enforced']:
        raise Skip('nothing bounds processes here')
    asked, children = BOUNDS['pids'] + 40, []
    try:
        for _ in range(asked):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError as e:
        return f'{name_of(e.errno)} after {len(children)}'
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    raise Escaped(f'{asked} processes')


@attack
def threads():
    if not BOUNDS['pids_enforced']:
        raise Skip('nothing bounds threads here')
    import threading
    end, count = threading.Event(), 0
    try:
        for _ in range(BOUNDS['pids'] + 40):
            threading.Thread(target=end.wait, daemon=True).start()
            count += 1
    except RuntimeError:
        return f'refused after {count}'
    finally:
        end.set()
    raise Escaped(f'{count} threads')


def more_memory(take):
    if not BOUNDS['memory_enforced']:
        raise Skip('this user may make no cgroup, and said so at the start')

    def first_to_be_killed():
        with open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')
        take()
    status = child(first_to_be_killed, 25)
    if status == 0:
        raise Escaped(f'{BOUNDS["memory"] * 5 // 4} bytes')
    return 'killed' if os.WIFSIGNALED(status) else 'refused'


@attack
def anonymous_memory():
    return more_memory(lambda: bytearray(b'x') * (BOUNDS['memory'] * 5 // 4))


@attack
def memfd():
    def take():
        fd = os.memfd_create('lis')
        for _ in range(BOUNDS['memory'] * 5 // 4 >> 20):
            os.write(fd, b'x' * (1 << 20))
    return more_memory(take)


@attack
def shared_memory():
    def take():
        size = BOUNDS['memory'] * 5 // 4
        number = libc.shmget(0, ctypes.c_size_t(size), 0o1600)
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(number, None, 0)
        libc.shmctl(number, 0, None)
        if number < 0 or address in (None, ctypes.c_void_p(-1).value):
            os._exit(2)
        ctypes.memset(address, 1, size)
    return more_memory(take)


def fill(directory, limit):
    path, taken = f'{directory}/lis-fill', 0
    try:
        with open(path, 'wb', buffering=0) as file:
            while taken < limit:
                taken += file.write(b'x' * (1 << 20))
    except OSError as e:
        return f'{directory}: {name_of(e.errno)} after {taken >> 20} MiB'
    finally:
        os.unlink(path)
    raise Escaped(f'{taken >> 20} MiB in {directory}')


@attack
def disk():
    return fill('/root', BOUNDS['disk'] * 5 // 4)


@attack
def other_file_systems():
    # Every one that can be written has a size of its own.
    said = []
    for line in open('/proc/self/mountinfo'):
        path = line.split()[4]
        if path == '/' or not os.path.isdir(path) or not os.access(path, os.W_OK):
            continue
        stat = os.statvfs(path)
        if stat.f_bavail * stat.f_frsize > 256 << 20:
            raise Escaped(f'{path} has {stat.f_bavail * stat.f_frsize >> 20} MiB')
        if stat.f_bavail and stat.f_files == 0 and path.startswith('/dev/shm'):
            raise Escaped(f'{path} has any number of files')
        said.append(f'{path}: {stat.f_blocks * stat.f_frsize >> 10} KiB')
    return '; '.join(said) or 'none'


@attack
def inodes():
    count = 0
    os.makedirs('/root/lis-inodes')
    try:
        for count in range(BOUNDS['inodes'] + 500):
            os.close(os.open(f'/root/lis-inodes/{count}', os.O_CREAT | os.O_WRONLY))
    except OSError as e:
        return f'{name_of(e.errno)} after {count}'
    finally:
        for name in os.listdir('/root/lis-inodes'):
            os.unlink(f'/root/lis-inodes/{name}')
        os.rmdir('/root/lis-inodes')
    raise Escaped(f'{count} files')


@attack
def descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
        raise Escaped(f'RLIMIT_NOFILE was raised above {hard}')
    except (ValueError, PermissionError):
        pass
    if hard > 4096:
        raise Escaped(f'RLIMIT_NOFILE {hard}')
    return f'at most {hard}'


@attack
def terminals():
    masters = []
    try:
        while len(masters) < 100:
            masters.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))
    except OSError as e:
        return f'{name_of(e.errno)} after {len(masters)}'
    raise Escaped('100 of the host\'s terminals')


@attack
def queues_signals_and_locked_memory():
    most = {resource.RLIMIT_SIGPENDING: 4096, resource.RLIMIT_MSGQUEUE: 800 << 10, resource.RLIMIT_MEMLOCK: 64 << 20}
    for limit, value in most.items():
        hard = resource.getrlimit(limit)[1]
        if not 0 <= hard <= value:
            raise Escaped(f'limit {limit} is {hard}')
    return 'SIGPENDING, MSGQUEUE, MEMLOCK are set'


@attack
def timers():
    # Each takes a pending signal.
    event = (ctypes.c_int * 16)(0, 0, 40, 0)
    made, timer = 0, ctypes.c_int()
    while made < 5000 and syscall((222, 107), 1, ctypes.byref(event), ctypes.byref(timer)) >= 0:
        made += 1
    if made == 5000:
        raise Escaped('5000 timers')
    return f'{name_of(ctypes.get_errno())} after {made}'


@attack
def asynchronous_requests():
    # fs.aio-max-nr is one number for the whole host.
    context = ctypes.c_ulong()
    result = syscall((206, 0), 1, ctypes.byref(context))
    if result >= 0:
        syscall((207, 1), context.value)
        raise Escaped('io_setup takes from a count that the whole host shares')
    return f'io_setup: {name_of(-result)}'


@attack
def core_files():
    if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
        raise Escaped('RLIMIT_CORE is not 0')
    return 'RLIMIT_CORE 0'


@attack
def kernel_log():
    if opens('/dev/kmsg', os.O_WRONLY) == 0:
        raise Escaped('/dev/kmsg opens for writing')
    return f'/dev/kmsg: {name_of(-opens("/dev/kmsg", os.O_WRONLY))}'


@attack
def undying_processes():
    # A lower score would have others die in their place.
    before = int(content('/proc/self/oom_score_adj'))
    result = opens('/proc/self/oom_score_adj', os.O_WRONLY)
    try:
        with open('/proc/self/oom_score_adj', 'w') as file:
            file.write(str(before - 1) if before > -1000 else '-1000')
    except OSError as e:
        return f'oom_score_adj: {name_of(e.errno)}'
    raise Escaped(f'oom_score_adj went down from {before}')


@attack
def directories_that_resist_clean_up():
    # Modes 0, five hundred levels, odd names: the runner sees whether anything stays.
    os.makedirs('/root/lis-zero/in')
    os.chmod('/root/lis-zero', 0)
    here = os.open('/root', os.O_RDONLY)
    for _ in range(500):
        os.mkdir('d', dir_fd=here)
        deeper = os.open('d', os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.mkdir(b'/root/\xff\n\x1b[2J')
    return 'planted; the runner looks for what stays'


main()
