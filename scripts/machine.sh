# shellcheck shell=bash
# Sourced, after stage.sh: machines that boot their own systemd, as containers of the engine at DOCKER_HOST.
#
#   machine_image CODENAME                    Debian with systemd, Docker, etcd, HAProxy; as the image sidekick-machine
#   machine_boot NAME [DOCKER-CREATE-ARG…]    and waits until it is up

: "${scripts:?source stage.sh first}"

readonly BOOT_SECONDS=60 # 3 on a quiet machine

machine_image() {
    local tar packages=(systemd systemd-sysv dbus docker.io etcd-server etcd-client haproxy iproute2 iptables procps)
    [[ $1 == bookworm ]] || packages+=(docker-cli) # a package of its own since Debian 13
    tar=$("$scripts/debian-root" "$1" "${packages[@]}")
    docker import "$tar" sidekick-machine >/dev/null
}

# All that --privileged gives but CAP_SYS_RESOURCE, which an engine in a sandbox may not have itself to give away.
# /var/lib/docker is a volume because overlayfs does not stack on the container's own overlayfs.
machine_boot() {
    local name=$1 && shift
    docker create --tty --name "$name" --hostname "$name" --stop-signal SIGRTMIN+3 \
        --cap-add=ALL --cap-drop=SYS_RESOURCE --device-cgroup-rule='a *:* rwm' --cgroupns=private \
        --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined \
        --tmpfs /run --tmpfs /run/lock --tmpfs /tmp --volume /var/lib/docker --env container=docker \
        "$@" sidekick-machine /machine-init >/dev/null
    docker cp "$scripts/machine-init" "$name:/machine-init" >/dev/null
    docker start "$name" >/dev/null
    machine_up "$name"
}

# degraded counts as up: some unit that has no business in a container failed (kernel modules, for one).
machine_up() {
    within "$BOOT_SECONDS" machine_booted "$1" && return
    docker logs --tail 30 "$1" >&2
    give_up "$1 does not boot"
}

machine_booted() {
    [[ $(docker exec "$1" systemctl is-system-running) == @(running|degraded) ]]
}
