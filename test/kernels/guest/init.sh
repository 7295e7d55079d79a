#!/bin/sh
# The machine's init: what a container or a test expects of a system, then the run, then off.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for path in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $path; done
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/netns
ip link set lo up
export PATH=/project/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export $(sed 's/.*guest_env=//' /proc/cmdline | tr , '\n')
# As on a kernel that was built without them.
for module in $(echo "$GUEST_WITHOUT" | tr : " "); do echo "install $module /bin/false" >> /etc/modprobe.d/without.conf; done
# Each test starts programs anew, and most of their start is compiling.
export NODE_COMPILE_CACHE=/tmp/compile-cache
# A burst waits here while the emulated CPU does something else.
echo 10000 > /proc/sys/net/core/netdev_max_backlog
cd /project
node test/kernels/guest/main.ts
echo "guest: exit code $?"
# What is still on its way to the console would be lost.
sleep 2
sync
echo o > /proc/sysrq-trigger
sleep 60
