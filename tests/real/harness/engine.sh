# Prepares the namespaces for one private Docker Engine, then turns into what the arguments say:
#
#   unshare --net --mount --pid --uts --fork --mount-proc sh -c "$(cat engine.sh)" HOSTNAME ADDRESS WARDEN...
#
# A network namespace of its own: two engines would fight over docker0 and iptables otherwise.
# An empty /run: dockerd would take a user's /run/containerd/containerd.sock for its own otherwise.
set -e
hostname "$0"
ip link set lo up
ip address add "$1/32" dev lo
shift
mount -t tmpfs sidekick-test /run
exec "$@"
