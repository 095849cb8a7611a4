#!/bin/busybox sh
# Process 1 of the guest while it stands on its initramfs: mounts the host's file system read-only below a
# throw-away layer, then hands over to the script that xtask wrote for this run.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order

fail() {
    echo "vm: $1" > /dev/console
    poweroff -f
}
mount -t virtiofs -o ro host /host || fail 'the host file system cannot be mounted'
mount -t tmpfs -o size=60% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /new || fail 'no root file system'

mkdir -p /new/proc /new/sys /new/dev /new/run /new/var/tmp "/new/lib/modules/$(uname -r)"
umount /proc /sys
mount -t proc proc /new/proc
mount -t sysfs sysfs /new/sys
mount --move /dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm
ln -sf /proc/self/fd /new/dev/fd
ln -sf /proc/self/fd/0 /new/dev/stdin
ln -sf /proc/self/fd/1 /new/dev/stdout
ln -sf /proc/self/fd/2 /new/dev/stderr
mount -t devpts -o mode=620,ptmxmode=666 pts /new/dev/pts
mount -t tmpfs -o mode=1777 shm /new/dev/shm
mount -t tmpfs -o mode=755 run /new/run
mount -t cgroup2 cgroup /new/sys/fs/cgroup
mount -t securityfs security /new/sys/kernel/security
# From here the guest's own modprobe finds every module of its kernel: loop, ext4, veth, dummy, tun, …
. /settings
# Not where the command lies: it would be hidden.
case $FOLDER/ in
/var/tmp/*) ;;
*) mount -t tmpfs -o mode=1777 tmp /new/var/tmp ;;
esac
mount --bind "/new$MODULES" "/new/lib/modules/$(uname -r)" || fail 'no modules'
if [ -n "$OUT" ]; then
    mkdir -p /new/out
    mount -t virtiofs out /new/out || fail 'the output folder cannot be mounted'
fi
hostname localhost
ip link set lo up
# As process 1, so that the kernel's own helpers (modprobe) stand on the new root too, and a user namespace can
# be made there (a chroot forbids it).
exec switch_root /new /bin/sh "$SCRIPT"
