#!/bin/sh
# A container of plain namespaces, without device nodes, privilege or a network, has a block device of its own: of the
# outside it has the broker's socket, and nothing else.
#
# usage: run.sh WASMBLK MEMORY.WASM    as root, on a kernel with ublk
set -eu
wasmblk=$1 guest=$2
inside=$(dirname "$0")/inside.sh
here=$(mktemp -d)
broker=

say() { printf '\n# %s\n' "$*"; }
show() { echo "\$ $*"; "$@"; }
clean_up() {
    [ -z "$broker" ] || kill "$broker"
    wait
    rm -rf "$here"
}
trap clean_up EXIT

say 'Root says who may have devices, and starts the broker'
cat >"$here/broker.toml" <<END
[[allow]]
users = [65534]     # nobody
devices = 1
memory_mib = 256
END
cat "$here/broker.toml"
"$wasmblk" broker --policy "$here/broker.toml" --broker-socket "$here/broker.sock" >"$here/ready" &
broker=$!
until [ -s "$here/ready" ]; do sleep 0.1; done

say 'Nobody makes a container, and is root in it'
chmod 711 "$here"
mkdir "$here/home"
chown 65534:65534 "$here/home"
show setpriv --reuid 65534 --regid 65534 --clear-groups \
    unshare --user --map-root-user --mount --pid --fork --net --mount-proc --kill-child \
    sh "$inside" "$wasmblk" "$guest" "$here/broker.sock" "$here/home"

say 'Nothing of it is left'
show "$wasmblk" list --broker-socket "$here/broker.sock"
[ -z "$("$wasmblk" list --broker-socket "$here/broker.sock")" ]
