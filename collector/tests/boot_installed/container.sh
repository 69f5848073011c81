#!/bin/sh
# Runs a program in the Debian in the directory $1 as packaging/Containerfile says, without an engine for containers: with
# mounts, host name and IPC of its own, the processes, network and control groups of the host, and the capabilities $4
# alone. $2 is a directory for changes, whose `huddle` is unpacked already; $3 is shared as /run/huddle.
set -eu
lower=$1 changes=$2 state=$3 capabilities=$4
shift 4
mount --make-rprivate /
mkdir -p "$changes/upper" "$changes/work" "$changes/root"
root=$changes/root
mount -t overlay overlay -o "ro,lowerdir=$changes/huddle:$lower" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount --rbind /sys "$root/sys"
mount -o remount,ro,bind "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -m 700 "$root/run/huddle"
mount --bind "$state" "$root/run/huddle"
mount --bind -o ro /etc/passwd "$root/etc/passwd"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec setpriv --bounding-set "-all,$capabilities" --no-new-privs "$@"
