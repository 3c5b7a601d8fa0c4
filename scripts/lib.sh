# Sourced by the scripts beside it: what they need from the host.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for the scripts that source this
target=${CARGO_TARGET_DIR:-$root/target}

say() {
    printf '\n==> %s\n' "$*"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# need 'TEST=PACKAGES'…: TEST is a command that must exist, or, with arguments, must succeed.
# What is missing is installed by apt where we are root, else it is named.
need() {
    local pair test missing=()
    for pair in "$@"; do
        test=${pair%%=*}
        if [[ $test == *' '* ]]; then
            $test >/dev/null 2>&1 && continue
        else
            command -v "$test" >/dev/null && continue
        fi
        read -ra packages <<<"${pair#*=}"
        missing+=("${packages[@]}")
    done
    ((${#missing[@]})) || return 0
    if [[ $EUID != 0 ]]; then
        die "missing here; as root: apt-get install ${missing[*]} (names of Debian and Ubuntu)"
    elif ! command -v apt-get >/dev/null; then
        die "missing here, and there is no apt: ${missing[*]} (names of Debian and Ubuntu; yours may differ)"
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    timeout 300 apt-get -qq update || die "apt-get update failed"
    timeout 900 apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get install ${missing[*]} failed"
}

# The same, but goes on without.
want() {
    (need "$@") || echo "going on without: some things will not work, llm-in-sandbox doctor tells which" >&2
}

# Puts cargo on the path, new enough for this project.
need_rust() {
    local wanted have
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null ||
        die "cargo is missing: install Rust from https://rustup.rs (any stable version from the last year)"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    have=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1) == "$wanted" ]] ||
        die "rustc $have is too old, $wanted is needed: run rustup update"
}
