#!/usr/bin/env bash
# The tests with real parts, on other versions of the parts than this machine's.
#
#   tests/matrix.sh CARGO… -- ROW…      as `make matrix` calls it: one row after the other, then a table; fails if a row fails
#   tests/matrix.sh CARGO… -- newest    the newest of each, and of tests/real what is about the engine: for `make test`
#   tests/matrix.sh CARGO… -- all       every row
#
# CARGO… is the command that runs cargo (and the tests as root). A row's program is another Debian's
# (scripts/debian-program, scripts/debian-tree) or this machine's own (Debian 12's, in CI), and it alone is changed.
# docs/matrix.md has what came of it, and which tests don't run where.
set -euo pipefail
cd "$(dirname -- "$0")/.."

readonly ROWS=(haproxy-2.6 haproxy-3.0 haproxy-3.2 docker-20.10 docker-26.1 docker-28.5
    podman-4.3 podman-5.4 etcd-3.4 etcd-3.5)
readonly NEWEST=(haproxy-3.2 docker-28.5 podman-5.4 etcd-3.5)
readonly ROW_MINUTES=15 # the longest takes 6 on two busy cores
readonly DOCKER=(docker.io iptables iproute2 procps)
readonly PODMAN=(podman runc netavark aardvark-dns iptables iproute2 procps)

# Of tests/real, what depends on the engine's words. The rest is about etcd, systemd and sidekick itself.
readonly ENGINE_TESTS=(lifecycle:: docker_wire:: engine_outage:: explain:: kernel:: stops::)
# What Podman can do; why not the others is said in docs/matrix.md.
readonly PODMAN_TESTS=(lifecycle::)
readonly NOT_ON_PODMAN=(--skip only_a_healthy_container_is_announced)
readonly NOT_ON_PODMAN_4=(
    --skip docker_commit_changes_nothing
    --skip an_oom_kill_withdraws
)
# Of both, what depends on etcd's words.
readonly ETCD_TESTS=(etcd_outage:: ownership:: login:: tls:: reading:: faults::)

main() {
    cargo=()
    while (($#)) && [[ $1 != -- ]]; do cargo+=("$1") && shift; done
    (($# > 1)) || { sed -n '2,/^set/{/^#/p}' "$0" >&2 && exit 2; }
    shift
    brief='' table=() failed=0
    case $1 in
    newest) brief=yes && set -- "${NEWEST[@]}" ;;
    all) set -- "${ROWS[@]}" ;;
    esac
    local name
    for name; do row "$name"; done
    printf '\n%-14s %-34s %-10s %8s  %s\n' row version outcome seconds tests
    printf '%s\n' "${table[@]}"
    if ((failed)); then
        echo "matrix: $failed of $# rows failed" >&2
        return 1
    fi
}

# One row: its environment in a subshell, so that the next knows nothing of it.
row() {
    local name=$1 begun=$SECONDS log outcome=passed version count
    log=$(mktemp)
    echo "matrix: $name" >&2
    (prepare "$name" && run "$name") 2>&1 | tee "$log" || outcome=FAILED
    version=$(sed -n 's/^matrix version: //p' "$log" | head -n 1)
    count=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed;.*/\1 \2/p' "$log" |
        awk '{ p += $1; f += $2 } END { printf "%d passed, %d failed", p, f }')
    # A filter that fits nothing would pass, too.
    [[ $count != '0 passed'* ]] || outcome=FAILED
    [[ $outcome == passed ]] || failed=$((failed + 1))
    table+=("$(printf '%-14s %-34s %-10s %8d  %s' "$name" "${version:-?}" "$outcome" $((SECONDS - begun)) "$count")")
    rm -f "$log"
}

prepare() {
    case $1 in
    haproxy-2.6 | docker-20.10 | etcd-3.4) ;; # this machine's own
    haproxy-3.0) SIDEKICK_TEST_HAPROXY=$(scripts/debian-program trixie haproxy usr/sbin/haproxy) ;;
    haproxy-3.2) SIDEKICK_TEST_HAPROXY=$(scripts/debian-program sid haproxy usr/sbin/haproxy) ;;
    docker-26.1) SIDEKICK_TEST_ENGINE_TREE=$(scripts/debian-tree trixie "${DOCKER[@]}") ;;
    docker-28.5) SIDEKICK_TEST_ENGINE_TREE=$(scripts/debian-tree sid "${DOCKER[@]}") ;;
    podman-4.3) SIDEKICK_TEST_ENGINE=podman SIDEKICK_TEST_ENGINE_TREE=$(scripts/debian-tree bookworm "${PODMAN[@]}") ;;
    podman-5.4) SIDEKICK_TEST_ENGINE=podman SIDEKICK_TEST_ENGINE_TREE=$(scripts/debian-tree trixie "${PODMAN[@]}") ;;
    etcd-3.5) SIDEKICK_TEST_ETCD=$(scripts/debian-program trixie etcd-server usr/bin/etcd) ;;
    *) echo "matrix: $1: one of ${ROWS[*]}" >&2 && exit 2 ;;
    esac || return
    local version
    version=$(version_of "$1") || return
    echo "matrix version: $version"
    # What Debian sid has moves on without us, and its newest is what is wanted; the table tells which that was.
    [[ $1 == @(haproxy-3.2|docker-28.5) || $version == *"${1#*-}"* ]] ||
        { echo "matrix: this is no $1" >&2 && return 1; }
    export SIDEKICK_TEST_HAPROXY SIDEKICK_TEST_ENGINE SIDEKICK_TEST_ENGINE_TREE SIDEKICK_TEST_ETCD
}

version_of() {
    case $1 in
    haproxy-*) "${SIDEKICK_TEST_HAPROXY:-haproxy}" -v | sed -nE '1s/^HAProxy version ([^ ]*).*/HAProxy \1/p' ;;
    etcd-*) "${SIDEKICK_TEST_ETCD:-etcd}" --version | sed -n 's/^etcd Version: /etcd /p' ;;
    docker-20.10) dockerd --version | sed -E 's/^Docker version ([^,]*).*/Docker \1/' ;;
    *) awk -v package="${1%%-*}" '
        $1 == "Package:" { this = $2 == package || $2 == package ".io" }
        this && $1 == "Version:" { print toupper(substr(package, 1, 1)) substr(package, 2), $2 }
        ' "$SIDEKICK_TEST_ENGINE_TREE/var/lib/dpkg/status" ;;
    esac
}

run() {
    local targets=() tests=()
    # While eight containers start at once, Podman answers no GET /info for more than 5 s.
    [[ $1 != podman-* ]] || export RUST_TEST_THREADS=4
    case $1 in
    haproxy-*) targets=(--test agent) ;;
    docker-*) targets=(--test real) tests=(${brief:+"${ENGINE_TESTS[@]}"}) ;;
    podman-4.3) targets=(--test real) tests=("${PODMAN_TESTS[@]}" "${NOT_ON_PODMAN[@]}" "${NOT_ON_PODMAN_4[@]}") ;;
    podman-*) targets=(--test real) tests=("${PODMAN_TESTS[@]}" "${NOT_ON_PODMAN[@]}") ;;
    etcd-*) targets=(--test real --test agent) tests=(${brief:+"${ETCD_TESTS[@]}"}) ;;
    esac
    timeout --foreground "${ROW_MINUTES}m" "${cargo[@]}" test --locked --features real --no-fail-fast "${targets[@]}" -- "${tests[@]}"
}

main "$@"
