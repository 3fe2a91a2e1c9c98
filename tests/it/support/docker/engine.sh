#!/bin/sh
# Runs a Docker engine whose state is in the folder $1 and whose cgroup is $2, as root, and cleans up when it has ended, or
# at the end of stdin: then the test binary is gone, for whatever reason.
#
# The engine and all containers are in one pid namespace below `unshare`, which dies with it. Its bridge, its rules and its
# mounts are in namespaces of its own, and are gone with the last process. There is nothing of it that others can meet.
set -eu
state=$1 cgroup=$2

# If this script is killed, the engine is as well.
# shellcheck disable=SC2016 # the inner shell has words of its own
setpriv --pdeathsig KILL unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc \
    sh -euc '
        # Instead of the sockets, locks and keys of the machine.
        mount -t tmpfs tmpfs /run
        [ ! -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker
        ip link set lo up
        # Not by exec: this shell is process 1, and takes leave of those whose parents have died.
        dockerd --config-file "$1/daemon.json" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" \
            --host "unix://$1/socket" --bip 172.17.0.1/16 --log-level warn \
            --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$2"' sh "$state" "$cgroup" </dev/null &
engine=$!
echo "$engine" >"$state/leader"

exec 3<&0
{
    cat <&3 >/dev/null
    # Process 1 of the engine. When it is gone, so is everything.
    # shellcheck disable=SC2046 # one word, with a blank behind it
    kill -KILL $(cat "/proc/$engine/task/$engine/children")
} &
watcher=$!
wait "$engine" || true
kill "$watcher" 2>/dev/null || true

# The last processes may be a moment from being gone.
for _ in $(seq 500); do
    left=$(find /sys/fs/cgroup -depth -type d \( -path "*/$cgroup" -o -path "*/$cgroup/*" \) ! -delete -print 2>/dev/null || true)
    [ -n "$left" ] || break
    sleep 0.02
done
rm -rf "$state"
