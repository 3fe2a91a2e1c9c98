#!/bin/sh
# Deploys a binary under a running server: swap it, reload, and put the old one back if the reload fails.
#
# The file at INSTALLED_BINARY is whole at every moment, and in the end it is the one that the live generation runs.
# The server announces a new live generation by its PID file (`--pid-file`), which it renames into place. It has no
# other voice that a script could hear, so the rest is read from proc(5).
#
# Plain POSIX sh, on Linux. Exit codes as those of cutover itself.

readonly usage=64 no_instance=69 still_old=75

# The server's own default for becoming ready is 30 s. With less than the server's, a generation may go live after
# we have given up on it.
timeout=35
# How many looks a second, and for how many of them nothing may move before a reload counts as failed.
readonly look=0.1 quiet_looks=10

say() {
    printf 'deploy.sh: %s\n' "$*" >&2
}

wrong_usage() {
    [ $# -eq 0 ] || say "$*"
    cat >&2 <<'END'
usage: deploy.sh [--timeout SECONDS] --pid-file FILE NEW_BINARY INSTALLED_BINARY

Puts NEW_BINARY in the place of INSTALLED_BINARY, the path that the running server was started with, and reloads it.
The binary before stays beside it as INSTALLED_BINARY.previous.

  --pid-file FILE    the file that names the live process
  --timeout SECONDS  how long the new generation may take to go live (default 35); more than the server's ready timeout

exit status: 0 the new generation is live; 64 wrong usage; 69 no server is running (if none was, nothing was swapped);
             75 it failed, the old generation serves on, and the old binary is in its place
END
    exit $usage
}

# The PID in the PID file; nothing if there is none. Never 0, which would be our own process group to kill(1).
pid_in_file() {
    { read -r pid _ <"$pid_file"; } 2>/dev/null
    case $pid in
    '' | 0* | *[!0-9]*) ;;
    *) echo "$pid" ;;
    esac
}

# lives PID: is it there, and more than a zombie? Sets $reaped to the page faults of the children that it has waited
# for: every child makes some, so this moves when a child has ended, however short its life was.
lives() {
    reaped=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    # The name, in parentheses, may hold spaces and parentheses itself: the fields begin after the last one.
    # shellcheck disable=SC2086 # to be split
    set -- ${stat##*) }
    reaped=$9
    case $1 in
    [ZX]) return 1 ;;
    esac
}

# handles_hup PID: SIGHUP would kill one that does not, such as a stranger that got the number of a dead server.
handles_hup() {
    while read -r key value; do
        case $key$value in
        # A mask in hexadecimal; signal 1 is the lowest bit.
        SigCgt:*[13579bdf]) return 0 ;;
        esac
    done <"/proc/$1/status"
    return 1
} 2>/dev/null

# Of all threads of process $old. Nothing where the kernel has no CONFIG_PROC_CHILDREN.
children() {
    cat "/proc/$old/task/"*/children 2>/dev/null
}

# was_there PID: was it a child of $old before our HUP?
was_there() {
    case " $before " in
    *" $1 "*) return 0 ;;
    *) return 1 ;;
    esac
}

has_new_child() {
    for child in $(children); do
        was_there "$child" || return 0
    done
    return 1
}

# Monotonic, unlike date(1).
uptime() {
    read -r up _ </proc/uptime
    echo "${up%.*}"
}

# At most one deploy at a time for a PID file. The lock goes with this process.
lock() {
    if command -v flock >/dev/null; then
        # Appending, so that nothing is truncated. Tried in a shell of its own first: an exec that fails ends the shell.
        (: >>"$pid_file.lock") && exec 9>>"$pid_file.lock" && flock 9 && return
        say "$pid_file.lock cannot be locked; nothing was changed"
        exit $still_old
    fi
    lock_deadline=$(($(uptime) + timeout))
    until mkdir "$pid_file.lock.d" 2>/dev/null; do
        if [ "$(uptime)" -ge "$lock_deadline" ]; then
            say "$pid_file.lock.d is there: another deploy runs, or was killed (then remove it); nothing was changed"
            exit $still_old
        fi
        sleep $look
    done
    lock_folder=$pid_file.lock.d
}

# Is there a server that can be reloaded? Asked before anything is changed.
check_instance() {
    old=$(pid_in_file)
    if [ -z "$old" ]; then
        say "no server is running: $pid_file names no process; nothing was changed"
        exit $no_instance
    fi
    if ! lives "$old" || ! handles_hup "$old"; then
        say "no server is running: process $old of $pid_file is gone, or does not handle SIGHUP; nothing was changed"
        exit $no_instance
    fi
    if ! kill -0 "$old"; then
        say "process $old cannot be signalled; nothing was changed"
        exit $still_old
    fi
}

swap() {
    # A link keeps the file itself; a copy has to do where the file system or its rules (protected_hardlinks) refuse.
    # As it may be a symlink: the symlink itself, both times.
    # The new one is whole, with the old one's mode, before it gets the name: nobody ever finds half of it there.
    if { ln -P -- "$installed" "$kept" 2>/dev/null || cp -pP -- "$installed" "$kept"; } &&
        cp -- "$new" "$fresh" &&
        { chown "$(stat -L -c %u:%g -- "$installed")" "$fresh" 2>/dev/null || true; } &&
        chmod "$(stat -L -c %a -- "$installed")" "$fresh"; then
        # Before it is true: an interrupt may come between the two, and putting the old one back never harms.
        swapped=yes
        mv -f -- "$fresh" "$installed" && return
    fi
    say "$new could not be put in the place of $installed; nothing was changed"
    exit $still_old
}

# Asks the live process for a reload, and remembers how it looked before.
ask() {
    old=$(pid_in_file)
    lives "${old:-none}" || give_up "the server has ended"
    reaped_before=$reaped
    before=$(children)
    kill -HUP "$old" || give_up "process $old cannot be signalled"
}

# Waits until another generation is live. Returns, or gives up.
await_successor() {
    deadline=$(($(uptime) + timeout))
    quiet=0
    while :; do
        # In this order: it writes the PID file before it ends, so one that is gone has written it.
        if lives "$old"; then old_lives=yes; else old_lives=; fi
        reaped_now=$reaped
        now=$(pid_in_file)
        if [ -n "$now" ] && [ "$now" != "$old" ]; then
            lives "$now" || give_up "process $now ended as soon as it was live"
            was_there "$now" || return 0
            # It was spawned before our HUP, maybe from the old binary, by a reload that somebody else had begun. In
            # such a time a HUP is refused, so ask again.
            ask
            continue
        fi
        [ -n "$old_lives" ] || give_up "process $old ended before another one was live"
        # Has a child ended, and there is no new one, and so it stays? The next generation has failed. A single look
        # is not enough: a child may be on its way, and the kernel's list may miss one in passing. Without that list,
        # and if the server refuses before it spawns anything, the timeout has to do.
        if [ -n "$sees_children" ] && [ "$reaped_now" != "$reaped_before" ] && ! has_new_child; then
            quiet=$((quiet + 1))
        else
            quiet=0
        fi
        [ $quiet -lt $quiet_looks ] || give_up "the next generation ended before it was ready (see the server's log)"
        [ "$(uptime)" -lt "$deadline" ] ||
            give_up "no other generation was live after $timeout s (see the server's log)"
        sleep $look
    done
}

# give_up REASON: puts the old binary back, and says how things are.
give_up() {
    # A second interrupt does not keep us from it.
    trap '' HUP INT TERM
    if [ -z "$swapped" ]; then
        say "$1; nothing was changed"
        exit $still_old
    fi
    if mv -f -- "$kept" "$installed"; then
        say "$1; $installed is the old binary again"
    else
        say "$1; and the old binary could not be put back: it is $kept"
        kept=
    fi
    # Another process in the PID file means that the old one has retired, even if it is still there.
    if lives "${old:-none}" && [ "$(pid_in_file)" = "$old" ]; then
        say "process $old serves on"
        exit $still_old
    fi
    say "no server is running"
    exit $no_instance
}

pid_file='' new='' installed='' fresh='' kept='' swapped='' lock_folder='' old=''
while [ $# -gt 0 ]; do
    case $1 in
    --timeout | --pid-file)
        [ $# -ge 2 ] || wrong_usage "$1 needs a value"
        if [ "$1" = --timeout ]; then timeout=$2; else pid_file=$2; fi
        shift 2
        ;;
    --)
        shift
        break
        ;;
    -*) wrong_usage "unknown option $1" ;;
    *) break ;;
    esac
done
case $timeout in
'' | 0* | *[!0-9]*) wrong_usage "--timeout must be whole seconds, at least 1: $timeout" ;;
esac
[ -n "$pid_file" ] || wrong_usage "--pid-file is missing"
[ $# -eq 2 ] || wrong_usage "two binaries are needed"
new=$1 installed=$2
if [ ! -f "$new" ] || [ ! -x "$new" ]; then wrong_usage "$new is not an executable file"; fi
[ -f "$installed" ] || wrong_usage "$installed is not a file"

trap 'rm -f -- "$fresh" "$kept"; [ -z "$lock_folder" ] || rmdir -- "$lock_folder"' EXIT
trap 'give_up interrupted' HUP INT TERM
# Before the lock, which would leave a file beside a PID file that is not there; and again, after waiting for it.
check_instance
lock
check_instance
# In the same folder, because only within a file system a rename is atomic.
fresh=$installed.new.$$ kept=$installed.old.$$
if [ -e "/proc/$old/task/$old/children" ]; then sees_children=yes; else sees_children=; fi
swap
ask
await_successor
# Only now: after a failure, what was deployed before the old binary is still there.
mv -f -- "$kept" "$installed.previous" || say "the binary before could not be kept, ignoring"
echo "pid $old -> $now"
exit 0
