#!/bin/sh
# Xen's own services, in dom0.
hostname dom0
mount -t xenfs xenfs /proc/xen
mkdir -p /run/xen /run/xenstored /run/lock /var/lib/xen /var/lib/xenstored /var/log/xen/console
xenstored --pid-file /run/xen/xenstored.pid && xen-init-dom0 && xenconsoled --log=all
until xl list >/dev/null 2>&1; do
    sleep 1
done
