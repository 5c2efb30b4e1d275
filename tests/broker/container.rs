//! A container without device nodes, privilege or a network: its devices are its own, as files that it is handed.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use tests::bed::in_bed;
use tests::container;
use tests::disk::{processes, run, wait_until};
use tests::paths;
use tests::uml::Machine;
use tests::user::{Broker, User, wait_gone};

use super::{ALICE, POLICY, node, nothing_left_but};
use crate::image::content;

/// What is done in it. After each step it waits for the test.
const INSIDE: &str = r#"
    wasmblk=$1 guest=$2 store=$3
    said() { : >"$1"; until [ -e "$1.seen" ]; do sleep 0.05; done; }
    [ -z "$(ls /dev)" ] && [ "$(ls /run/wasmblk)" = broker.sock ]
    read -r inside outside count </proc/self/uid_map
    [ "$inside $outside $count" = '0 1000 1' ]
    disk=$("$wasmblk" add "$guest" --store "$store" --name mine)
    [ "$disk" = /dev/ublkb0 ] && [ ! -e "$disk" ]
    "$wasmblk" list | grep -q 'mine *live *64M'
    "$wasmblk" import --progress image "$disk" 2>progress
    "$wasmblk" export --progress "$disk" back 2>>progress
    said copied
    mkfs.ext4 -q -d folder filesystem 64M
    "$wasmblk" import filesystem "$disk"
    "$wasmblk" export --force "$disk" back
    e2fsck -f -n back
    said filled
    ! "$wasmblk" import filesystem "$disk" 2>why
    grep 'it is mounted' why
    said refused
    "$wasmblk" import image "$disk"
    "$wasmblk" del mine
    ! "$wasmblk" info mine
"#;

#[test]
fn an_image_goes_in_and_comes_out() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let path = |name: &str| alice.home().join(name);
        let image = content(5, 64 << 20);
        fs::write(path("image"), &image).expect("a file");
        fs::create_dir(path("folder")).expect("a folder");
        fs::write(path("folder/file"), &image[..9 << 20]).expect("a file");
        let store = super::store(&alice, 64 << 20);
        let mut inside = Command::new("/bin/sh");
        inside.args(["-euc", INSIDE, "inside"]);
        inside.arg(paths::wasmblk()).arg(paths::guest("file"));
        inside.arg(store);
        let mut container = container::of(&alice, &inside);
        let mut container = container.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut wait = |step: &str| {
            let said = || path(step).exists();
            while !said() {
                let ended = container.try_wait().expect("a child");
                assert!(ended.is_none() || said(), "before '{step}': {ended:?}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            path(&format!("{step}.seen"))
        };
        let seen = wait("copied");
        let back = fs::read(path("back")).expect("a file");
        assert!(back == image, "what comes out is what went in");
        assert!(fs::read(path("data")).expect("the store") == image);
        let progress = fs::read_to_string(path("progress")).expect("a file");
        assert_eq!(progress.matches("100%  64M of 64M\n").count(), 2);
        for pid in processes() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let is_root = status.contains("Uid:\t0\t0\t0\t0");
            let here = fs::read_link("/proc/self/ns/user").expect("a link");
            let there = fs::read_link(format!("/proc/{pid}/ns/user")).expect("a link");
            assert_eq!(here == there, is_root, "the broker's alone: {status}");
        }
        fs::write(seen, "").expect("a file");
        let seen = wait("filled");
        run("e2fsck", &["-f", "-n", &node(0)]);
        run("mount", &["-o", "ro", &node(0), "/mnt"]);
        let file = fs::read("/mnt/file").expect("it was written");
        assert!(file == image[..9 << 20], "the file is the same");
        fs::write(seen, "").expect("a file");
        let seen = wait("refused");
        run("umount", &["/mnt"]);
        fs::write(seen, "").expect("a file");
        let ended = container.wait().expect("it ends");
        assert!(ended.success(), "{ended}");
        wait_gone(0);
        wait_until("it is alone", || processes().len() == 1);
        nothing_left_but(broker);
    });
}

/// Who sees neither mounts nor nodes is told all the same that the disk he was handed is in use.
#[test]
fn a_disk_that_is_mounted_elsewhere_is_left_alone() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let id = alice.add("memory", &["--set", "size=16M"]);
        fs::write(alice.home().join("image"), content(6, 1 << 20)).expect("a file");
        run("mkfs.ext4", &["-q", &node(id)]);
        let import = |script: &str| {
            let mut inside = Command::new("/bin/sh");
            inside
                .args(["-euc", script, "inside"])
                .arg(paths::wasmblk());
            let disk = File::options().read(true).write(true).open(node(id));
            let mut container = container::of(&alice, &inside);
            let status = container.stdin(disk.expect("root may")).status();
            status.expect("it starts").success()
        };
        run("mount", &[&node(id), "/mnt"]);
        let refused = r#"[ -z "$(ls /dev)" ]; ! "$1" import image fd:0 2>why; grep 'fd:0 (it is mounted' why"#;
        assert!(import(refused), "it is mounted");
        run("umount", &["/mnt"]);
        run("e2fsck", &["-f", "-n", &node(id)]);
        assert!(import(r#""$1" import image fd:0"#), "nobody has it");
        let _ = alice.must(&["del", &id.to_string()]);
        wait_gone(id);
        nothing_left_but(broker);
    });
}
