#!/bin/sh
# The article's way: asks etcd every five seconds; when something differs, writes the file again and starts
# another HAProxy, which tells the one before to finish what it has. Base and file are in the current directory.
#
#   article.sh PORT        where redis is dialled
set -u
pid=
while :; do
    {
        cat base.cfg
        printf '\nlisten redis\n    bind :::%s v4v6\n    mode tcp\n    balance roundrobin\n' "$1"
        # A line with the key, a line with the value.
        etcdctl get --prefix /services/redis/ | paste - - |
            sed -nE 's|^.*/([^/	]*)	.*"host":"([^"]*)","port":([0-9]+).*|    server \1 \2:\3 check inter 1s fastinter 500ms downinter 1s rise 3 fall 2|p'
    } >haproxy.cfg.new
    if ! cmp -s haproxy.cfg.new haproxy.cfg; then
        mv haproxy.cfg.new haproxy.cfg
        haproxy -db -f haproxy.cfg ${pid:+-sf $pid} 2>>haproxy.log &
        pid=$!
        echo "$pid" >>started
    fi
    sleep 5
done
