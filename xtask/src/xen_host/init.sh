#!/bin/sh
# The first process of the fixture host's dom0: Xen's toolstack, an answering machine for tests, a shell.
export PATH=/usr/bin:/usr/sbin:/bin:/sbin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mkdir -p /proc /sys /dev/pts /run /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
for module in /modules/*.ko; do insmod "$module"; done
mount -t xenfs xenfs /proc/xen
mkdir -p /run/xen /run/xenstored /var/lib/xen /var/lib/xenstored /var/log/xen/console /etc/xen
[ -e /var/run ] || ln -s /run /var/run
[ -e /var/lock ] || ln -s /run /var/lock
touch /etc/xen/xl.conf
xenstored --pid-file /run/xen/xenstored.pid
xen-init-dom0 >/run/xen/init.log 2>&1
xenconsoled --log=all --pid-file=/run/xen/xenconsoled.pid

# Tests say a line and get what it printed, in base64, and its exit code, so that nothing that the kernel or
# Xen says can be taken for it.
answer() {
    stty -F /dev/ttyS1 raw -echo
    exec <>/dev/ttyS1 >&0
    echo "huddle-xen-host: listening"
    while read -r line; do
        sh -c "$line" >/run/answer 2>&1 </dev/null
        code=$?
        base64 /run/answer
        echo "huddle-xen-host: done $code"
    done
}

tries=0
until xl list >/run/xen/list.log 2>&1; do
    tries=$((tries + 1))
    if [ $tries -ge 60 ]; then
        echo "huddle-xen-host: xl does not answer:"
        cat /run/xen/init.log /run/xen/list.log
        poweroff -f
    fi
    sleep 1
done
[ -c /dev/ttyS1 ] && answer 2>/dev/null &
echo "huddle-xen-host: ready"
[ -x /etc/huddle/start ] && /etc/huddle/start
while :; do
    setsid sh -c 'exec sh -i <>/dev/hvc0 >&0 2>&1'
done
