# Row: the person's terminal. The runner gives one to the environment and looks at it afterwards.
import fcntl, termios


def is_theirs(fd):
    return os.isatty(fd) and os.fstat(fd).st_rdev == FACTS['terminal']


@attack
def it_is_not_handed_over():
    for fd in range(3):
        if is_theirs(fd):
            raise Escaped(f'descriptor {fd} is the terminal of the person')
    return 'standard streams are pipes'


@attack
def descriptors_and_controlling_terminal():
    try:
        fd = os.open('/dev/tty', os.O_RDWR | os.O_NOCTTY)
    except OSError as e:
        return f'/dev/tty: {name_of(e.errno)}'
    raise Escaped('/dev/tty is the terminal of the person')


@attack
def non_blocking():
    # Flags belong to the open file, which the person's shell has, too.
    for fd in range(3):
        if is_theirs(fd):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
            raise Escaped('O_NONBLOCK is set on it')
    return 'no descriptor of it'


@attack
def modes():
    for fd in range(3):
        if is_theirs(fd):
            settings = termios.tcgetattr(fd)
            settings[3] &= ~termios.ECHO
            termios.tcsetattr(fd, termios.TCSANOW, settings)
            raise Escaped('it does not echo any more')
    return 'no descriptor of it'


@attack
def typing():
    for fd in range(3):
        if is_theirs(fd):
            try:
                fcntl.ioctl(fd, termios.TIOCSTI, b'#')
                raise Escaped('a key was typed into it')
            except OSError as e:
                return f'TIOCSTI: {name_of(e.errno)}'
    return 'no descriptor of it'


@attack
def other_terminals():
    # Of other people, by number.
    found = []
    for name in os.listdir('/dev/pts'):
        if name.isdigit() and opens(f'/dev/pts/{name}', os.O_RDWR) == 0:
            found.append(name)
    consoles = [p for p in ('/dev/console', '/dev/tty0', '/dev/tty1', '/dev/ttyS0') if opens(p, os.O_RDWR) == 0]
    if found or consoles:
        raise Escaped(f'terminals {found}, consoles {consoles}')
    return 'none is there'


main()
