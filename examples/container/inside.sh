#!/bin/sh
# What run.sh does in the container.
#
# usage: inside.sh WASMBLK MEMORY.WASM SOCKET FOLDER
set -eu
wasmblk=$1 guest=$2 socket=$3
export HOME="$4"
cd "$HOME"

say() { printf '\n# %s\n' "$*"; }
show() { echo "\$ $*"; "$@"; }

say 'No device nodes, and of /run the socket alone'
mount -t tmpfs none /dev
mount -t tmpfs none /run
mkdir /run/wasmblk
touch /run/wasmblk/broker.sock
mount --bind "$socket" /run/wasmblk/broker.sock
show ls -A /dev /run/wasmblk
show cat /proc/self/uid_map

say 'A device: its path is printed, though there is no node'
echo "\$ wasmblk add memory.wasm --set size=64M --name mine"
disk=$("$wasmblk" add "$guest" --set size=64M --name mine)
echo "$disk"
show "$wasmblk" list

say 'An image of a file system goes in, and comes out again'
mkdir folder
cp "$guest" folder/
show mkfs.ext4 -q -d folder image 64M
show "$wasmblk" import --progress image "$disk"
show "$wasmblk" export --progress "$disk" back
show cmp image back
show e2fsck -f -n back

say 'The end'
show "$wasmblk" del mine
