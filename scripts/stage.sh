# shellcheck shell=bash
# Sourced by the demo and by the tests in shell: whatever they start is taken down again, in reverse order, however
# they end. Each undoing is registered before the thing is made, and does nothing where there is nothing.
#
#   stage_open NAME          $stage: a temporary directory, the first thing made and the last to go
#   at_end COMMAND ARG…      to be run at the end, the latest first
#   launch NAME COMMAND…     in the background, log in $stage/NAME.log, pid in $launched
#   private_engine NETWORK   scripts/private-engine, shared or isolated; exports DOCKER_HOST

scripts=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
undo=()

readonly GRACE_SECONDS=7 # sidekick gives itself 5 s to withdraw its keys
readonly ENGINE_SECONDS=40

stage_open() {
    trap 'stage_close "$?"' EXIT
    # One line each, so that the EXIT trap runs for all of them: bash runs none when a signal kills it.
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM
    # /var/tmp: /tmp may be a small tmpfs, and a Docker Engine's layers go here.
    stage=$(mktemp -d "${TMPDIR:-/var/tmp}/$1.XXXXXX")
}

stage_close() {
    local status=$1
    trap '' HUP INT PIPE TERM
    set +e
    # What runs past its last command may tell why here; the logs go with the directory.
    [[ $(type -t on_close) != function ]] || on_close "$status"
    for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
        eval "${undo[i]}"
    done
    [[ ! ${stage:-} ]] || rm -rf --one-file-system -- "$stage"
    exit "$status"
}

at_end() {
    undo+=("${*@Q}")
}

# A session of its own, so that a terminal's Ctrl-C reaches this script alone and the order of the end is ours;
# SIGTERM from the kernel should this script be killed without a word.
launch() {
    local name=$1 && shift
    setsid setpriv --pdeathsig TERM -- "$@" </dev/null >>"$stage/$name.log" 2>&1 &
    launched=$!
    at_end stop_process "$launched"
}

stop_process() {
    kill -TERM "$1" 2>/dev/null || return 0
    for ((tick = 0; tick < GRACE_SECONDS * 20; tick++)); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null
    wait "$1" 2>/dev/null
}

private_engine() {
    local as_root=()
    if ((EUID != 0)); then
        as_root=(sudo)
        sudo -v # asks for the password now, in the foreground
    fi
    mkdir "$stage/engine"
    mkfifo "$stage/engine-lives"
    exec {engine_lives}<>"$stage/engine-lives" # both ways: opening one end alone would wait for the other
    "${as_root[@]}" "$scripts/private-engine" "$stage/engine" "$1" "$(id -g)" \
        <"$stage/engine-lives" >>"$stage/engine.log" 2>&1 {engine_lives}>&- &
    engine=$!
    at_end stop_engine
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
    export DOCKER_HOST=unix://$stage/engine/docker.sock
    within "$ENGINE_SECONDS" timeout 5 docker version || give_up 'no Docker Engine' "$stage/engine.log"
}

# A word, because the end of its input would come only with the last process that inherited our end of it.
stop_engine() {
    echo stop >&"$engine_lives"
    exec {engine_lives}>&-
    for ((tick = 0; tick < ENGINE_SECONDS * 20; tick++)); do
        kill -0 "$engine" 2>/dev/null || return 0
        sleep 0.05
    done
    echo "the private Docker Engine (pid $engine) does not end" >&2
}

# within SECONDS COMMAND…: until the command succeeds; fails at the deadline.
within() {
    local deadline=$((SECONDS + $1)) && shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# give_up MESSAGE [LOG]
give_up() {
    echo "$(basename -- "$0"): $1" >&2
    [[ ! ${2:-} ]] || tail -n 20 -- "$2" >&2
    exit 1
}
