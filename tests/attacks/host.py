# The host's side of an attack: a caller with secrets of every kind, who starts one environment.
# argv: whether to give it a terminal; the command, whose last argument are the facts.
import ctypes, fcntl, json, os, platform, subprocess, sys, termios

terminal, command, facts = sys.argv[1] == 'terminal', sys.argv[2:-1], json.loads(sys.argv[-1])
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'


def key():
    """In a session keyring of our own, as a login would put it; '' where the host has no keyrings."""
    name, secret = b'lis-canary-key', facts['secret'].encode()
    if libc.syscall((250, 219)[arm], 1, None) < 0:
        return ''
    added = libc.syscall((248, 217)[arm], b'user', name, secret, len(secret), -3)
    return name.decode() if added > 0 else ''


facts['key'] = key()
leaked = [os.open('/', os.O_RDONLY), os.open(facts['canary'], os.O_RDONLY)]
environment = dict(os.environ, LIS_CANARY=facts['secret'], SSH_AUTH_SOCK='/tmp/lis-agent')
if not terminal:
    ran = subprocess.run(command + [json.dumps(facts)], pass_fds=leaked, env=environment)
    sys.exit(ran.returncode)

master, slave = os.openpty()
facts['terminal'] = os.fstat(slave).st_rdev
before = fcntl.fcntl(slave, fcntl.F_GETFL), termios.tcgetattr(slave)


def controlling():
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


process = subprocess.Popen(command + [json.dumps(facts)], stdin=slave, stdout=slave, stderr=slave,
                           pass_fds=leaked, env=environment, preexec_fn=controlling)
status = process.wait(timeout=60)
after = fcntl.fcntl(slave, fcntl.F_GETFL), termios.tcgetattr(slave)
fcntl.fcntl(master, fcntl.F_SETFL, os.O_NONBLOCK)
sys.stdout.write(os.read(master, 1 << 16).decode().replace('\r\n', '\n'))
print('ESCAPED afterwards: the terminal was changed' if before != after else 'SAFE afterwards: the terminal is as it was')
sys.exit(status)
