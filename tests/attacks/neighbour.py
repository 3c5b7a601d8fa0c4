# The other sandbox: leaves something of every kind, says so, and stays until its input ends.
import ctypes, json, os, socket, sys
facts = json.loads(sys.argv[1])
key, port, name = facts['neighbour_key'], facts['neighbour_port'], facts['neighbour_name']
libc = ctypes.CDLL(None, use_errno=True)
shm, sem, msg = libc.shmget(key, 4096, 0o1666), libc.semget(key, 1, 0o1666), libc.msgget(key, 0o1666)
queue = libc.mq_open(f'/{name}'.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
if min(shm, sem, msg, queue) < 0:
    sys.exit('cannot make System V objects and a queue')
for directory in ('/dev/shm', '/tmp', '/run', '/root', '/testbed', '/var/tmp'):
    try:
        open(f'{directory}/{name}', 'w').write('planted')
    except OSError:
        pass
sockets = [socket.socket(socket.AF_UNIX), socket.socket(), socket.socket(socket.AF_INET6)]
for s, address in zip(sockets, ('\0' + name, ('127.0.0.1', port), ('::1', port))):
    s.bind(address)
    s.listen()
namespaces = {kind: os.stat(f'/proc/self/ns/{kind}').st_ino for kind in ('mnt', 'pid', 'net', 'ipc', 'uts', 'user', 'cgroup')}
base = int(open('/proc/self/uid_map').read().split()[1])
print(json.dumps(dict(neighbour_namespaces=namespaces, neighbour_base=base)), flush=True)
sys.stdin.read()
libc.shmctl(shm, 0, None)
libc.semctl(sem, 0, 0)
libc.msgctl(msg, 0, None)
libc.mq_unlink(f'/{name}'.encode())
for directory in ('/dev/shm', '/tmp', '/run', '/root', '/testbed', '/var/tmp'):
    try:
        os.unlink(f'{directory}/{name}')
    except OSError:
        pass
