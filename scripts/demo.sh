#!/usr/bin/env bash
# One real task by a real language model in a sandbox, from nothing: README command 1.
#
# usage: demo.sh [TASK]
#
# Uses the model that is configured (LLM_BASE_URL, LLM_NAME, or a settings file), else a small local one.
# Fails only when the machinery does: a model that does not finish is reported as what it is.
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
bin=$target/release/llm-in-sandbox

configured() {
    [[ -n ${LLM_BASE_URL-}${LLM_NAME-} ]] && return 0
    local file
    for file in "${LLM_IN_SANDBOX_CONFIG-}" ./llm-in-sandbox.yaml ./llm_in_sandbox.yaml \
        ~/.llm-in-sandbox/config.yaml ~/.llm-in-sandbox.yaml; do
        [[ -f $file ]] && grep -Eq '^(llm_name|llm_base_url):' "$file" && return 0
    done
    return 1
}

need 'cc=gcc libc6-dev' 'test -d /etc/ssl/certs=ca-certificates'
want newuidmap=uidmap mmdebstrap=mmdebstrap
need_rust

say "building the program"
timeout 1800 cargo build --release --locked --manifest-path "$root/Cargo.toml" --bin llm-in-sandbox || die "the build failed"

say "the image: built on first use"
timeout 1800 "$bin" image build || die "the image could not be built; llm-in-sandbox doctor tells what the host lacks"

out=$PWD/output/demo-$(date +%Y%m%d-%H%M%S)
flags=(--cmd_timeout 60 --task_timeout 600 --output_dir "$out")
# The tasks need no network; with rules it takes a device that not every user may make.
if [[ -z ${LLM_IN_SANDBOX_NET-} && ! (-r /dev/net/tun && -w /dev/net/tun) ]]; then
    say "no network inside: /dev/net/tun is missing or closed to $(id -un), see llm-in-sandbox doctor"
    flags+=(--net none)
fi
if configured; then
    task=${1:-"How many prime numbers are below 100000? Find out with a program."}
    flags+=(--max_steps 30)
else
    need python3=python3 'python3 -m pip --version=python3-pip'
    say "no model is configured (LLM_BASE_URL, LLM_NAME): a small local one takes the task"
    url=$("$root/scripts/local-model.sh" serve $$) || die "the local model did not start"
    task=${1:-"What is 17 * 23?"}
    export NO_PROXY=127.0.0.1${NO_PROXY:+,$NO_PROXY}
    flags+=(
        --llm_base_url "$url/v1" --llm_name smollm2-135m-instruct --api_key none
        --prompt_config "$root/scripts/demo/prompt.yaml"
        --temperature 0 --seed 1 --max_steps 6 --max_tokens_per_call 256 --max_token_limit 7000
    )
fi

say "the task: $task"
status=0
timeout --foreground -k 30 900 "$bin" run --query "$task" "${flags[@]}" || status=$?

stop=$(grep -rhoE --include='*.jsonl' '"stop":"[a-z_]+"' "$out" | tail -n 1 | cut -d'"' -f4) || true
calls=$(grep -rhcE --include=trajectory.json '"function": "(execute_bash|str_replace_editor)"' "$out" | tail -n 1) || true
case $status:$stop in
0:*) say "done: the model submitted after ${calls:-0} calls that were carried out in the sandbox" ;;
1:llm_error | 1:sandbox_died | 1:) die "the run failed: ${stop:-it did not begin}" ;;
1:*) say "the machinery worked, but the model did not submit: $stop after ${calls:-0} calls in the sandbox" ;;
124:* | 137:*) die "the run did not end within 15 minutes" ;;
*) die "the run failed with status $status" ;;
esac
