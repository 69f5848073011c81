# Starts libvirtd with files of its own, in a mount and a PID namespace of its own: nothing of it is seen by a libvirt
# of this host, and all of it ends with this shell. The cgroups are the host's: libvirt makes them below /machine.
set -eu
mount -t proc proc /proc
mkdir -p /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
for directory in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run; do
  mount -t tmpfs -o mode=0755 tmpfs "$directory"
done
mkdir /run/lock
# Without that user libvirtd does not start, whatever user its configuration names. Debian makes it in
# libvirt-daemon-system, which wants a service manager.
grep -v '^libvirt-qemu:' /etc/passwd >/run/passwd
grep -v '^libvirt-qemu:' /etc/group >/run/group
echo "libvirt-qemu:x:$HUDDLE_TEST_UID:$HUDDLE_TEST_UID::/nonexistent:/usr/sbin/nologin" >>/run/passwd
echo "libvirt-qemu:x:$HUDDLE_TEST_UID:" >>/run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
cat >/etc/libvirt/libvirtd.conf <<'CONF'
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "b1f0c7a4-3c8b-4d57-9a8e-0b1c2d3e4f50"
log_outputs = "3:stderr"
CONF
cat >/etc/libvirt/qemu.conf <<'CONF'
security_driver = "none"
stdio_handler = "file"
CONF
if [ "$HUDDLE_TEST_CPUSETS" = no ]; then
  # All that are used otherwise but cpuset. With fewer of them libvirt 9 starts no domain.
  echo 'cgroup_controllers = [ "cpu", "devices", "memory", "blkio", "cpuacct" ]' >>/etc/libvirt/qemu.conf
fi
libvirtd --config /etc/libvirt/libvirtd.conf &
# Until libvirtd ends; the shell also takes leave of the emulators, of which it becomes the parent.
wait
