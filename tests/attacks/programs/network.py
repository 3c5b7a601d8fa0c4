# Row: the network of the host. The listeners are the runner's own; nothing else is sent anything.
def reaches(what, family, address, kind=socket.SOCK_STREAM):
    s = socket.socket(family, kind)
    s.settimeout(3)
    try:
        s.connect(address)
    except OSError as e:
        return f'{what}: {name_of(e.errno) if e.errno else "no answer"}'
    raise Escaped(f'{what} can be reached')


@attack
def loopback_ipv4():
    return reaches('127.0.0.1', socket.AF_INET, ('127.0.0.1', FACTS['tcp4']))


@attack
def loopback_ipv6():
    if not FACTS['tcp6']:
        raise Skip('the host has no IPv6')
    return reaches('::1', socket.AF_INET6, ('::1', FACTS['tcp6']))


@attack
def loopback_in_other_words():
    said = [reaches(a, socket.AF_INET, (a, FACTS['tcp4'])) for a in ('127.1', '0', '0x7f.1', '127.255.255.254')]
    said.append(reaches('v4-mapped', socket.AF_INET6, ('::ffff:127.0.0.1', FACTS['tcp4'])))
    return '; '.join(said)


@attack
def udp_to_loopback():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect(('127.0.0.1', FACTS['udp4']))
    try:
        s.send(b'ping')
        s.recv(16)
    except OSError as e:
        return f'no answer: {name_of(e.errno) if e.errno else "timeout"}'
    raise Escaped('a datagram was answered')


@attack
def abstract_socket():
    return reaches('the abstract socket', socket.AF_UNIX, '\0' + FACTS['abstract'])


@attack
def abstract_names():
    if FACTS['abstract'] in open('/proc/net/unix').read():
        raise Escaped('/proc/net/unix lists the socket of the host')
    return '/proc/net/unix lists none of the host'


@attack
def metadata_service():
    # Connecting a datagram socket sends nothing: it asks for a route.
    return reaches('a route to 169.254.169.254', socket.AF_INET, ('169.254.169.254', 80), socket.SOCK_DGRAM)


@attack
def routes():
    said = []
    for address in ('1.1.1.1', '10.0.0.1', '172.17.0.1', '192.168.1.1', '100.64.0.1', '224.0.0.1'):
        said.append(reaches(f'a route to {address}', socket.AF_INET, (address, 53), socket.SOCK_DGRAM))
    said.append(reaches('a route to fe80::1', socket.AF_INET6, ('2606:4700::1111', 53), socket.SOCK_DGRAM))
    return '; '.join(said)


@attack
def interfaces():
    names = [name for _, name in socket.if_nameindex() if name not in ('lo', 'sit0', 'tunl0', 'ip6tnl0')]
    if names or os.stat('/proc/self/ns/net').st_ino == FACTS['namespaces']['net']:
        raise Escaped(f'interfaces {names}, network namespace of the host')
    return 'lo alone, in a namespace of its own'


@attack
def host_name_lookup():
    # A resolver that answers could carry secrets out in names. Asked only where nobody can hear it.
    if os.stat('/proc/self/ns/net').st_ino == FACTS['namespaces']['net']:
        raise Escaped('the question would go to the resolver of the host')
    try:
        socket.getaddrinfo('lis-attack.invalid', 80)
    except socket.gaierror as e:
        return f'getaddrinfo: {e}'
    raise Escaped('the name was resolved')


@attack
def hypervisor():
    result = syscall((41, 198), 40, 1, 0)
    if result >= 0:
        raise Escaped('AF_VSOCK: a socket to the hypervisor')
    return f'AF_VSOCK: {name_of(-result)}'


@attack
def descriptors_over_unix_sockets():
    # A socket of the host that shows inside would hand out the host's files.
    for line in open('/proc/net/unix').read().splitlines()[1:]:
        path = line.split()[7] if len(line.split()) > 7 else ''
        if path.startswith('/') and not os.path.exists(path):
            raise Escaped(f'a socket of another file system: {path}')
    for path in ('/run/docker.sock', '/var/run/docker.sock', '/run/dbus/system_bus_socket', '/run/systemd/private'):
        if os.path.exists(path):
            raise Escaped(path)
    return 'none is there'


main()
