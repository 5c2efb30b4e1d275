//! The oldest kernel that is supported, a distribution's own, in the emulated bed: it lacks what newer
//! ones have, so this proves the fallbacks; and it has Landlock, which the other bed's kernel lacks.

use std::time::Duration;

use tests::{paths, qemu};

/// Without TRY_STOP, `del` must find out by itself that a device is in use; without AUTO_BUF_REG, data is copied.
/// Without NO_AUTO_PART_SCAN the kernel would look for partitions, but not where a server without privilege could
/// tell it of some. This bed's root is one that the kernel does not let go of.
const SCRIPT: &str = r#"
set -eu
fail() { echo "FAILED: $*"; exit 1; }
wasmblk doctor | tee /tmp/doctor
grep -q 'warn  features' /tmp/doctor || fail 'this kernel is not old'
disk=$(wasmblk add /memory.wasm --set size=64M --queues 2 --name old)
wasmblk info old | grep -E '^(queues|workers|stats.reads) '
wasmblk info old | grep -Eq '^stats.reads +0$' || fail 'somebody looked for partitions'
exec 3<"$disk"
wasmblk del old && fail 'an open disk was deleted'
exec 3<&-
pid=$(wasmblk list --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
for task in /proc/$pid/task/*; do
    for line in 'CapPrm:.0*' 'CapEff:.0*' 'CapBnd:.0*' 'NoNewPrivs:.1' 'Seccomp:.2'; do
        grep -q "^$line$" $task/status || fail "a thread without $line: $(cat $task/status)"
    done
done
wasmblk info old | grep '^confinement' | tee /tmp/confinement
for layer in mounts capabilities no-new-privs landlock write-execute seccomp io-uring; do
    grep -q "$layer" /tmp/confinement || fail "not confined by $layer"
done
[ "$(wc -l </proc/$pid/mountinfo)" = 1 ] || fail "more than a root: $(cat /proc/$pid/mountinfo)"
root=$(cd "/proc/$pid/root" && ls -A || echo 'it cannot be looked at')
[ -z "$root" ] || fail "the root is not empty: $root"
grep -q 'ok    landlock' /tmp/doctor || fail 'this kernel has Landlock'
wasmblk del --force old
[ ! -e "$disk" ] || fail 'still there'

disk=$(wasmblk add /memory.wasm --set size=64M)
mkfs.ext4 -q -F "$disk"
unshare -m sh -c "mount -t ext4 $disk /mnt && touch /tmp/mounted && sleep 1000" &
while [ ! -e /tmp/mounted ]; do sleep 0.1; done
wasmblk del --all && fail 'a disk mounted in another namespace was deleted'
kill "$!" "$(pidof sleep)"
wait
kill -9 "$(wasmblk list --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')"
for i in 1 2 3 4 5 6 7 8 9; do [ -e "$disk" ] || break; sleep 1; done
[ ! -e "$disk" ] || fail 'a dead disk is there'
wasmblk del --all
[ -z "$(wasmblk list)" ] || fail 'a dead disk is listed'

printf '[[allow]]\nusers = [1000]\ndevices = 1\nmemory_mib = 256\n' >/tmp/policy.toml
chmod 600 /tmp/policy.toml
wasmblk broker --policy /tmp/policy.toml >/dev/null &
broker=$!
while [ ! -e /run/wasmblk/broker.sock ]; do sleep 0.1; done
mkdir /tmp/alice
chown 1000 /tmp/alice
export XDG_RUNTIME_DIR=/tmp/alice
alice="/usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups"
disk=$($alice wasmblk --cache-dir /tmp/alice/cache add /memory.wasm --set size=64M --depth 16 --name hers)
mkfs.ext4 -q -F "$disk"
rm /tmp/mounted
unshare -m sh -c "mount -t ext4 $disk /mnt && touch /tmp/mounted && sleep 1000" &
while [ ! -e /tmp/mounted ]; do sleep 0.1; done
$alice wasmblk del hers && fail 'a disk that root has mounted was deleted by a user'
kill "$!" "$(pidof sleep)"
wait "$!" || true
$alice sh -c "exec 3<$disk; wasmblk del hers" && fail 'a disk that its user has open was deleted'
$alice wasmblk del hers
[ ! -e "$disk" ] || fail 'the disk of a user is there'
kill "$broker"
wait "$broker"
unset XDG_RUNTIME_DIR

dd if=/dev/zero of=/disk.img bs=1M count=64 2>/dev/null
wasmblk add /file.wasm --store data=/disk.img --data-path zero-copy && fail 'this kernel has no zero copy'
disk=$(wasmblk add /file.wasm --store data=/disk.img --queues 2 --name file)
wasmblk info file | grep -E '^(workers|data_path) ' | tee /tmp/file
grep -q 'data_path *copy' /tmp/file || fail 'how does the data go?'
mkfs.ext4 -q -F "$disk"
mount -t ext4 "$disk" /mnt
cp /bin/busybox /mnt/copy
umount /mnt
wasmblk del file
e2fsck -fn /disk.img || fail 'the file system is not in the store'

mkdir /granted
echo 1 >/granted/one
disk=$(wasmblk add /told.wasm --name told --dir /data=/granted --dir /ro=/granted:ro --set read=/data/one \
    --set write=/data/two:2 --set write=/ro/three:3 --set mkdir=/data/made --set rename=/data/two:/data/made/two \
    --set list=/ro --set read=/data/../init)
wasmblk info told | grep '^confinement.*mounts.*landlock.*seccomp' || fail 'a directory takes confinement away'
dd if="$disk" bs=4096 count=1 2>/dev/null | tr -s ' \n' '  ' >/tmp/told
grep -q '^1 done PermissionDenied done done made/ one PermissionDenied ' /tmp/told || fail "told: $(cat /tmp/told)"
[ "$(cat /granted/made/two)" = 2 ] || fail 'what was written is elsewhere'
wasmblk del told

mkdir /tmp/nbd
serve="wasmblk --log debug nbd /memory.wasm --set size=16M"
confined() {
    until grep -qs 'confined by: write-execute' /tmp/nbd.log; do sleep 0.1; done
    grep -q 'confined by: capabilities no-new-privs landlock seccomp' /tmp/nbd.log || fail "NBD: $(cat /tmp/nbd.log)"
}
$serve -U /tmp/nbd/socket --pid-file /tmp/nbd/pid 2>/tmp/nbd.log >/dev/null &
confined
kill "$!"
wait "$!" || fail "the server of NBD: $(cat /tmp/nbd.log)"
rm /tmp/nbd.log
[ -z "$(ls /tmp/nbd)" ] || fail "left: $(ls /tmp/nbd)"
TMPDIR=/tmp/nbd $serve --run 'sleep 1000' 2>/tmp/nbd.log &
confined
kill "$!"
wait "$!" && fail 'the command was ended'
[ -z "$(ls /tmp/nbd)" ] || fail "left: $(ls /tmp/nbd)"
[ -z "$(pidof sleep)" ] || fail 'the command goes on'

sh /run.sh wasmblk /memory.wasm
"#;

#[test]
fn the_oldest_kernel_runs_the_main_job_by_fallbacks() {
    let example = paths::root().join("examples/ramdisk/run.sh");
    let outcome = qemu::run(
        SCRIPT,
        &["mkfs.ext4", "e2fsck", "unshare", "setpriv"],
        &[
            (&paths::wasmblk(), "/usr/bin/wasmblk"),
            (&paths::guest("memory"), "/memory.wasm"),
            (&paths::guest("file"), "/file.wasm"),
            (&paths::guest("told-wasip2"), "/told.wasm"),
            (&example, "/run.sh"),
        ],
        Duration::from_secs(600),
        false,
    );
    outcome
        .unwrap_or_else(|error| panic!("{error:#}"))
        .must_be_good();
}
