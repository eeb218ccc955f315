# shellcheck shell=bash disable=SC2034,SC2154 # what is set in one file and read in another
# Sourced by the demo: the agent's HAProxy, as it looks at its master's socket. Changes nothing there.
#
#   haproxy_at SOCKET
#   haproxy_processes         "RELOADS reloads, worker PID", the same as long as HAProxy was not reloaded
#   haproxy_watch SERVICE     looks at the service's servers, from now on
#   haproxy_expect SERVERS    until it has exactly these; sets $at, and $every: the milliseconds from the look before
#   haproxy_watch_ends

haproxy_at() {
    haproxy_socket=$1
    mkfifo "$stage/servers"
    exec {servers}<>"$stage/servers" # both ways: opening one end alone would wait for the other
}

haproxy_says() {
    timeout 5 socat -t 5 - "UNIX-CONNECT:$haproxy_socket" <<<"$1" 2>/dev/null
}

haproxy_processes() {
    haproxy_says 'show proc' | awk '
        $2 == "master" { reloads = $3 }
        $2 == "worker" && !worker { worker = $1 } # the first is the one that takes new connections
        END { if (worker) print reloads " reloads, worker " worker; else exit 1 }'
}

haproxy_watch() {
    stamp_servers "$1" >&"$servers" &
    haproxy_watcher=$!
    at_end stop_process "$haproxy_watcher"
    read -r -t 5 -u "$servers" at every haproxy_servers || give_up "HAProxy does not answer at $haproxy_socket" "$stage/agent.log"
}

haproxy_watch_ends() {
    stop_process "$haproxy_watcher" || true # the status is that of a process that was ended
}

haproxy_expect() {
    local deadline=$((SECONDS + EVENT_SECONDS)) stamp gap now
    until [[ $haproxy_servers == "$1" ]]; do
        ((SECONDS < deadline)) || give_up "HAProxy has the servers ${haproxy_servers:-(none)}, not $1" "$stage/agent.log"
        read -r -t 1 -u "$servers" stamp gap now || continue
        at=$stamp every=$gap haproxy_servers=$now
    done
}

# One question after the other on one connection that is held: a process for each would take longer than the answer.
# Prints a line per change: the time, the milliseconds between the last two looks, and the servers that there are, with (off) where they
# take no connections.
stamp_servers() {
    local answer now before=none stamp last=$EPOCHREALTIME backend name admin
    coproc talk { exec socat - "UNIX-CONNECT:$haproxy_socket" 2>/dev/null; }
    echo prompt >&"${talk[1]}" # keeps it open, and ends each answer with a >
    while read -r -d '>' -t 5 -u "${talk[0]}" answer; do
        stamp=$EPOCHREALTIME now=''
        while read -r _ backend _ name _ _ admin _; do
            [[ $backend == "$1" ]] || continue
            now+=" $name"
            [[ $admin == 0 ]] || now+='(off)'
        done <<<"$answer"
        if [[ $now != "$before" && $answer == *srv_name* ]]; then
            echo "$stamp $(milliseconds "$last" "$stamp")$now"
            before=$now
        fi
        last=$stamp
        echo "@1 show servers state $1" >&"${talk[1]}"
    done
}
