# Runs a warden and cleans up when that is gone, however it went:
#
#   sh -c "$(cat janitor.sh)" DIRECTORY WARDEN [ARGUMENT...]
#
# Mounts need no care: a server that mounts things lives in its own mount namespace, and they end with that.
"$@"
# Control groups of containers that died with their engine; named after the directory, hence ours alone.
find /sys/fs/cgroup -depth -type d -path "*/${0##*/}*" -exec rmdir {} + 2>/dev/null
rm -rf "$0"
