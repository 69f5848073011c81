#!/bin/sh
# What systemd mounts on a host.
hostname "$(cat /etc/hostname)"
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t resctrl resctrl /sys/fs/resctrl 2>/dev/null
# Nothing but what ends the host may come between answers, where both share a line.
dmesg -n 1
