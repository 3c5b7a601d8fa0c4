# Row: another sandbox. A second one of the same kind runs, in which neighbour.py has planted.
KEY, PORT, NAME = FACTS['neighbour_key'], FACTS['neighbour_port'], FACTS['neighbour_name']


@attack
def system_v_objects():
    for what, result in (('shm', libc.shmget(KEY, 4096, 0)), ('sem', libc.semget(KEY, 1, 0)), ('msg', libc.msgget(KEY, 0))):
        if result >= 0:
            raise Escaped(f'{what} with the key {KEY}')
    for name in ('shm', 'sem', 'msg'):
        if len(open(f'/proc/sysvipc/{name}').readlines()) > 1:
            raise Escaped(f'/proc/sysvipc/{name} lists objects')
    return 'none with its key, none listed'


@attack
def posix_message_queue():
    if libc.mq_open(f'/{NAME}'.encode(), os.O_RDWR) >= 0:
        raise Escaped('its message queue')
    return f'mq_open: {name_of(ctypes.get_errno())}'


@attack
def files():
    for directory in ('/tmp', '/dev/shm', '/run', '/root', '/testbed', '/var/tmp'):
        if os.path.exists(f'{directory}/{NAME}'):
            raise Escaped(f'its file in {directory}')
    return 'its files are nowhere'


@attack
def abstract_sockets():
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect('\0' + NAME)
    except OSError as e:
        return f'connect: {name_of(e.errno)}'
    raise Escaped('its abstract socket')


@attack
def ports():
    said = []
    for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
        s = socket.socket(family)
        try:
            s.connect((address, PORT))
        except OSError as e:
            said.append(name_of(e.errno))
            continue
        raise Escaped(f'its port on {address}')
    return 'connect: ' + ', '.join(said)


@attack
def processes():
    for pid in pids():
        try:
            line = content(f'/proc/{pid}/cmdline')
        except OSError:
            continue
        if NAME.encode() in line and FACTS['secret'].encode() not in line:
            raise Escaped(f'its process {pid}')
    return 'none is listed'


@attack
def locks():
    # Numbers of processes and inodes, and when they change: a channel, and a list of who runs.
    if content('/proc/locks'):
        raise Escaped('/proc/locks: ' + content('/proc/locks').splitlines()[0].decode())
    return '/proc/locks is empty'


@attack
def ids():
    if not MINE:
        if os.stat('/proc/self/ns/user').st_ino == FACTS['namespaces']['user']:
            raise Escaped('the ids of the host')
        if open('/proc/self/uid_map').read().split()[:2] == ['0', str(FACTS['uid'])]:
            raise Escaped('root inside is the caller, in every sandbox')
        return 'other ids'
    base = int(open('/proc/self/uid_map').read().split()[1])
    if ROOT and base == FACTS['neighbour_base']:
        raise Escaped(f'both have ids from {base}')
    return f'ids from {base}' if ROOT else 'an ordinary user has one set of ids for all: see the threat model'


@attack
def namespaces():
    same = [kind for kind, number in FACTS['neighbour_namespaces'].items()
            if os.stat(f'/proc/self/ns/{kind}').st_ino == number]
    if same:
        raise Escaped(f'the same: {same}')
    return 'seven others'


@attack
def cgroups():
    for line in open('/proc/self/cgroup'):
        path = line.strip().rsplit(':', 1)[1]
        if path not in ('/', ''):
            raise Escaped(line.strip())
    if MINE is False and os.stat('/proc/self/ns/cgroup').st_ino == FACTS['namespaces']['cgroup']:
        raise Escaped('the cgroups of the host')
    return 'no name of any'


@attack
def pressure_triggers():
    # Anybody may ask the kernel to watch the load of all (Linux 5.2, without rights since 6.5).
    for name in ('cpu', 'io', 'memory'):
        if opens(f'/proc/pressure/{name}', os.O_RDWR) == 0:
            raise Escaped(f'/proc/pressure/{name} opens for writing')
    return 'none opens for writing'


@attack
def inotify_instances_of_others():
    # They are counted for the owner of the user namespace: if that is the caller, one sandbox takes
    # them from all others, and from the host. The runner makes one meanwhile.
    if not MINE:
        if os.stat('/proc/self/ns/user').st_ino == FACTS['namespaces']['user']:
            raise Escaped('counted with the host\'s own')
        raise Skip('taking them all would hurt the host')
    if not ROOT:
        raise Skip('an ordinary user has one count for all his sandboxes: see the threat model')
    count = 0
    while count < 1000 and libc.inotify_init1(0) >= 0:
        count += 1
    os.write(1, b'HOLD\n')
    sys.stdin.readline()
    return f'{count} are taken; the runner has its own'


main()
