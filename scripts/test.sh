#!/usr/bin/env bash
# All tests, from nothing: README command 2.
#
# usage: test.sh [--user]
#
# As root: every test as root and two benchmarks briefly, then the tests of the sandbox again as two ordinary users that are made
# for it, one with a range of subordinate ids and one without; --user runs only these.
# At last limits and walls on other kernels and cgroup hierarchies, in a virtual machine (vm-test.sh).
# As an ordinary user: every test as that user.
# LIS_TEST_REQUIRE=userns,overlay,… makes a skipped test fail that needs one of those.
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
state=$target/test-state
logs=$(mktemp -d)
shared=
users=()
passed=0 failed=0 skipped=0

clean_up() {
    local user
    for user in "${users[@]}"; do
        pkill -KILL -u "$user" || true
        userdel "$user" 2>/dev/null || true
    done
    rm -rf "$logs" "$shared"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# run NAME SECONDS COMMAND…: runs tests and adds up what they say.
run() {
    local log="$logs/$1" name=$1 seconds=$2 status=0 p f s
    shift 2
    say "$name"
    timeout -k 30 "$seconds" "$@" 2>&1 | tee "$log" || status=$?
    p=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$log" | paste -sd+ | bc_)
    f=$(sed -n 's/^test result: .* \([0-9]*\) failed.*/\1/p' "$log" | paste -sd+ | bc_)
    s=$(grep -c '^SKIP ' "$log" || true)
    # A program that died has no closing line, or not enough of them.
    if ((status != 0 && f == 0)); then
        echo "$name ended with status $status" >&2
        f=1
    fi
    passed=$((passed + p - s)) failed=$((failed + f)) skipped=$((skipped + s))
}

bc_() {
    local sum
    read -r sum || sum=0
    echo $((sum))
}

# The test programs that an ordinary user runs again: one line "NAME PATH" each.
programs() {
    timeout 300 cargo test --workspace --locked --no-run --message-format=json 2>/dev/null | python3 -c '
import json, sys
for line in sys.stdin:
    artifact = json.loads(line)
    target = artifact.get("target", {})
    # These need no sandbox, so one run of them says everything.
    if target.get("kind") == ["test"] and target["name"] not in ("tidy", "agent", "steps"):
        print(target["name"], artifact["executable"])
'
}

# as_user USER NAME SECONDS COMMAND…: a clean environment and the state directory of that user.
as_user() {
    local user=$1 name=$2 seconds=$3 home=$shared/$1
    shift 3
    # A node that everybody may open, as most hosts have it, and that nobody else sees.
    # shellcheck disable=SC2016
    run "$name ($user)" "$seconds" unshare --mount -- sh -c '
        mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200; exec "$@"' sh env -i -C "$home" PATH="$PATH" HOME="$home" USER="$user" LANG=C.UTF-8 \
        LLM_IN_SANDBOX_HOME="$home/state" LIS_TEST_BIN="$shared/llm-in-sandbox" LIS_TEST_REQUIRE="${LIS_TEST_REQUIRE-}" \
        LLM_IN_SANDBOX_TEST_URL="$LLM_IN_SANDBOX_TEST_URL" LLM_IN_SANDBOX_TEST_MODEL="$LLM_IN_SANDBOX_TEST_MODEL" \
        setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all -- "$@"
}

test_as_users() {
    local user name path list
    list=$(programs)
    if [[ -z $list ]]; then
        say "no test program needs a sandbox: nothing to repeat as ordinary users"
        return
    fi
    shared=$(mktemp -d /var/tmp/lis-test.XXXXXX)
    chmod 755 "$shared"
    install -m 755 "$target/release/llm-in-sandbox" "$shared/"
    while read -r name path; do
        install -m 755 "$path" "$shared/$name"
    done <<<"$list"
    timeout 300 "$bin" image export --output "$shared/image.tar" || die "the image could not be exported"
    chmod 644 "$shared/image.tar"

    # System users get no subordinate ids, other users do.
    useradd --home-dir "$shared/lis-sub-$$" --create-home --user-group "lis-sub-$$" && users+=("lis-sub-$$")
    useradd --home-dir "$shared/lis-one-$$" --create-home --user-group --system "lis-one-$$" && users+=("lis-one-$$")
    grep -q "^lis-sub-$$:" /etc/subuid || usermod --add-subuids 1000000-1065535 --add-subgids 1000000-1065535 "lis-sub-$$"
    for user in "${users[@]}"; do
        as_user "$user" "image import" 300 "$shared/llm-in-sandbox" image import "$shared/image.tar"
        while read -r name _; do
            as_user "$user" "$name" 900 "$shared/$name" --show-output
        done <<<"$list"
    done
}

need 'cc=gcc libc6-dev' python3=python3 'python3 -m pip --version=python3-pip' 'test -d /etc/ssl/certs=ca-certificates'
if [[ $EUID == 0 ]]; then
    need newuidmap=uidmap mmdebstrap=mmdebstrap useradd=passwd pkill=procps bwrap=bubblewrap strace=strace ip=iproute2 unshare=util-linux \
        chromium=chromium
else
    want newuidmap=uidmap mmdebstrap=mmdebstrap chromium=chromium
    say "not root: all tests run as $(id -un); root would repeat them as other users"
fi
need_rust
cd "$root"
bin=$target/release/llm-in-sandbox
export LLM_IN_SANDBOX_HOME=$state LIS_TEST_BIN=$bin

say "building the program and the tests"
timeout 1800 cargo build --release --locked --bin llm-in-sandbox || die "the build failed"
benches=(--bench layers --bench evaluation)
timeout 1800 cargo test --workspace --locked --no-run || die "the tests do not compile"
timeout 1800 cargo test --locked --no-run "${benches[@]}" || die "the benchmarks do not compile"

say "the image: built once, for all tests"
timeout 1200 "$bin" image build || die "the image could not be built"
say "the image of the grader"
timeout 1200 "$bin" image build grader || say "it could not be built: what needs it is skipped"

say "the small real model, for all tests"
url=$(scripts/local-model.sh serve $$) || die "the local model did not start"
toolless=$(LOCAL_MODEL_TEMPLATE=- scripts/local-model.sh serve $$) || die "the local model did not start without tools"
export LLM_IN_SANDBOX_TEST_URL=$url/v1 LLM_IN_SANDBOX_TEST_MODEL=smollm2-135m-instruct
export LLM_IN_SANDBOX_TEST_TOOLLESS_URL=$toolless/v1
export NO_PROXY=127.0.0.1${NO_PROXY:+,$NO_PROXY}

[[ $EUID == 0 && ${1-} == --user ]] ||
    run "all tests ($(id -un))" 1500 cargo test --workspace --locked --no-fail-fast -- --show-output
[[ $EUID == 0 && ${1-} == --user ]] ||
    run "benchmarks, three rounds each" 600 cargo test --locked "${benches[@]}" -- --test
[[ $EUID == 0 && ${1-} != --user ]] && run "compatibility" 1800 scripts/compat.sh
[[ $EUID == 0 ]] && test_as_users
[[ ${1-} == --user ]] || run "vm" 1900 scripts/vm-test.sh

if ((skipped > 0)); then
    say "skipped:"
    grep -h '^SKIP ' "$logs"/* | sort | uniq -c
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
