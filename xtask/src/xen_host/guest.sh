#!/bin/sh
# guest NAME SEED OWN_SEED KIB [VCPUS]: starts a domain that holds the data of SEED, and waits until it does.
# Domains of one SEED hold the same pages; what is made of OWN_SEED nobody else has.
set -u
name=$1 seed=$2 own=$3 kib=$4 vcpus=${5:-1}
fail() {
    echo "guest: $name: $1" >&2
    tail -n 20 "/var/log/xen/console/guest-$name.log" >&2
    xl destroy "$name" 2>/dev/null
    exit 1
}
cat >"/run/xen/$name.cfg" <<END
name = "$name"
type = "pv"
memory = 128
vcpus = $vcpus
kernel = "/guest/vmlinux"
ramdisk = "/guest/initrd"
extra = "console=hvc0 quiet loglevel=0 panic=-1 rdinit=/init huddle.line=hvc0"
on_crash = "destroy"
on_reboot = "destroy"
END
xl create -q "/run/xen/$name.cfg" || fail "xl does not create it"
id=$(xl domid "$name")
tty=
for try in $(seq 1 100); do
    tty=$(xenstore-read "/local/domain/$id/console/tty" 2>/dev/null) && [ -n "$tty" ] && break
    sleep 0.1
done
[ -n "$tty" ] || fail "it has no console"
stty -F "$tty" raw -echo
exec 3<>"$tty"
await() {
    tries=0
    while [ $tries -lt 240 ]; do
        if read -r -t 1 line <&3; then
            case $line in *"\"event\":\"$1\""*) return 0 ;; esac
        else
            tries=$((tries + 1))
        fi
    done
    fail "it does not say that it is $1"
}
await ready
echo "load $seed $own $kib" >&3
await loaded
