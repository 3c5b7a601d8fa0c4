#!/usr/bin/env bash
# Looks for hostile input that breaks the host side: each target of fuzz/ for some seconds, a few at a time.
#
# usage: fuzz.sh [SECONDS [TARGET…]]
#
# Needs a nightly toolchain and cargo-fuzz; says SKIP without them, and fails where LIS_TEST_REQUIRE names "fuzz".
# What it finds is written to fuzz/artifacts: mend it, and keep the file among fuzz/seeds, which every test run replays.
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
seconds=${1-60}
shift $(($# > 0 ? 1 : 0))
# Longest compilation from nothing.
build_limit=900

skip() {
    echo "SKIP fuzzing: $1; the seeds are replayed by the tests"
    [[ ,${LIS_TEST_REQUIRE-}, != *,fuzz,* ]] || die "LIS_TEST_REQUIRE asks for fuzzing"
    exit 0
}

cargo +nightly --version &>/dev/null || skip "no nightly toolchain"
cargo +nightly fuzz --version &>/dev/null || skip "no cargo-fuzz (cargo install --locked cargo-fuzz)"
cd "$root/fuzz"
targets=("$@")
((${#targets[@]} > 0)) || mapfile -t targets < <(cargo +nightly fuzz list)

# Safe code needs no address sanitizer to be seen failing; without it everything is faster.
say "building ${#targets[@]} fuzz targets"
timeout "$build_limit" cargo +nightly fuzz build --sanitizer none
programs=target/$(rustc +nightly -vV | sed -n 's/^host: //p')/release
# Trees are unpacked by the hundred thousand: in memory, where there is some.
TMPDIR=$(mktemp -d -p "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR-/tmp}")")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

fuzz() {
    mkdir -p "corpus/$3" "artifacts/$3"
    # A single input has 10 s and 1 GiB, and may ask for 256 MiB at once.
    if timeout -k 10 $(($1 + 120)) "$2/$3" -max_total_time="$1" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -artifact_prefix="artifacts/$3/" "corpus/$3" "seeds/$3" >"$TMPDIR/$3.log" 2>&1; then
        echo "fuzz $3: $(grep -o '^Done [0-9]* runs' "$TMPDIR/$3.log")"
    else
        tail -n 40 "$TMPDIR/$3.log"
        echo "fuzz $3: FAILED"
        return 1
    fi
}
export -f fuzz

say "fuzzing: ${targets[*]}, $seconds s each"
printf '%s\n' "${targets[@]}" | xargs -P "$(($(nproc) + 1))" -I{} bash -c 'fuzz "$@"' _ "$seconds" "$programs" {}
