//! The broker's unit under systemd, with the policy beside it, as both are in `examples/broker`: under a distribution's
//! kernel, with udev and our rules.

use std::time::Duration;

use tests::{paths, qemu};

/// Makes a root in which systemd can be process 1, and has it so.
const BEGIN: &str = r#"
set -eu
cd /debian
mkdir -p etc/udev/rules.d
cp /bin/busybox usr/bin/busybox
for name in sh sed grep find cmp kill reboot; do ln -s busybox "usr/bin/$name"; done
echo 0123456789abcdef0123456789abcdef >etc/machine-id
# Databases, which take an emulated processor longer than all the rest.
for name in systemd-hwdb-update systemd-journal-catalog-update ldconfig; do
    ln -s /dev/null "etc/systemd/system/$name.service"
done
cat >etc/systemd/system/test.service <<'END'
[Service]
Type=oneshot
ExecStart=/usr/bin/sh /begin
END
cat >begin <<'END'
export PATH=/usr/local/bin:/usr/bin:/usr/sbin
sh /test >/dev/vport0p1 2>&1
echo $? >/dev/vport0p2
reboot -f
END
cat >/next <<'END'
mount --bind /debian /debian
for folder in dev proc sys tmp; do mount --move "/$folder" "/debian/$folder"; done
cd /debian
mount --move . /
exec chroot . /usr/lib/systemd/systemd --unit=test.service --show-status=false </dev/console >/dev/console 2>&1
END
cat >test <<'END'
"#;

const TEST: &str = r#"
set -eu
fail() {
    echo "FAILED: $*"
    journalctl --boot --no-pager --lines=60
    exit 1
}
wait_for() { # WHAT COMMAND...
    what=$1
    shift
    for i in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    fail "not in 30 s: $what"
}
refused() { # WORDS COMMAND...
    words=$1
    shift
    "$@" 2>/tmp/why && fail "not refused: $*"
    grep -q -e "$words" /tmp/why || fail "$* says: $(cat /tmp/why)"
}
as() { # UID GID COMMAND...
    uid=$1 gid=$2
    shift 2
    /usr/bin/setpriv --reuid "$uid" --regid "$gid" --clear-groups env HOME="/tmp/$uid" XDG_RUNTIME_DIR="/tmp/$uid" "$@"
}
# The first rule of the policy is for him; the second, by which the broker serves devices, for the other, by his group.
user() { as 1000 1000 wasmblk "$@"; }
other() { as 1001 6 wasmblk "$@"; }
unit=wasmblk-broker
socket=/run/wasmblk/broker.sock
said() { journalctl --unit "$unit" --no-pager | grep -q -e "$1"; }
begin() {
    systemctl start "$unit"
    [ -S "$socket" ] || fail 'it is started, and there is no socket'
}
both_work() { # WHEN
    echo "    both devices work $1"
    for disk in "$own" "$hosted"; do
        dd if=/dev/urandom of=/tmp/image bs=1M count=2 2>/dev/null
        wasmblk import /tmp/image "$disk" || fail "import to $disk $1"
        wasmblk export "$disk" - | cmp - /tmp/image || fail "$disk came back as something else $1"
    done
}
both_are_live() { [ "$(wasmblk list | grep -c -e ' live ')" = 2 ]; }

echo 'The unit is started, and two users have devices'
wasmblk udev install >/dev/null 2>&1
udevadm control --reload
for uid in 1000 1001; do
    mkdir -m 700 "/tmp/$uid"
    chown "$uid" "/tmp/$uid"
done
truncate -s 2M /tmp/1001/data /tmp/1001/other
chown 1001 /tmp/1001/data /tmp/1001/other
begin
own=$(user add /memory.wasm --set size=2M --name own)
hosted=$(other add /file.wasm --hosted --store data=/tmp/1001/data --name hosted)
refused 'does not allow you --hosted' user add /memory.wasm --set size=2M --hosted
udevadm settle --timeout=30
[ "$(stat -c '%u %a' "$own" "$hosted")" = "$(printf '1000 600\n1001 600')" ] || fail "$(ls -l "$own" "$hosted")"
other info hosted >/tmp/info
layers='mounts capabilities no-new-privs landlock seccomp io-uring write-execute'
grep -q "^confinement  *$layers" /tmp/info || fail "$(cat /tmp/info)"
pid=$(sed -n 's/^pid  *//p' /tmp/info)
grep -q "/$unit.service\$" "/proc/$pid/cgroup" || fail "it is in $(cat "/proc/$pid/cgroup")"
both_work 'at first'

echo 'The policy is read again'
sed -i 's/^users = .*/users = many/' /etc/wasmblk/broker.toml
systemctl reload "$unit"
wait_for 'the mistake is said' said 'the policy stays what it was'
sed -i 's/^users = .*/users = [1002]/' /etc/wasmblk/broker.toml
systemctl reload "$unit"
wait_for 'it is read' said 'the policy was read again'
refused 'allows user 1000 no devices' user add /memory.wasm --set size=2M
both_work 'by another policy'

echo 'The unit is stopped, and its devices stay'
systemctl stop "$unit"
[ "$(systemctl is-active "$unit")" = inactive ] || fail "$(systemctl is-active "$unit")"
[ ! -e "$socket" ] || fail 'its socket is left'
refused 'no broker answers' user add /memory.wasm --set size=2M --broker
both_work 'without a broker'

echo 'It is started again, and then killed'
sed -i 's/^users = .*/users = [1000]/' /etc/wasmblk/broker.toml
begin
wait_for 'their wardens are back' both_are_live
main() { systemctl show --property=MainPID --value "$unit"; }
first=$(main)
kill -9 "$first"
is_another() { [ "$(main)" != 0 ] && [ "$(main)" != "$first" ]; }
wait_for 'there is another broker' is_another
wait_for 'it answers' user list
wait_for 'their wardens are back again' both_are_live
both_work 'with the third broker'

echo 'A device, and an export, can be a unit of their own'
service() { systemd-run --quiet --property=Type=notify --unit "$@"; }
service unit-disk wasmblk add --foreground /memory.wasm --set size=2M --name unit-disk
wasmblk info unit-disk >/tmp/info || fail 'it is started, and there is no device'
systemctl stop unit-disk
wasmblk info unit-disk >/tmp/info 2>&1 && fail 'it is stopped, and there is a device'
service unit-export wasmblk nbd /memory.wasm --set size=2M --unix /run/export
[ -S /run/export ] || fail 'it is started, and there is no export'
systemctl stop unit-export
[ ! -e /run/export ] || fail 'it is stopped, and there is an export'

echo 'The devices are deleted, and nothing stays'
third=$(other add /file.wasm --hosted --store data=/tmp/1001/other)
other del "${third#/dev/ublkb}"
user del own
other del hosted
[ -z "$(ls /sys/class/ublk-char)" ] || fail "left: $(ls /sys/class/ublk-char)"
systemctl stop "$unit"
is_empty() { [ ! -e "/sys/fs/cgroup/system.slice/$unit.service/cgroup.procs" ]; }
wait_for 'no process of the unit is left' is_empty
[ -z "$(find /run/wasmblk -type s)" ] || fail "left: $(ls /run/wasmblk)"
"#;

#[test]
fn the_unit_gives_users_devices_and_they_outlive_it() {
    let watchers = qemu::watchers().expect("a cache");
    let example = paths::root().join("examples/broker");
    let unit = example.join("wasmblk-broker.service");
    let policy = example.join("broker.toml");
    let (program, setpriv) = (paths::wasmblk(), "/usr/bin/setpriv".as_ref());
    let guests = ["memory", "file"].map(paths::guest);
    let files = [
        (&*watchers, "/debian"),
        (&*program, "/debian/usr/local/bin/wasmblk"),
        (setpriv, "/debian/usr/bin/setpriv"),
        (&*unit, "/debian/etc/systemd/system/wasmblk-broker.service"),
        (&*policy, "/debian/etc/wasmblk/broker.toml"),
        (&*guests[0], "/debian/memory.wasm"),
        (&*guests[1], "/debian/file.wasm"),
    ];
    let script = [BEGIN, TEST, "END\n"].concat();
    let limit = Duration::from_secs(600);
    let outcome = qemu::run(&script, &[], &files, limit, false);
    outcome
        .unwrap_or_else(|error| panic!("{error:#}"))
        .must_be_good();
}
