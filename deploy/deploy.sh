#!/bin/sh
# Deploys a release under a running server: copies the release beside the others, flips the symlink `current` to it,
# reloads the server and waits for the outcome; and flips the symlink back if the outcome is bad.
#
#   ROOT/releases/20261122-101500/    one folder for each release
#   ROOT/current -> releases/…        flipped by a rename: at every moment the symlink leads to a complete release
#
# The server is started through the symlink (ROOT/current/PROGRAM), and resolves the path anew with each reload.
# Plain POSIX sh on Linux, with the usual tools and mv -T. The exit codes are those of cutover itself.
set -u

readonly usage=64 no_instance=69 still_old=75
# The server's own ready timeout is 30 s by default. A canary and a soak come on top of that.
timeout=35 keep=5
# After this many checks without a change, a reload by PID file counts as failed.
readonly quiet_looks=10

help() {
    cat <<'END'
usage: deploy.sh [OPTIONS] --root ROOT (--unit UNIT | --name NAME | --pid-file FILE) NEW

Makes NEW, a folder or one executable file, the current release under ROOT, and reloads the server that is started
through ROOT/current. Where ROOT/current is not there yet it is made, and nothing is reloaded. NEW is copied, with its
modes and times (and its owners, by root). To go back to a release that is still kept, give ROOT/releases/ID for NEW.

  --root ROOT        the folder of the releases
  --unit UNIT        reload it by `systemctl reload`; best with ExecReload=cutover reload, which waits
  --name NAME        reload this instance by `cutover reload`; - for the only one
  --pid-file FILE    reload the process that this file names: through the control socket that lists it, where there is a
                     program for that; else by SIGHUP, if it is proven to be the server: it began before FILE was
                     written, handles SIGHUP, and its executable, or the path it was started by, is under ROOT
  --cutover PATH     the program that asks a control socket (default: cutover in PATH, else in ROOT/current)
  --timeout SECONDS  how long the reload may take (default 35): longer than the server's ready timeout, canary and soak
  --keep N           how many releases are kept, this one included (default 5, at least 2), and the last failed one
  --release ID       the name of the release (default: the time, UTC); letters, digits, dots, dashes
  --dry-run          look and tell, and change nothing

exit status: 0 the release is live, even if a signal came; 64 wrong usage; 69 no server is running, or FILE names none
             that is proven (if so from the beginning, nothing was changed); 75 it failed, the old generation serves
             on, and `current` leads to its release again; 77 by name: the instance belongs to another user, and
             nothing was changed
END
}

say() { printf 'deploy.sh: %s\n' "$*" >&2; }
wrong_usage() {
    say "$*"
    help >&2
    exit "$usage"
}
# unchanged CODE WHY
unchanged() {
    say "$2; nothing was changed"
    exit "$1"
}
no_server() { unchanged "$no_instance" "no server is running: $*"; }

# The uptime is monotonic, unlike date(1).
uptime() { read -r up _ </proc/uptime && echo "${up%.*}"; }
in_time() { [ "$(uptime)" -le "$deadline" ]; }
# The pause between two checks, without our lock. POSIX guarantees whole seconds only.
nap() { sleep 0.1 2>/dev/null 9>&- || sleep 1 9>&-; }
# await WHAT: logs WHAT once, and pauses.
await() {
    [ "$waiting" = "$1" ] || say "waiting for $1"
    waiting=$1
    nap
}

# lives PID: whether the process exists, and is no zombie. Sets $began to its start, in ticks, and $reaped to the page
# faults of the children that it has waited for: every child causes some, so the number changes when a child has ended,
# however short its life.
lives() {
    reaped='' began=0
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    # The name, in parentheses, may contain spaces and parentheses itself: the fields begin after the last one.
    # shellcheck disable=SC2086 # to be split
    set -- ${stat##*) }
    # After a line break in the name, the line that was read has no fields.
    [ $# -ge 20 ] || return 1
    reaped=$9 began=${20}
    case $1 in [ZX]) return 1 ;; esac
}

# is_new PID: whether the process lives, and began after the flip. Such a process runs the new release, whoever
# requested the reload. A process that began before may be from somebody else's reload.
is_new() { lives "${1:-none}" && [ "$began" -gt "$flipped" ]; }

# attend UNTIL COMMAND…: runs the command without our lock, and kills it after this uptime. Signals to this script take
# effect meanwhile: otherwise the shell defers them until the child that it waits for has ended.
attend() {
    until=$1
    shift
    "$@" >&2 9>&- &
    child=$!
    while lives "$child"; do
        [ "$(uptime)" -le "$until" ] || kill "$child"
        nap
    done
    wait "$child"
    attended=$? child=
    return "$attended"
}

# Waits until no rollout is under way, because the server refuses a reload during a rollout.
settle() {
    while "${way}_is_busy"; do
        in_time || return 1
        await "the rollout that is under way"
    done
}

### By a unit of systemd ###############################################################################################

property() { systemctl show --property="$1" --value -- "$unit"; }
unit_check() {
    command -v systemctl >/dev/null || no_server "there is no systemctl to ask for the unit $unit"
    old=$(unit_live)
    [ -n "$old" ] || no_server "the unit $unit is $(property ActiveState)"
}
unit_is_busy() { [ "$(property ActiveState)" = reloading ]; }
# The main process; nothing if the unit does not serve.
unit_live() {
    case $(property ActiveState) in active | reloading) property MainPID ;; esac
}
# The unit's status text about the last attempt, if that failed: "generation 4 failed: …". The number makes each text
# different.
unit_failure() {
    told=$(property StatusText)
    case $told in *'; generation '*' failed: '*) printf '%s\n' "generation ${told##*; generation }" ;; esac
}

unit_reload() {
    while :; do
        old=$(unit_live) failure=$(unit_failure) asked=yes
        attend "$deadline" systemctl reload -- "$unit"
        reloaded=$?
        # With an ExecReload that waits, the outcome is decided by now, and the first check finds it.
        while now=$(unit_live) && [ "$now" = "$old" ]; do
            why=$(unit_failure)
            # During a rollout the unit has no text about the attempt before.
            [ "${why:-"$failure"}" = "$failure" ] || decided_against "$why"
            in_time || too_late "journalctl -u $unit"
            # The reload may be refused because of somebody else's rollout.
            if [ "$reloaded" -ne 0 ] && unit_is_busy; then break; fi
            [ "$reloaded" -eq 0 ] || decided_against "systemctl reload failed (see journalctl -u $unit)"
            nap
        done
        if is_new "$now"; then return; fi
        lives "${now:-none}" || decided_against "the unit $unit is $(property ActiveState)"
        settle || too_late "journalctl -u $unit"
    done
}

### By the name of an instance #########################################################################################

# ask VERB [OPTIONS]
ask() {
    verb=$1
    shift
    "$cutover" "$verb" ${target:+"$target"} "$@"
}
find_cutover() {
    [ -n "$cutover" ] || cutover=$(command -v cutover) || cutover=$runs/cutover
    command -v "$cutover" >/dev/null
}
name_check() {
    find_cutover || no_server "there is no program $cutover to ask it with (--cutover)"
    ask status >/dev/null || unchanged $? "the instance cannot be asked"
    old=$(name_live)
}
name_is_busy() {
    case $(ask status --json 2>/dev/null) in '' | *'"rollout":null'*) return 1 ;; esac
}
# The process that answers is the live one: only this process knows the kinds of its connections.
name_live() {
    ask status --json 2>/dev/null | tr '{' '\n' |
        sed -n '/"kinds":null/d; s/^"generation":[0-9]*,"pid":\([0-9]*\),.*/\1/p'
}

name_reload() {
    while :; do
        old=$(name_live) asked=yes left=$((deadline - $(uptime) + 1))
        # The verb itself prints the best messages. The limit leaves time for a rollback.
        attend $((deadline + 30)) "$cutover" reload ${target:+"$target"} --timeout "${left}s" && return
        now=$(name_live)
        # The reload has failed, unless it was refused because of somebody else's rollout.
        if [ "${now:-"$old"}" = "$old" ] && ! name_is_busy; then decided_against "cutover reload failed"; fi
        if ! settle || ! in_time; then too_late "cutover status"; fi
        if is_new "$(name_live)"; then return; fi
    done
}

### By a PID file ######################################################################################################

# Sets $pid to the PID in the PID file; to nothing if there is none. Never to 0, which kill(1) takes for our own process
# group.
pid_named() {
    pid=
    # A read from a FIFO would block.
    [ -f "$pid_file" ] || return
    { read -r pid _ <"$pid_file"; } 2>/dev/null
    case $pid in 0* | *[!0-9]*) pid= ;; esac
    [ -n "$pid" ]
}

# leads_into_root PATH: whether the path is in ROOT, with its folder resolved.
leads_into_root() {
    case $1 in /*/*) ;; *) return 1 ;; esac
    case $(CDPATH='' cd -- "${1%/*}" && pwd -P)/ in "$root"/*) ;; *) return 1 ;; esac
} 2>/dev/null

# was_started_in_root PID: whether the process was started by a path in ROOT, its argv[0]; or whether argv[0] has the
# name of the interpreter that a script in ROOT asks for. Any other argument proves nothing: an editor may have a file
# of the release open.
was_started_in_root() {
    tr '\0' '\n' <"/proc/$1/cmdline" | {
        IFS= read -r zero
        if leads_into_root "$zero"; then return; fi
        # The kernel puts at most one option before the script.
        IFS= read -r script
        case $script in -*) IFS= read -r script ;; esac
        leads_into_root "$script" && [ -f "$script" ] && IFS= read -r line <"$script" &&
            case $line in '#!'*) ;; *) false ;; esac &&
            case " ${line#??} " in *[\ /]"${zero##*/} "*) [ -n "${zero##*/}" ] ;; *) false ;; esac
    }
} 2>/dev/null

# proven PID: whether the process is the server. The file alone proves nothing: its PID may be a stranger's by now,
# which then began after the file was written. Both times are in whole seconds, so they may differ by 2 s. Sets $why to
# the condition that is not met.
proven() {
    why='is gone'
    lives "$1" || return
    why='does not handle SIGHUP'
    handles_hup "$1" || return
    why='cannot be compared with the time of the file'
    written=$(date -r "$pid_file" +%s) && now_s=$(date +%s) || return
    hertz=$(getconf CLK_TCK 2>/dev/null) || hertz=100
    why='began after the file was written'
    [ $((now_s - $(uptime) + began / hertz)) -le $((written + 2)) ] || return
    exe=$(readlink "/proc/$1/exe") || exe='a file that cannot be seen'
    why="executes $exe, and neither that file nor the path by which it was started is in $root"
    case $exe in "$root"/*) ;; *) was_started_in_root "$1" ;; esac
}

# Prints the PID of the PID file, if the process is the server.
pid_live() { pid_named && proven "$pid" && echo "$pid"; }

# handles_hup PID: whether the process handles SIGHUP. The signal would kill one that does not, such as a stranger that
# got the PID of a dead server.
handles_hup() {
    while read -r key value; do
        # The mask is hexadecimal; signal 1 is the lowest bit.
        case $key$value in SigCgt:*[13579bdf]) return 0 ;; esac
    done <"/proc/$1/status"
    return 1
} 2>/dev/null

# The children of all threads of process $old. Nothing where the kernel has no CONFIG_PROC_CHILDREN.
children() { cat "/proc/$old/task/"*/children 2>/dev/null; }
# some CHECK PIDS: whether one of these processes passes the check.
some() {
    for one in $2; do "$1" "$one" && return; done
    return 1
}
gone() { ! lives "$1"; }
# can_run PATH: whether the path is absolute and leads to an executable file.
can_run() { [ "${1#/}" != "$1" ] && [ -f "$1" ] && [ -x "$1" ]; }

pid_check() {
    # A control socket that lists the process is the better proof, gives more information, and needs no signal.
    target=--pid-file=$pid_file
    if find_cutover && ask status >/dev/null 2>&1; then
        way=name
        name_check
        return
    fi
    pid_named || no_server "$pid_file names no process"
    old=$pid
    proven "$old" || no_server "process $old of $pid_file $why"
    kill -0 "$old" || unchanged "$still_old" "process $old cannot be signalled"
    # The path by which the process was started.
    program=$(tr '\0' '\n' <"/proc/$old/cmdline" | head -n 1)
    can_run "$program" || program=
}
# A rollout cannot be seen by PID file. A SIGHUP during a rollout is refused, so the script sends it again.
pid_is_busy() { false; }

# Requests a reload from the live process, and records the state before.
hup() {
    if ! pid_named || ! lives "$pid"; then decided_against "the server has ended"; fi
    old=$pid reaped_before=$reaped before=$(children) quiet=0 asked=yes
    # The proof is repeated, with nothing in between: the kernel reuses a PID only after all the others (kernel/pid.c).
    proven "$old" || decided_against "process $old of $pid_file $why"
    kill -HUP "$old" || decided_against "process $old cannot be signalled"
}

pid_reload() {
    # The server detects that as well, but this script would not see it.
    [ -z "$program" ] || can_run "$program" || decided_against "$program is no executable file in this release"
    hup
    while nap; do
        # The order matters: the PID file is written before the old process ends, so once that process is gone, the file
        # is new.
        if lives "$old"; then old_lives=yes; else old_lives=; fi
        reaped_now=$reaped
        if pid_named && [ "$pid" != "$old" ]; then
            now=$pid
            if is_new "$now" && proven "$now"; then return; fi
            lives "$now" || decided_against "process $now ended as soon as it was live"
            # This process is from a reload that somebody else had begun. A SIGHUP during that reload was refused, so
            # ask again.
            hup && continue
        fi
        [ -n "$old_lives" ] || decided_against "process $old ended before another one was live"
        # If a child has ended, there is no new one, and that stays so, the next generation has failed. A single check
        # is not enough: a child may be about to start, and the kernel's list may miss one in passing. Without that
        # list, and if the server refuses before a spawn, only the timeout ends the wait.
        quiet=$((quiet + 1))
        [ "$reaped_now" != "$reaped_before" ] && [ -e "/proc/$old/task/$old/children" ] || quiet=0
        ! some is_new "$(children)" || quiet=0
        if [ "$quiet" -ge "$quiet_looks" ]; then
            some gone "$before" || decided_against "the next generation ended before it was ready (see the server's log)"
            # A child from before our SIGHUP is gone: maybe of somebody else's reload, because of which ours was
            # refused.
            hup
        fi
        in_time || too_late "the server's log"
    done
}

### The releases #######################################################################################################

# At most one deploy at a time for each ROOT. The lock ends with this process.
lock() {
    if command -v flock >/dev/null; then
        # Append mode truncates nothing. A subshell tries first, because a failed exec ends the shell.
        (: >>"$root/.lock") || unchanged "$still_old" "$root/.lock cannot be opened"
        exec 9>>"$root/.lock"
        until flock -n 9; do
            [ $? -eq 1 ] || unchanged "$still_old" "$root/.lock cannot be locked"
            await "another deploy"
        done
    else
        until mkdir "$root/.lock.d" 2>/dev/null; do
            in_time || unchanged "$still_old" "$root/.lock.d cannot be had: a deploy runs, or was killed (then remove it)"
            await "another deploy"
        done
        lock_folder=$root/.lock.d
    fi
    locked=yes
}

# flip TARGET: makes `current` lead to TARGET, in one step.
flip() {
    rm -f -- "$root/.current.new"
    ln -s -- "$1" "$root/.current.new" && mv -fT -- "$root/.current.new" "$current"
}

# Copies the release, which gets its name only when the copy is complete. Leftovers of a killed deploy are removed.
put() {
    staged=$releases/.new
    rm -rf -- "$staged" && mkdir -p -- "$staged" &&
        if [ -d "$new" ]; then cp -RPp -- "$new/." "$staged/"; else cp -p -- "$new" "$staged/"; fi &&
        # The time is that of the deploy, and not of NEW: it shows which releases are the oldest.
        touch -- "$staged" && mv -T -- "$staged" "$releases/$release" && staged=$releases/$release
}

# surplus N: prints the oldest releases, such that N are left; and all failed ones but the newest.
surplus() {
    # Only folders count, and of those only names that a release can have.
    # shellcheck disable=SC2010,SC2012
    all=$(ls -1tp -- "$releases" 2>/dev/null | sed -n '/^[A-Za-z0-9][A-Za-z0-9.-]*\/$/s/\/$//p')
    {
        echo "$all" | grep -v '\.failed$' | tail -n "+$(($1 + 1))"
        echo "$all" | grep '\.failed$' | tail -n +2
    } | while read -r id; do
        # A release whose process may still be finishing its connections is never surplus.
        case $releases/$id in "$root/$(readlink "$current")" | "$root/$previous" | "$runs") ;; *) echo "$id" ;; esac
    done
}
prune() {
    surplus "$keep" | while read -r id; do
        rm -rf -- "${releases:?}/$id" || say "$releases/$id cannot be removed, ignoring"
    done
}

### The end ############################################################################################################

is_live() {
    trap '' HUP INT TERM
    prune
    echo "$release is live"
}
too_late() { give_up "no other generation was live after $timeout s (see $1)"; }

# decided_against REASON: gives up when no rollout is under way any more.
decided_against() { asked='' && give_up "$1"; }
# give_up REASON: flips back, and reports the state.
give_up() {
    # A second interrupt must not prevent the following.
    trap '' HUP INT TERM
    [ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null
    [ -n "$flipped" ] || unchanged "$still_old" "$1"
    if [ "$way" = name ] && [ -n "$asked" ]; then
        # A release whose rollout goes on would go live after all.
        ask rollback >/dev/null 2>&1
        deadline=$(($(uptime) + 10))
        settle && undone=yes
    fi
    if flip "$previous"; then
        # The release may have gone live before the rollback.
        if [ -n "$asked" ] && is_new "$("${way}_live")" && flip "releases/$release"; then
            say "$1; but the release was live by then"
            is_live
            exit 0
        fi
        say "$1; $current leads to $previous again"
        rm -rf -- "${releases:?}/$release.failed"
        mv -T -- "$releases/$release" "$releases/$release.failed"
        prune
    else
        say "$1; $current could not be flipped back to $previous"
    fi
    now=$("${way}_live")
    lives "${now:-none}" || { say "no server is running"; exit "$no_instance"; }
    say "process $now serves on"
    [ -z "$asked" ] || [ -n "$undone" ] ||
        say "the reload cannot be taken back: should $release go live after all, reload the server once more"
    exit "$still_old"
}

way='' root='' unit='' name='' target='' pid_file='' cutover='' release='' dry='' new=''
# The progress of the deploy. $flipped is the start of a process that began after the flip, and before the reload.
first=yes waiting='' locked='' lock_folder='' staged='' previous='' runs='' old='' flipped='' asked='' child='' undone=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) help; exit 0 ;;
    --dry-run) dry=yes && shift && continue ;;
    --) shift && break ;;
    --*) if [ $# -lt 2 ] || [ -z "$2" ]; then wrong_usage "$1 needs a value, or is not known"; fi ;;
    *) break ;;
    esac
    case $1 in
    --root) root=$2 ;;
    --unit) way=${way}unit unit=$2 ;;
    --name) way=${way}name name=$2 ;;
    --pid-file) way=${way}pid pid_file=$2 ;;
    --cutover) cutover=$2 ;;
    --timeout) timeout=$2 ;;
    --keep) keep=$2 ;;
    --release) release=$2 ;;
    *) wrong_usage "unknown option $1" ;;
    esac
    shift 2
done
case $timeout in 0* | *[!0-9]* | ????????*) wrong_usage "--timeout must be whole seconds, at least 1: $timeout" ;; esac
case $keep in 0* | 1 | *[!0-9]* | ????????*) wrong_usage "--keep must be a number, at least 2: $keep" ;; esac
case $way in unit | name | pid) ;; *) wrong_usage "one of --unit, --name and --pid-file is needed, and no more" ;; esac
[ -n "$root" ] || wrong_usage "--root is missing"
[ $# -eq 1 ] || wrong_usage "one new release is needed"
[ "$name" != - ] || name=
target=${name:+"--name=$name"}
new=$1
[ -d "$new" ] || { [ -f "$new" ] && [ -x "$new" ]; } || wrong_usage "$new is neither a folder nor an executable file"
[ -d "$root" ] || wrong_usage "$root is not a folder"
root=$(CDPATH='' cd -- "$root" && pwd -P) || wrong_usage "--root cannot be entered"
releases=$root/releases current=$root/current
[ -L "$current" ] || [ ! -e "$current" ] || wrong_usage "$current is no symlink"
[ ! -d "$new" ] ||
    case $releases/ in "$(CDPATH='' cd -- "$new" && pwd -P | sed 's:/$::')"/*) wrong_usage "$new holds the releases" ;; esac
release=${release:-$(date -u +%Y%m%d-%H%M%S)}
case $release in [.-]* | *[!A-Za-z0-9.-]* | *.failed) wrong_usage "$release cannot be the name of a release" ;; esac

# Reads the current state. Before the first release there is no server.
look() {
    [ -L "$current" ] || return 0
    # The text of the symlink, to flip back to it; and the folder to which it leads.
    first='' previous=$(readlink "$current") runs=$(CDPATH='' cd -- "$current" 2>/dev/null && pwd -P)
    "${way}_check"
}

deadline=$(($(uptime) + timeout))
trap 'rm -rf -- ${staged:+"$staged"} ${locked:+"$root/.current.new"} ${lock_folder:+"$lock_folder"}' EXIT
trap 'give_up interrupted' HUP INT TERM
# The script must not stop half way when no process reads its output any more.
trap '' PIPE
# The state is read before the lock, which would leave a file where no server runs; and again, after the wait for it.
look
if [ -n "$dry" ]; then
    say "would copy $new to $releases/$release and flip $current from ${previous:-nothing} to it"
    [ -n "$first" ] || say "would reload process $old by $way ${unit:-${name:-$pid_file}} and wait at most $timeout s"
    surplus "$((keep - 1))" | while read -r id; do say "would remove $releases/$id"; done
    exit 0
fi
lock
look
# Two releases in the same second get different names.
[ ! -e "$releases/$release" ] || release=$release-$$
put || unchanged "$still_old" "the release could not be put into $releases"
if [ -n "$first" ]; then
    staged=
    flip "releases/$release" || unchanged "$still_old" "$current could not be made"
    say "$current leads to the first release, $release; start the server through it"
    exit 0
fi
settle || unchanged "$still_old" "another rollout is under way"
# The value is set before the flip, because an interrupt may come between the two, and flipping back never harms. No
# process is as new as this value.
flipped=999999999999 staged=
flip "releases/$release" || give_up "$current could not be flipped"
# The start of a child of ours gives the time, if the script reads it before the child ends.
until nap & lives $!; do wait $!; done
flipped=$began
wait $!
deadline=$(($(uptime) + timeout))
"${way}_reload"
is_live
