#!/usr/bin/env bash
# The shipped units as systemd reads them: not a word of complaint, and an exposure of at most 1.5 (the
# agent's: 1.6); and as fleet does.
#
#   tests/units.sh        needs systemd-analyze; no systemd has to run
set -euo pipefail
cd "$(dirname -- "$0")/.."
# shellcheck source=scripts/stage.sh
source scripts/stage.sh

# In tenths. The agent asks the kernel who has spoken last on a connection (docs/adr/0022), by netlink: a tenth more.
readonly EXPOSURE=15 AGENTS_EXPOSURE=16

main() {
    stage_open sidekick-units
    make_root
    verify || give_up "systemd-analyze verify has something to say"
    # That it would say something is not a matter of course: without a running systemd, or with another --root, it
    # has in some versions looked at nothing at all.
    refuses 'a misspelt option' 's/^WatchdogSec=/WatchdogSecs=/'
    refuses 'a program that is not there' 's,/usr/local/bin/sidekick,/usr/local/bin/sidekicks,'
    refuses 'a unit that is not there' 's/^BindsTo=.*/BindsTo=no-such.service/'
    takes_the_credentials_of_its_comments
    wrong_usage_ends_each_sidekick
    no_user_of_a_package
    each_hands_over_only_for_a_restart_of_its_own
    fleet_refuses 'an option it does not know' 's/^MachineOf=/MachinesOf=/'
    fleet_refuses 'metadata of another form' 's/^MachineOf=.*/MachineMetadata=role/'
    fleet_refuses 'a unit that is not there' 's/^MachineOf=redis@/MachineOf=rides@/'
    fleet_refuses 'a line without an option' 's/^RestartSec=1s/RestartSec/'
    fleet_refuses 'a line of 2048 bytes' "s/^Description=.*/Description=$(printf '%02036d' 0)/"
    for unit in systemd/*.service; do
        reads_as_fleet "$unit" || give_up "fleet would not take $unit"
        local threshold=$EXPOSURE
        [[ $unit != */sidekick-agent.service ]] || threshold=$AGENTS_EXPOSURE
        systemd-analyze security --offline=true --threshold="$threshold" "$unit" >"$stage/security" ||
            give_up "$unit is exposed above $threshold tenths" "$stage/security"
        echo "$unit: verified; fleet takes it;$(sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/ exposure \1/p' "$stage/security")"
    done
}

# Paths in the units are absolute: a root in which they exist, with systemd's own units for what ours depend on.
make_root() {
    root=$stage/root
    mkdir -p "$root"/{etc/systemd,usr/local/bin,usr/bin,usr/lib/systemd}
    ln -s usr/lib "$root/lib"
    ln -s usr/bin "$root/bin"
    cp -r /lib/systemd/system "$root/usr/lib/systemd/"
    printf '[Service]\nExecStart=/usr/bin/docker\n' >"$root/usr/lib/systemd/system/docker.service"
    install -m 755 /bin/true "$root/usr/local/bin/sidekick"
    install -m 755 /bin/true "$root/usr/bin/docker"
    install -m 755 /bin/true "$root/usr/bin/sh"
    restore_units
}

restore_units() {
    rm -rf "$root/etc/systemd/system"
    mkdir "$root/etc/systemd/system"
    cp systemd/*.service "$root/etc/systemd/system/"
}

# Each template as the instance 1. What it warns of does not change its exit status, so silence is asked for.
verify() {
    local units said
    mapfile -t units < <(cd systemd && printf '%s\n' *.service | sed 's/@\.service/@1.service/')
    if said=$(systemd-analyze --root="$root" --man=no verify "${units[@]}" 2>&1) && [[ ! $said ]]; then return 0; fi
    echo "$said"
    return 1
}

# LoadCredential= and its variables stand in comments; whoever takes the # away has a unit that is good.
takes_the_credentials_of_its_comments() {
    local unit
    for unit in redis-discovery@ sidekick sidekick-agent; do
        sed -i -E 's/^#   (LoadCredential=|Environment=ETCDCTL_)/\1/' "$root/etc/systemd/system/$unit.service"
        grep -q '^LoadCredential=etcd.password:' "$root/etc/systemd/system/$unit.service" || give_up "$unit shows no LoadCredential="
    done
    verify || give_up "the units' comments on credentials are wrong"
    restore_units
}

# Exit status 2 is sidekick's wrong usage. That of `docker run` is the container's own: redis@ starts again after any.
wrong_usage_ends_each_sidekick() {
    local unit
    for unit in redis-discovery@ sidekick sidekick-agent; do
        grep -qx 'RestartPreventExitStatus=2' "systemd/$unit.service" || give_up "$unit.service starts again after a wrong option"
    done
    ! grep -q '^RestartPreventExitStatus=' systemd/redis@.service || give_up "redis@.service gives up a container by its exit status"
}

# DynamicUser= takes a user of its name where the machine has one; without User= that name is the unit's prefix.
no_user_of_a_package() {
    local unit name user
    for unit in systemd/*.service; do
        name=$(basename -- "$unit" .service)
        user=$(sed -n 's/^User=//p' "$unit")
        user=${user:-${name%@}}
        [[ $user == *-* ]] || give_up "$unit runs as $user, which may be the user of a package"
        ((${#user} <= 31)) || give_up "$unit: systemd takes no user name of more than 31 characters: $user"
    done
}

# ExecStop= sends SIGUSR1 for a restart job of its unit, and for nothing else (docs/adr/0023-a-restart-hands-over.md).
each_hands_over_only_for_a_restart_of_its_own() {
    local one=redis-discovery@1.service other=redis@1.service
    hands_over sidekick sidekick.service '637 sidekick.service restart running'
    keeps_on sidekick sidekick.service '637 sidekick.service stop running'
    keeps_on sidekick sidekick.service ''
    hands_over redis-discovery@ $one "144 $one restart running"
    keeps_on redis-discovery@ $one "144 $one stop running"
    keeps_on redis-discovery@ $one "262 $one restart running" "203 $other           restart waiting"
    keeps_on redis-discovery@ $one "322 $other           restart waiting" "323 $one restart running"
    keeps_on redis-discovery@ $one "203 $other restart running"
    keeps_on redis-discovery@ $one ''
}

hands_over() {
    [[ $(exec_stop "$@") == 'kill -USR1 42' ]] || give_up "$2 does not hand over, with these jobs: ${*:3}"
}

keeps_on() {
    [[ ! $(exec_stop "$@") ]] || give_up "$2 hands over, with these jobs: ${*:3}"
}

# The line of shell in ExecStop=, as systemd reads it, with those lines as the answer of systemctl list-jobs.
exec_stop() {
    local unit=$1 name=$2 line
    line=$(sed -n "s,^ExecStop=-+/bin/sh -c '\(.*\)'\$,\1,p" "systemd/$unit.service")
    [[ $line ]] || give_up "$unit.service has no ExecStop="
    line=${line//%n/$name} line=${line//%i/1} line=${line//\$\$/\$}
    shift 2
    jobs=$(printf '%s\n' "$@") MAINPID=42 sh -c "
        systemctl() { test -z \"\$jobs\" || echo \"\$jobs\"; }
        kill() { echo \"kill \$*\"; }
        $line" || true
}

refuses() {
    sed -i "$2" "$root/etc/systemd/system/redis-discovery@.service"
    ! verify >/dev/null || give_up "systemd-analyze verify lets $1 pass"
    restore_units
}

# What fleetctl would refuse, or not understand, by coreos/fleet (job/job.go: validRequirements, of which the
# deprecated X- forms are left out; RequiredTargetMetadata) and coreos/go-systemd (unit/deserialize.go; versions before
# 2015 take any backslash in a value for a continuation).
reads_as_fleet() {
    local said
    said=$(awk -v units=" $(cd systemd && echo *.service) " '
        BEGIN {
            split("MachineID MachineOf MachineMetadata Conflicts Global Replaces", names)
            for (i in names) known[names[i]]
        }
        function no(what) { print FILENAME ":" FNR ": " what }
        length >= 2048 { no("a line of 2048 bytes or more") }
        /\\/ { no("a backslash") }
        /^[ \t]*([#;]|$)/ { next }
        /^\[[A-Za-z-]+\][ \t]*$/ { section = $1; next }
        !/^[A-Za-z]+=/ || !section { no("neither a section nor an option: " $0); next }
        section == "[X-Fleet]" {
            name = $0; sub(/=.*/, "", name)
            value = $0; sub(/^[^=]*=/, "", value)
            if (!(name in known)) no("no option of fleet: " name)
            if (name == "MachineMetadata" && value !~ /^[^=]+=[^=]+$/) no("no metadata: " value)
            sub(/@%i\.service$/, "@.service", value)
            if (name == "MachineOf" && !index(units, " " value " ")) no("no such unit: " value)
        }' "$1")
    [[ ! $said ]] || { echo "$said" && return 1; }
}

fleet_refuses() {
    sed -i "$2" "$root/etc/systemd/system/redis-discovery@.service"
    ! reads_as_fleet "$root/etc/systemd/system/redis-discovery@.service" >/dev/null || give_up "as fleet: lets $1 pass"
    restore_units
}

main "$@"
