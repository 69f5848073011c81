#!/bin/sh
# The first program of an emulated host: what every host has, the services of its kind, then commands on a serial
# line and a shell on the console.
export PATH=/bin:/usr/bin:/usr/sbin HOME=/root
/bin/busybox mkdir -p /bin /usr/bin /dev /proc /sys /run /tmp /root
/bin/busybox --install -s /bin 2>/dev/null
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
for module in /modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done
[ -x /services ] && /services
# What was added to this root may be something to begin with.
[ -x /start ] && /start
echo "huddle-host: ready"
# A second serial line is for programs: without echo, and without what kernel and hypervisor print.
line=/dev/$(cat /etc/answers-on)
if stty -F "$line" raw -echo 2>/dev/null; then
    answer <"$line" >"$line" 2>&1 &
fi
cd /root
while :; do
    PS1="$(hostname)# " setsid cttyhack sh
done
