//! Containers, as a user without privilege makes them of namespaces.

use std::process::Command;

use crate::user::{SOCKET, User};

/// A command outside of the bed's root, which its arguments say. The bed is a chroot, in which nobody gets a namespace
/// of users: so what it sees as the root is made the root.
#[must_use]
pub fn outside() -> Command {
    let mut command = Command::new("chroot");
    let script = "exec unshare -m sh -c 'cd /machine && mount --move . / && exec chroot . \"$0\" \"$@\"' \"$@\"";
    command.args(["/proc/1/root", "/bin/sh", "-c", script, "outside"]);
    command
}

/// A command of a user's, run as root of namespaces of users, mounts, processes and networks of their own: without a
/// device node, and of what is in `/run` with the broker's socket alone. It ends with the one that began it.
#[must_use]
pub fn of(user: &User, inside: &Command) -> Command {
    let mut command = outside();
    let uid = user.uid.to_string();
    command.args(["/usr/bin/setpriv", "--reuid", &uid, "--regid", &uid]);
    command.args(["--clear-groups", "/usr/bin/unshare", "--user"]);
    command.args(["--map-root-user", "--mount", "--pid", "--fork", "--net"]);
    let script = format!(
        "for folder in dev sys mnt; do mount -t tmpfs none /$folder; done
        : >/mnt/socket && mount --bind {SOCKET} /mnt/socket
        mount -t tmpfs none /run && mkdir /run/wasmblk
        : >{SOCKET} && mount --bind /mnt/socket {SOCKET} && cd && exec \"$0\" \"$@\""
    );
    command.args(["--mount-proc", "--kill-child", "sh", "-euc", &script]);
    command.arg(inside.get_program()).args(inside.get_args());
    let home = user.home();
    command.env("HOME", home).env_remove("XDG_RUNTIME_DIR");
    command.env("WASMBLK_CACHE_DIR", home.join("cache"));
    command
}
