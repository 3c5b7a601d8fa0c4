#!/bin/bash
# PID 1 of the test machine: goes through the phases of the kernel's command line and turns the machine off.
#
#   none         no cgroups at all
#   old          an ordinary user on a kernel before 6.6
#   v1           each controller a hierarchy of its own, version 1
#   hybrid       the same, and version 2 without controllers beside it
#   v2           version 2 alone, as root
#   delegated    version 2, an ordinary user with a subtree of his own
#   undelegated  version 2, an ordinary user without
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
bin=/lis/llm-in-sandbox
top=/sys/fs/cgroup
passed=0 failed=0

# check NAME COMMAND…: one test of this script.
check() {
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "test $phase::$name ... ok"
    else
        failed=$((failed + 1))
        echo "test $phase::$name ... FAILED"
    fi
}

# tests NAME…: tests of the test programs by parts of their names; none may be skipped for want of cgroups.
tests() {
    local program
    for program in sandbox cli; do
        "${as[@]}" env LIS_TEST_REQUIRE=userns,overlay,cgroup "/lis/$program" --color never --test-threads 1 "$@" || echo "vm: $program failed"
    done
}

# exec_json FLAGS… -- CMD…: the report, in $report; fails where nothing was reported.
exec_json() {
    report=$("${as[@]}" "$bin" exec --json "$@" 2>/tmp/stderr)
    [[ -n $report ]] || { cat /tmp/stderr; return 1; }
}

says() {
    local line
    for line in "$@"; do
        grep -q "$line" <<<"$report" || { echo "no $line in: $report"; return 1; }
    done
}

# enforced VERSION: all limits hold, so `--require-limits` goes through, and the kernel has the numbers.
enforced() {
    exec_json --require-limits --memory 96m --disk 8m --pids 20 --cpus 0.5 -- true || return 1
    says "\"cgroup\": $1" '"unenforced": \[\]' '"status": 0'
}

# A hog of twice the memory is killed, and only it.
memory_binds() {
    exec_json --memory 96m --disk 8m -- \
        sh -c 'python3 -c "b = bytearray(b\"x\") * (192 << 20)"; echo "hog $?" >&2'
    grep -q '^hog 137$' /tmp/stderr || { cat /tmp/stderr; return 1; }
}

# A fork bomb meets the limit, and the machine goes on.
pids_bind() {
    exec_json --pids 20 --timeout 60 -- python3 -c '
import os, sys, time
made = 0
try:
    for made in range(200):
        if os.fork() == 0: time.sleep(60); os._exit(0)
except OSError as e: print("made", made, e.errno, file=sys.stderr)'
    grep -Eq '^made 1[0-9] 11$' /tmp/stderr || { cat /tmp/stderr; return 1; }
}

# Half a second of work at a tenth of a CPU takes five.
cpu_binds() {
    exec_json --cpus 0.1 -- python3 -c '
import sys, time
begun, used = time.monotonic(), time.process_time()
while time.process_time() < used + 0.5: pass
wall = time.monotonic() - begun
print("slow" if wall > 2.5 else "fast", wall, file=sys.stderr)'
    grep -q '^slow ' /tmp/stderr || { cat /tmp/stderr; return 1; }
}

# Without cgroups: refused where limits are required, otherwise told on stderr and in the report.
unenforced() {
    exec_json --require-limits -- true && { echo "it started: $report"; return 1; }
    grep -q 'cannot enforce: memory' /tmp/stderr || { cat /tmp/stderr; return 1; }
    exec_json -- true || return 1
    says '"cgroup": 0' '"memory"' '"pids (by user only)"' && grep -q 'does not enforce' /tmp/stderr
}

doctor_says() {
    "${as[@]}" "$bin" doctor >/tmp/doctor 2>&1
    grep -Eq "$1" /tmp/doctor || { cat /tmp/doctor; return 1; }
}

# Before Linux 6.6 a tmpfs keeps no mark of a replaced directory for an ordinary user.
replaces_no_directory() {
    mkdir -p /tmp/tiny/{bin,directory} && cp /lis/busybox /tmp/tiny/bin/sh && tar -C /tmp/tiny -cf /tmp/tiny.tar .
    "${as[@]}" "$bin" image import --name tiny /tmp/tiny.tar &>/dev/null || return 1
    exec_json --image tiny -- sh -c 'rmdir /directory && ! mkdir /directory && mkdir /other' || return 1
    says '"status": 0'
}

# No cgroup of a sandbox is left in any hierarchy.
nothing_left() {
    local left
    left=$(find $top -path '*llm-in-sandbox/*' -type d 2>/dev/null)
    [[ -z $left ]] || { echo "$left"; return 1; }
}

# Each launcher in a leaf below the one before it would be too deep one day, and busy on the next.
one_leaf() {
    local deeper
    deeper=$(find $top -path '*/host/*' -type d)
    [[ -n $(find $top -name host -type d) && -z $deeper ]] || { echo "deeper: $deeper"; return 1; }
}

limits_hold() {
    check "limits are in force" enforced "$1"
    check "memory binds" memory_binds
    check "processes bind" pids_bind
    check "cpu binds" cpu_binds
    check "doctor knows" doctor_says "^ok +limits +memory, pids and cpu by cgroup v$1"
    check "nothing is left" nothing_left
}

mount_v1() {
    mount -t tmpfs tmpfs $top
    local controller
    for controller in memory pids cpu; do
        mkdir "$top/$controller"
        mount -t cgroup -o "$controller" cgroup "$top/$controller" || echo "vm: no $controller in version 1"
    done
}

mount_v2() {
    mountpoint -q $top || mount -t cgroup2 -o nsdelegate cgroup2 $top
}

# in_scope DIRECTORY COMMAND…: a command of the user, alone in a new cgroup below that directory, as
# `systemd-run --scope` would start it; delegated where the directory's controllers are.
in_scope() {
    local scope
    scope=$(mktemp -d "$1/XXXXXX")
    chmod 755 "$scope"
    [[ -z $(cat "$1/cgroup.subtree_control" 2>/dev/null) ]] || chown agent "$scope" "$scope"/cgroup.{procs,threads,subtree_control}
    shift
    (
        [[ ! -e $scope/cgroup.procs ]] || echo $BASHPID >"$scope/cgroup.procs"
        exec setpriv --reuid agent --regid agent --clear-groups env HOME=/srv/agent \
            XDG_RUNTIME_DIR=/run/agent LLM_IN_SANDBOX_HOME=/srv/agent/state "$@"
    )
}

run_phase() {
    as=()
    case $phase in
    none)
        check "limits are refused or told" unenforced
        check "doctor knows" doctor_says "^degraded +limits +not enforced: memory, pids, cpu"
        ;;
    old)
        as=(in_scope /tmp)
        check "a directory of the image cannot be replaced" replaces_no_directory
        check "doctor knows" doctor_says "^degraded +kernel +6.1.* directory of the image"
        ;;
    v1)
        mount_v1
        limits_hold 1
        ;;
    hybrid)
        mkdir "$top/unified"
        mount -t cgroup2 cgroup2 "$top/unified"
        limits_hold 1
        ;;
    v2)
        mount_v2
        limits_hold 2
        tests walls:: exec:: lifetime:: effects::what_a_call effects::no_ reports::what_a_killed_host_leaves_is_taken_away
        check "nothing is left" nothing_left
        ;;
    delegated)
        mount_v2
        echo "+memory +pids +cpu" >$top/cgroup.subtree_control
        mkdir $top/delegated
        echo "+memory +pids +cpu" >$top/delegated/cgroup.subtree_control
        as=(in_scope "$top/delegated")
        limits_hold 2
        # Many launchers of one process: they share one leaf.
        tests walls::memory_is_bounded walls::processes_are_bounded
        check "launchers share a leaf" one_leaf
        ;;
    undelegated)
        mount_v2
        mkdir $top/others
        as=(in_scope "$top/others")
        check "limits are refused or told" unenforced
        check "doctor knows" doctor_says "^degraded +limits +not enforced: memory, pids, cpu"
        ;;
    *) check "the phase is known" false ;;
    esac
}

mount -t proc proc /proc 2>/dev/null
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
for place in /dev/shm /run /tmp /var/tmp; do
    mount -t tmpfs -o mode=1777 tmpfs $place
done
chmod 755 /run
exec </dev/null

# root and the user have the image each in a state directory of their own.
digest=$(cat /lis/state/names/default)
export LLM_IN_SANDBOX_HOME=/lis/state LIS_TEST_BIN=$bin
useradd --create-home --uid 1000 --user-group agent
mkdir -p /run/agent /srv/agent
cp -r /lis/state /srv/agent/state
chown -R agent: /run/agent /srv/agent
for state in /lis/state /srv/agent/state; do
    mount -t ext4 -o ro /dev/vda "$state/images/$digest/rootfs"
done
chmod 755 /lis /srv

uname -srm
phases=$(sed -n 's/.*lis.phases=\([a-z0-9,]*\).*/\1/p' /proc/cmdline)
for phase in ${phases//,/ }; do
    echo "vm: phase $phase"
    run_phase
done
echo "test result: $( ((failed)) && echo FAILED || echo ok). $passed passed; $failed failed"
echo "vm: all phases ran"
sync
echo o >/proc/sysrq-trigger
sleep 60
