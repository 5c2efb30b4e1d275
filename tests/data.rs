//! What is written is read back: by size, depth, queue and kind of request.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use tests::bed::in_bed;
use tests::disk::{Disk, fio, must, run};
use tests::uml::Machine;

fn open(disk: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .expect("the disk opens")
}

fn bytes_at(disk: &Path, offset: u64, length: usize) -> Vec<u8> {
    // What the kernel has cached says nothing about the guest.
    run("blockdev", &["--flushbufs", disk.to_str().expect("ASCII")]);
    let mut file = open(disk);
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(offset)).expect("seek");
    file.read_exact(&mut bytes).expect("read");
    bytes
}

#[test]
fn every_block_size_verifies() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=64M"]);
        for (size, how) in [
            ("512", "randwrite"),
            ("4k", "randwrite"),
            ("128k", "write"),
            ("1m", "write"),
        ] {
            let amount = if size == "512" {
                "--io_size=2m"
            } else {
                "--io_size=32m"
            };
            let (rw, bs) = (format!("--rw={how}"), format!("--bs={size}"));
            fio(
                &disk.path,
                &[
                    &rw,
                    &bs,
                    amount,
                    "--size=64m",
                    "--iodepth=16",
                    "--verify=crc32c",
                ],
            );
        }
        fio(
            &disk.path,
            &[
                "--rw=randrw",
                "--bsrange=512-1m",
                "--io_size=64m",
                "--size=64m",
                "--iodepth=32",
                "--verify=crc32c",
            ],
        );
        assert_eq!(disk.info("/stats/errors"), "0");
        disk.del();
    });
}

#[test]
fn every_depth_verifies() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=32M", "--depth", "64"]);
        for depth in [1, 2, 8, 32, 64] {
            let depth = format!("--iodepth={depth}");
            fio(
                &disk.path,
                &[
                    "--rw=randwrite",
                    "--bs=4k",
                    "--io_size=8m",
                    "--size=32m",
                    &depth,
                    "--verify=crc32c",
                    "--iodepth_batch_submit=16",
                    "--iodepth_batch_complete_max=16",
                ],
            );
        }
        let batch: u64 = disk.info("/stats/batch_max").parse().expect("a number");
        assert!(
            batch > 1,
            "requests that arrive together are answered together"
        );
        disk.del();
    });
}

#[test]
fn two_queues_of_one_instance_verify() {
    let machine = Machine {
        processors: 2,
        ..Machine::default()
    };
    in_bed(&machine, || {
        let disk = Disk::add("memory", &["--set", "size=64M", "--queues", "2"]);
        assert_eq!(disk.info("/queues"), "2");
        assert_eq!(disk.info("/workers"), "1", "this guest is 'single'");
        fio(
            &disk.path,
            &[
                "--rw=randwrite",
                "--bs=4k",
                "--size=16m",
                "--io_size=8m",
                "--iodepth=16",
                "--numjobs=2",
                "--offset_increment=16m",
                "--cpus_allowed=0,1",
                "--cpus_allowed_policy=split",
                "--verify=crc32c",
            ],
        );
        disk.del();
    });
}

#[test]
fn replicated_guest_has_a_worker_per_queue() {
    let machine = Machine {
        processors: 2,
        ..Machine::default()
    };
    in_bed(&machine, || {
        let disk = Disk::add("null", &["--queues", "2"]);
        assert_eq!(disk.info("/workers"), "2");
        fio(
            &disk.path,
            &[
                "--rw=randrw",
                "--bs=4k",
                "--size=64m",
                "--io_size=4m",
                "--iodepth=16",
                "--numjobs=2",
                "--cpus_allowed=0,1",
                "--cpus_allowed_policy=split",
            ],
        );
        assert_eq!(disk.info("/stats/errors"), "0");
        disk.del();
    });
}

#[test]
fn discard_and_write_zeroes_read_back_as_zeros() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=16M"]);
        assert_eq!(disk.queue("discard_granularity"), "65536");
        let data = vec![0xa5; 4 << 20];
        open(&disk.path).write_all(&data).expect("write");
        run("sync", &[]);
        // Discarded chunks read as zeros with this guest; their neighbours stay.
        run("blkdiscard", &["-o", "1M", "-l", "1M", disk.node()]);
        // Zeros by the device, with and without leave to give the space back.
        run("blkdiscard", &["-z", "-o", "2M", "-l", "512K", disk.node()]);
        run("fallocate", &["-p", "-o", "3M", "-l", "512K", disk.node()]);
        let now = bytes_at(&disk.path, 0, 4 << 20);
        let is =
            |from: usize, to: usize, byte: u8| now[from << 10..to << 10].iter().all(|&b| b == byte);
        assert!(is(0, 1024, 0xa5) && is(1024, 2048, 0), "discard");
        assert!(is(2048, 2560, 0) && is(2560, 3072, 0xa5), "write zeroes");
        assert!(is(3072, 3584, 0) && is(3584, 4096, 0xa5), "punched hole");
        assert_ne!(disk.info("/stats/discards"), "0");
        assert_ne!(disk.info("/stats/write_zeroes"), "0");
        disk.del();
    });
}

#[test]
fn a_guest_without_trim_offers_none() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("faulty", &[]);
        assert_eq!(disk.queue("discard_max_bytes"), "0");
        assert_eq!(disk.queue("write_zeroes_max_bytes"), "0");
        disk.del();
    });
}

#[test]
fn fsync_reaches_the_guest_and_fua_becomes_a_flush() {
    in_bed(&Machine::default(), || {
        // Four functions, nothing claimed: a volatile cache, and FUA made by the host.
        let disk = Disk::add("faulty", &[]);
        assert_eq!(disk.queue("write_cache"), "write back");
        assert_eq!(disk.queue("fua"), "1");
        assert_eq!(disk.info("/fua"), "flush after write");
        let mut file = open(&disk.path);
        file.write_all(&[1; 4096]).expect("write");
        file.sync_all().expect("fsync");
        let flushes: u64 = disk.info("/stats/flushes").parse().expect("a number");
        assert!(flushes > 0, "fsync is a flush");
        drop(file);
        disk.del();
        // The second flush fails, and only FUA asks this disk for one.
        let disk = Disk::add("faulty", &["--set", "error-every=3"]);
        let write = |_| {
            run(
                "dd",
                &[
                    "if=/dev/zero",
                    &format!("of={}", disk.node()),
                    "bs=4k",
                    "count=1",
                    "oflag=direct,dsync",
                    "conv=notrunc",
                ],
            )
        };
        let failed = std::panic::catch_unwind(|| (0..3).for_each(|n| drop(write(n)))).is_err();
        assert!(failed, "the flush of a FUA write failed, so the write did");
        disk.del();
    });
}

#[test]
fn write_through_guest_gets_no_flushes() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=16M"]);
        assert_eq!(disk.queue("write_cache"), "write through");
        let mut file = open(&disk.path);
        file.write_all(&[1; 4096]).expect("write");
        file.sync_all().expect("fsync");
        assert_eq!(disk.info("/stats/flushes"), "0");
        drop(file);
        disk.del();
    });
}

#[test]
fn read_only_device_refuses_writes() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("faulty", &["--set", "claim=read-only"]);
        assert_eq!(run("blockdev", &["--getro", disk.node()]).trim(), "1");
        let written = OpenOptions::new()
            .write(true)
            .open(&disk.path)
            .and_then(|mut file| {
                file.write_all(&[1; 4096])?;
                file.sync_all()
            });
        assert!(written.is_err(), "a read-only disk took a write");
        assert_eq!(bytes_at(&disk.path, 0, 4096), vec![0; 4096]);
        assert_eq!(disk.info("/stats/writes"), "0");
        disk.del();
    });
}

#[test]
fn geometry_is_what_the_kernel_shows() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add(
            "memory",
            &["--set", "size=1G", "--set", "block=4096", "--depth", "32"],
        );
        assert_eq!(
            run("blockdev", &["--getsize64", disk.node()]).trim(),
            (1 << 30).to_string()
        );
        assert_eq!(disk.queue("logical_block_size"), "4096");
        assert_eq!(disk.queue("max_hw_sectors_kb"), "1024");
        assert_eq!(disk.info("/depth"), "32");
        assert_eq!(disk.queue("rotational"), "0");
        disk.del();
        let disk = Disk::add("faulty", &["--set", "claim=rotational", "--set", "size=1M"]);
        assert_eq!(disk.queue("logical_block_size"), "512");
        assert_eq!(disk.queue("rotational"), "1");
        disk.del();
    });
}

#[test]
fn two_devices_at_once_stay_apart() {
    in_bed(&Machine::default(), || {
        let one = Disk::add("memory", &["--set", "size=16M", "--name", "one"]);
        let two = Disk::add("memory", &["--set", "size=16M", "--name", "two"]);
        open(&one.path).write_all(&[1; 65536]).expect("write");
        open(&two.path).write_all(&[2; 65536]).expect("write");
        assert_eq!(bytes_at(&one.path, 0, 65536), vec![1; 65536]);
        assert_eq!(bytes_at(&two.path, 0, 65536), vec![2; 65536]);
        must(&["del", "one"]);
        assert_eq!(bytes_at(&two.path, 0, 65536), vec![2; 65536]);
        two.del();
    });
}
