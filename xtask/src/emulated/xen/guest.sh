#!/bin/sh
# Makes a PV domain, and has it hold data: domains told the same SEED hold the same KIB of pages, and as
# many of their own, which OWN_SEED sets apart.
if [ $# -lt 4 ]; then
    echo "usage: guest NAME SEED OWN_SEED KIB [VCPUS]" >&2
    exit 2
fi
name=$1
config=/run/xen/guest-$name.cfg
cat >"$config" <<END
type = "pv"
name = "$name"
memory = 128
vcpus = ${5:-1}
kernel = "/guest/vmlinux"
ramdisk = "/guest/initrd"
cmdline = "console=hvc0 quiet panic=-1 rdinit=/init huddle.line=hvc0"
on_crash = "destroy"
END
xl create -q "$config" || exit
id=$(xl domid "$name") || exit
# A domain that cannot be used would hold its name and memory; what it said is in /var/log/xen/console.
undo() {
    xl destroy "$id"
    exit 1
}
tty=$(xenstore-read "/local/domain/$id/console/tty") || undo
exec 3<>"$tty"

# Reads lines of the domain's console until one tells the event $1, for at most $2 seconds.
wait_for() {
    local end=$(($(date +%s) + $2)) line= last=
    while [ "$(date +%s)" -lt "$end" ]; do
        # A line that has begun is read on, since what is there is there at once.
        read -r -t 5 line <&3 || continue
        [ -n "$line" ] && last=$line
        case $line in
            *'"event":"'"$1"'"'*) return 0 ;;
            *'"event":"error"'*)
                echo "guest: domain $name cannot do that: $line" >&2
                return 1
                ;;
        esac
    done
    echo "guest: domain $name did not say \"$1\" in $2 s; the last that it said: $last" >&2
    return 1
}
wait_for ready 180 || undo
echo "load $2 $3 $4 0 0" >&3
wait_for loaded 120 || undo
