# Prepares the namespaces for one private container engine, then turns into what the arguments say:
#
#   unshare --net --mount --pid --uts --fork --mount-proc sh -c "$(cat engine.sh)" HOSTNAME ADDRESS WARDEN...
#
# A network namespace of its own: two engines would fight over docker0 and iptables otherwise.
# An empty /run: dockerd would take a user's /run/containerd/containerd.sock for its own otherwise.
# SIDEKICK_TEST_ENGINE_TREE (scripts/debian-tree) takes the place of /usr and /etc: the engine and all that it
# starts are another Debian's. What they write into /etc stays in the /run made here.
set -e
hostname "$0"
ip link set lo up
ip address add "$1/32" dev lo
shift
mount -t tmpfs sidekick-test /run
if [ -n "$SIDEKICK_TEST_ENGINE_TREE" ]; then
    mkdir /run/etc /run/etc-work
    mount -t overlay -o "lowerdir=$SIDEKICK_TEST_ENGINE_TREE/etc,upperdir=/run/etc,workdir=/run/etc-work" sidekick-test /etc
    mount --bind "$SIDEKICK_TEST_ENGINE_TREE/usr" /usr
fi
exec "$@"
