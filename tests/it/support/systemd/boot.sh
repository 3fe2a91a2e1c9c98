#!/bin/sh
# Boots the root $1 as the machine $2, and cleans up when the machine has ended. Runs as root, in its own mount
# namespace.
#
# All processes of the machine are in one pid namespace below `unshare`. If `unshare` ends for any reason, the kernel
# kills them all. SIGTERM to this script ends the machine at once.
set -eu
root=$1 machine=$2 cgroup=/sys/fs/cgroup/$2

# A host whose process 1 is not systemd may mix cgroup v1 and v2, which systemd 257 refuses. This mount namespace has v2
# only.
umount --recursive /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "$cgroup"

# systemd-nspawn refuses system calls that a real machine allows; --system-call-filter= allows what `cutover run` needs.
# Several machines boot from one root at a time, each with its own overlay in memory, so no lock is needed.
export SYSTEMD_NSPAWN_LOCK=0
(
    echo 0 >"$cgroup/cgroup.procs"
    exec unshare --pid --fork --kill-child --mount-proc systemd-nspawn --quiet --register=no --keep-unit \
        --system-call-filter=pidfd_getfd --private-network --volatile=overlay --link-journal=no --console=passive \
        --uuid="$(tr -d - </proc/sys/kernel/random/uuid)" --directory="$root" --machine="$machine" \
        --boot systemd.unit=multi-user.target
) &
inner=$!
trap 'kill -KILL $inner 2>/dev/null' TERM
# A `wait` that the trap interrupts returns before the process has ended.
until wait $inner 2>/dev/null || ! kill -0 $inner 2>/dev/null; do :; done
# The last processes may need a moment to end, and until then their cgroups cannot be removed.
for _ in $(seq 500); do
    ! find "$cgroup" -depth -type d -delete 2>/dev/null || exit 0
    sleep 0.02
done
exit 1
