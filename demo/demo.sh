#!/usr/bin/env bash
# The whole loop: two Redis containers, a sidekick for each, etcd, the agent with its HAProxy, and a worker that dials
# HAProxy and prints `bar`, whatever becomes of one of the containers.
#
#   demo/demo.sh SIDEKICK WORKER     the paths of the two programs; `make demo` builds them and calls this
#
# Everything runs on the real thing: a Docker Engine (yours, if it answers, or a private one), a throwaway etcd, Redis,
# a HAProxy of its own. It stays until Ctrl-C, or for DEMO_SECONDS, and takes all that it started down again, however it
# ends.
set -euo pipefail
export LC_ALL=C # a decimal point in $EPOCHREALTIME
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=scripts/stage.sh
source "$(dirname -- "$0")/../scripts/stage.sh"
# shellcheck source=demo/haproxy.sh
source "$(dirname -- "$0")/haproxy.sh"

readonly PULL_SECONDS=30  # a fast line pulls Redis in 5; where there is no registry, a person should not wait long
readonly EVENT_SECONDS=10 # the slowest step, a container's start, takes under a second on a quiet machine
readonly ENGINE_WORK_SECONDS=60 # a start or a kill takes under a second; an engine that hangs shall not hang this
readonly WORKER_PAUSE=20  # milliseconds; the article's worker takes 3 s, in which a lot could go unseen
readonly WORKER_LINES=50  # so many after each event, before they are counted

main() {
    sidekick=$(realpath -- "${1:?usage: demo.sh SIDEKICK WORKER}")
    worker=$(realpath -- "${2:?usage: demo.sh SIDEKICK WORKER}")
    # A user's settings for etcd and sidekick would make both do something else than is shown here; so would systemd's.
    unset "${!ETCD@}" "${!SIDEKICK@}" STATE_DIRECTORY RUNTIME_DIRECTORY NOTIFY_SOCKET
    stage_open sidekick-demo
    use_engine
    start_etcd
    watch_etcd
    get_redis_image
    find_host
    echo
    show
    stay
}

# The story itself.
show() {
    run_redis redis1 6379
    announce "$container" redis "redis@1"
    run_redis redis2 6380
    announce "$container" redis "redis@2"
    start_agent redis 'redis::1 redis::2'
    start_worker
    list
    happens kill die DELETE 'key gone' 'out of HAProxy' 'redis::1 redis::2(off)'
    list
    happens start start PUT 'key back' 'back in HAProxy' 'redis::1 redis::2'
    stops 'redis::1 redis::2(off)'
}

# ------------------------------------------------------------------------------------------------ the parts

declare -A running # by name

# run NAME COMMAND…: as launch does, and it has to last until the end.
run() {
    launch "$@"
    running[$1]=$launched
}

docker() {
    timeout --foreground "$ENGINE_WORK_SECONDS" docker "$@"
}

use_engine() {
    # sidekick knows DOCKER_HOST, not docker's contexts: what the context says goes into it. On another machine's engine
    # the containers would be there, and what is announced here would lead nowhere.
    local host=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)}
    if [[ $host == @(unix://|tcp://127.0.0.1:|tcp://localhost:)* && ! ${DOCKER_TLS_VERIFY:-} ]] &&
        timeout 10 docker version >/dev/null 2>&1; then
        export DOCKER_HOST=$host
        say 'Docker Engine' "$(docker version --format '{{.Server.Version}}'), the one running at $DOCKER_HOST"
    else
        private_engine shared
        say 'Docker Engine' "$(docker version --format '{{.Server.Version}}'), a private one (none answers at ${host:-the default socket})"
    fi
}

start_etcd() {
    local client peer
    # Below the range from which the kernel itself gives ports away. Another process may still take one: then the next try.
    for _ in {1..10}; do
        client=$((RANDOM % 10000 + 20000)) peer=$((client + 1))
        export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=http://127.0.0.1:$client
        [[ $(uname -m) != aarch64 ]] || export ETCD_UNSUPPORTED_ARCH=arm64 # etcd 3.4 insists
        run etcd etcd --name demo --data-dir "$stage/etcd" \
            --listen-client-urls "$ETCDCTL_ENDPOINTS" --advertise-client-urls "$ETCDCTL_ENDPOINTS" \
            --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
            --initial-cluster "demo=http://127.0.0.1:$peer"
        ! within 10 etcd_answers_or_ended || ! kill -0 "$launched" 2>/dev/null || break
    done
    etcdctl endpoint health >/dev/null 2>&1 || give_up 'etcd does not start' "$stage/etcd.log"
    say etcd "$(etcdctl version | sed -n 's/^etcdctl version: //p'), a throwaway at $ETCDCTL_ENDPOINTS"
}

etcd_answers_or_ended() {
    ! kill -0 "$launched" 2>/dev/null || etcdctl --command-timeout=1s endpoint health
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
        docker start "$container" >/dev/null 2>"$stage/docker.log" || give_up "docker start $container failed" "$stage/docker.log"
        say 'port taken' "$2 is in use here; Docker chose $(docker port "$container" 6379 | sed -n '1s/.*://p')"
    fi
    [[ $container == "$1" ]] || say 'name taken' "you have a container $1, so the demo's is $container"
    command_line "docker run -d --name $container -p ${published/#6379/6379} $image"
}

create_redis() {
    published=$1
    container_id=$(docker create --name "$container" --label "sidekick.demo=$stage" --publish "$published" "$image" \
        2>"$stage/docker.log") || give_up "docker create $container failed" "$stage/docker.log"
}

remove_containers() {
    # shellcheck disable=SC2046 # one word per id
    timeout 20 docker rm --force --volumes $(timeout 10 docker ps -aq --filter "label=sidekick.demo=$stage") >/dev/null 2>&1
}

# The machine's name, as %H is in the unit, if it leads back to this machine; else an address that does.
find_host() {
    local address
    host=$(uname -n)
    address=$(getent ahostsv4 "$host" | awk 'NR == 1 { print $1 }') || true
    if [[ $host == localhost* || ! $host =~ ^[A-Za-z0-9.-]+$ || ! $address ]] ||
        [[ " 127.0.0.1 127.0.1.1 $(hostname -I) " != *" $address "* ]]; then
        host=$(hostname -I | cut -d ' ' -f 1)
    fi
}

# announce CONTAINER SERVICE INSTANCE
announce() {
    local started=$EPOCHREALTIME
    key=/services/$2/$3
    command_line "sidekick announce $1 --key $key --host $host --drain 10s"
    run "sidekick-$3" "$sidekick" announce "$1" --key "$key" --host "$host" --drain 10s --etcd-endpoints "$ETCDCTL_ENDPOINTS"
    announcer_log=$stage/sidekick-$3.log
    expect PUT "$key"
    timing 'key appeared' "$(milliseconds "$started" "$at")" "after sidekick's start"
    printf '    %s\n' "$value"
}

# start_agent SERVICE SERVERS: until HAProxy has these. Its ports are on loopback, its files in a directory of their own.
start_agent() {
    local started=$EPOCHREALTIME port
    port=$(two_free_ports)
    listener=127.0.0.1:$port stats=127.0.0.1:$((port + 1))
    mkdir -m 700 "$stage/haproxy"
    command_line "sidekick agent --bind $1=$listener"
    run agent "$sidekick" agent --bind "$1=$listener" --stats "$stats" --etcd-endpoints "$ETCDCTL_ENDPOINTS" \
        --haproxy "$(command -v haproxy)" --haproxy-config "$stage/haproxy/haproxy.cfg"
    haproxy_at "$stage/haproxy/haproxy-master.sock"
    within "$EVENT_SECONDS" haproxy_processes || give_up 'the agent starts no HAProxy' "$stage/agent.log"
    haproxy_watch "$1"
    haproxy_expect "$2"
    haproxy_watch_ends
    timing 'HAProxy has both' "$(milliseconds "$started" "$at")" "after the agent's start"
}

# The first of two ports in a row without listeners, below the range from which the kernel itself gives ports away.
two_free_ports() {
    local port
    for _ in {1..100}; do
        port=$((RANDOM % 10000 + 20000))
        answers "$port" || answers $((port + 1)) || break
    done
    echo "$port"
}

answers() {
    (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

start_worker() {
    command_line "worker $listener $WORKER_PAUSE    # SET foo bar, GET foo, print it, every $WORKER_PAUSE ms"
    run worker "$worker" "$listener" "$WORKER_PAUSE"
    within "$EVENT_SECONDS" worker_prints_bar 3 || give_up 'the worker does not print bar' "$stage/worker.log"
    tail -n 3 "$stage/worker.log" | sed 's/^/    /'
}

# worker_prints_bar TIMES: so often, by now
worker_prints_bar() {
    (($(tail -n "$1" "$stage/worker.log" | grep -cx bar) == $1))
}

worker_lines() {
    wc -l <"$stage/worker.log"
}

worker_is_at() {
    (($(worker_lines) >= $1))
}

# worker_since LINE TIME: lets it go on for a while, and tells what it has printed since then; sets $errors.
worker_since() {
    local printed elapsed
    within "$EVENT_SECONDS" worker_is_at $(($(worker_lines) + WORKER_LINES)) ||
        give_up 'the worker has stopped' "$stage/worker.log"
    within "$EVENT_SECONDS" worker_prints_bar 3 || give_up 'the worker no longer prints bar' "$stage/worker.log"
    printed=$(tail -n "+$(($1 + 1))" "$stage/worker.log") elapsed=$(milliseconds "$2" "$EPOCHREALTIME")
    errors=$(grep -cvx bar <<<"$printed") || true
    fact 'the worker' "goes on: $(grep -cx bar <<<"$printed") × bar, $errors × an error, in ${elapsed%.*} ms"
    grep -vx bar <<<"$printed" | sed 's/^/        /;10q' || true
}

list() {
    command_line 'sidekick list'
    timeout 20 "$sidekick" list --etcd-endpoints "$ETCDCTL_ENDPOINTS" | sed 's/^/    /'
}

# happens VERB EVENT ACTION WORDS WORDS SERVERS: docker's VERB makes the engine's EVENT, that makes etcd's ACTION on the
# key, and that makes HAProxy's SERVERS what they are then.
happens() {
    local typed line processes
    processes=$(haproxy_processes)
    haproxy_watch redis
    line=$(worker_lines) typed=$EPOCHREALTIME
    command_line "docker $1 $container"
    docker "$1" "$container" >/dev/null
    expect "$3" "$key"
    beside_the_event "$4" "$2" "$typed" "the engine's $2 event"
    haproxy_expect "$6"
    haproxy_watch_ends
    beside_the_event "$5" "$2" "$typed" "it (seen in \`show servers state\`, at most $every ms late)"
    worker_since "$line" "$typed"
    [[ $(haproxy_processes) == "$processes" ]] ||
        give_up "HAProxy was reloaded: $processes before, $(haproxy_processes) now" "$stage/agent.log"
    fact 'no reload' "\`show proc\` says as before: $processes"
}

# stops SERVERS: the container is stopped as `systemctl stop redis@2` does it, its sidekick first. HAProxy's SERVERS meanwhile.
stops() {
    local typed line name=sidekick-${key##*/} errors
    local pid=${running[$name]}
    unset "running[$name]"
    haproxy_watch redis
    line=$(worker_lines) typed=$EPOCHREALTIME
    command_line "kill $pid && wait $pid && docker stop $container    # as systemctl stop ${key##*/} does: its sidekick first"
    kill -TERM "$pid"
    expect PUT "$key"
    [[ $value == *draining* ]] || give_up "sidekick leaves without draining: $value" "$announcer_log"
    timing 'key says draining' "$(milliseconds "$typed" "$at")" 'after SIGTERM'
    haproxy_expect "$1"
    haproxy_watch_ends
    timing 'out of HAProxy' "$(milliseconds "$typed" "$at")" "after it (at most $every ms late)"
    expect DELETE "$key"
    timing 'drained, key gone' "$(milliseconds "$typed" "$at")" 'after it: no connection is left; only now Redis gets its signal'
    wait "$pid" || give_up "sidekick ended with status $?" "$announcer_log"
    docker stop "$container" >/dev/null
    worker_since "$line" "$typed"
    [[ $errors == 0 ]] || give_up "a stop on purpose cost $errors requests" "$stage/agent.log"
    command_line "docker start $container"
    docker start "$container" >/dev/null
    announce "$container" redis "${key##*/}"
}

stay() {
    local seconds=${DEMO_SECONDS:-infinity} status=0 name
    [[ $seconds != 0 ]] || return 0
    cat <<END

All of it runs on$([[ $seconds == infinity ]] && echo ' until Ctrl-C' || echo " for $seconds s"). Look around from another terminal, or kill something:
  $sidekick list --watch --etcd-endpoints $ETCDCTL_ENDPOINTS
  docker --host $DOCKER_HOST kill $container        # and: start, pause, unpause, stop, rm -f
  tail -f $stage/worker.log        # and: agent.log, sidekick-redis@1.log
  http://$stats/        # HAProxy's statistics
END
    trap 'exit 0' INT # from here on the way to end it, and no failure
    launch stay sleep "$seconds"
    wait -n "$launched" "${running[@]}" || status=$?
    for name in "${!running[@]}"; do
        kill -0 "${running[$name]}" 2>/dev/null || give_up "$name has ended (status $status)" "$stage/$name.log"
    done
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
        etcdctl put /services-demo-begins now >/dev/null
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

# since_engine_event ACTION FROM: from the time that the engine gave its event to $at.
since_engine_event() {
    local nanoseconds
    nanoseconds=$(timeout 10 docker events --since "$2" --until "$EPOCHREALTIME" --filter "container=$container_id" \
        --filter "event=$1" --format '{{.TimeNano}}' | tail -n 1)
    if [[ $nanoseconds ]]; then milliseconds "${nanoseconds:0:-9}.${nanoseconds: -9:6}" "$at"; else echo '?'; fi
}

# beside_the_event WORDS ACTION FROM EVENT: how long $at is after it; or before it, for a death is known from the kernel.
beside_the_event() {
    local after
    after=$(since_engine_event "$2" "$3")
    if [[ $after == -* ]]; then timing "$1" "${after#-}" "before $4"; else timing "$1" "$after" "after $4"; fi
}

# milliseconds FROM TO, both as seconds with six decimals
milliseconds() {
    local microseconds=$((${2/./} - ${1/./})) sign=''
    ((microseconds >= 0)) || { sign=- microseconds=$((-microseconds)); }
    printf '%s%d.%d' "$sign" $((microseconds / 1000)) $((microseconds % 1000 / 100))
}

# ------------------------------------------------------------------------------------------------ the page

say() {
    printf '%-14s %s\n' "$1" "$2"
}

command_line() {
    printf '$ %s\n' "$1"
}

timing() {
    printf '    %-17s %7s ms %s\n' "$@"
}

fact() {
    printf '    %-17s %s\n' "$@"
}

main "$@"
