# Row: secrets of the caller: variables, command lines, keys, paths.
SECRET = FACTS['secret']


def nowhere(what, paths):
    read = 0
    for path in paths:
        try:
            found = content(path)
        except OSError:
            continue
        read += 1
        if SECRET.encode() in found and str(os.getpid()) not in path:
            raise Escaped(f'{path} holds the secret')
    return f'{read} {what} read, the secret in none'


@attack
def own_environment():
    if SECRET in json.dumps(dict(os.environ)):
        raise Escaped('the caller\'s variables came along')
    return f'{len(os.environ)} variables, none of the caller'


@attack
def environments():
    return nowhere('environments', [f'/proc/{pid}/environ' for pid in pids()])


@attack
def command_lines():
    # This program's own arguments hold the facts, and so the secret: it is looked for in others,
    # by the mark that only the victim's has.
    for pid in pids():
        try:
            if FACTS['victim_mark'].encode() in content(f'/proc/{pid}/cmdline') and FACTS['secret'].encode() not in content(f'/proc/{pid}/cmdline'):
                raise Escaped(f'the command line of process {pid} of the host')
        except OSError:
            pass
    return 'no process of the host'


@attack
def mount_table():
    table = content('/proc/self/mountinfo') + content('/proc/self/mounts')
    for what in ('image', 'state', 'canary'):
        if FACTS[what].encode() in table:
            raise Escaped(f'the mount table names {FACTS[what]}')
    return 'no path of the host'


@attack
def descriptor_names():
    for fd in os.listdir('/proc/self/fd'):
        try:
            target = os.readlink(f'/proc/self/fd/{fd}')
        except OSError:
            continue
        if target.startswith('/') and not os.path.exists(target):
            raise Escaped(f'descriptor {fd} is {target}')
    return 'none leads to the host'


@attack
def session_keyring():
    # keyctl is not namespaced: a session keyring is inherited like a working directory.
    if not FACTS['key']:
        raise Skip('the host let no key be planted')
    found = syscall((249, 218), b'user', FACTS['key'].encode(), 0, 0)
    if found > 0:
        payload = ctypes.create_string_buffer(256)
        syscall((250, 219), 11, found, payload, 256, 0)
        raise Escaped(f'key {found} of the caller: {payload.value!r}')
    return f'request_key: {name_of(-found)}'


@attack
def lists_of_keys():
    if not FACTS['key']:
        raise Skip('the host let no key be planted')
    return holds(FACTS['key'], '/proc/keys', lambda: content('/proc/keys'))


@attack
def kernel_log():
    result = syscall((103, 116), 3, ctypes.create_string_buffer(4096), 4096)
    if result >= 0:
        raise Escaped('the kernel log can be read')
    return f'syslog: {name_of(-result)}'


@attack
def agents_and_tokens():
    for name in ('SSH_AUTH_SOCK', 'GPG_AGENT_INFO', 'KRB5CCNAME', 'XDG_RUNTIME_DIR', 'DBUS_SESSION_BUS_ADDRESS', 'DOCKER_HOST'):
        if name in os.environ:
            raise Escaped(f'{name}={os.environ[name]}')
    return 'no variable leads to an agent'


@attack
def cgroup_names():
    # Names of services, containers and other sandboxes.
    text = open('/proc/self/cgroup').read()
    named = [line for line in text.splitlines() if line.rsplit(':', 1)[1] not in ('/', '')]
    if named:
        raise Escaped(f'{named[0]}')
    same = os.stat('/proc/self/ns/cgroup').st_ino == FACTS['namespaces']['cgroup']
    if same and not MINE:
        raise Escaped('the cgroup namespace of the host')
    return 'every hierarchy begins at this sandbox'


main()
