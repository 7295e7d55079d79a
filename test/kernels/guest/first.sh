#!/bin/busybox sh
# The first program in the machine: finds the disks and goes over to the root file system on the first one.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b ls /modules | $b sort -n); do $b insmod /modules/$module; done
until [ -b /dev/vdb ]; do $b usleep 20000; done
$b mount -t ext4 /dev/vda /root
$b mount -t ext4 /dev/vdb /root/project
[ -b /dev/vdc ] && $b mount -t ext4 -o ro /dev/vdc /root/lib/modules
exec $b switch_root /root /project/test/kernels/guest/init.sh
