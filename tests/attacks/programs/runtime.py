# The runtime itself: its sockets, its PID 1 and what that is told.


@attack
def sockets_of_pid_1():
    for directory in ('fd', 'task/1/fd', 'map_files'):
        try:
            names = os.listdir(f'/proc/1/{directory}')
        except OSError:
            continue
        for name in names:
            try:
                raise Escaped(f'/proc/1/{directory}/{name} is {os.readlink(f"/proc/1/{directory}/{name}")}')
            except OSError:
                pass
    return 'no descriptor of PID 1 can be named'


@attack
def inherited_sockets():
    import stat
    for fd in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise Escaped(f'descriptor {fd} is a socket')
        except OSError:
            pass
    return 'no socket was handed over'


@attack
def state_of_the_runtime():
    for path in (FACTS['state'], FACTS['runtime_directory'], FACTS['image']):
        if os.path.exists(path):
            raise Escaped(f'{path} can be named')
    return 'no directory of the runtime can be named'


@attack
def no_longer_dying_with_it():
    # A process that is told to die with its parent can take that back; the kernel still ends the namespace.
    if os.stat('/proc/self/ns/pid').st_ino == FACTS['namespaces']['pid']:
        raise Escaped('the pid namespace of the host: nothing ends these processes')
    libc.prctl(1, 0)
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    return 'it dies with PID 1, see crash_leftovers'


@attack
def zombies():
    import time
    def zombies_now():
        count = 0
        for pid in pids():
            try:
                count += open(f'/proc/{pid}/stat').read().rsplit(') ', 1)[1].startswith('Z')
            except OSError:
                pass
        return count
    def orphans():
        for _ in range(200):
            if os.fork() == 0:
                os._exit(0)
    if not MINE:
        raise Skip('its PID 1 is not ours')
    child(orphans)
    deadline = time.monotonic() + 10
    while zombies_now() > 1:
        if time.monotonic() > deadline:
            raise Escaped(f'{zombies_now()} zombies stay')
        time.sleep(0.01)
    return '200 orphans were waited for'


@attack
def forged_descriptors():
    # Descriptors go through sockets; none leads to somebody outside.
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b'x'], [os.open('/', os.O_RDONLY)])
    _, fds, _, _ = socket.recv_fds(theirs, 10, 10)
    root = os.fstat(fds[0])
    if (root.st_dev, root.st_ino) == tuple(FACTS['host_root']):
        raise Escaped('the root directory of the host')
    if not MINE and os.stat('/proc/self/ns/net').st_ino == FACTS['namespaces']['net']:
        raise Escaped('sockets of the host can be reached to pass them')
    return 'they stay inside'


main()
