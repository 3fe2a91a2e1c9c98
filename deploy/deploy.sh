#!/bin/sh
# Deploys a release under a running server: put it beside the others, flip the symlink `current` to it, reload, wait for
# the outcome; and flip it back if that is bad.
#
#   ROOT/releases/20261122-101500/    one folder a release
#   ROOT/current -> releases/…        flipped by a rename: at every moment it leads to a whole release
#
# The server is started through it (ROOT/current/PROGRAM), and looks its program up there anew with each reload.
# Plain POSIX sh on Linux, with the usual tools (mv -T). Exit codes as those of cutover itself.

readonly usage=64 no_instance=69 still_old=75

# The server's own default for becoming ready is 30 s. A canary and a soak come on top of that.
timeout=35
keep=5
# How many seconds between two looks, and for how many of them nothing may move before a reload counts as failed.
readonly look=0.1 quiet_looks=10

say() {
    printf 'deploy.sh: %s\n' "$*" >&2
}

wrong_usage() {
    [ $# -eq 0 ] || say "$*"
    cat >&2 <<'END'
usage: deploy.sh [OPTIONS] --root ROOT (--unit UNIT | --name NAME | --pid-file FILE) NEW

Makes NEW, a folder or one executable file, the current release under ROOT, and reloads the server that is started
through ROOT/current. Where ROOT/current is not there yet it is made, and nothing is reloaded.

  --root ROOT        the folder of the releases
  --unit UNIT        reload it by `systemctl reload`; best with ExecReload=cutover reload, which waits
  --name NAME        reload this instance by `cutover reload`; - for the only one
  --pid-file FILE    reload the process that this file names by SIGHUP
  --cutover PATH     the program that reloads by name (default: cutover in PATH, else in ROOT/current)
  --timeout SECONDS  how long the reload may take (default 35): longer than the server's ready timeout, canary and soak
  --keep N           how many releases are kept, this one included (default 5, at least 2)
  --release ID       the name of the release (default: the time, UTC); letters, digits, dots, dashes
  --dry-run          look and tell, and change nothing

exit status: 0 the release is live; 64 wrong usage; 69 no server is running (if none was, nothing was changed);
             75 it failed, the old generation serves on, and `current` leads to its release again
END
    exit $usage
}

# Monotonic, unlike date(1).
uptime() {
    read -r up _ </proc/uptime
    echo "${up%.*}"
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

# is_of_another PID: does it run from another release than the new one? So it is when somebody else's reload was under
# way. Where the program is a script, or may not be looked at, this is not known, and it is taken for ours.
is_of_another() {
    exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
    case $exe in
    "$releases/$release/"*) return 1 ;;
    "$releases/"*) return 0 ;;
    *) return 1 ;;
    esac
}

### By a unit of systemd ###############################################################################################

property() {
    systemctl show --property="$1" --value -- "$unit"
}

unit_check() {
    case $(property ActiveState) in
    active | reloading) old=$(property MainPID) ;;
    *) no_server "the unit $unit is $(property ActiveState)" ;;
    esac
}

unit_reload() {
    old=$(property MainPID)
    told=$(property StatusText)
    systemctl reload -- "$unit" || give_up "systemctl reload $unit failed (see journalctl -u $unit)"
    # With an ExecReload that waits it is decided by now, and the first look finds it.
    while :; do
        now=$(property MainPID)
        if [ "$now" != "$old" ] && lives "$now"; then
            is_of_another "$now" || return 0
            old=$now
            systemctl reload -- "$unit" || give_up "systemctl reload $unit failed (see journalctl -u $unit)"
        fi
        case $(property ActiveState) in
        active | reloading) ;;
        *) give_up "the unit $unit is $(property ActiveState)" ;;
        esac
        status=$(property StatusText)
        case $status in
        "$told") ;;
        *" failed: "*) give_up "$status" ;;
        esac
        [ "$(uptime)" -lt "$deadline" ] ||
            give_up "no other generation was live after $timeout s (see journalctl -u $unit)"
        sleep $look
    done
}

unit_serves_on() {
    case $(property ActiveState) in
    active | reloading) [ "$(property MainPID)" = "$old" ] ;;
    *) return 1 ;;
    esac
}

### By the name of an instance #########################################################################################

# ask VERB [OPTIONS]
ask() {
    verb=$1
    shift
    if [ "$name" = - ]; then "$cutover" "$verb" "$@"; else "$cutover" "$verb" --name "$name" "$@"; fi
}

name_check() {
    if [ -z "$cutover" ]; then
        if command -v cutover >/dev/null; then cutover=cutover; else cutover=$current/cutover; fi
    fi
    command -v "$cutover" >/dev/null || no_server "there is no program $cutover to reload it with (--cutover)"
    ask status >/dev/null || no_server "the instance cannot be asked"
    # A rollout that is under way would be of the old release.
    until ask status --json | grep -q '"rollout":null'; do
        [ "$(uptime)" -lt "$deadline" ] || {
            say "another rollout is under way; nothing was changed"
            exit $still_old
        }
        sleep $look
    done
}

name_reload() {
    # Its words are the best ones there are; on stderr, as ours.
    ask reload --timeout "${timeout}s" >&2 || give_up "cutover reload failed"
}

name_serves_on() {
    ask status >/dev/null
}

### By a PID file ######################################################################################################

# The PID in the PID file; nothing if there is none. Never 0, which would be our own process group to kill(1).
pid_in_file() {
    { read -r pid _ <"$pid_file"; } 2>/dev/null
    case $pid in
    '' | 0* | *[!0-9]*) ;;
    *) echo "$pid" ;;
    esac
}

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

pid_check() {
    old=$(pid_in_file)
    [ -n "$old" ] || no_server "$pid_file names no process"
    if ! lives "$old" || ! handles_hup "$old"; then
        no_server "process $old of $pid_file is gone, or does not handle SIGHUP"
    fi
    if ! kill -0 "$old"; then
        say "process $old cannot be signalled; nothing was changed"
        exit $still_old
    fi
    if [ -e "/proc/$old/task/$old/children" ]; then sees_children=yes; else sees_children=; fi
}

# Asks the live process for a reload, and remembers how it looked before.
hup() {
    old=$(pid_in_file)
    lives "${old:-none}" || give_up "the server has ended"
    reaped_before=$reaped
    before=$(children)
    kill -HUP "$old" || give_up "process $old cannot be signalled"
}

pid_reload() {
    hup
    quiet=0
    while :; do
        # In this order: it writes the PID file before it ends, so one that is gone has written it.
        if lives "$old"; then old_lives=yes; else old_lives=; fi
        reaped_now=$reaped
        now=$(pid_in_file)
        if [ -n "$now" ] && [ "$now" != "$old" ]; then
            lives "$now" || give_up "process $now ended as soon as it was live"
            was_there "$now" || is_of_another "$now" || return 0
            # It was spawned before our HUP, maybe from the old release, by a reload that somebody else had begun. In
            # such a time a HUP is refused, so ask again.
            hup
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

# Another process in the PID file means that the old one has retired, even if it is still there.
pid_serves_on() {
    lives "${old:-none}" && [ "$(pid_in_file)" = "$old" ]
}

### The releases #######################################################################################################

# At most one deploy at a time for a root. The lock goes with this process.
lock() {
    if command -v flock >/dev/null; then
        # Appending, so that nothing is truncated. Tried in a shell of its own first: an exec that fails ends the shell.
        (: >>"$root/.lock") && exec 9>>"$root/.lock" && flock 9 && return
        say "$root/.lock cannot be locked; nothing was changed"
        exit $still_old
    fi
    until mkdir "$root/.lock.d" 2>/dev/null; do
        if [ "$(uptime)" -ge "$deadline" ]; then
            say "$root/.lock.d is there: another deploy runs, or was killed (then remove it); nothing was changed"
            exit $still_old
        fi
        sleep $look
    done
    lock_folder=$root/.lock.d
}

# flip TARGET: `current` leads there, in one step.
flip() {
    ln -s -- "$1" "$root/.current.$$" && mv -fT -- "$root/.current.$$" "$current"
}

# Copies the release, which has its name only when it is whole.
put() {
    staged=$releases/.$release.$$
    mkdir -p -- "$staged" || failed_to_put
    if [ -d "$new" ]; then
        cp -Rp -- "$new/." "$staged/" || failed_to_put
    else
        cp -p -- "$new" "$staged/" || failed_to_put
    fi
    mv -T -- "$staged" "$releases/$release" || failed_to_put
    staged=
}

failed_to_put() {
    say "the release could not be put into $releases; nothing was changed"
    exit $still_old
}

# The releases beyond those that are kept, the oldest of them; and all failed ones but the newest. Names have no spaces.
surplus() {
    # shellcheck disable=SC2010,SC2012 # the names are ours
    ls -1t -- "$releases" | grep -v '\.failed$' | tail -n +"$((keep + $1))"
    # shellcheck disable=SC2010,SC2012
    ls -1t -- "$releases" | grep '\.failed$' | tail -n +2
}

prune() {
    for old_release in $(surplus 1); do
        case $(readlink "$current") in
        "releases/$old_release") ;;
        *) rm -rf -- "${releases:?}/$old_release" || say "$releases/$old_release cannot be removed, ignoring" ;;
        esac
    done
}

no_server() {
    say "no server is running: $*; nothing was changed"
    exit $no_instance
}

# give_up REASON: flips back, and says how things are.
give_up() {
    # A second interrupt does not keep us from it.
    trap '' HUP INT TERM
    if [ -z "$flipped" ]; then
        say "$1; nothing was changed"
        exit $still_old
    fi
    # One that is being rolled out still would go live after all.
    [ "$way" != name ] || ask rollback >/dev/null 2>&1
    if flip "$previous"; then
        say "$1; $current leads to $previous again"
        mv -T -- "$releases/$release" "$releases/$release.failed"
    else
        say "$1; and $current could not be flipped back to $previous"
    fi
    if "${way}_serves_on"; then
        say "the old generation serves on"
        exit $still_old
    fi
    say "no server is running"
    exit $no_instance
}

way='' root='' unit='' name='' pid_file='' cutover='' release='' dry='' new=''
staged='' flipped='' previous='' lock_folder='' old=''
# by WAY: exactly one of them.
by() {
    [ -z "$way" ] || wrong_usage "only one of --unit, --name and --pid-file"
    way=$1
}
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run)
        dry=yes
        shift
        continue
        ;;
    --)
        shift
        break
        ;;
    --*) if [ $# -lt 2 ] || [ -z "$2" ]; then wrong_usage "$1 needs a value, or is not known"; fi ;;
    *) break ;;
    esac
    case $1 in
    --root) root=$2 ;;
    --unit) by unit && unit=$2 ;;
    --name) by name && name=$2 ;;
    --pid-file) by pid && pid_file=$2 ;;
    --cutover) cutover=$2 ;;
    --timeout) timeout=$2 ;;
    --keep) keep=$2 ;;
    --release) release=$2 ;;
    *) wrong_usage "unknown option $1" ;;
    esac
    shift 2
done
case $timeout in
0* | *[!0-9]*) wrong_usage "--timeout must be whole seconds, at least 1: $timeout" ;;
esac
case $keep in
0* | 1 | *[!0-9]*) wrong_usage "--keep must be a number, at least 2: $keep" ;;
esac
[ -n "$way" ] || wrong_usage "one of --unit, --name and --pid-file is missing"
[ -n "$root" ] || wrong_usage "--root is missing"
[ $# -eq 1 ] || wrong_usage "one new release is needed"
new=$1
if [ ! -d "$new" ] && { [ ! -f "$new" ] || [ ! -x "$new" ]; }; then
    wrong_usage "$new is neither a folder nor an executable file"
fi
[ -d "$root" ] || wrong_usage "$root is not a folder"
# As proc(5) names it.
root=$(cd -- "$root" && pwd -P) || exit $usage
releases=$root/releases current=$root/current
release=${release:-$(date -u +%Y%m%d-%H%M%S)}
case $release in
.* | *[!A-Za-z0-9.-]* | *.failed) wrong_usage "--release must be of letters, digits, dots and dashes: $release" ;;
esac

deadline=$(($(uptime) + timeout))
trap 'rm -rf -- "$root/.current.$$" ${staged:+"$staged"}; [ -z "$lock_folder" ] || rmdir -- "$lock_folder"' EXIT
trap 'give_up interrupted' HUP INT TERM
first=
[ -L "$current" ] || first=yes
# Before the lock, which would leave a file where nothing runs; and again, after waiting for it.
[ -n "$first" ] || "${way}_check"
if [ -n "$dry" ]; then
    say "would copy $new to $releases/$release and flip $current from $(readlink "$current" || echo nothing) to it"
    [ -n "$first" ] || say "would reload by ${unit:-${name:-$pid_file}} and wait at most $timeout s"
    [ -n "$first" ] || surplus 0 2>/dev/null | while read -r gone; do say "would remove $releases/$gone"; done
    exit 0
fi
lock
[ -n "$first" ] || "${way}_check"
# Two in one second.
[ ! -e "$releases/$release" ] || release=$release-$$
put
if [ -n "$first" ]; then
    flip "releases/$release" || failed_to_put
    say "$current leads to the first release, $release; start the server through it"
    exit 0
fi
previous=$(readlink "$current")
# Before it is true: an interrupt may come between the two, and flipping back never harms.
flipped=yes
flip "releases/$release" || give_up "$current could not be flipped"
deadline=$(($(uptime) + timeout))
"${way}_reload"
prune
echo "$release is live"
