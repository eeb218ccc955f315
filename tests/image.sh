#!/usr/bin/env bash
# The Dockerfile, built and run: sidekick from scratch announces a real Redis in a real etcd, and the agent's image makes
# a worker find it.
#
#   tests/image.sh WORKER     examples/worker.rs, built; no registry is asked: the builder and the agent's base are made
#                             of Debian packages and this machine's toolchain
#
# All of it in containers of a private engine with a network of its own, so that names are resolved by Docker's DNS.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
worker=$(realpath -- "${1:?usage: image.sh WORKER}")
cd "$(dirname -- "$0")/.."
# shellcheck source=scripts/stage.sh
source scripts/stage.sh

readonly STEP_SECONDS=15
readonly BUILD_SECONDS=1800 # 4 minutes on 2 idle cores
readonly KEY=/services/redis/redis@1
# The images' own health check, asked more often; of a sidekick that listens.
readonly HEALTH=(--health-interval 1s --health-timeout 2s --health-retries 1)
readonly LISTEN=(--env SIDEKICK_LISTEN=127.0.0.1:9469)

main() {
    stage_open sidekick-image
    private_engine isolated
    make_builder
    build sidekick
    build sidekick-agent --target agent
    start_etcd_and_redis
    finds_etcd_by_dns
    finds_etcd_in_hosts_file
    start_worker
    the_whole_loop
    agent_with_as_little_as_it_needs
}

# A Debian with HAProxy is the agent's base; with a C compiler and protoc; this machine's rustc and cargo; the crates of Cargo.lock. The Dockerfile knows
# nothing of it: for cargo, crates.io is a directory.
make_builder() {
    local tar host sysroot
    tar=$("$scripts/debian-root" bookworm gcc libc6-dev protobuf-compiler libprotobuf-dev ca-certificates haproxy)
    docker import "$tar" local-debian >/dev/null
    docker create --name builder local-debian true >/dev/null
    host=$(rustc -vV | sed -n 's/^host: //p')
    sysroot=$(rustc --print sysroot)
    (cd "$sysroot" && tar --create --owner=0 --group=0 bin/cargo bin/rustc lib/rustlib/"$host" lib/*.so*) |
        docker cp - builder:/usr/local
    mkdir -p "$stage/home/.cargo"
    cargo vendor --quiet --locked --respect-source-config "$stage/home/vendor" >/dev/null
    printf '[source.crates-io]\nreplace-with = "vendor"\n[source.vendor]\ndirectory = "/vendor"\n' \
        >"$stage/home/.cargo/config.toml"
    tar --create --directory="$stage/home" --owner=0 --group=0 . | docker cp - builder:/
    docker commit builder local-builder >/dev/null
    docker rm builder >/dev/null
    rm -rf "${stage:?}/home"
}

# build IMAGE OPTION…
build() {
    local begun=$SECONDS image=$1 && shift
    timeout "$BUILD_SECONDS" docker build --build-arg BUILDER=local-builder --build-arg AGENT_BASE=local-debian \
        --tag "$image" "$@" . >"$stage/build.log" 2>&1 || give_up 'docker build failed' "$stage/build.log"
    printf 'ok  %s built in %d s, %d bytes\n' "$image" $((SECONDS - begun)) \
        "$(docker image inspect --format '{{.Size}}' "$image")"
}

start_etcd_and_redis() {
    "$scripts/import-image" etcd 'ENTRYPOINT ["etcd", "--data-dir", "/data"]' etcd etcdctl
    "$scripts/import-image" redis 'CMD ["redis-server", "--protected-mode", "no", "--save", ""]' redis-server redis-cli
    docker network create names >/dev/null
    docker run --detach --name etcd --network names --env ETCD_UNSUPPORTED_ARCH=arm64 etcd \
        --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://etcd:2379 >/dev/null
    docker run --detach --name redis1 --publish 6379:6379 redis >/dev/null
    await 'etcd' docker exec etcd etcdctl endpoint health
}

# As docs/deploying.md has it, with etcd under a name that only DNS knows.
finds_etcd_by_dns() {
    docker run --detach --name sidekick --network names --volume /var/run/docker.sock:/var/run/docker.sock \
        "${HEALTH[@]}" "${LISTEN[@]}" \
        sidekick announce redis1 --key "$KEY" --host somewhere --etcd-endpoints http://etcd:2379 >/dev/null
    await 'key after start' key_is '"host":"somewhere","port":6379'
    health_follows sidekick /sidekick
    docker stop redis1 >/dev/null
    await 'withdrawal after docker stop' key_is_gone
    docker start redis1 >/dev/null
    await 'key after docker start' key_is '"port":6379'
    docker stop sidekick >/dev/null
    key_is_gone || give_up 'the key outlived the sidekick'
    stopped_with_0 sidekick
    docker cp sidekick:/etc/ssl/certs/ca-certificates.crt "$stage/authorities" >/dev/null
    grep -q 'BEGIN CERTIFICATE' "$stage/authorities" || give_up 'no CA certificates'
    docker rm sidekick >/dev/null
    echo 'ok  from scratch, with DNS: key there, gone with the container, back with it, gone with the sidekick; its health check'
}

# As little as it needs: no root, no capability, nothing to write to.
finds_etcd_in_hosts_file() {
    local address
    address=$(docker inspect --format '{{.NetworkSettings.Networks.names.IPAddress}}' etcd)
    docker run --detach --name sidekick --network names --add-host "only-in-hosts:$address" \
        --user "65534:$(stat -c %g "$stage/engine/docker.sock")" --read-only --cap-drop ALL --security-opt no-new-privileges \
        "${HEALTH[@]}" \
        --volume /var/run/docker.sock:/var/run/docker.sock \
        sidekick announce redis1 --key "$KEY" --host somewhere --etcd-endpoints http://only-in-hosts:2379 >/dev/null
    await 'key after start' key_is '"host":"somewhere","port":6379'
    await 'good health where nothing listens' health_is sidekick healthy
    docker stop sidekick >/dev/null
    key_is_gone || give_up 'the key outlived the sidekick'
    stopped_with_0 sidekick
    echo 'ok  from scratch, with /etc/hosts, neither root nor capabilities'
}

# The article's worker outside of any container's network, as on a machine where `haproxy` is the machine's own name:
# it can get nowhere but through the agent's published port.
start_worker() {
    "$scripts/import-image" worker "ENTRYPOINT [\"$worker\"]" "$worker"
    docker run --detach --name worker --network host --add-host haproxy:127.0.0.1 worker haproxy:80 100 >/dev/null
    await "worker's error" worker_prints 'haproxy:80: *'
}

# As docs/deploying.md has it.
the_whole_loop() {
    local gateway
    gateway=$(docker network inspect --format '{{(index .IPAM.Config 0).Gateway}}' names)
    docker rm sidekick >/dev/null
    docker run --detach --name sidekick --network names --volume /var/run/docker.sock:/var/run/docker.sock \
        sidekick announce redis1 --key "$KEY" --host "$gateway" --etcd-endpoints http://etcd:2379 >/dev/null
    docker run --detach --publish 80:80 --name discovery-agent --network names "${HEALTH[@]}" "${LISTEN[@]}" \
        sidekick-agent --bind redis=:80 --stats :1936 --etcd-endpoints http://etcd:2379 >/dev/null
    await 'bar' worker_prints bar
    docker rm --force redis1 >/dev/null
    await "worker's error" worker_prints 'haproxy:80: *'
    docker run --detach --name redis1 --publish 6380:6379 redis >/dev/null
    await 'bar from where Redis is now' worker_prints bar
    await 'statistics page' statistics
    health_follows discovery-agent /usr/local/bin/sidekick
    # Another service costs a reload; the old worker and whatever else goes, and nothing stays behind as a zombie.
    docker exec etcd etcdctl put /services/web/web1 "{\"host\":\"$gateway\",\"port\":8080}" >/dev/null
    await 'reload' logged discovery-agent 'reloaded'
    await 'bar after the reload' worker_prints bar
    await 'end of the old worker' processes discovery-agent 3
    agent_stops_with_0
    docker exec etcd etcdctl del /services/web/web1 >/dev/null
    echo 'ok  the whole loop: bar, also after the instance moved and HAProxy was reloaded; its health check; gone with docker stop'
}

# Neither root (the image sees to that) nor capabilities, and nothing to write to but where the configuration lies. With
# an operator's own base file, whose log goes where Docker reads it.
agent_with_as_little_as_it_needs() {
    cat >"$stage/base.cfg" <<'END'
global
    log stdout format raw local0
    hard-stop-after 1h
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 50s
    timeout server 50s
END
    docker run --detach --publish 80:80 --name discovery-agent --network names --read-only --tmpfs /var/lib/sidekick \
        --cap-drop ALL --security-opt no-new-privileges --volume "$stage/base.cfg:/base.cfg:ro" \
        sidekick-agent --bind redis=:80 --haproxy-base /base.cfg --etcd-endpoints http://etcd:2379 >/dev/null
    await 'bar' worker_prints bar
    await "connection in HAProxy's log" logged discovery-agent ' redis redis/redis::1 '
    agent_stops_with_0
    echo 'ok  the agent, neither root nor capabilities, nothing to write to'
}

# health_follows CONTAINER SIDEKICK: the image's HEALTHCHECK says that it is well; and no longer, while its sidekick does not answer
health_follows() {
    [[ $(docker inspect --format '{{json .Config.Healthcheck.Test}}' "$1") == "[\"CMD\",\"$2\",\"healthcheck\",\"--if-listening\"]" ]] ||
        give_up "$1 has another HEALTHCHECK"
    await "good health of $1" health_is "$1" healthy
    docker exec "$1" "$2" healthcheck | grep -q 'the loop came round' || give_up "$1 does not answer its health check"
    # A process that is stopped answers nothing, and health checks go on.
    docker kill --signal STOP "$1" >/dev/null
    await "bad health of $1" health_is "$1" unhealthy
    docker kill --signal CONT "$1" >/dev/null
    await "good health of $1 again" health_is "$1" healthy
}

health_is() {
    [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == "$2" ]]
}

agent_stops_with_0() {
    [[ $(docker exec discovery-agent id -u) != 0 ]] || give_up 'the agent runs as root'
    docker stop discovery-agent >/dev/null
    stopped_with_0 discovery-agent
    await "worker's error" worker_prints 'haproxy:80: *'
    docker rm discovery-agent >/dev/null
}

# The last line is like that.
worker_prints() {
    # shellcheck disable=SC2053 # a pattern
    [[ $(docker logs --tail 1 worker) == $1 ]]
}

logged() {
    docker logs "$1" 2>&1 | grep -q "$2"
}

# processes CONTAINER NUMBER: so many, and none of them a zombie
processes() {
    local states
    states=$(docker top "$1" -eo pid,stat,args) && [[ $states != *' Z'* ]] && (($(wc -l <<<"$states") == $2 + 1))
}

statistics() {
    # shellcheck disable=SC2016 # not for this shell
    docker run --rm --network names local-debian timeout 5 bash -c 'exec 3<>/dev/tcp/discovery-agent/1936 &&
        printf "GET / HTTP/1.0\r\n\r\n" >&3 && cat <&3' | grep -q 'Statistics Report'
}

# stopped_with_0 CONTAINER
stopped_with_0() {
    local status
    status=$(docker inspect --format '{{.State.ExitCode}}' "$1")
    ((status == 0)) || give_up "$1 ended with $status on SIGTERM"
}

key_is() {
    [[ $(docker exec etcd etcdctl get --print-value-only "$KEY") == *"$1"* ]]
}

# An error is not an empty answer.
key_is_gone() {
    local answer
    answer=$(docker exec etcd etcdctl get "$KEY") && [[ ! $answer ]]
}

# await WHAT CONDITION…
await() {
    local what=$1 && shift
    within "$STEP_SECONDS" "$@" && return
    for container in sidekick discovery-agent worker; do
        docker logs --tail 20 "$container" >&2 || true
    done
    give_up "no $what within $STEP_SECONDS s"
}

main "$@"
