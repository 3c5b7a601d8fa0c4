# Row: what is near the host, from a sandbox with `--net internet`. The listeners are the runner's own.
HOSTS = os.stat('/proc/self/ns/net').st_ino == FACTS['namespaces']['net']


def reaches(what, family, address, kind=socket.SOCK_STREAM):
    s = socket.socket(family, kind)
    s.settimeout(3)
    try:
        s.connect(address)
        if kind == socket.SOCK_DGRAM:
            s.send(b'ping')
            s.recv(16)
    except OSError as e:
        return f'{what}: {name_of(e.errno) if e.errno else "no answer"}'
    raise Escaped(f'{what} can be reached')


def elsewhere(address):
    """What is no listener of the runner's is dialled only where nobody but our own gate hears it."""
    if HOSTS:
        raise Escaped(f'{address} would be dialled on the network of the host')
    return reaches(address, socket.AF_INET6 if ':' in address else socket.AF_INET, (address, 80))


@attack
def loopback_in_every_spelling():
    port = FACTS['tcp4']
    said = [reaches(a, socket.AF_INET, (a, port)) for a in ('127.0.0.1', '127.1', '0', '0x7f.1', '2130706433')]
    for a in ('::ffff:127.0.0.1', '::127.0.0.1', '64:ff9b::7f00:1', '2002:7f00:1::1'):
        if a.startswith('::ffff') or not HOSTS:
            said.append(reaches(a, socket.AF_INET6, (a, port)))
    return '; '.join(said)


@attack
def loopback_ipv6():
    if not FACTS['tcp6']:
        raise Skip('the host has no IPv6')
    return reaches('::1', socket.AF_INET6, ('::1', FACTS['tcp6']))


@attack
def datagrams_to_loopback():
    return reaches('127.0.0.1', socket.AF_INET, ('127.0.0.1', FACTS['udp4']), socket.SOCK_DGRAM)


@attack
def the_gateway_is_no_way_to_the_host():
    ports = (FACTS['tcp4'], FACTS['tcp6'], 22, 80, 111, 631)
    if HOSTS:
        raise Escaped('the host itself is here')
    return '; '.join(reaches(f'{gateway} {port}', family, (gateway, port))
                     for family, gateway in ((socket.AF_INET, '100.96.0.1'), (socket.AF_INET6, 'fd6c:6973:6e65::1'))
                     for port in ports if port)


@attack
def metadata():
    return '; '.join(elsewhere(a) for a in ('169.254.169.254', '169.254.170.2', '100.100.100.200', '192.0.0.192',
                                            '168.63.129.16', 'fd00:ec2::254', '::ffff:169.254.169.254',
                                            '64:ff9b::a9fe:a9fe'))


@attack
def neighbours_of_the_host():
    return '; '.join(elsewhere(a) for a in ('10.0.0.1', '172.17.0.1', '192.168.0.1', '100.64.0.1', 'fe80::1', 'fc00::1',
                                            '2002:0a00:0001::1'))


@attack
def abstract_socket():
    return reaches('the abstract socket', socket.AF_UNIX, '\0' + FACTS['abstract'])


@attack
def raw_packets():
    said = []
    for what, family, kind, protocol in (('AF_PACKET', 17, socket.SOCK_RAW, 0), ('IPv4', socket.AF_INET, socket.SOCK_RAW, 6),
                                         ('IPv6', socket.AF_INET6, socket.SOCK_RAW, 6)):
        try:
            socket.socket(family, kind, protocol).close()
        except OSError as e:
            said.append(f'{what}: {name_of(e.errno)}')
        else:
            raise Escaped(f'a raw socket of {what}: packets past the kernel')
    return '; '.join(said)


@attack
def another_device():
    result = opens('/dev/net/tun', os.O_RDWR)
    return refused('opening /dev/net/tun', result, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV)


@attack
def administration():
    # Sets the flags of lo to what they are: nothing changes, but who may do that may change all the rest.
    import fcntl
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    request = fcntl.ioctl(s, 0x8913, struct.pack('16sH14x', b'lo', 0))
    try:
        fcntl.ioctl(s, 0x8914, request)
    except OSError as e:
        return f'SIOCSIFFLAGS: {name_of(e.errno)}'
    raise Escaped('interfaces can be changed')


@attack
def names_of_this_machine():
    if HOSTS:
        raise Escaped('the question would go to the resolver of the host')
    for name in ('printer.local', 'metadata.google.internal', 'router.home.arpa'):
        try:
            raise Escaped(f'{name} is {socket.getaddrinfo(name, 80)}')
        except socket.gaierror:
            pass
    return 'none is looked up'


main()
