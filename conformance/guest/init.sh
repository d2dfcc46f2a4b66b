#!/bin/sh
# The first program of the guest. It makes what a system has after its start, runs
# /guest/run, and says on the third serial port what came of it, upon which the machine is switched off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 SKIFF_GUEST=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ ! -d /sys/kernel/security ] || mount -t securityfs securityfs /sys/kernel/security
mount --make-rshared /
ln -s /proc/self/fd /dev/fd
echo guest >/proc/sys/kernel/hostname
ip link set lo up
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -onlcr
echo "guest: Linux $(uname -r), up after $(cut -d' ' -f1 /proc/uptime) s"
cd /guest && sh ./run
status=$?
echo "guest: ended after $(cut -d' ' -f1 /proc/uptime) s"
sync
echo $status >/dev/ttyS2
exec sleep infinity
