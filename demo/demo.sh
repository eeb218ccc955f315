#!/usr/bin/env bash
# One container, one key: shows that the key in etcd lives exactly as long as the container does.
#
#   demo/demo.sh SIDEKICK        the path of the binary; `make demo` builds it and calls this
#
# Everything runs on the real thing: a Docker Engine (yours, if it answers, or a private one), a throwaway etcd, Redis.
# It stays until Ctrl-C, or for DEMO_SECONDS, and takes all that it started down again, however it ends.
set -euo pipefail
export LC_ALL=C # a decimal point in $EPOCHREALTIME
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=scripts/stage.sh
source "$(dirname -- "$0")/../scripts/stage.sh"

readonly PULL_SECONDS=30  # a fast line pulls Redis in 5; where there is no registry, nobody should wait long
readonly EVENT_SECONDS=10 # the slowest step, a container's start, takes under a second on a quiet machine

main() {
    sidekick=$(realpath -- "${1:?usage: demo.sh SIDEKICK}")
    # A user's settings for etcd and sidekick would make both do something else than is shown here.
    unset "${!ETCD@}" "${!SIDEKICK@}"
    stage_open sidekick-demo
    use_engine
    start_etcd
    watch_etcd
    get_redis_image
    echo
    show
    stay
}

# The story itself. Two or more containers, agent and worker come in here.
show() {
    run_redis redis1 6379
    announce "$container" redis "redis@1"
    kill_and_start_again
}

# ------------------------------------------------------------------------------------------------ the parts

use_engine() {
    # sidekick knows DOCKER_HOST, not docker's contexts: what the context says goes into it.
    local host=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)}
    if [[ $host == @(unix|tcp)://* && ! ${DOCKER_TLS_VERIFY:-} ]] && timeout 10 docker version >/dev/null 2>&1; then
        export DOCKER_HOST=$host
        say 'Docker Engine' "$(docker version --format '{{.Server.Version}}'), the one running at $DOCKER_HOST"
    else
        private_engine shared
        say 'Docker Engine' "$(docker version --format '{{.Server.Version}}'), a private one (none answers at ${host:-the default socket})"
    fi
}

start_etcd() {
    local client peer
    # Below the range from which the kernel itself gives ports away. Somebody may still be faster: then again.
    for _ in {1..10}; do
        client=$((RANDOM % 10000 + 20000)) peer=$((client + 1))
        export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=http://127.0.0.1:$client
        [[ $(uname -m) != aarch64 ]] || export ETCD_UNSUPPORTED_ARCH=arm64 # etcd 3.4 insists
        launch etcd etcd --name demo --data-dir "$stage/etcd" \
            --listen-client-urls "$ETCDCTL_ENDPOINTS" --advertise-client-urls "$ETCDCTL_ENDPOINTS" \
            --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
            --initial-cluster "demo=http://127.0.0.1:$peer"
        etcd=$launched
        ! within 10 etcd_answers_or_ended || ! kill -0 "$etcd" 2>/dev/null || break
    done
    etcdctl endpoint health >/dev/null 2>&1 || give_up 'etcd does not start' "$stage/etcd.log"
    say etcd "$(etcdctl version | sed -n 's/^etcdctl version: //p'), a throwaway at $ETCDCTL_ENDPOINTS"
}

etcd_answers_or_ended() {
    ! kill -0 "$etcd" 2>/dev/null || etcdctl --command-timeout=1s endpoint health
}

# Present, or pulled, or made from this machine's own redis-server. Only what was not there before is removed.
get_redis_image() {
    image=redis
    if docker image inspect "$image" >/dev/null 2>&1; then
        say 'Redis image' "$image, already there"
    elif at_end remove_image redis && timeout "$PULL_SECONDS" docker pull "$image" >>"$stage/pull.log" 2>&1; then
        say 'Redis image' "$image, pulled"
    else
        image='sidekick-demo/redis'
        docker image inspect "$image" >/dev/null 2>&1 || at_end remove_image "$image"
        # As the official image does: no password, and so no protected mode, which would refuse the host.
        "$scripts/import-image" "$image" 'CMD ["redis-server", "--protected-mode", "no", "--save", ""]' \
            redis-server redis-cli
        say 'Redis image' "$image, made from this machine's redis-server (no registry answers)"
    fi
}

remove_image() {
    timeout 20 docker image rm --force "$1" >/dev/null 2>&1
}

# run_redis NAME PORT: sets $container and $container_id. A name or port that is the user's is not touched.
run_redis() {
    local number=
    container=$1
    while [[ $(docker ps -aq --filter "name=^/?$container\$") ]]; do
        number=$((number + 1)) container=$1-demo$number
    done
    at_end remove_containers
    create_redis "$2:6379"
    if ! docker start "$container" >/dev/null 2>"$stage/docker.log"; then
        grep -qiE 'port is already allocated|address already in use' "$stage/docker.log" ||
            give_up "docker start $container failed" "$stage/docker.log"
        docker rm --force "$container" >/dev/null
        create_redis 6379
        docker start "$container" >/dev/null
        say 'port taken' "$2 is in use here; Docker chose $(docker port "$container" 6379 | sed -n '1s/.*://p')"
    fi
    [[ $container == "$1" ]] || say 'name taken' "you have a container $1, so the demo's is $container"
    command_line "docker run -d --name $container -p ${published/#6379/6379} $image"
}

create_redis() {
    published=$1
    container_id=$(docker create --name "$container" --label "sidekick.demo=$stage" --publish "$published" "$image")
}

remove_containers() {
    # shellcheck disable=SC2046 # one word per id
    timeout 20 docker rm --force --volumes $(timeout 10 docker ps -aq --filter "label=sidekick.demo=$stage") >/dev/null 2>&1
}

# announce CONTAINER SERVICE INSTANCE
announce() {
    local started=$EPOCHREALTIME
    key=/services/$2/$3
    command_line "sidekick announce $1 --key $key --host $(host_name)"
    launch "sidekick-$3" "$sidekick" announce "$1" --key "$key" --host "$(host_name)" --etcd-endpoints "$ETCDCTL_ENDPOINTS"
    announcer=$launched announcer_log=$stage/sidekick-$3.log
    expect PUT "$key"
    timing 'key appeared' "$(milliseconds "$started" "$at")" "after sidekick's start"
    printf '    %s\n' "$value"
}

# The machine's name, as %H is in the unit; where that is no name for other machines, an address.
host_name() {
    case $(uname -n) in
    localhost*) hostname -I | cut -d ' ' -f 1 ;;
    *) uname -n ;;
    esac
}

kill_and_start_again() {
    local typed=$EPOCHREALTIME
    command_line "docker kill $container"
    docker kill "$container" >/dev/null
    expect DELETE "$key"
    timing 'key gone' "$(since_engine_event die "$typed")" "after the container's death ($(milliseconds "$typed" "$at") ms after docker kill was typed)"
    typed=$EPOCHREALTIME
    command_line "docker start $container"
    docker start "$container" >/dev/null
    expect PUT "$key"
    timing 'key back' "$(since_engine_event start "$typed")" "after the container's start ($(milliseconds "$typed" "$at") ms after docker start was typed)"
}

stay() {
    local seconds=${DEMO_SECONDS:-infinity} status=0
    [[ $seconds != 0 ]] || return 0
    cat <<END

All of it runs on$([[ $seconds == infinity ]] && echo ' until Ctrl-C' || echo " for $seconds s"). Look around from another terminal, or kill something:
  etcdctl --endpoints $ETCDCTL_ENDPOINTS watch --prefix /services
  docker --host $DOCKER_HOST kill $container        # and: start, pause, unpause, stop, rm -f
  tail -f $announcer_log
END
    trap 'exit 0' INT # from here on the way to end it, and no failure
    sleep "$seconds" &
    local sleeper=$!
    at_end stop_process "$sleeper"
    wait -n "$sleeper" "$etcd" "$announcer" || status=$?
    kill -0 "$etcd" 2>/dev/null || give_up 'etcd has ended' "$stage/etcd.log"
    kill -0 "$announcer" 2>/dev/null || give_up "sidekick has ended (status $status)" "$announcer_log"
}

on_close() {
    ((${#undo[@]} == 0)) || echo $'\ntaking everything down'
}

# ------------------------------------------------------------------------------------------------ the clock

# A watch, its events stamped on arrival by a process that does nothing else; polling would measure itself.
watch_etcd() {
    mkfifo "$stage/watched" "$stage/stamped"
    setsid setpriv --pdeathsig TERM -- etcdctl watch --prefix /services >"$stage/watched" 2>>"$stage/etcdctl.log" &
    at_end stop_process "$!"
    stamp_events <"$stage/watched" >"$stage/stamped" &
    at_end stop_process "$!"
    exec {events}<"$stage/stamped"
    # The watch is there when it has shown something; puts from before that are not shown.
    for _ in {1..50}; do
        etcdctl put /services/.demo-begins now >/dev/null
        ! read -r -t 0.2 -u "$events" || return 0
    done
    give_up 'etcdctl watch shows nothing' "$stage/etcdctl.log"
}

# For each event etcdctl prints PUT or DELETE, the key, and the value: an empty line for a DELETE.
stamp_events() {
    local action key value
    while read -r action; do
        local stamp=$EPOCHREALTIME
        read -r key && read -r value
        echo "$stamp $action $key $value"
    done
}

# expect ACTION KEY: waits for it; sets $at and $value.
expect() {
    local deadline=$((SECONDS + EVENT_SECONDS)) action key
    while ((SECONDS < deadline)); do
        read -r -t 1 -u "$events" at action key value || continue
        [[ $action != "$1" || $key != "$2" ]] || return 0
    done
    give_up "no $1 of $2 within $EVENT_SECONDS s" "${announcer_log:-}"
}

# since_engine_event ACTION FROM: from the time that the engine gave its event to the time that the watch saw the key.
since_engine_event() {
    local nanoseconds
    nanoseconds=$(timeout 10 docker events --since "$2" --until "$EPOCHREALTIME" --filter "container=$container_id" \
        --filter "event=$1" --format '{{.TimeNano}}' | tail -n 1)
    if [[ $nanoseconds ]]; then milliseconds "${nanoseconds:0:-9}.${nanoseconds: -9:6}" "$at"; else echo '?'; fi
}

# milliseconds FROM TO, both as seconds with six decimals
milliseconds() {
    local microseconds=$((${2/./} - ${1/./}))
    printf '%d.%d' $((microseconds / 1000)) $((microseconds % 1000 / 100))
}

# ------------------------------------------------------------------------------------------------ the page

say() {
    printf '%-14s %s\n' "$1" "$2"
}

command_line() {
    printf '$ %s\n' "$1"
}

timing() {
    printf '    %-13s %7s ms %s\n' "$@"
}

main "$@"
