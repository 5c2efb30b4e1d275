//! What looks at new disks by itself, really running: udev with LVM, mdadm and multipath, under a distribution's
//! kernel. Disks are full of what they look for. With our rules nobody reads them, and without them all is found.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use tests::disk::wasmblk;
use tests::{paths, qemu, steps};

use crate::cli::{Folder, expect};

/// Has the programs that look at disks run in a root of their own, with the machine's /dev, /sys and /run.
const BEGIN: &str = r#"
set -eu
fail() { echo "FAILED: $*"; exit 1; }
for folder in dev proc sys run tmp; do
    mkdir -p "/debian/$folder"
    mount --bind "/$folder" "/debian/$folder"
done
touch /debian/usr/bin/wasmblk
mount --bind /usr/bin/wasmblk /debian/usr/bin/wasmblk
# udevadm would do nothing in such a root.
export SYSTEMD_IGNORE_CHROOT=1
debian() { chroot /debian "$@"; }
settle() { debian udevadm settle --timeout=30 || fail 'udev does not come to rest'; }
reads() { wasmblk info "$1" | sed -n 's/^stats.reads  *//p'; }
begin_udev() {
    debian /usr/lib/systemd/systemd-udevd --daemon
    debian udevadm trigger --type=all
    settle
}
"#;

const LOOK: &str = r#"
property() { debian udevadm info --query=property --property="$2" --value "$1"; }
add() { # NAME OPTION...
    name=$1
    shift
    wasmblk add /file.wasm --store "data=/$name.img" --name "$name" "$@"
}

# The content: made by the tools themselves, before anybody watches.
for name in lvm raid table files; do truncate -s 32M "/$name.img"; done
mkfs.ext4 -q -F -L forged /files.img
printf '\200\0\0\0\203\0\0\0\0\010\0\0\0\100\0\0' | dd of=/table.img bs=1 seek=446 conv=notrunc 2>/dev/null
printf '\125\252' | dd of=/table.img bs=1 seek=510 conv=notrunc 2>/dev/null
disk=$(add lvm)
alone='activation { udev_sync=0 udev_rules=0 } devices { obtain_device_list_from_udev=0 }'
for step in "pvcreate -q $disk" "vgcreate -q forged $disk" 'lvcreate -q -an -Zn -Wn -l1 -n volume forged'; do
    debian lvm $step --config "$alone"
done
wasmblk del lvm
disk=$(add raid)
mirror='--run --level=1 --raid-devices=2 --metadata=1.2 --name=forged --homehost=any'
debian mdadm --create /dev/md7 $mirror "$disk" missing
debian mdadm --stop /dev/md7
wasmblk del raid

path=$(wasmblk udev install --dir /debian/etc/udev/rules.d 2>/tmp/hint)
[ "$path" = /debian/etc/udev/rules.d/59-wasmblk.rules ] || fail "installed as '$path'"
grep -q 'udevadm control --reload' /tmp/hint || fail 'how is that used?'
wasmblk udev show | cmp - "$path"
debian udevadm verify --no-summary "${path#/debian}" || fail 'udev does not like the rules'
begin_udev

echo 'With the rules, nobody reads what a guest made up'
for name in lvm raid table files; do
    disk=$(add "$name")
    settle
    exec 3<>"$disk"
    exec 3>&-
    debian udevadm trigger --action=add "$disk"
    debian udevadm trigger --action=change "$disk"
    settle
    for key in ID_FS_TYPE ID_PART_TABLE_TYPE LVM_VG_NAME_COMPLETE MD_DEVICE; do
        [ -z "$(property "$disk" "$key")" ] || fail "$name has $key"
    done
    [ "$(property "$disk" UDISKS_IGNORE)" = 1 ] || fail "UDisks shows $name"
    [ "$(stat -c '%u:%g %a' "$disk")" = '0:0 600' ] || fail "$(stat -c '%u:%g %a' "$disk") has $disk"
    [ "$(reads "$name")" = 0 ] || fail "somebody made $(reads "$name") reads of $name"
done
debian lvm vgs --config 'devices { global_filter = [ "r|/dev/ublkb.*|" ] }'
[ "$(reads lvm)" = 0 ] || fail 'the filter in the README is wrong'
chown 1000 "$disk"
debian udevadm trigger --action=change "$disk"
settle
[ "$(stat -c '%u:%g %a' "$disk")" = '1000:0 600' ] || fail "$(stat -c '%u:%g %a' "$disk") has $disk"
[ ! -e /dev/disk/by-label/forged ] || fail 'a label was read'
[ ! -e /dev/mapper/forged-volume ] || fail 'LVM activated something'
grep ublkb /proc/mdstat && fail 'mdadm assembled something'
[ ! -e /dev/disk/by-wasmblk ] || fail 'links to what is not trusted'

echo 'With --trusted, and a name, all of it is found'
wasmblk del files
disk=$(add files --trusted)
[ "$(wasmblk info files | sed -n 's/^trusted  *//p')" = true ] || fail 'it is not shown'
settle
for link in /dev/disk/by-wasmblk/files /dev/disk/by-label/forged; do
    [ "$(readlink -f "$link")" = "$disk" ] || fail "no $link"
done
[ "$(reads files)" != 0 ] || fail 'nobody looked at what is trusted'
[ "$(ls /run/wasmblk/udev)" = "$(cat "/sys/block/${disk#/dev/}/diskseq")" ] || fail "$(ls /run/wasmblk/udev)"
[ "$(stat -c '%u:%g %a' "$disk")" = '0:6 660' ] || fail 'it is no disk like others'
# Its minder dies, so nobody takes back what it said; the next disk of that number is not meant.
said=$(ls /run/wasmblk/udev)
kill -9 $(pidof wasmblk-minder | tr ' ' '\n' | sort -n | tail -n 1)
wasmblk del --force files && fail 'it was stopped without its minder'
[ "$(ls /run/wasmblk/udev)" = "$said" ] || fail 'that was no test'
[ "$(add files)" = "$disk" ] || fail 'the number is another one'
settle
[ "$(reads files)" = 0 ] || fail 'trust was inherited'
[ ! -e /dev/disk/by-wasmblk/files ] || fail 'the link was inherited'

echo 'Without the rules, all of it is found'
wasmblk del --all
rm "$path"
debian udevadm control --reload
for name in lvm raid table files; do
    disk=$(add "$name")
    settle
    echo "$name: $(reads "$name") reads"
    [ "$(reads "$name")" != 0 ] || fail "nobody looked at $name"
    case $name in
    lvm) found=$(property "$disk" ID_FS_TYPE)/$(property "$disk" LVM_VG_NAME_COMPLETE) expected=LVM2_member/forged ;;
    raid) found=$(property "$disk" ID_FS_TYPE) expected=linux_raid_member ;;
    table) found=$(property "$disk" ID_PART_TABLE_TYPE) expected=dos ;;
    files) found=$(property "$disk" ID_FS_TYPE)/$(property "$disk" ID_FS_LABEL) expected=ext4/forged ;;
    esac
    [ "$found" = "$expected" ] || fail "$name was seen as '$found'"
done
[ -e /dev/mapper/forged-volume ] || fail 'LVM did not activate what a guest made up'
grep -q ublkb /proc/mdstat || fail 'mdadm assembled nothing of what a guest made up'
"#;

const USER: &str = r#"
path=$(wasmblk udev install --dir /debian/etc/udev/rules.d)
mkdir -p /etc/udev/rules.d
mount --bind /debian/etc/udev/rules.d /etc/udev/rules.d
begin_udev
as() { # UID COMMAND...
    uid=$1
    shift
    /usr/bin/setpriv --reuid "$uid" --regid "$uid" --clear-groups env HOME="/tmp/$uid" XDG_RUNTIME_DIR="/tmp/$uid" "$@"
}
for uid in 1000 1001; do
    mkdir -m 700 "/tmp/$uid"
    chown "$uid:$uid" "/tmp/$uid"
done
user() { as 1000 wasmblk "$@"; }
add() { user add /memory.wasm --set size=32M --unprivileged "$@"; }
refused() { # WORDS COMMAND...
    words=$1
    shift
    "$@" 2>/tmp/why && fail "not refused: $*"
    grep -q -e "$words" /tmp/why || fail "$* says: $(cat /tmp/why)"
}

echo 'What root has to allow'
refused 'cannot open /dev/ublk-control' add
chgrp 1000 /dev/ublk-control
chmod 660 /dev/ublk-control
refused 'needs CAP_SYS_ADMIN; try sudo, or --unprivileged' user add /memory.wasm --set size=32M
refused 'at most 5 for --unprivileged' add --deadline 6
refused "for root's devices only" add --data-path zero-copy
refused 'cannot be used with' add --trusted
refused 'CAP_SYS_ADMIN gets no such device' wasmblk add /memory.wasm --set size=32M --unprivileged
umount /etc/udev/rules.d
refused "root has to call 'wasmblk udev install'" add
mount --bind /debian/etc/udev/rules.d /etc/udev/rules.d
[ -z "$(ls /sys/class/ublk-char)" ] || fail "left: $(ls /sys/class/ublk-char)"

echo 'A device of his own'
disk=$(add --name mine --queues 2)
settle
for node in "$disk" /dev/ublkc0; do
    [ "$(stat -c '%u:%g %a' "$node")" = '1000:1000 600' ] || fail "$(stat -c '%u:%g %a' "$node") has $node"
done
user info mine >/tmp/info
for line in '^unprivileged *true' '^data_path *copy' '^limits.deadline_ms *5000' '^stats.reads *0' \
    '^confinement .*capabilities no-new-privs landlock seccomp io-uring write-execute'; do
    grep -q "$line" /tmp/info || fail "no $line in $(cat /tmp/info)"
done
dd if=/dev/urandom of=/tmp/1000/image bs=1M count=32 2>/dev/null
chown 1000:1000 /tmp/1000/image
user import /tmp/1000/image "$disk"
user export "$disk" - | cmp - /tmp/1000/image || fail 'it came back as something else'

echo 'It is nobody else'"'"'s'
chmod 666 "$disk" /dev/ublkc0 /dev/ublk-control
refused 'Operation not permitted' as 1001 dd if="$disk" of=/dev/null count=1
chmod 600 "$disk" /dev/ublkc0
refused 'Permission denied' as 1001 wasmblk del --force 0
[ -z "$(as 1001 wasmblk list)" ] || fail 'it is listed'
dd if="$disk" of=/dev/null count=1 2>/dev/null || fail 'root may read it'
user del mine
[ -z "$(ls /sys/class/ublk-char)" ] && [ ! -e "$disk" ] || fail 'it is left'

echo 'It is open while it is deleted'
disk=$(add --name held)
exec 3<"$disk"
refused 'is in use' user del held
user del --force held
refused 'device 0 exists already' add --id 0
exec 3<&-
for i in 1 2 3 4 5 6 7 8 9; do add --id 0 2>/dev/null && break; sleep 1; done
user del 0

echo 'Who opened it is killed, as the kernel does after 30 s'
disk=$(add)
kill -9 "$(pidof wasmblk-minder)"
for i in 1 2 3 4 5 6 7 8 9; do [ -e "$disk" ] || break; sleep 1; done
[ ! -e "$disk" ] || fail 'a disk that nobody serves'
refused 'its process was killed\|no process' user info 0
user del 0
[ -z "$(ls /sys/class/ublk-char)" ] || fail 'it is left'
disk=$(add)
wasmblk del --force 0
[ -z "$(ls /sys/class/ublk-char)" ] || fail 'root cannot delete it'

echo 'Requests that wait too long'
# As slow as can be: one that is slower still does not open within its deadline, which depends on the machine.
disk=
for percent in 1 2 4 8; do
    disk=$(user add /memory-device.wasm --set size=32M --unprivileged --cpu-percent $percent) && break
done
[ -n "$disk" ] || fail 'it does not open'
settle
chmod 666 /dev/ublk-control
begin=$(date +%s)
for i in $(seq 60); do /usr/bin/dd if="$disk" of=/dev/null bs=128K count=1 skip="$i" iflag=direct 2>>/tmp/reads & done
wait
seconds=$(($(date +%s) - begin))
echo "answered within $seconds s, $(grep -c 'Input/output error' /tmp/reads) with errors"
user info 0 | grep -E '^(state|reason|usage.longest_call_ms|stats.reads) '
user info 0 | grep -q '^reason *a request waited too long' || fail 'for another reason'
[ "$seconds" -lt 30 ] || fail 'the kernel would not wait so long'
user del 0
"#;

/// Runs a script behind [`BEGIN`].
fn run(script: &str, programs: &[&str], guests: &[&str]) {
    let watchers = qemu::watchers().expect("a cache");
    let guests = guests
        .iter()
        .map(|name| (paths::guest(name), format!("/{name}.wasm")));
    let guests: Vec<_> = guests.collect();
    let program = paths::wasmblk();
    let mut files = vec![(&*program, "/usr/bin/wasmblk"), (&*watchers, "/debian")];
    files.extend(guests.iter().map(|(here, there)| (&**here, &**there)));
    let limit = Duration::from_secs(600);
    let outcome = qemu::run(&[BEGIN, script].concat(), programs, &files, limit, false);
    outcome
        .unwrap_or_else(|error| panic!("{error:#}"))
        .must_be_good();
}

#[test]
fn nobody_reads_what_a_guest_made_up() {
    run(LOOK, &["mkfs.ext4"], &["file"]);
}

#[test]
fn a_user_without_privilege_has_devices_of_his_own() {
    run(USER, &["setpriv", "dd"], &["memory", "memory-device"]);
}

#[test]
fn the_rules_are_shown_and_installed_whole() {
    let folder = Folder::new("udev");
    let place = folder.path("rules.d");
    let install = |place: &str| wasmblk(&["udev", "install", "--dir", place]);
    expect(&install(&place), 1, &["there is no folder", &place]);
    let file = folder.file("file", b"");
    expect(&install(&file), 2, &[&file, "not a folder"]);
    fs::create_dir(&place).expect("a folder");
    let whole = paths::wasmblk();
    let safe =
        |part: &Path| fs::metadata(part).is_ok_and(|it| it.uid() == 0 && it.mode() & 0o022 == 0);
    if !whole.ancestors().all(safe) {
        expect(
            &install(&place),
            1,
            &["as root", "can be changed by others", "/usr/local/bin"],
        );
        steps::say("skipped: the rest, as others could change the program that was built here");
        return;
    }
    let path = format!("{place}/59-wasmblk.rules");
    symlink("/dev/null", &path).expect("a link");
    // The second time over the first.
    for _ in 0..2 {
        let reply = install(&place);
        assert_eq!(
            (reply.code, reply.stdout.trim()),
            (0, &*path),
            "{}",
            reply.stderr
        );
        assert!(
            reply.stderr.contains("udevadm control --reload"),
            "{}",
            reply.stderr
        );
        let shown = wasmblk(&["udev", "show"]);
        assert_eq!(shown.stdout, fs::read_to_string(&path).expect("rules"));
        assert!(!fs::symlink_metadata(&path).expect("rules").is_symlink());
        assert_eq!(fs::read_dir(&place).expect("a folder").count(), 1);
    }
}
