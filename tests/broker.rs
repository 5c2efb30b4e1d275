//! Devices for users without privilege: two of them, root, and what none of them can do to another.

mod capability;
mod container;
mod files;
mod hosted;
mod hostile;
mod pure;
mod recovery;
mod server;
mod service;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;

use tests::bed::in_bed;
use tests::disk::{fio, must, nothing_left, processes, run, wait_until, wasmblk};
use tests::uml::Machine;
use tests::user::{Broker, SOCKET, User, wait_gone};
use tests::{paths, user};
use wasmblk::sys::{drop_capabilities, keep_brokers_capabilities};
use wasmblk::ublk::holders;

use crate::cli::expect;

const ALICE: u32 = 1000;
const BOB: u32 = 1001;

/// Both may have something.
const POLICY: &str = "
[[allow]]
users = [1000]
groups = [1001]
devices = 3
memory_mib = 256
";

fn node(id: u32) -> String {
    format!("/dev/ublkb{id}")
}

fn nothing_left_but(broker: Broker) {
    wait_until("it is alone", || processes().len() == 1);
    broker.end();
    nothing_left();
}

#[test]
fn a_user_has_a_device_and_another_has_not() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let (alice, bob) = (User::new(ALICE), User::new(BOB));
        let id = alice.add("memory", &["--set", "size=16M", "--name", "mine"]);
        let about = fs::metadata(node(id)).expect("a node");
        assert_eq!((about.uid(), about.mode() & 0o777), (ALICE, 0o600));
        let scheduler = fs::read_to_string(format!("/sys/block/ublkb{id}/queue/scheduler"));
        assert!(scheduler.expect("sysfs").contains("[none]"));
        let of = format!("of={}", node(id));
        let write = ["if=/dev/urandom", &of, "bs=1M", "count=16", "oflag=direct"];
        assert!(alice.can("dd", &write), "its owner writes");
        assert!(!bob.can("dd", &write), "another does not");
        let list = alice.must(&["list"]);
        assert!(list.contains("mine"), "{list}");
        assert_eq!(bob.must(&["list"]), "");
        let id = id.to_string();
        for command in ["info", "del"] {
            assert_eq!(bob.call(&[command, &id]).code, 1);
        }
        let text = must(&["list"]);
        assert!(text.contains("mine") && text.contains("1000"), "{text}");
        let text = must(&["info", "mine"]);
        for word in ["guest ", "digest ", "limits.memory_bytes", "size=16M"] {
            assert!(text.contains(word), "root sees no {word}: {text}");
        }
        let info = alice.must(&["info", "mine", "--json"]);
        assert!(info.contains("\"data_path\": \"copy\""), "{info}");
        let _ = alice.must(&["del", "mine"]);
        wait_gone(id.parse().expect("a number"));
        nothing_left_but(broker);
    });
}

#[test]
fn what_is_in_use_is_not_deleted_and_quotas_hold() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let id = alice
            .add("memory", &["--set", "size=16M", "--depth", "16"])
            .to_string();
        let disk = File::open(node(id.parse().expect("a number"))).expect("root may");
        let reply = alice.call(&["del", &id]);
        assert!(reply.stderr.contains("is in use"), "{}", reply.stderr);
        // A node in use does not keep the owner from saying that he means it.
        let _ = alice.must(&["del", "--force", &id]);
        drop(disk);
        let null = tests::paths::guest("null").display().to_string();
        let large = ["add", &null, "--depth", "1024"];
        expect(
            &alice.call(&large),
            1,
            &["counts for 512 MiB", "256 MiB that you may have"],
        );
        expect(
            &alice.call(&["add", &null, "--id", "5"]),
            1,
            &["only root may choose"],
        );
        let zero_copy = ["add", &null, "--data-path", "zero-copy"];
        assert_ne!(alice.call(&zero_copy).code, 0);
        // What is gone counts until its warden has seen that.
        wait_until("it counts nothing", || processes().len() == 1);
        for _ in 0..3 {
            let _ = alice.add("null", &["--depth", "1"]);
        }
        expect(
            &alice.call(&["add", &null]),
            1,
            &["have 3 devices", "may have 3"],
        );
        // Bob's are his own.
        let bob = User::new(BOB);
        let _ = bob.add("null", &["--depth", "1"]);
        let nobody = User::new(1002);
        expect(
            &nobody.call(&["add", &null]),
            1,
            &["allows user 1002 no devices"],
        );
        for user in [&alice, &bob] {
            let _ = user.must(&["del", "--all"]);
        }
        nothing_left_but(broker);
    });
}

#[test]
fn whoever_is_killed_leaves_nothing() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let names = ["wasmblk-minder", "wasmblk-warden", "wasmblk"];
        for name in names {
            let id = alice.add("memory", &["--set", "size=16M"]);
            let kill = |name: &str| {
                let is = |pid: &u32| {
                    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    comm.trim() == name && pid.to_string() != broker.pid()
                };
                let victim = processes().into_iter().find(is).expect("it runs");
                run("kill", &["-KILL", &victim.to_string()]);
            };
            kill(name);
            if name == "wasmblk-warden" {
                // Its device is served until its server ends.
                let of = format!("if={}", node(id));
                assert!(alice.can("dd", &[&of, "of=/dev/null", "bs=1M", "count=1"]));
                kill("wasmblk-minder");
            }
            wait_gone(id);
            wait_until("it is alone", || processes().len() == 1);
            wait_until("it counts nothing", || must(&["list"]).is_empty());
        }
        nothing_left_but(broker);
    });
}

#[test]
fn a_broker_has_what_it_needs_and_no_more() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let id = alice.add("null", &[]).to_string();
        let field = |pid: &str, name: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.expect("a line").trim().to_owned()
        };
        for pid in processes() {
            let pid = pid.to_string();
            let uid = field(&pid, "Uid:");
            let kept = if uid.starts_with('0') {
                // CAP_SYS_ADMIN, CAP_CHOWN, CAP_FOWNER.
                "0000000000200009"
            } else {
                "0000000000000000"
            };
            for name in ["CapPrm:", "CapEff:"] {
                assert_eq!(field(&pid, name), kept, "{name} of {pid}");
            }
            assert_eq!(field(&pid, "NoNewPrivs:"), "1");
        }
        // The broker itself never asks the kernel for anything of a device.
        let open = fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("it runs");
        let links = open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        let nodes: Vec<_> = links.filter(|path| path.starts_with("/dev/ublk")).collect();
        assert!(nodes.is_empty(), "{nodes:?}");
        let second = wasmblk(&["broker"]);
        expect(&second, 1, &["another broker answers"]);
        expect(&alice.call(&["broker"]), 1, &["needs root"]);
        let _ = alice.must(&["del", &id]);
        let socket = Path::new(SOCKET);
        nothing_left_but(broker);
        assert!(!socket.exists());
        let null = tests::paths::guest("null").display().to_string();
        expect(
            &alice.call(&["add", &null, "--broker"]),
            1,
            &["no broker answers"],
        );
        expect(&alice.call(&["add", &null]), 1, &["ublk devices need root"]);
    });
}

#[test]
fn a_broker_is_found_whatever_umask_and_folder() {
    in_bed(&Machine::default(), || {
        let folder = Path::new(SOCKET).parent().expect("a folder");
        let _ = fs::remove_dir_all(folder);
        let mut shell = Command::new("sh");
        let broker = "umask 077; exec \"$0\" broker --policy \"$1\"";
        shell
            .args(["-c", broker])
            .arg(paths::wasmblk())
            .arg(user::POLICY);
        let broker = Broker::begin(&mut shell, POLICY);
        let alice = User::new(ALICE);
        symlink(SOCKET, alice.home().join("broker.sock")).expect("a link");
        let words = ["--broker", "--broker-socket", "broker.sock", "--depth", "1"];
        let id = alice.add("null", &words).to_string();
        let _ = alice.must(&["del", &id]);
        fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("root may");
        let null = paths::guest("null").display().to_string();
        let reply = alice.call(&["add", &null, "--broker"]);
        expect(
            &reply,
            1,
            &["no way for this user to /run/wasmblk", "chmod"],
        );
        fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("root may");
        nothing_left_but(broker);
    });
}

/// A file of a user's own.
fn store(user: &User, bytes: u64) -> String {
    let path = user.home().join("data");
    let file = File::create(&path).expect("a file");
    file.set_len(bytes).expect("a file can be long");
    chown(&path, Some(user.uid), Some(user.uid)).expect("it is his");
    format!("data={}", path.display())
}

#[test]
fn zero_copy_is_for_whom_the_policy_trusts() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&format!("{POLICY}trusted = true\n"));
        let alice = User::new(ALICE);
        let store = store(&alice, 16 << 20);
        let words = ["--store", &store, "--data-path", "zero-copy"];
        let id = alice.add("file", &words);
        let info = alice.must(&["info", "--json", &id.to_string()]);
        assert!(info.contains("\"data_path\": \"zero-copy\""), "{info}");
        let jobs = ["--rw=randrw", "--bs=4k", "--size=8m", "--iodepth=16"];
        let more = ["--verify=crc32c", "--fsync=16"];
        fio(Path::new(&node(id)), &[&jobs[..], &more].concat());
        let _ = alice.must(&["del", &id.to_string()]);
        wait_gone(id);
        nothing_left_but(broker);
        // A broker that trusts nobody gives what is asked for otherwise.
        let broker = Broker::start(POLICY);
        let file = tests::paths::guest("file").display().to_string();
        let reply = alice.call(&[&["add", &file][..], &words].concat());
        expect(&reply, 1, &["users whom the broker's policy trusts"]);
        let id = alice.add("file", &words[..2]);
        let info = alice.must(&["info", "--json", &id.to_string()]);
        assert!(info.contains("\"data_path\": \"copy\""), "{info}");
        let _ = alice.must(&["del", &id.to_string()]);
        nothing_left_but(broker);
    });
}

/// Without TRY_STOP a warden looks by itself, and the node belongs to the user.
#[test]
fn a_warden_sees_that_a_disk_is_mounted_somewhere() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let id = alice.add("memory", &["--set", "size=16M", "--depth", "16"]);
        run("mkfs.ext4", &["-q", "-F", &node(id)]);
        let mount = format!(
            "mount {} /mnt && touch /tmp/mounted && exec sleep 1000",
            node(id)
        );
        let mut mounted = Command::new("unshare");
        let mut mounted = mounted
            .args(["-m", "sh", "-c", &mount])
            .spawn()
            .expect("it runs");
        let looked = |give_up: fn() -> std::io::Result<()>| {
            let looks = move || {
                give_up().expect("it has less than before");
                holders(id)
            };
            thread::spawn(looks).join().expect("it looks")
        };
        let warden = || looked(|| keep_brokers_capabilities(false));
        wait_until("it is mounted", || Path::new("/tmp/mounted").exists());
        let seen = warden();
        assert!(
            seen.iter().any(|word| word.contains("mounted or claimed")),
            "{seen:?}"
        );
        let _ = mounted.kill();
        let _ = mounted.wait();
        wait_until("it is free", || warden().is_empty());
        let about = fs::metadata(node(id)).expect("a node");
        assert_eq!((about.uid(), about.mode() & 0o777), (ALICE, 0o600));
        // Who may not look at all does not take it for free.
        let seen = looked(drop_capabilities);
        assert!(
            seen.iter().any(|word| word.contains("cannot be told")),
            "{seen:?}"
        );
        let _ = alice.must(&["del", &id.to_string()]);
        nothing_left_but(broker);
    });
}
