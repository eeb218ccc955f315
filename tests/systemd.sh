#!/usr/bin/env bash
# The shipped units under a real systemd: who pulls whom in, who stops first, and who comes back.
#
#   tests/systemd.sh SIDEKICK [CODENAME]      the binary; Debian bookworm (systemd 252) or trixie (257)
#
# One machine in a container (scripts/machine.sh) with Debian's own docker.service and etcd.service.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
cd "$(dirname -- "$0")/.."
# shellcheck source=scripts/stage.sh
source scripts/stage.sh
# shellcheck source=scripts/machine.sh
source scripts/machine.sh

readonly STEP_SECONDS=30 # restarting docker.service takes 3 to 5

main() {
    sidekick=${1:?usage: systemd.sh SIDEKICK [CODENAME]}
    stage_open sidekick-systemd
    private_engine isolated
    machine_image "${2:-bookworm}"
    set_up_machine
    echo "systemd $(on systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p') in a machine of its own"
    for step in understands_the_units starts_both stops_sidekick_first comes_back_after_docker_kill comes_back_after_client_killed \
        takes_over_after_sigkill comes_back_after_docker_restart stays_stopped_when_asked \
        comes_back_while_etcd_is_down comes_back_after_reboot; do
        SECONDS=0
        "$step"
        echo "ok  $step  (${SECONDS} s)"
    done
}

# ------------------------------------------------------------------------------------------------ the steps

# As tests/units.sh asks this machine's systemd; here it is the one that runs them.
understands_the_units() {
    local said
    said=$(on systemd-analyze --man=no verify redis@1.service redis-discovery@1.service 2>&1 || echo failed)
    [[ ! $said ]] || give_up "systemd-analyze verify: $said"
    on systemd-analyze security --no-pager redis@1 redis-discovery@1 | sed -n 's/^→ Overall/    /p'
}

starts_both() {
    on systemctl start redis@1
    await 'the key' key_is_there
    [[ $(key) == *'"host":"m1"'* ]] || give_up "host is not the machine's name: $(key)"
    await 'READY=1' is_active redis-discovery@1
    on systemctl --property=StatusText show redis-discovery@1
}

# After= stops in reverse: the key is gone before Redis hears of it.
stops_sidekick_first() {
    local from=$EPOCHREALTIME gone signalled
    on systemctl stop redis@1
    ! key_is_there || give_up 'the key outlived systemctl stop'
    ! is_active redis-discovery@1 || give_up 'the sidekick outlived systemctl stop'
    gone=$(awk -v from="$from" '$1 > from && $2 == "DELETE" { print $1 }' "$stage/history" | tail -n 1)
    signalled=$(on docker events --since "$from" --until "$EPOCHREALTIME" --filter event=kill --format '{{.TimeNano}}' | head -n 1)
    signalled=${signalled:0:-9}.${signalled: -9:6}
    [[ $gone && $gone < $signalled ]] || give_up "key gone at ${gone:-never}, Redis signalled at $signalled"
    printf '    key gone %d ms before Redis got its signal\n' $(((${signalled/./} - ${gone/./}) / 1000))
    on systemctl start redis@1
    await 'the key' key_is_there
}

comes_back_after_docker_kill() {
    local container from=$EPOCHREALTIME
    container=$(container_id)
    on docker kill redis1 >/dev/null
    await 'another container' another_container_than "$container"
    await 'its key' announced
    history_has DELETE "$from" || give_up 'the key was not gone in between'
    both_active
}

# A killed client leaves its container up (PITFALLS: ExecStop=docker stop, ExecStartPre=docker rm -f).
comes_back_after_client_killed() {
    local container
    container=$(container_id)
    on systemctl kill --kill-who=main --signal=KILL redis@1
    await 'another container' another_container_than "$container"
    await 'its key' announced
    both_active
}

takes_over_after_sigkill() {
    local from=$EPOCHREALTIME
    local pid
    pid=$(main_pid)
    on systemctl kill --kill-who=main --signal=KILL redis-discovery@1
    await 'another process' another_process_than "$pid"
    await 'READY=1' is_active redis-discovery@1
    await 'its key' announced
    ! history_has DELETE "$from" || give_up 'the key was gone in between'
}

comes_back_after_docker_restart() {
    local container
    container=$(container_id)
    on systemctl restart docker
    await 'another container' another_container_than "$container"
    await 'its key' announced
    both_active
}

# An operator takes the instance out of service while Redis still runs: nothing may put it back.
stays_stopped_when_asked() {
    on systemctl stop redis-discovery@1
    ! key_is_there || give_up 'the key outlived the sidekick'
    is_active redis@1 || give_up 'Redis went too'
    ! within 3 is_active redis-discovery@1 || give_up 'the sidekick was started again behind our back'
    on systemctl start redis-discovery@1
    await 'the key' key_is_there
}

# The hard case for the pulling back: the sidekick takes its 5 s to stop, Redis is back after 1.
comes_back_while_etcd_is_down() {
    local container
    container=$(container_id)
    on systemctl stop etcd
    on docker kill redis1 >/dev/null
    await 'another container' another_container_than "$container"
    await 'the sidekick' both_active
    on systemctl start etcd
    await 'its key' announced
}

comes_back_after_reboot() {
    on systemctl --quiet enable redis@1
    docker stop --time 30 m1 >/dev/null
    docker start m1 >/dev/null
    machine_up m1
    await 'its key' announced
    both_active
}

# ------------------------------------------------------------------------------------------------ the machine

set_up_machine() {
    local units=/etc/systemd/system
    "$scripts/import-image" redis 'CMD ["redis-server", "--protected-mode", "no", "--save", ""]' redis-server redis-cli
    machine_boot m1
    docker save redis | docker exec --interactive m1 docker load --quiet >/dev/null
    docker cp "$sidekick" m1:/usr/local/bin/sidekick >/dev/null
    docker cp 'systemd/redis@.service' m1:$units/ >/dev/null
    docker cp 'systemd/redis-discovery@.service' m1:$units/ >/dev/null
    on sh -c 'echo ETCDCTL_ENDPOINTS=http://127.0.0.1:2379 >/etc/default/sidekick'
    on systemctl daemon-reload
    within "$STEP_SECONDS" is_active docker || give_up 'docker.service does not start'
    within "$STEP_SECONDS" is_active etcd || give_up 'etcd.service does not start'
    watch_keys
}

# Every event under /services with the time of its arrival here.
watch_keys() {
    follow_keys >"$stage/history" 2>"$stage/watch.log" &
    within "$STEP_SECONDS" canary || give_up 'etcdctl watch shows nothing' "$stage/watch.log"
}

# Begun again where etcd, or the machine, went away; for as long as this script is there.
follow_keys() {
    local action key value
    while kill -0 $$; do
        docker exec m1 etcdctl watch --prefix /services </dev/null || sleep 0.2
    done | while read -r action && read -r key && read -r value; do
        echo "$EPOCHREALTIME $action $key $value"
    done
}

canary() {
    on etcdctl put /services/.begins now && sleep 0.1 && history_has PUT 0
}

on() {
    timeout 60 docker exec m1 "$@"
}

key() {
    on etcdctl get --print-value-only /services/redis/redis@1
}

key_is_there() {
    [[ $(key) ]]
}

# The key names the container that runs now.
announced() {
    [[ $(key) == *"\"container\":\"$(container_id)\""* ]]
}

container_id() {
    on docker ps --filter 'name=^/?redis1$' --format '{{.ID}}'
}

another_container_than() {
    local now
    now=$(container_id)
    [[ $now && $now != "$1" ]]
}

main_pid() {
    on systemctl show --property=MainPID --value redis-discovery@1
}

another_process_than() {
    [[ $(main_pid) != @(0|"$1") ]]
}

is_active() {
    on systemctl --quiet is-active "$1"
}

both_active() {
    is_active redis@1 && is_active redis-discovery@1
}

# history_has ACTION SINCE
history_has() {
    awk -v action="$1" -v since="$2" '$2 == action && $1 > since { found = 1 } END { exit !found }' "$stage/history"
}

# await WHAT CONDITION…
await() {
    local what=$1 && shift
    within "$STEP_SECONDS" "$@" && return
    on journalctl --no-pager --lines 40 --unit 'redis@1' --unit 'redis-discovery@1' >&2
    give_up "$step: no $what within $STEP_SECONDS s"
}

main "$@"
