# Runs one server for a test, and ends it when the test lets go of our standard input: at its end, at a
# panic, and also when the whole test process is killed, for the kernel closes a dead process's pipes.
#
#   sh -c "$(cat warden.sh)" warden LOG SERVER [ARGUMENT...]
#
# Commands come one a line; each is answered with one line.
log=$1
shift
server=

# Its state is the third field of /proc/PID/stat. A zombie (Z) may still have threads that hold its ports and
# files; only a wait tells when the last of them is gone.
is_up() {
    [ -n "$server" ] || return 1
    { read -r _ _ letter _ <"/proc/$server/stat"; } 2>/dev/null && [ "$letter" != Z ] && return 0
    wait "$server"
    server=
    return 1
}

# SIGSTOP takes effect in each thread at a moment of its own; this waits for the last of them, for 2 s at most.
await_frozen() {
    tries=0
    until frozen || [ "$tries" -ge 200 ]; do
        tries=$((tries + 1))
        sleep 0.01
    done
}

frozen() {
    for thread in "/proc/$server/task"/*; do
        { read -r _ _ letter _ <"$thread/stat"; } 2>/dev/null && [ "$letter" = T ] || return 1
    done
}

while read -r command argument; do
    case $command in
    start) # -> its pid, as this PID namespace counts
        # The server also dies when its warden is killed.
        setpriv --pdeathsig KILL -- "$@" >>"$log" 2>&1 </dev/null &
        server=$!
        echo "$server"
        ;;
    signal) # KILL, STOP, CONT, TERM
        [ -z "$server" ] || kill -s "$argument" "$server"
        [ -z "$server" ] || [ "$argument" != STOP ] || await_frozen
        echo ok
        ;;
    kill) # some other process of this PID namespace, by its pid
        kill -s KILL "$argument"
        echo ok
        ;;
    state) # -> up, down
        if is_up; then echo up; else echo down; fi
        ;;
    *)
        echo "what is $command?"
        ;;
    esac
done

[ -z "$server" ] || kill -s KILL "$server"
exit 0
