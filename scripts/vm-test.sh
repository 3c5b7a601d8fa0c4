#!/usr/bin/env bash
# Limits on real kernels with the cgroup hierarchies that this host does not have: in a virtual machine.
#
# usage: vm-test.sh [KERNEL:PHASES]…
#
#   bookworm:none,old,v1,hybrid                  a kernel of 2022, 6.1
#   bookworm-backports:v2,delegated,undelegated  one of 2024, 6.12, on which ordinary users have sandboxes, too
#
# Takes the kernels and an emulator from Debian's archive and needs root to read the image's files.
# What a phase is, and what has to hold in it, is in vm/guest.sh. No acceleration is needed.
# Whatever cannot be had is told as SKIP, and fails where LIS_TEST_REQUIRE names `vm`.
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cache=$target/vm
export LLM_IN_SANDBOX_HOME=${LLM_IN_SANDBOX_HOME:-$target/test-state}
bin=${LIS_TEST_BIN:-$target/release/llm-in-sandbox}
# One boot with its tests takes about a minute, without acceleration.
boot_seconds=900
(($#)) || set -- bookworm:none,old,v1,hybrid bookworm-backports:v2,delegated,undelegated

skip() {
    case ,${LIS_TEST_REQUIRE-}, in
    *,vm,*) die "$*, and vm is required" ;;
    esac
    echo "SKIP vm: $*"
    echo "test result: ok. 1 passed; 0 failed"
    exit 0
}

[[ $EUID == 0 ]] || skip "needs root"
[[ $(uname -m) == x86_64 ]] || skip "needs x86_64"
command -v apt-get >/dev/null || skip "needs apt-get, for Debian's kernels"
(need qemu-system-x86_64=qemu-system-x86 busybox=busybox-static cpio=cpio mke2fs=e2fsprogs xz=xz-utils python3=python3) ||
    skip "the emulator cannot be installed"
busybox=$(command -v busybox)
mkdir -p "$cache"
exec {lock}>"$cache/lock"
flock -w 600 "$lock" || die "another run has held $cache/lock for 10 minutes"

# kernel SUITE: unpacks the newest kernel for clouds of a suite of Debian below $cache/SUITE; nothing is installed.
kernel() {
    local suite=$1 place=$cache/$1 package
    [[ -f $place/done ]] && return
    rm -rf "$place"
    mkdir -p "$place"/{lists/partial,archives/partial,root}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" \
        >"$place/sources.list"
    local apt=(-qq -o "Dir::Etc::sourcelist=$place/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$place/lists" -o "Dir::Cache=$place" -o APT::Sandbox::User=root)
    timeout 300 apt-get "${apt[@]}" update || return 1
    package=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
    (cd "$place" && timeout 300 apt-get "${apt[@]}" download "$package") || return 1
    dpkg-deb -x "$place"/linux-image-*.deb "$place/root" || return 1
    rm -rf "$place"/*.deb "$place/lists" "$place/archives"
    touch "$place/done"
}

# disk: the tree of the default image as a file system, read-only in the machine.
disk() {
    local size
    digest=$(cat "$LLM_IN_SANDBOX_HOME/names/default") || die "no default image: run scripts/test.sh"
    image=$cache/$digest.ext4
    [[ -f $image ]] && return
    rm -f "$cache"/*.ext4
    size=$(du -sk --apparent-size "$LLM_IN_SANDBOX_HOME/images/$digest/rootfs" | cut -f1)
    mke2fs -q -t ext4 -O ^has_journal -m 0 -i 8192 -d "$LLM_IN_SANDBOX_HOME/images/$digest/rootfs" \
        "$image.new" "$((size * 3 / 2))k" || die "the image does not fit into a file system"
    mv "$image.new" "$image"
}

# The test programs of cargo: one line "NAME PATH" each.
programs() {
    timeout 1800 cargo test --locked --no-run --test sandbox --test cli --message-format=json 2>/dev/null | python3 -c '
import json, sys
for line in sys.stdin:
    artifact = json.loads(line)
    if artifact.get("target", {}).get("kind") == ["test"]:
        print(artifact["target"]["name"], artifact["executable"])
'
}

# initramfs SUITE: what the machine boots: a shell, three modules, the programs under test.
initramfs() {
    local tree=$cache/tree modules number=0 name path file
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,modules,proc,sys,dev,lower,rw,new,lis/state/{images,names,locks,tmp}}
    install -m 755 "$busybox" "$tree/bin/busybox"
    modules=("$cache/$1"/root/lib/modules/*/kernel/drivers)
    # In the order of their dependencies; what a kernel has built in is no file.
    for path in virtio/virtio virtio/virtio_ring virtio/virtio_pci_{modern,legacy}_dev virtio/virtio_pci \
        block/virtio_blk block/loop ../fs/overlayfs/overlay; do
        name=$((++number))-${path##*/}.ko
        file=$(echo "${modules[0]}/$path.ko"*)
        case $file in
        *.xz) xz -dc "$file" >"$tree/modules/$name" ;;
        *.ko) cp "$file" "$tree/modules/$name" ;;
        esac
    done
    install -m 755 "$busybox" "$tree/lis/busybox"
    install -m 755 "$bin" "$tree/lis/llm-in-sandbox"
    while read -r name path; do
        strip -o "$tree/lis/$name" "$path"
    done < <(programs)
    [[ -x $tree/lis/sandbox && -x $tree/lis/cli ]] || die "the tests do not compile"
    install -m 755 "$root/scripts/vm/init.sh" "$tree/init"
    install -m 755 "$root/scripts/vm/guest.sh" "$tree/lis/guest.sh"
    cp "$LLM_IN_SANDBOX_HOME/names/default" "$tree/lis/state/names/"
    mkdir -p "$tree/lis/state/images/$digest/rootfs"
    cp "$LLM_IN_SANDBOX_HOME/images/$digest/manifest.json" "$tree/lis/state/images/$digest/"
    (cd "$tree" && find . | cpio --quiet -o -H newc) >"$cache/initramfs"
    rm -rf "$tree"
}

# boot SUITE PHASES: the machine's console is our output; it ends by itself.
boot() {
    say "vm: kernel of $1, phases $2"
    timeout -k 10 "$boot_seconds" qemu-system-x86_64 -machine q35 -accel tcg,thread=single -cpu max,-cx16,-la57 -smp 1 -m 1536 \
        -nodefaults -no-user-config -no-reboot -display none -serial stdio -nic none \
        -kernel "$cache/$1"/root/boot/vmlinuz-* -initrd "$cache/initramfs" \
        -drive "file=$image,format=raw,if=virtio,readonly=on" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off lis.phases=$2" </dev/null |
        tr -d '\r' | tee "$cache/console"
    grep -q '^vm: all phases ran$' "$cache/console"
}

[[ -n ${LIS_TEST_BIN-} ]] || timeout 1800 cargo build --release --locked --bin llm-in-sandbox
disk
status=0
for run in "$@"; do
    kernel "${run%%:*}" || skip "the kernel of ${run%%:*} cannot be had from Debian's archive"
    initramfs "${run%%:*}"
    boot "${run%%:*}" "${run#*:}" || {
        echo "test result: FAILED. 0 passed; 1 failed (the machine of ${run%%:*} did not end well)"
        status=1
    }
    ! grep -q '^test result: FAILED' "$cache/console" || status=1
done
exit "$status"
