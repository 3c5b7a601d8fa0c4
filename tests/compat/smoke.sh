#!/usr/bin/env bash
# Runs in a sandbox: programs of every kind, each with a line of its own. Ends with the number of failures.
# shellcheck disable=SC2016 # the scripts are expanded where they run
set -uo pipefail

failures=0
cd "$(mktemp -d)" || exit 1

# works NAME EXPECTED SCRIPT: the script has to print exactly that.
works() {
    local found
    if found=$(timeout 60 bash -euc "$3" 2>error) && [[ $found == "$2" ]]; then
        echo "ok      $1"
    else
        echo "FAILED  $1: printed '$found' instead of '$2'; $(tail -n 3 error)"
        failures=$((failures + 1))
    fi
}

cat >hello.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void *run(void *text) { puts(text); return NULL; }
int main(void) { pthread_t t; pthread_create(&t, NULL, run, "hello"); pthread_join(t, NULL); free(malloc(10)); return 0; }
C
works 'gcc' hello 'gcc -o hello hello.c -pthread && ./hello'
works 'gcc -fsanitize=address,undefined' hello 'gcc -fsanitize=address,undefined -o asan hello.c -pthread && ASAN_OPTIONS=detect_leaks=0 ./asan'
works 'the leak sanitizer, which traces its own process' hello 'gcc -fsanitize=leak -o lsan hello.c -pthread && ./lsan'
works 'g++ and exceptions' caught 'echo "#include <iostream>
int main() { try { throw 1; } catch (int) { std::cout << \"caught\"; } }" >e.cc; g++ -o e e.cc && ./e'
works 'make -j' 'done' 'printf "all: a b\n\t@echo done\na b:\n\t@sleep 0.1\n" >Makefile; make -s -j2'

works 'git' 'second' '
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
    git init -q -b main one; cd one; echo 1 >f; git add f; git commit -qm first; echo 2 >f; git commit -qam second
    git gc -q; cd ..; git clone -q one two; git clone -q "file://$PWD/one" three; git -C three fsck --strict; git -C two log -1 --format=%s'

cat >python.py <<'P'
import asyncio, concurrent.futures, ctypes, multiprocessing, os, signal, socket, sqlite3, sys, tempfile, threading
from multiprocessing import shared_memory

def square(x): return x * x

def fill(name):
    block = shared_memory.SharedMemory(name=name); block.buf[0] = 42; block.close()

async def echo():
    async def serve(reader, writer): writer.write(await reader.read(5)); await writer.drain(); writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello"); assert await reader.read() == b"hello"; writer.close(); server.close()
    child = await asyncio.create_subprocess_exec("echo", "child", stdout=-1)
    assert (await child.communicate())[0] == b"child\n"

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool: assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
        queue = context.Queue(); lock = context.Lock(); block = shared_memory.SharedMemory(create=True, size=16)
        child = context.Process(target=fill, args=(block.name,)); child.start(); child.join()
        assert block.buf[0] == 42; block.close(); block.unlink(); queue.put(1); assert queue.get() == 1
    with concurrent.futures.ThreadPoolExecutor(20) as pool: assert sum(pool.map(square, range(100))) == 328350
    with concurrent.futures.ProcessPoolExecutor(2) as pool: assert sum(pool.map(square, range(10))) == 285
    asyncio.run(echo())
    pair = socket.socketpair(); socket.send_fds(pair[0], [b"x"], [0]); assert len(socket.recv_fds(pair[1], 1, 1)[1]) == 1
    assert sqlite3.connect("a.db").execute("pragma journal_mode=wal").fetchone() == ("wal",)
    fd = os.memfd_create("m"); os.write(fd, b"x"); os.sched_getaffinity(0); os.pidfd_open(os.getpid()); os.posix_spawnp("true", ["true"], {})
    os.wait(); os.mkfifo("fifo"); tempfile.TemporaryFile().close()
    print("hello")
P
works 'Python: processes, threads, asyncio, shared memory' hello 'python3 python.py'
works 'a debugger on its own child' '[Inferior exited]' 'python3 - <<P
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0: libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)
os.waitpid(pid, 0); assert libc.ptrace(7, pid, 0, 0) == 0; assert os.waitpid(pid, 0)[1] == 0; print("[Inferior exited]")
P'

cat >node.js <<'J'
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) { parentPort.postMessage('worker'); return; }
const { execFileSync, fork } = require('child_process'), fs = require('fs'), http = require('http');
(async () => {
  const said = [await new Promise(done => new Worker(__filename).on('message', done))];
  said.push(execFileSync('echo', ['child']).toString().trim());
  await fs.promises.writeFile('n', 'file'); said.push(await fs.promises.readFile('n', 'utf8'));
  const server = http.createServer((q, r) => r.end('http')).listen(0, '127.0.0.1');
  await new Promise(done => server.on('listening', done));
  said.push(await (await fetch('http://127.0.0.1:' + server.address().port)).text());
  server.close(); server.closeAllConnections(); console.log(said.join(' '));
})();
J
works 'Node: workers, children, files, HTTP' 'worker child file http' 'node node.js'

cat >Hello.java <<'J'
import java.net.*; import java.nio.file.*; import java.util.concurrent.*; import java.util.stream.*;
public class Hello {
    public static void main(String[] a) throws Exception {
        var pool = Executors.newFixedThreadPool(8);
        int sum = 0; for (var f : IntStream.range(0, 20).mapToObj(i -> pool.submit(() -> i)).toList()) sum += f.get();
        pool.shutdown();
        var virtual = new ConcurrentLinkedQueue<Integer>();
        try (var v = Executors.newVirtualThreadPerTaskExecutor()) { for (int i = 0; i < 100; i++) v.submit(() -> virtual.add(1)); }
        var child = new ProcessBuilder("echo", "child").start();
        try (var server = new ServerSocket(0); var client = new Socket("127.0.0.1", server.getLocalPort())) { server.accept().close(); }
        Files.move(Files.writeString(Path.of("j"), "x"), Path.of("/tmp/j"), StandardCopyOption.REPLACE_EXISTING);
        System.out.println(sum + " " + virtual.size() + " " + new String(child.getInputStream().readAllBytes()).trim());
    }
}
J
works 'Java: threads, virtual threads, children, sockets' '190 100 child' 'javac Hello.java && java -Xmx256m Hello'

works 'shell pipelines and job control' '3' 'set -m; sleep 0.1 & wait; seq 3 | xargs -P2 -n1 sh -c "sleep 0.0\$0; echo \$0" | sort | tail -n 1'
works 'users: su, chown, setpriv' 'nobody' 'touch f; chown nobody f; su -s /bin/sh nobody -c "id -un" '
works 'tar with owners, links and times' 'same' 'mkdir t; echo x >t/a; ln t/a t/b; ln -s a t/c; mkfifo t/p; tar cf t.tar t; mkdir u; tar xf t.tar -C u; diff -r --no-dereference t/a u/t/a && echo same'
works 'chroot' hello 'gcc -static -o static hello.c -pthread && mkdir r && cp static r && chroot r /static'

echo
echo "$failures of these failed"
exit $((failures > 0))
