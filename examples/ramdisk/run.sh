#!/bin/sh
# A RAM disk in a sandbox, and a file system on it that survives being used.
#
# usage: run.sh WASMBLK MEMORY.WASM    as root, on a kernel with ublk
set -eu
wasmblk=$1 guest=$2
here=$(mktemp -d)
disk=

say() { printf '\n# %s\n' "$*"; }
show() { echo "\$ $*"; "$@"; }
clean_up() {
    umount "$here/mnt" 2>/dev/null || true
    [ -z "$disk" ] || "$wasmblk" del "$disk" 2>/dev/null || true
    rm -rf "$here"
}
trap clean_up EXIT

say 'A WebAssembly component becomes a block device'
echo "\$ wasmblk add memory.wasm --set size=256M --name demo"
disk=$("$wasmblk" add "$guest" --set size=256M --name demo)
echo "$disk"
show "$wasmblk" list

say 'A file system on it'
show mkfs.ext4 -q -F "$disk"
mkdir "$here/mnt"
show mount -t ext4 "$disk" "$here/mnt"

say 'Files go in'
for n in 1 2 3 4 5 6 7 8; do
    dd if=/dev/urandom of="$here/mnt/file$n" bs=64k count=$((n * 8)) 2>/dev/null
done
cp "$guest" "$here/mnt/"
(cd "$here/mnt" && sha256sum file* ./*.wasm) >"$here/sums"
df -h "$here/mnt" | tail -n 1

say 'A disk that is in use is not deleted'
if "$wasmblk" del demo; then
    echo 'a mounted disk was deleted' >&2
    exit 1
fi

say 'Unmounted, checked, mounted again: is everything there?'
show umount "$here/mnt"
show e2fsck -f -n "$disk"
show mount -t ext4 "$disk" "$here/mnt"
(cd "$here/mnt" && sha256sum -c "$here/sums")
show umount "$here/mnt"

say 'The end of the device: what it flushed, it has; then it is gone'
show "$wasmblk" info demo | grep -E '^(device|state|guest|size_bytes|queues|stats.(reads|writes|errors)) '
show "$wasmblk" del demo
if [ -e "$disk" ]; then
    echo "$disk is still there" >&2
    exit 1
fi
disk=
say 'The file system is intact: all checksums equal.'
