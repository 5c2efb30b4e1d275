//! Adding, finding, deleting; and what remains when somebody is killed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use tests::PATIENCE;
use tests::bed::in_bed;
use tests::disk::{Disk, must, nothing_left, processes, run, wait_until, wasmblk};
use tests::paths;
use tests::uml::Machine;

fn guest(name: &str) -> String {
    paths::guest(name).display().to_string()
}

#[test]
fn names_and_numbers_are_unique() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &["--id", "7", "--name", "seven"]);
        assert_eq!(disk.node(), "/dev/ublkb7");
        let reply = wasmblk(&["add", &guest("null"), "--id", "7"]);
        assert_eq!(reply.code, 1);
        assert!(
            reply.stderr.contains("device 7 exists already"),
            "{}",
            reply.stderr
        );
        let reply = wasmblk(&["add", &guest("null"), "--name", "seven"]);
        assert_eq!(reply.code, 1);
        assert!(
            reply.stderr.contains("--name seven is taken by device 7"),
            "{}",
            reply.stderr
        );
        wait_until("a failed add leaves no process", || processes().len() == 2);
        let reply = wasmblk(&["info", "eight"]);
        assert_eq!(reply.code, 2);
        assert!(
            reply.stderr.contains("no device is named 'eight'"),
            "{}",
            reply.stderr
        );
        assert_eq!(wasmblk(&["info", "8"]).code, 1);
        must(&["del", "seven"]);
        nothing_left();
    });
}

#[test]
fn list_and_info_say_what_is_served() {
    in_bed(&Machine::default(), || {
        assert_eq!(must(&["list"]), "");
        assert_eq!(must(&["list", "--json"]).trim(), "[]");
        let disk = Disk::add(
            "memory",
            &["--set", "size=10G", "--name", "big", "--serial", "S-1"],
        );
        let list = must(&["list"]);
        assert!(
            list.contains("big") && list.contains("10G") && list.contains("live"),
            "{list}"
        );
        assert_eq!(disk.info("/serial"), "S-1");
        assert_eq!(disk.info("/size_bytes"), (10_u64 << 30).to_string());
        assert_eq!(disk.info("/digest").len(), 64);
        let text = must(&["info", "big"]);
        assert!(
            text.contains("size_bytes") && text.contains("size=10G"),
            "{text}"
        );
        disk.del();
        let one = Disk::add("null", &[]);
        let serial = one.info("/serial");
        one.del();
        let again = Disk::add("null", &[]);
        assert_eq!(
            again.info("/serial"),
            serial,
            "the same device has the same serial"
        );
        again.del();
    });
}

#[test]
fn a_new_disk_has_no_scheduler() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &[]);
        let scheduler = disk.queue("scheduler");
        assert!(scheduler.contains("[none] mq-deadline"), "{scheduler}");
        disk.del();
        nothing_left();
    });
}

#[test]
fn the_second_add_does_not_compile() {
    in_bed(&Machine::default(), || {
        let compiled = |arguments: &[&str]| {
            let reply = wasmblk(arguments);
            assert_eq!(reply.code, 0, "{}", reply.stderr);
            reply.stderr.contains("compiling")
        };
        let guest = guest("null");
        let add = ["--log", "wasmblk=debug", "add", &guest];
        assert!(compiled(&add), "the cache is empty");
        assert!(!compiled(&add), "the cache has it");
        // What somebody else could have written is not trusted, and the device is made all the same.
        fs::set_permissions("/tmp/cache", Permissions::from_mode(0o777)).expect("chmod");
        assert!(compiled(&add), "a cache that anybody can write is not used");
        must(&["del", "--all"]);
        nothing_left();
    });
}

#[test]
fn a_device_in_use_is_not_deleted() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=32M"]);
        run("mkfs.ext4", &["-q", "-F", disk.node()]);
        run("mount", &["-t", "ext4", disk.node(), "/mnt"]);
        let reply = wasmblk(&["del", &disk.id]);
        assert_eq!(reply.code, 1);
        assert!(reply.stderr.contains("mounted on /mnt"), "{}", reply.stderr);
        run("umount", &["/mnt"]);
        let file = File::open(&disk.path).expect("open");
        let reply = wasmblk(&["del", &disk.id]);
        assert_eq!(reply.code, 1);
        assert!(reply.stderr.contains("open in"), "{}", reply.stderr);
        drop(file);
        disk.del();
    });
}

/// Starts reading and writing at depth 32, and waits until that is under way.
fn load(disk: &Disk) -> Child {
    let file = format!("--filename={}", disk.node());
    let fio = Command::new("fio")
        .args([
            "--name=load",
            &file,
            "--rw=randrw",
            "--bs=4k",
            "--iodepth=32",
            "--direct=1",
        ])
        .args(["--ioengine=io_uring", "--time_based", "--runtime=60"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fio runs");
    let reads = || disk.info("/stats/reads").parse::<u64>().expect("a number");
    wait_until("there is load", || reads() > 1000);
    fio
}

#[test]
fn deleting_by_force_under_load_ends_everybody() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=64M"]);
        let mut load = load(&disk);
        assert_eq!(wasmblk(&["del", &disk.id]).code, 1, "it is in use");
        let begin = Instant::now();
        must(&["del", "--force", &disk.id]);
        assert!(begin.elapsed() < PATIENCE, "it took {:?}", begin.elapsed());
        assert!(!load.wait().expect("fio ends").success(), "fio was told");
        wait_until("the id is free", || {
            !fs::exists(format!("/dev/ublkc{}", disk.id)).expect("/dev")
        });
        nothing_left();
    });
}

#[test]
fn a_killed_server_leaves_nobody_stuck() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=64M"]);
        let mut load = load(&disk);
        run("kill", &["-KILL", &disk.info("/pid")]);
        assert!(!load.wait().expect("fio ends").success(), "fio was told");
        wait_until("the process is gone", || processes().is_empty());
        wait_until("the disk is gone", || !disk.path.exists());
        let list = must(&["list"]);
        assert!(list.contains("dead"), "{list}");
        let reply = wasmblk(&["info", &disk.id]);
        assert!(reply.stderr.contains("'wasmblk del"), "{}", reply.stderr);
        must(&["del", &disk.id]);
        nothing_left();
        assert_eq!(must(&["list"]), "");
        // The number can be had again.
        Disk::add("null", &["--id", &disk.id]).del();
    });
}

#[test]
fn a_signal_ends_a_device_in_order() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &[]);
        run("kill", &["-TERM", &disk.info("/pid")]);
        wait_until("the process is gone", || processes().is_empty());
        assert!(!disk.path.exists());
        nothing_left();
    });
}

#[test]
fn foreground_serves_until_it_is_told_to_end() {
    in_bed(&Machine::default(), || {
        let mut server = Command::new(paths::wasmblk())
            .args(["add", &guest("null"), "--foreground", "--id", "3"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("wasmblk runs");
        wait_until("the device is there", || {
            fs::exists("/dev/ublkb3").expect("/dev")
        });
        wait_until("it is live", || must(&["list"]).contains("live"));
        run("kill", &["-INT", &server.id().to_string()]);
        let status = server.wait().expect("it ends");
        assert!(status.success(), "{status}");
        nothing_left();
    });
}

#[test]
fn somebody_elses_device_is_not_deleted() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &[]);
        let reply = wasmblk(&["del", &disk.id, "--run-dir", "/tmp/elsewhere"]);
        assert_eq!(reply.code, 1);
        assert!(
            reply.stderr.contains("is not wasmblk's"),
            "{}",
            reply.stderr
        );
        assert_eq!(wasmblk(&["del", "99"]).code, 1);
        disk.del();
    });
}

#[test]
fn many_devices_come_and_go() {
    in_bed(&Machine::default(), || {
        for _ in 0..3 {
            let disks: Vec<Disk> = (0..4).map(|_| Disk::add("null", &[])).collect();
            assert_eq!(must(&["list"]).lines().count(), 1 + disks.len());
            must(&["del", "--all"]);
            nothing_left();
        }
    });
}

#[test]
fn doctor_is_content_in_the_bed() {
    in_bed(&Machine::default(), || {
        let text = must(&["doctor"]);
        for word in [
            "ok    kernel",
            "ok    driver",
            "ok    permission",
            "SAFE_STOP_DEV",
        ] {
            assert!(text.contains(word), "no '{word}' in:\n{text}");
        }
        assert!(!text.lines().any(|line| line.starts_with("FAIL")), "{text}");
    });
}

#[test]
fn a_last_flush_that_fails_is_an_error_of_del() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("faulty", &["--set", "error-every=1"]);
        let reply = wasmblk(&["del", &disk.id]);
        assert_eq!(reply.code, 1);
        assert!(
            reply.stderr.contains("the last flush failed: EIO"),
            "{}",
            reply.stderr
        );
        assert!(!disk.path.exists(), "it is gone all the same");
        nothing_left();
    });
}

#[test]
fn adding_and_deleting_at_once_keep_apart() {
    in_bed(
        &Machine {
            processors: 2,
            ..Machine::default()
        },
        || {
            let come_and_go = |name: &str| {
                for _ in 0..8 {
                    let disk = Disk::add("null", &["--name", name]);
                    assert_eq!(
                        disk.info("/name"),
                        name,
                        "the number is not somebody else's"
                    );
                    must(&["del", name]);
                }
            };
            thread::scope(|scope| {
                for name in ["one", "two", "three"] {
                    scope.spawn(move || come_and_go(name));
                }
            });
            nothing_left();
        },
    );
}
