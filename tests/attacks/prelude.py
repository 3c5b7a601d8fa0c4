# What every attack program begins with. `FACTS` is what the runner planted: see main.rs.
import ctypes, errno, json, os, platform, signal, socket, struct, sys, traceback

FACTS = json.loads(sys.argv[1])
ARM = platform.machine() == 'aarch64'
MINE = FACTS['environment'] == 'sandbox'
ROOT = FACTS['privilege'] == 'root'
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Escaped(Exception):
    """The attack got what it must not get; the text is the evidence."""


class Skip(Exception):
    """The attack has no object here; the text says why."""


def syscall(number, *args):
    """The result, or minus the error number. `number` may be (x86-64, aarch64)."""
    number = number[ARM] if isinstance(number, tuple) else number
    if number is None:
        raise Skip('this architecture has no such call')
    ctypes.set_errno(0)
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *plain)
    return result if result >= 0 else -ctypes.get_errno()


def name_of(error):
    return errno.errorcode.get(error, str(error))


def refused(what, result, *wanted):
    """`result` is what `syscall` or `opens` gave. Any error but those expected is a broken attack."""
    if result >= 0:
        raise Escaped(f'{what} succeeded')
    if wanted and -result not in wanted:
        raise AssertionError(f'{what}: {name_of(-result)}, which is not the refusal that was expected')
    return f'{what}: {name_of(-result)}'


def opens(path, flags=os.O_RDONLY, **more):
    """0 or minus the error number. Opening for writing is the proof; nothing is ever written."""
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, **more))
        return 0
    except OSError as e:
        return -e.errno


def content(path, **more):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, **more)
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b''
    finally:
        os.close(fd)


def holds(secret, what, read):
    """Escaped when `read()` finds the secret."""
    try:
        found = read()
    except OSError as e:
        return f'{what}: {name_of(e.errno)}'
    if secret.encode() in (found if isinstance(found, bytes) else found.encode()):
        raise Escaped(f'{what} holds the secret')
    return f'{what}: nothing of the host in it'


def pids():
    return [int(name) for name in os.listdir('/proc') if name.isdigit()]


def child(work, seconds=10):
    """Runs `work` in a child; gives its wait status."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(seconds)
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


ATTACKS = []


def attack(function):
    ATTACKS.append(function)
    return function


def once(function):
    """One attack: a line, whatever happens to it."""
    try:
        return 'SAFE', function() or 'refused'
    except Escaped as e:
        return 'ESCAPED', str(e)
    except Skip as e:
        return 'SKIP', str(e)
    except BaseException as e:
        where = traceback.extract_tb(e.__traceback__)[-1].lineno
        return 'BROKEN', f'{type(e).__name__} in line {where}: {e}'


def main():
    """Each in a process of its own: what one does to itself touches no other."""
    only = FACTS.get('only')
    for function in [f for f in ATTACKS if only is None or f.__name__ in only]:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            signal.alarm(30)
            verdict, why = once(function)
            os.write(writer, f'{verdict} {function.__name__}: {why}'.replace('\n', ' ')[:2000].encode())
            os._exit(0)
        os.close(writer)
        # Not until the end of the pipe: children that an attack leaves may hold it.
        line = os.read(reader, 4096).decode()
        _, status = os.waitpid(pid, 0)
        print(line or f'BROKEN {function.__name__}: died with status {status}', flush=True)
