#!/usr/bin/env bash
# The Dockerfile, built and run: sidekick from scratch announces a real Redis in a real etcd.
#
#   tests/image.sh        no registry is asked: the builder image is made of this machine's toolchain
#
# All of it in containers of a private engine with a network of its own, so that names are resolved by Docker's DNS.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
cd "$(dirname -- "$0")/.."
# shellcheck source=scripts/stage.sh
source scripts/stage.sh

readonly STEP_SECONDS=15
readonly BUILD_SECONDS=1800 # 4 minutes on 2 idle cores
readonly KEY=/services/redis/redis@1

main() {
    stage_open sidekick-image
    private_engine isolated
    make_builder
    build
    start_etcd_and_redis
    finds_etcd_by_dns
    finds_etcd_in_hosts_file
}

# A Debian with a C compiler and protoc; this machine's rustc and cargo; the crates of Cargo.lock. The Dockerfile knows
# nothing of it: for cargo, crates.io is a directory.
make_builder() {
    local tar host sysroot
    tar=$("$scripts/debian-root" bookworm gcc libc6-dev protobuf-compiler libprotobuf-dev ca-certificates)
    docker import "$tar" debian-with-gcc >/dev/null
    docker create --name builder debian-with-gcc true >/dev/null
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

build() {
    local begun=$SECONDS
    timeout "$BUILD_SECONDS" docker build --build-arg BUILDER=local-builder --tag sidekick . >"$stage/build.log" 2>&1 ||
        give_up 'docker build failed' "$stage/build.log"
    printf 'ok  built in %d s, %d bytes\n' $((SECONDS - begun)) "$(docker image inspect --format '{{.Size}}' sidekick)"
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

# As the README has it, with etcd under a name that only DNS knows.
finds_etcd_by_dns() {
    docker run --detach --name sidekick --network names --volume /var/run/docker.sock:/var/run/docker.sock \
        sidekick announce redis1 --key "$KEY" --host somewhere --etcd-endpoints http://etcd:2379 >/dev/null
    await 'key after start' key_is '"host":"somewhere","port":6379'
    docker stop redis1 >/dev/null
    await 'withdrawal after docker stop' key_is_gone
    docker start redis1 >/dev/null
    await 'key after docker start' key_is '"port":6379'
    docker stop sidekick >/dev/null
    key_is_gone || give_up 'the key outlived the sidekick'
    stopped_with_0
    docker cp sidekick:/etc/ssl/certs/ca-certificates.crt "$stage/authorities" >/dev/null
    grep -q 'BEGIN CERTIFICATE' "$stage/authorities" || give_up 'no CA certificates'
    docker rm sidekick >/dev/null
    echo 'ok  from scratch, with DNS: key there, gone with the container, back with it, gone with the sidekick'
}

# As little as it needs: no root, no capability, nothing to write to.
finds_etcd_in_hosts_file() {
    local address
    address=$(docker inspect --format '{{.NetworkSettings.Networks.names.IPAddress}}' etcd)
    docker run --detach --name sidekick --network names --add-host "only-in-hosts:$address" \
        --user "65534:$(stat -c %g "$stage/engine/docker.sock")" --read-only --cap-drop ALL --security-opt no-new-privileges \
        --volume /var/run/docker.sock:/var/run/docker.sock \
        sidekick announce redis1 --key "$KEY" --host somewhere --etcd-endpoints http://only-in-hosts:2379 >/dev/null
    await 'key after start' key_is '"host":"somewhere","port":6379'
    docker stop sidekick >/dev/null
    key_is_gone || give_up 'the key outlived the sidekick'
    stopped_with_0
    echo 'ok  from scratch, with /etc/hosts, neither root nor capabilities'
}

stopped_with_0() {
    local status
    status=$(docker inspect --format '{{.State.ExitCode}}' sidekick)
    ((status == 0)) || give_up "sidekick ended with $status on SIGTERM"
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
    docker logs --tail 20 sidekick >&2 || true
    give_up "no $what within $STEP_SECONDS s"
}

main "$@"
