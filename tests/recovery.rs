//! Devices that stay when their data plane is killed, and are taken up by the next one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::PATIENCE;
use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, must, nothing_left, processes, run, wait_until, wasmblk};
use tests::paths;
use tests::uml::Machine;

use crate::cli::expect;

/// Writes and checks what it has written, for so many seconds.
fn load(disk: &Disk, seconds: u32) -> Child {
    let file = format!("--filename={}", disk.node());
    let time = format!("--runtime={seconds}");
    Command::new("fio")
        .args(["--name=test", &file, &time, "--direct=1", "--thread"])
        .args(["--ioengine=io_uring", "--rw=randrw", "--bs=16k"])
        .args(["--size=16m", "--iodepth=16", "--time_based"])
        .args(["--verify=crc32c", "--verify_backlog=64"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fio runs")
}

/// Kills the data plane of a device, and waits for the next one.
fn kill(disk: &Disk) {
    let pid = disk.info("/pid");
    run("kill", &["-KILL", &pid]);
    let json = ["info", "--json", &disk.id];
    wait_until("another serves", || {
        let reply = wasmblk(&json);
        reply.code == 0 && reply.stdout.contains("\"live\"") && disk.info("/pid") != pid
    });
}

#[test]
fn a_data_plane_that_is_killed_is_replaced() {
    in_bed(&Machine::default(), || {
        for data_path in ["zero-copy", "copy"] {
            let backing = Backing::new("recover", 16 << 20);
            let store = backing.grant("data", "");
            let words = ["--recover", "--store", &store, "--data-path", data_path];
            let disk = Disk::add("file", &[&words[..], &["--name", "kept"]].concat());
            let layers = disk.info("/confinement");
            let scheduler = format!("/sys/block/ublkb{}/queue/scheduler", disk.id);
            fs::write(scheduler, "mq-deadline").expect("it is chosen");
            let mut load = load(&disk, 7);
            for _ in 0..2 {
                thread::sleep(Duration::from_millis(500));
                kill(&disk);
                assert_eq!(disk.info("/confinement"), layers, "{data_path}");
                assert_eq!(disk.info("/data_path"), data_path);
                let scheduler = disk.queue("scheduler");
                assert!(scheduler.contains("[mq-deadline]"), "{scheduler}");
            }
            assert!(load.try_wait().expect("fio").is_none(), "under load");
            assert!(load.wait().expect("fio ends").success(), "{data_path}");
            assert_eq!(processes().len(), 2, "a data plane and its minder");
            let data = vec![0x5a; 1 << 20];
            let file = File::options().write(true).open(&disk.path);
            let file = file.expect("a disk");
            file.write_all_at(&data, 0).expect("it is written");
            drop(file);
            run("sync", &[disk.node()]);
            kill(&disk);
            assert!(backing.content()[..1 << 20] == data, "{data_path}");
            must(&["del", "kept"]);
            nothing_left();
        }
    });
}

#[test]
fn what_a_guest_keeps_in_its_memory_is_not_recovered() {
    in_bed(&Machine::default(), || {
        let guest = paths::guest("memory").display().to_string();
        let reply = wasmblk(&["add", &guest, "--set", "size=1M", "--recover"]);
        expect(&reply, 2, &["--recover", "not 'restartable'"]);
        let reply = wasmblk(&["add", &guest, "--recover", "--unprivileged"]);
        expect(&reply, 2, &["--unprivileged"]);
        nothing_left();
    });
}

#[test]
fn who_keeps_ending_is_given_up_and_nobody_waits() {
    in_bed(&Machine::default(), || {
        let backing = Backing::new("given-up", 16 << 20);
        let store = backing.grant("data", "");
        let disk = Disk::add("file", &["--recover", "--store", &store]);
        let mut load = load(&disk, 120);
        let is_dead = || must(&["list"]).contains("dead") && processes().is_empty();
        let end = Instant::now() + PATIENCE;
        while !is_dead() {
            assert!(Instant::now() < end, "nobody gave up");
            let reply = wasmblk(&["info", "--json", &disk.id]);
            let text = serde_json::from_str::<serde_json::Value>(&reply.stdout);
            let pid = text.ok().and_then(|value| value["pid"].as_u64());
            if let Some(pid) = pid {
                // It may have ended already.
                let _ = Command::new("kill")
                    .args(["-KILL", &pid.to_string()])
                    .output();
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!load.wait().expect("fio ends").success(), "fio was told");
        must(&["del", &disk.id]);
        nothing_left();
    });
}

#[test]
fn deleting_what_is_just_taken_up_leaves_nothing() {
    in_bed(&Machine::default(), || {
        for wait_ms in [0, 1, 5, 20, 60, 150] {
            let backing = Backing::new("deleted", 16 << 20);
            let store = backing.grant("data", "");
            let disk = Disk::add("file", &["--recover", "--store", &store]);
            run("kill", &["-KILL", &disk.info("/pid")]);
            thread::sleep(Duration::from_millis(wait_ms));
            wait_until("it is deleted", || {
                wasmblk(&["del", &disk.id]).code == 0 || !disk.path.exists()
            });
            wait_until("nobody is left", || processes().is_empty());
            nothing_left();
        }
    });
}
