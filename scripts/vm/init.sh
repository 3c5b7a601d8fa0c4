#!/bin/busybox sh
# shellcheck shell=dash
# Before the machine's root file system: the image below a writable layer, and the programs under test in it.
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    busybox insmod "$module" || echo "vm: $module is not loaded"
done
busybox ifconfig lo up
busybox mount -t ext4 -o ro /dev/vda /lower &&
    busybox mount -t tmpfs -o mode=755 tmpfs /rw &&
    busybox mkdir /rw/upper /rw/work &&
    busybox mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new &&
    busybox cp -a /lis /new/lis &&
    exec busybox switch_root /new /lis/guest.sh
echo "vm: no root file system"
busybox poweroff -f
