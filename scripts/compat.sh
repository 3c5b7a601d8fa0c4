#!/usr/bin/env bash
# The compatibility suite: what programs do in a sandbox beside what they do in a plain chroot of the same image.
#
# usage: compat.sh
#
# CPython's own tests run in both, and each difference has to be in tests/compat/expected.toml with its reason;
# then programs of every kind run in a sandbox. Needs root, for the chroot. LLM_IN_SANDBOX_HOME keeps the image.
# Where that cannot be built the suite is skipped, unless LIS_TEST_REQUIRE names `compat`.
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"
[[ $EUID == 0 ]] || die "a plain chroot needs root: run this as root"
bin=${LIS_TEST_BIN:-$target/release/llm-in-sandbox}
export LLM_IN_SANDBOX_HOME=${LLM_IN_SANDBOX_HOME:-$target/test-state}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

say "the program, and the image: built once"
[[ -n ${LIS_TEST_BIN-} ]] || timeout 1800 cargo build --release --locked --bin llm-in-sandbox
if ! timeout 1200 "$bin" image build --recipe tests/compat/recipe.toml; then
    [[ ",${LIS_TEST_REQUIRE-}," != *,compat,* ]] || die "the image could not be built"
    echo "SKIP compatibility: its image could not be built"
    exit 0
fi
digest=$(<"$LLM_IN_SANDBOX_HOME/names/compat")
tree=$LLM_IN_SANDBOX_HOME/images/$digest/rootfs
[[ -d $tree ]] || die "$tree is no directory"

# Both sides get the same environment, the same limits that the tests look at, an empty standard input, and give back
# what was reported on standard output.
tests='cd /tmp && python3 -m test --junit-xml /tmp/report.xml \
    test_os test_subprocess test_socket test_multiprocessing_spawn test_tempfile test_mmap >/tmp/log 2>&1
    tail -n 60 /tmp/log >&2; cat /tmp/report.xml'

inside() {
    timeout 280 "$bin" exec --image compat --memory 3g --disk 1g --timeout 270 -- sh -c "$tests"
}

outside() {
    # The mounts go with their namespace. /tmp, where the tests work, is on no overlay.
    # shellcheck disable=SC2016
    timeout -k 5 280 unshare --mount --fork --pid --kill-child sh -euc '
        mount -t tmpfs tmpfs "$1"
        mkdir "$1/upper" "$1/work" "$1/root"
        mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
        mount -t proc proc "$1/root/proc"
        mount --rbind /dev "$1/root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$1/root/tmp"
        ulimit -n 4096
        ulimit -c 0
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root \
            LANG=C.UTF-8 LC_ALL=C.UTF-8 TERM=dumb chroot "$1/root" sh -c "$3" </dev/null
    ' sh "$work/outside" "$tree" "$tests"
}

say "CPython's own tests, inside and outside"
mkdir "$work/outside"
inside >"$work/inside.xml" 2>"$work/inside.log" &
first=$!
outside >"$work/outside.xml" 2>"$work/outside.log" &
second=$!
failed=0
wait "$first" || failed=1
wait "$second" || failed=1
python3 tests/compat/compare.py "$work/inside.xml" "$work/outside.xml" tests/compat/expected.toml || {
    failed=1
    tail -n 60 "$work/inside.log" "$work/outside.log" >&2
}

say "programs of every kind, inside"
timeout 280 "$bin" exec --image compat --memory 3g --disk 1g --timeout 270 \
    --ro-bind "$root/tests/compat:/opt/compat" -- bash /opt/compat/smoke.sh || failed=1

((failed == 0)) || die "the compatibility suite failed"
say "no unexplained difference"
