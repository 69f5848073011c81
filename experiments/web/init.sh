#!/bin/sh
# The first program of a web server's VM: makes what Apache needs and starts it. When it ends, so does the VM.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do
    busybox insmod "$module"
done
busybox ifconfig lo 127.0.0.1 up
# QEMU's user network gives this address to its first guest.
busybox ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
ln -s /usr/lib/apache2/modules/libphp*.so /srv/web/libphp.so
# Its log is the console.
chmod 666 /dev/console
echo 'huddle: starting Apache'
setpriv --reuid www-data --regid www-data --clear-groups \
    env -i PATH=/usr/bin:/bin PHP_INI_SCAN_DIR= /usr/sbin/apache2 -X -f /srv/web/apache.conf
echo "huddle: Apache ended with $?"
# QEMU ends where a guest wants to start anew (-no-reboot).
busybox reboot -f
