#!/bin/sh
# Runs a Docker engine as root, with its state in the folder $1 and with the cgroup $2. Cleans up when the engine has
# ended. The end of stdin means that the test binary has ended, and ends the engine.
#
# The engine and all containers are in one pid namespace below `unshare`, and end with `unshare`. The bridge, the
# firewall rules and the mounts are in separate namespaces, which the kernel removes with the last process. Nothing of
# the engine can conflict with other programs on the host.
set -eu
state=$1 cgroup=$2

# If this script is killed, the kernel kills the engine too.
# shellcheck disable=SC2016 # the inner shell expands its own arguments
setpriv --pdeathsig KILL unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc \
    sh -euc '
        # Hides the sockets, locks and keys of the host.
        mount -t tmpfs tmpfs /run
        [ ! -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker
        ip link set lo up
        # Without exec: this shell stays process 1, and reaps the processes whose parents have ended.
        dockerd --config-file "$1/daemon.json" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" \
            --host "unix://$1/socket" --bip 172.17.0.1/16 --log-level warn \
            --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$2"' sh "$state" "$cgroup" </dev/null &
engine=$!
echo "$engine" >"$state/leader"

exec 3<&0
{
    cat <&3 >/dev/null
    # The signal goes to process 1 of the pid namespace, whose end ends all other processes there.
    # shellcheck disable=SC2046 # one word with a trailing blank
    kill -KILL $(cat "/proc/$engine/task/$engine/children")
} &
watcher=$!
wait "$engine" || true
kill "$watcher" 2>/dev/null || true

# The last processes may need a moment to end, and until then their cgroups cannot be removed.
for _ in $(seq 500); do
    left=$(find /sys/fs/cgroup -depth -type d \( -path "*/$cgroup" -o -path "*/$cgroup/*" \) ! -delete -print 2>/dev/null || true)
    [ -n "$left" ] || break
    sleep 0.02
done
rm -rf "$state"
