# Row: a file of the host is written. Opening for writing is the proof; no byte is written.
import stat

PATH, SECRET = FACTS['canary'], FACTS['secret']
ABOVE = '/..' * 60
WRITE = os.O_WRONLY


@attack
def by_every_path():
    before = os.open('/', os.O_RDONLY)
    paths = [PATH, ABOVE + PATH]
    for pid in pids():
        paths += [f'/proc/{pid}/root{PATH}', f'/proc/{pid}/cwd{ABOVE}{PATH}']
    for path in paths:
        if opens(path, WRITE) == 0:
            raise Escaped(f'{path} opened for writing')
    os.makedirs('/tmp/cell3', exist_ok=True)
    try:
        os.chroot('/tmp/cell3')
    except OSError as e:
        return f'chroot: {name_of(e.errno)}'
    os.fchdir(before)
    for _ in range(100):
        os.chdir('..')
    if opens('.' + PATH, WRITE) == 0:
        raise Escaped('opened for writing after a second chroot')
    return f'{len(paths)} paths and a second chroot'


@attack
def leaked_descriptors_again():
    # What was handed over for reading opens for writing through /proc.
    for fd in range(3, 1024):
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                continue
        except OSError:
            continue
        if opens(f'/proc/self/fd/{fd}', WRITE) == 0 and SECRET.encode() in content(f'/proc/self/fd/{fd}'):
            raise Escaped(f'descriptor {fd} opened for writing')
    return 'none is open'


@attack
def truncation_of_standard_streams():
    # A regular file of the caller as stdin, stdout or stderr could be opened anew, and cut.
    kinds = []
    for fd in range(3):
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode) and opens(f'/proc/self/fd/{fd}', WRITE) == 0:
            raise Escaped(f'descriptor {fd} is a file of the host, open for writing')
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            raise Escaped(f'descriptor {fd} has mode {mode:o}')
        kinds.append('pipe' if stat.S_ISFIFO(mode) else 'device')
    return 'the streams are: ' + ', '.join(kinds)


@attack
def program_of_pid_1_for_writing():
    # ETXTBSY is no wall: it goes with the last process that runs it (CVE-2019-5736).
    result = opens('/proc/1/exe', WRITE)
    if result in (0, -errno.ETXTBSY):
        raise Escaped(f'/proc/1/exe can be written, once it does not run: {result}')
    return refused('/proc/1/exe', result, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


@attack
def program_that_runs_this_one():
    for pid in pids():
        try:
            holder = os.stat(f'/proc/{pid}/exe')
        except OSError:
            continue
        if (holder.st_dev, holder.st_ino) == tuple(FACTS['runtime_inode']):
            raise Escaped(f'process {pid} runs the runtime itself')
    return 'no visible process runs the runtime'


@attack
def memory_of_pid_1_for_writing():
    return refused('/proc/1/mem', opens('/proc/1/mem', os.O_RDWR), errno.EACCES, errno.EPERM, errno.EROFS)


@attack
def shared_image():
    # What is written here must not be written to the tree that all sandboxes share.
    line = next(l for l in open('/proc/self/mountinfo') if l.split()[4] == '/').split()
    kind, options = line[line.index('-') + 1], line[5].split(',')
    if kind != 'overlay' and 'ro' not in options:
        raise Escaped(f'/ is {kind} and writable')
    if not MINE:
        raise Skip('made by the runner, who spares the image')
    if FACTS['image'] in ' '.join(line):
        raise Escaped(f'the mount table names {FACTS["image"]}')
    return 'an overlay with a layer of its own'


@attack
def links_out_of_the_upper_layer():
    # A hard link to a file below would be a second name for the shared inode.
    os.makedirs('/tmp/lis-up', exist_ok=True)
    try:
        os.link('/usr/lib/os-release', '/tmp/lis-up/release')
    except OSError as e:
        return f'link: {name_of(e.errno)}'
    with open('/tmp/lis-up/release', 'a') as file:
        file.write('#')
    return 'copied up on the first write; the runner compares the image'


@attack
def immutable_files():
    # One that no clean-up could remove.
    import fcntl
    path = '/tmp/lis-immutable'
    with open(path, 'w') as file:
        for flag in (0x10, 0x20):
            try:
                fcntl.ioctl(file, 0x40086602, struct.pack('l', flag))
            except OSError as e:
                why = name_of(e.errno)
                continue
            fcntl.ioctl(file, 0x40086602, struct.pack('l', 0))
            raise Escaped(f'set attribute {flag:#x}')
    return f'FS_IOC_SETFLAGS: {why}'


@attack
def preload_for_the_next_program():
    # Planted for a helper that would run in this root with other rights: there is none, every
    # program here has the rights of this one.
    with open('/tmp/ld.so.preload', 'w') as file:
        file.write('/tmp/evil.so\n')
    try:
        os.rename('/tmp/ld.so.preload', '/etc/ld.so.preload')
    except OSError as e:
        return f'/etc/ld.so.preload: {name_of(e.errno)}'
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    os.unlink('/etc/ld.so.preload')
    if int(status['CapEff'], 16) & (1 << 21):
        raise Escaped('the next program here has CAP_SYS_ADMIN of the host')
    return 'planted; only programs of this sandbox load it'


@attack
def set_user_id_on_what_goes_out():
    # A set-user-id file in the writable layer must mean nothing on the host.
    line = next(l for l in open('/proc/self/mountinfo') if l.split()[4] == '/').split()
    if 'nosuid' not in line[5].split(','):
        raise Escaped('/ is not nosuid')
    return '/ is nosuid'


main()
