# Row: what stays when the runtime is killed. A daemon that wants to stay; the runner kills and looks.
import time
for name in range(1, 65):
    try:
        signal.signal(name, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
libc.prctl(1, 0)
for _ in range(2):
    if os.fork():
        break
    os.setsid()
else:
    libc.prctl(1, 0)
    print('READY', flush=True)
time.sleep(600)
