#!/bin/sh
# One image as the beginning of two disks, which do not see each other's changes: the image stays as it is.
#
# usage: run.sh WASMBLK COW.WASM    as root, on a kernel with ublk
set -eu
wasmblk=$1 guest=$2
here=$(mktemp -d)

say() { printf '\n# %s\n' "$*"; }
show() { echo "\$ $*"; "$@"; }
clean_up() {
    for name in one two; do
        umount "$here/$name" 2>/dev/null || true
        "$wasmblk" del "$name" 2>/dev/null || true
    done
    rm -rf "$here"
}
trap clean_up EXIT

say 'An image, and two empty overlays'
truncate -s 64M "$here/base.img"
truncate -s 16M "$here/one.img" "$here/two.img"
show mkfs.ext4 -q -F "$here/base.img"
sha256sum "$here/base.img" >"$here/sum"

say 'Two disks that begin as the image'
for name in one two; do
    echo "\$ wasmblk add cow.wasm --name $name --store base=base.img:ro --store overlay=$name.img"
    disk=$("$wasmblk" add "$guest" --name "$name" \
        --store "base=$here/base.img:ro" --store "overlay=$here/$name.img")
    mkdir "$here/$name"
    show mount -t ext4 "$disk" "$here/$name"
    echo "this is $name" >"$here/$name/who"
done
show cat "$here/one/who" "$here/two/who"
show "$wasmblk" info two | grep -E '^(stores|data_path|size_bytes) '

say 'They are deleted and made again: what was written is in the overlays'
for name in one two; do
    show umount "$here/$name"
    show "$wasmblk" del "$name"
done
disk=$("$wasmblk" add "$guest" --name one --store "base=$here/base.img:ro" --store "overlay=$here/one.img")
show e2fsck -f -n "$disk"
show mount -t ext4 "$disk" "$here/one"
[ "$(cat "$here/one/who")" = 'this is one' ]
show umount "$here/one"
show "$wasmblk" del one

say 'The image is what it was'
sha256sum -c "$here/sum"
