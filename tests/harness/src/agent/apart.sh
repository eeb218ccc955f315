# Furnishes new namespaces for one test, then runs it: sh -ec "$(cat apart.sh)" HOSTS TEST [ARGUMENT...]
mount --bind "$0" /etc/hosts
ip link set lo up
for address in 10.5.0.7/32 10.5.0.8/32 fd00:5::7/128; do
    ip address add "$address" dev lo
done
exec "$@"
