#!/usr/bin/env bash
# Runs a program with the next Debian's HAProxy in /usr/sbin/haproxy's place: 3.0 says otherwise than 2.6 what became of a reload, and waits
# for a server's connections to end. For tests/agent, as cargo's runner:
#
#   cargo --config 'target."cfg(unix)".runner="tests/newer_haproxy.sh"' test --features real --test agent
#
# Takes root or sudo. The place is taken in a mount namespace of the program's own: nobody else sees it.
set -euo pipefail

main() {
    : "${1:?usage: newer_haproxy.sh PROGRAM [ARGUMENT…]}"
    local as_root=() image
    ((EUID == 0)) || as_root=(sudo --preserve-env)
    image=$("$(dirname "$0")/../scripts/debian-root" trixie haproxy)
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/sidekick-haproxy.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    tar --extract --gzip --file="$image" --directory="$work" --no-same-owner --wildcards ./usr/sbin/haproxy './usr/lib/*-linux-gnu'
    wrapper >"$work/haproxy"
    chmod -R a+rX "$work"
    chmod a+x "$work/haproxy"
    # shellcheck disable=SC2016 # that shell's own words
    "${as_root[@]}" unshare --mount --propagation private bash -c \
        'mount --bind "$0" /usr/sbin/haproxy && haproxy -v | grep -m 1 "version 3" && exec "$@"' "$work/haproxy" "$@"
}

# With that Debian's own loader and libraries. --argv0: what a master starts when it reloads.
wrapper() {
    local libraries loader
    libraries=$(echo "$work"/usr/lib/*-linux-gnu)
    loader=$(echo "$libraries"/ld-linux-*.so.*)
    echo '#!/bin/sh'
    echo "exec $loader --argv0 \"\$0\" --library-path $libraries $work/usr/sbin/haproxy \"\$@\""
}

main "$@"
