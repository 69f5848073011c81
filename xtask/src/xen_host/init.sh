#!/bin/sh
# The first program of dom0: Xen's own services, then a shell on the console.
export PATH=/bin:/usr/bin:/usr/sbin HOME=/root
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname dom0
for module in /modules/*.ko; do
    insmod "$module"
done
mount -t xenfs xenfs /proc/xen
mkdir -p /run/xen /run/xenstored /run/lock /var/lib/xen /var/lib/xenstored /var/log/xen/console
xenstored --pid-file /run/xen/xenstored.pid && xen-init-dom0 && xenconsoled --log=all
until xl list >/dev/null 2>&1; do
    sleep 1
done
# What was added to this root may be something to begin with.
[ -x /start ] && /start
echo "huddle-xen-host: ready"
# A second serial line is for programs: without echo, and without what kernel and hypervisor print.
if stty -F /dev/ttyS1 raw -echo 2>/dev/null; then
    answer </dev/ttyS1 >/dev/ttyS1 2>&1 &
fi
cd /root
while :; do
    PS1='dom0# ' setsid cttyhack sh
done
