//! What a process that serves has given up, as the kernel tells it, and that it serves all the same.

use std::env;
use std::fs::{self, File};
use std::io::read_to_string;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use rustix::process::{Signal, getpid, kill_process};
use rustix::thread::{gettid, sched_getaffinity, sched_setaffinity};
use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, fio, must, nothing_left, processes, run, wait_until, wasmblk};
use tests::paths;
use tests::uml::Machine;
use wasmblk::confine::{self, Layer, Needed};
use wasmblk::guest::{Source, compile_here, new_engine};
use wasmblk::sys::drop_capabilities;

/// A line of /proc/PID/status.
pub(crate) fn status(pid: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    field(&text, name)
}

pub(crate) fn field(text: &str, name: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .to_owned()
}

/// The same for each thread of a process, with the thread's name.
fn threads(pid: &str, name: &str) -> Vec<(String, String)> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("it runs")
        .flatten()
        .map(|task| {
            let text = fs::read_to_string(task.path().join("status")).expect("a thread");
            (field(&text, "Name"), field(&text, name))
        })
        .collect()
}

#[track_caller]
pub(crate) fn assert_each(pid: &str, name: &str, value: &str) {
    for (thread, found) in threads(pid, name) {
        assert_eq!(found, value, "{name} of the thread {thread}");
    }
}

const NO_CAPABILITIES: &str = "0000000000000000";

#[track_caller]
pub(crate) fn assert_confined(pid: &str) {
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_each(pid, name, NO_CAPABILITIES);
    }
    assert_each(pid, "NoNewPrivs", "1");
    assert_each(pid, "Seccomp", "2");
}

fn mounts(pid: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/mnt"))
        .expect("it runs")
        .display()
        .to_string()
}

#[test]
fn a_data_plane_has_nothing() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=64M", "--queues", "1"]);
        let pid = disk.info("/pid");
        assert_confined(&pid);
        // Two from the begin, one that refuses code when it is loaded, and one that refuses rings and threads at last.
        assert_each(&pid, "Seccomp_filters", "4");
        let minder = status(&pid, "PPid");
        assert_eq!(status(&minder, "Name"), "wasmblk-minder");
        // CAP_SYS_ADMIN and CAP_DAC_OVERRIDE.
        for name in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(&minder, name), "0000000000200002", "{name}");
        }
        assert_ne!(mounts(&pid), mounts(&minder), "a namespace of its own");
        assert_eq!(mounts("self"), mounts(&minder));
        let all = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
        assert_eq!(all.lines().count(), 1, "one empty root: {all}");
        let root = fs::read_dir(format!("/proc/{pid}/root")).expect("root may look");
        assert_eq!(root.count(), 0);
        let on = disk.info("/confinement");
        for layer in [
            "mounts",
            "capabilities",
            "no-new-privs",
            "write-execute",
            "seccomp",
            "io-uring",
        ] {
            assert!(on.contains(layer), "no {layer} in {on}");
        }
        // This bed's kernel has no Landlock, which somebody should know.
        assert!(!on.contains("landlock"), "{on}");
        let text = must(&["info", &disk.id]);
        assert!(text.contains("mounts capabilities"), "{text}");
        let jobs = ["--rw=randrw", "--bs=4k", "--size=8m", "--iodepth=16"];
        fio(&disk.path, &[&jobs[..], &["--verify=crc32c"]].concat());
        disk.del();
    });
}

#[test]
fn what_is_left_is_nothing() {
    in_bed(&Machine::default(), || {
        // The kernel would let whoever has no more do things to this one.
        let (tell, told) = channel();
        thread::spawn(move || {
            drop_capabilities().expect("it has less than before");
            tell.send(gettid()).expect("it is awaited");
            thread::park();
        });
        let other = told.recv().expect("it runs");
        let confined = thread::spawn(move || {
            let store = File::open("/proc/self/status").expect("it is there");
            let engine = new_engine().expect("an engine");
            let source = Source::read(&paths::guest("null")).expect("it is built");
            let artefact = compile_here(&engine, &source).expect("it is valid");
            let layers = confine::for_device(&Needed::default());
            assert!(layers.contains(&Layer::Seccomp), "{layers:?}");
            // The guest is loaded now, and after that no code is.
            artefact.load(&engine).expect("it is machine code");
            assert_eq!(confine::load_no_more_code(), [Layer::WriteExecute]);
            let error = artefact.load(&engine).expect_err("code was loaded");
            assert!(format!("{error:#}").contains("executable"), "{error:#}");
            // What is open is of use; nothing else can be had.
            let text = read_to_string(store).expect("it is open");
            assert!(text.contains("CapEff"));
            for path in ["/", "/proc/self/status", "/dev/null", "."] {
                assert!(File::open(path).is_err(), "{path} was opened");
            }
            assert!(TcpListener::bind("127.0.0.1:0").is_err());
            assert!(UnixStream::pair().is_err());
            assert!(kill_process(getpid(), Signal::URG).is_err());
            // Where it runs itself it may say, not where others do.
            let all = sched_getaffinity(None).expect("it runs somewhere");
            assert!(sched_setaffinity(None, &all).is_ok());
            assert!(sched_setaffinity(Some(other), &all).is_err());
            assert!(rustix::process::chdir("/").is_err());
            assert!(Command::new("/bin/true").spawn().is_err());
            // But threads, and memory.
            let thread = thread::spawn(|| {
                vec![1_u8; 64 << 20]
                    .iter()
                    .map(|&one| usize::from(one))
                    .sum()
            });
            assert_eq!(thread.join().ok(), Some(64_usize << 20));
        });
        confined.join().expect("it does what it should");
        // The thread has lost them, not the process.
        File::open("/proc/self/status").expect("it is there");
    });
}

#[test]
fn starting_a_program_ends_the_process() {
    const AGAIN: &str = "WASMBLK_CONFINED";
    in_bed(&Machine::default(), || {
        if env::var_os(AGAIN).is_some() {
            let layers = confine::for_device(&Needed::default());
            assert!(layers.contains(&Layer::Seccomp), "{layers:?}");
            panic!("{}", Command::new("/bin/true").exec());
        }
        let mut this = Command::new(env::current_exe().expect("a test has a program"));
        let ended = this.args(env::args_os().skip(1)).env(AGAIN, "1").output();
        let ended = ended.expect("it starts");
        assert_eq!(
            ended.status.signal(),
            Some(Signal::SYS.as_raw()),
            "{ended:?}"
        );
    });
}

#[test]
fn a_filesystem_under_it_can_be_unmounted() {
    in_bed(&Machine::default(), || {
        let below = Disk::add("memory", &["--set", "size=64M"]);
        run("mkfs.ext4", &["-q", "-F", below.node()]);
        run("mount", &["-t", "ext4", below.node(), "/mnt"]);
        // This one is made while that is mounted, and keeps nothing of it.
        let other = Disk::add("null", &[]);
        run("umount", &["/mnt"]);
        must(&["del", &below.id]);
        assert!(!below.path.exists());
        other.del();
    });
}

#[test]
fn partitions_come_when_somebody_asks() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=16M"]);
        // The kernel does not look by itself: what serves has no privilege.
        let looked = Command::new("blockdev")
            .args(["--rereadpt", disk.node()])
            .stderr(Stdio::null())
            .status();
        assert!(!looked.expect("blockdev runs").success());
        assert_eq!(disk.info("/stats/reads"), "0");
        run("addpart", &[disk.node(), "1", "2048", "4096"]);
        let part = format!("{}p1", disk.node());
        wait_until("it is there", || fs::exists(&part).expect("/dev"));
        disk.del();
    });
}

#[test]
fn stores_are_served_by_both_paths() {
    in_bed(&Machine::default(), || {
        for path in ["copy", "zero-copy"] {
            let store = Backing::new("data", 16 << 20);
            let words = ["--store", &store.grant("data", ""), "--data-path", path];
            let disk = Disk::add("file", &words);
            assert_confined(&disk.info("/pid"));
            let jobs = ["--rw=randrw", "--bs=4k", "--size=8m", "--iodepth=16"];
            let more = ["--verify=crc32c", "--fsync=16"];
            fio(&disk.path, &[&jobs[..], &more].concat());
            run("blkdiscard", &[disk.node()]);
            disk.del();
        }
    });
}

#[test]
fn a_signal_to_the_minder_ends_the_device_in_order() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &[]);
        let minder = status(&disk.info("/pid"), "PPid");
        run("kill", &["-TERM", &minder]);
        wait_until("both are gone", || processes().is_empty());
        assert!(!disk.path.exists());
        nothing_left();
    });
}

#[test]
fn without_its_minder_a_device_serves_until_it_is_deleted() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=16M"]);
        let minder = status(&disk.info("/pid"), "PPid");
        run("kill", &["-KILL", &minder]);
        wait_until("it is gone", || processes().len() == 1);
        let jobs = ["--rw=randrw", "--bs=4k", "--size=1m", "--verify=crc32c"];
        fio(&disk.path, &jobs);
        // What the minder would have done is told, and done by 'del' all the same.
        let reply = wasmblk(&["del", &disk.id]);
        assert!(reply.stderr.contains("minder is gone"), "{}", reply.stderr);
        assert!(!disk.path.exists());
        nothing_left();
    });
}

#[test]
fn a_killed_data_plane_is_in_the_log() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &[]);
        run("kill", &["-KILL", &disk.info("/pid")]);
        wait_until("both are gone", || processes().is_empty());
        let log = fs::read_to_string(format!("/run/wasmblk/{}.log", disk.id)).expect("a log");
        assert!(log.contains("signal: 9"), "{log}");
        must(&["del", &disk.id]);
        nothing_left();
    });
}

#[test]
fn a_full_log_turns_over_without_a_folder() {
    in_bed(&Machine::default(), || {
        let log = ["--log", "info,wasmblk::serve=trace"];
        let disk = Disk::add("memory", &[&log[..], &["--set", "size=16M"]].concat());
        let path = format!("/run/wasmblk/{}.log", disk.id);
        let bytes = |path: &str| fs::metadata(path).map_or(0, |about| about.len());
        let old = format!("{path}.old");
        for _ in 0..64 {
            let jobs = ["--rw=randread", "--bs=512", "--size=1m", "--iodepth=16"];
            fio(&disk.path, &jobs);
            if bytes(&old) > 0 {
                break;
            }
        }
        assert!(bytes(&old) > 4 << 20, "{} bytes", bytes(&old));
        assert!(bytes(&path) < 4 << 20, "{} bytes", bytes(&path));
        let text = fs::read_to_string(&old).expect("text");
        assert!(
            text.starts_with("20") && text.ends_with('\n'),
            "whole lines"
        );
        disk.del();
    });
}

#[test]
fn a_data_plane_that_dies_before_its_time_leaves_nothing() {
    in_bed(&Machine::default(), || {
        let guest = paths::guest("faulty").display().to_string();
        let mut add = Command::new(paths::wasmblk());
        add.args(["add", &guest, "--set", "open=spin"]);
        let add = add.stderr(Stdio::piped()).spawn().expect("wasmblk runs");
        let confined = |pid: &u32| status(&pid.to_string(), "Seccomp") == "2";
        let found = || processes().into_iter().find(confined);
        wait_until("the guest is being opened", || found().is_some());
        let pid = found().expect("it spins").to_string();
        run("kill", &["-KILL", &pid]);
        let output = add.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            text.contains("ended before it was ready: signal: 9"),
            "{text}"
        );
        nothing_left();
    });
}

#[test]
fn a_debugger_may_ask_for_more() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &["--no-confine"]);
        let pid = disk.info("/pid");
        assert_eq!(status(&pid, "Seccomp"), "0");
        assert_eq!(disk.info("/confinement"), "[]");
        assert_ne!(status(&pid, "CapEff"), NO_CAPABILITIES);
        disk.del();
    });
}

#[test]
fn doctor_says_what_is_on() {
    in_bed(&Machine::default(), || {
        let text = must(&["doctor"]);
        for line in [
            "ok    mounts",
            "ok    capabilities",
            "ok    no-new-privs",
            "warn  landlock",
            "ok    write-execute",
            "ok    seccomp",
        ] {
            assert!(text.contains(line), "no '{line}' in:\n{text}");
        }
    });
}
