//! Stores that vanish, break or run full while a device uses them.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::fs::{FallocateFlags, fallocate};
use tests::bed::in_bed;
use tests::disk::{Disk, nothing_left, processes, wait_until, wasmblk};
use tests::null_blk;
use tests::uml::Machine;
use wasmblk::sys::AlignedBytes;

use crate::nbd_server::{Framing, Raw, Server, flagged, request};

/// Opens a disk past the system's cache.
fn open_direct(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    options.open(path).expect("it opens")
}

/// The system's number for an error.
fn number_of<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|why| why.raw_os_error())
}

/// Reads or writes the same place until that fails; gives the errno.
fn use_until_it_fails(path: &Path, at: u64, writes: bool) -> Option<i32> {
    let file = open_direct(path);
    let mut blocks = AlignedBytes::new(64 << 10).expect("memory");
    loop {
        let result = if writes {
            file.write_at(blocks.bytes_mut(), at)
        } else {
            file.read_at(blocks.bytes_mut(), at)
        };
        if result.is_err() {
            return number_of(result);
        }
    }
}

/// All that a client may ask of a disk whose store is gone is EIO, as often as it asks.
fn everything_is_eio(file: &File) {
    let eio = Some(libc::EIO);
    let mut blocks = AlignedBytes::new(8192).expect("memory");
    for at in [0, 4096, 1 << 20] {
        assert_eq!(number_of(file.read_at(blocks.bytes_mut(), at)), eio, "read");
        assert_eq!(
            number_of(file.write_at(blocks.bytes_mut(), at)),
            eio,
            "write"
        );
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let discarded = fallocate(file, hole, at, 1 << 20);
        assert_eq!(discarded, Err(rustix::io::Errno::IO), "discard");
    }
}

/// No process of ours is in a sleep that nothing ends.
fn nobody_hangs() {
    wait_until("nobody hangs", || {
        processes().iter().all(|id| {
            let threads = fs::read_dir(format!("/proc/{id}/task"));
            let threads = threads.into_iter().flatten().flatten();
            let mut stats = threads.map(|one| fs::read_to_string(one.path().join("stat")));
            stats.all(|stat| stat.is_ok_and(|stat| !stat.contains(") D ")))
        })
    });
}

fn pull_out_while_it_is_used(name: &str, how: &str, data_path: &str, cached: bool) {
    // With a cache of its own, a disk has to be flushed.
    let cache = if cached { "1" } else { "0" };
    let attributes = [
        ("size", "16"),
        ("memory_backed", "1"),
        ("discard", "1"),
        ("cache_size", cache),
    ];
    let node = null_blk::make(name, &attributes).expect("a disk");
    let store = format!("data={}{how}", node.display());
    let disk = Disk::add("file", &["--store", &store, "--data-path", data_path]);
    let file = open_direct(&disk.path);
    file.sync_data().expect("it is there");
    let path = disk.path.clone();
    let users: Vec<_> = (0..4_u64)
        .map(|number| {
            let path: PathBuf = path.clone();
            thread::spawn(move || use_until_it_fails(&path, number << 20, number % 2 == 0))
        })
        .collect();
    wait_until("it is used", || disk.info("/stats/writes") != "0");
    null_blk::pull_out(name).expect("it is there");
    for user in users {
        assert_eq!(user.join().expect("it ends"), Some(libc::EIO));
    }
    everything_is_eio(&file);
    for _ in 0..3 {
        assert_eq!(number_of(file.sync_data()), Some(libc::EIO), "flush");
    }
    // The guest is not to blame, and who looks for the cause finds the device there.
    assert_eq!(disk.info("/state"), "live");
    assert_ne!(disk.info("/stats/errors"), "0");
    nobody_hangs();
    drop(file);
    let reply = wasmblk(&["del", &disk.id]);
    assert_ne!(reply.code, 0);
    let says = reply.stderr.contains("the last flush failed: EIO");
    assert!(says, "{}", reply.stderr);
    assert!(!disk.path.exists());
    nothing_left();
}

#[test]
fn a_disk_that_is_pulled_out_is_an_errno() {
    in_bed(&Machine::default(), || {
        let mut number = 0;
        for data_path in ["zero-copy", "copy"] {
            for how in ["", ":direct"] {
                for cached in [false, true] {
                    number += 1;
                    let name = format!("pulled{number}");
                    pull_out_while_it_is_used(&name, how, data_path, cached);
                }
            }
        }
    });
}

/// A disk with its bytes in memory.
fn disk_in_memory(name: &str) -> PathBuf {
    null_blk::make(name, &[("size", "16"), ("memory_backed", "1")]).expect("a disk")
}

/// Where a disk of 256 KiB has a hole: nothing was written there, and it cannot be read.
const HOLE: Range<usize> = 224 << 10..228 << 10;
const END: usize = 256 << 10;

/// Writes around the hole and has it fail: what has a part of it is an error, and all else is there.
fn read_around_a_hole(disk: Disk, spoil: impl Fn()) {
    let file = open_direct(&disk.path);
    let mut blocks = AlignedBytes::new(END).expect("memory");
    let data = blocks.bytes_mut();
    data.fill(7);
    for Range { start, end } in [0..HOLE.start, HOLE.end..END] {
        file.write_all_at(&data[start..end], start as u64)
            .expect("write");
    }
    spoil();
    for Range { start, end } in [0..HOLE.start, HOLE.end..END] {
        data.fill(0);
        let part = &mut data[start..end];
        file.read_exact_at(part, start as u64).expect("read");
        assert!(part.iter().all(|byte| *byte == 7));
    }
    for Range { start, end } in [0..END, 192 << 10..END, 0..HOLE.end, HOLE] {
        let read = file.read_at(&mut data[start..end], start as u64);
        assert_eq!(number_of(read), Some(libc::EIO), "{start} to {end}");
    }
    assert_eq!(disk.info("/state"), "live");
    drop(file);
    disk.del();
}

#[test]
fn a_read_that_fails_half_way_is_an_errno() {
    in_bed(&Machine::default(), || {
        let mut count = 0;
        let mut store = |store: &str, how: &str| {
            count += 1;
            let name = format!("torn{count}");
            let node = disk_in_memory(&name);
            (format!("{store}={}{how}", node.display()), name)
        };
        for data_path in ["zero-copy", "copy"] {
            for how in ["", ":direct"] {
                let (grant, name) = store("data", how);
                let words = ["--store", &grant, "--data-path", data_path];
                let spoil = || null_blk::spoil(&name, 448, 455).expect("it is there");
                read_around_a_hole(Disk::add("file", &words), spoil);
                // Here a read has parts of its own, and the hole is in the last.
                let ((a, _), (b, name)) = (store("a", how), store("b", how));
                let legs = ["--set", "stores=a,b", "--set", "chunk=64K"];
                let stores = ["--store", &a, "--store", &b, "--data-path", data_path];
                let disk = Disk::add("stripe", &[&legs[..], &stores].concat());
                let spoil = || null_blk::spoil(&name, 192, 199).expect("it is there");
                read_around_a_hole(disk, spoil);
            }
        }
    });
}

#[test]
fn over_nbd_a_read_that_fails_half_way_is_an_errno() {
    in_bed(&Machine::default(), || {
        for (name, how) in [("torn1", ""), ("torn2", ":direct")] {
            let store = format!("data={}{how}", disk_in_memory(name).display());
            let server = Server::start("file", &["--store", &store]);
            let mut client = Raw::ready(&server, Framing::Simple);
            null_blk::spoil(name, 64, 71).expect("it is there");
            let eio = 5;
            for (at, length, error) in [(0, 64, eio), (0, 32, 0), (36, 28, 0), (0, 1024, eio)] {
                client.send(&request(0, 1, at << 10, length << 10));
                assert_eq!(client.simple_error(), error, "{length} KiB at {at} KiB");
                if error == 0 {
                    client.receive((length as usize) << 10);
                }
            }
            server.end();
        }
    });
}

#[test]
fn what_the_system_could_not_write_is_an_error_of_the_flush() {
    in_bed(&Machine::default(), || {
        for (name, data_path) in [("unwritten1", "zero-copy"), ("unwritten2", "copy")] {
            let store = format!("data={}", disk_in_memory(name).display());
            null_blk::spoil(name, 64, 71).expect("it is there");
            let disk = Disk::add("file", &["--store", &store, "--data-path", data_path]);
            let file = open_direct(&disk.path);
            let mut blocks = AlignedBytes::new(4096).expect("memory");
            file.write_all_at(blocks.bytes_mut(), 0).expect("write");
            file.sync_data().expect("flush");
            file.write_all_at(blocks.bytes_mut(), 32 << 10)
                .expect("the system takes it");
            assert_eq!(number_of(file.sync_data()), Some(libc::EIO));
            assert_eq!(disk.info("/state"), "live");
            drop(file);
            disk.del();
        }
    });
}

#[test]
fn a_pool_that_did_not_flush_takes_no_further_flush() {
    in_bed(&Machine::default(), || {
        let node = disk_in_memory("pool");
        let pool = format!("pool={}", node.display());
        let options = ["--set", "volume=1", "--set", "size=8M", "--store", &pool];
        let disk = Disk::add("thin", &options);
        let file = open_direct(&disk.path);
        let mut blocks = AlignedBytes::new(64 << 10).expect("memory");
        blocks.bytes_mut().fill(7);
        file.write_all_at(blocks.bytes_mut(), 0).expect("write");
        file.sync_data().expect("flush");
        // All but what the pool keeps for itself, and the first chunk.
        null_blk::spoil("pool", 152, 32767).expect("it is there");
        let write = file.write_all_at(blocks.bytes_mut(), 64 << 10);
        write.expect("the system takes it");
        // It tells of what it lost once; the map must not lead there all the same.
        for _ in 0..3 {
            assert_eq!(number_of(file.sync_data()), Some(libc::EIO));
        }
        assert_eq!(disk.info("/state"), "live");
        drop(file);
        let reply = wasmblk(&["del", &disk.id]);
        assert_ne!(reply.code, 0);
        assert!(reply.stderr.contains("flush"), "{}", reply.stderr);
        nothing_left();
        let disk = Disk::add("thin", &options);
        let mut back = vec![1; 128 << 10];
        let file = File::open(&disk.path).expect("it opens");
        file.read_exact_at(&mut back, 0).expect("read");
        let (first, second) = back.split_at(64 << 10);
        assert!(first.iter().all(|byte| *byte == 7), "what was flushed");
        assert!(second.iter().all(|byte| *byte == 0), "what was not");
        drop(file);
        disk.del();
    });
}

/// Writes a MiB; gives the error number.
fn write_mib(client: &mut Raw, at: u64, byte: u8) -> u64 {
    let mut message = request(1, 1, at << 20, 1 << 20);
    message.resize(message.len() + (1 << 20), byte);
    client.send(&message);
    client.simple_error()
}

#[test]
fn over_nbd_a_store_that_is_full_is_an_errno() {
    in_bed(&Machine::default(), || {
        let folder = Path::new("/tmp/small");
        fs::create_dir(folder).expect("a folder");
        let mount = ["-t", "tmpfs", "-o", "size=4m", "small", "/tmp/small"];
        let mounted = Command::new("mount").args(mount).status();
        assert!(mounted.expect("mount runs").success());
        let (path, filler) = (folder.join("disk"), folder.join("filler"));
        let sparse = File::create(&path).and_then(|file| file.set_len(8 << 20));
        sparse.expect("a sparse file");
        fs::write(&filler, vec![1; 2 << 20]).expect("half of it");
        let store = format!("data={}", path.display());
        let server = Server::start("file", &["--store", &store]);
        let mut client = Raw::ready(&server, Framing::Simple);
        let no_space = 28;
        assert_eq!(write_mib(&mut client, 0, 7), 0);
        let errors: Vec<u64> = (1..8).map(|at| write_mib(&mut client, at, 8)).collect();
        assert!(errors.contains(&no_space), "{errors:?}");
        let allowed = errors.iter().all(|error| [0, no_space].contains(error));
        assert!(allowed, "{errors:?}");
        // A durable write that has no room fails as well, and takes nothing with it.
        let mut durable = flagged(1, 1, 1, 7 << 20, 4096);
        durable.resize(durable.len() + 4096, 9);
        client.send(&durable);
        assert_eq!(client.simple_error(), no_space);
        let mut flush = || {
            client.send(&request(3, 1, 0, 0));
            client.simple_error()
        };
        assert_eq!(flush(), 0);
        fs::remove_file(&filler).expect("it is there");
        assert_eq!(write_mib(&mut client, 7, 9), 0);
        client.send(&request(3, 1, 0, 0));
        assert_eq!(client.simple_error(), 0);
        for (at, byte) in [(0, 7), (7, 9)] {
            client.send(&request(0, 1, at << 20, 1 << 20));
            assert_eq!(client.simple_error(), 0);
            assert!(client.receive(1 << 20).iter().all(|found| *found == byte));
        }
        server.end();
        let content = fs::read(&path).expect("it is there");
        assert!(content[..1 << 20].iter().all(|byte| *byte == 7));
        assert!(content[7 << 20..].iter().all(|byte| *byte == 9));
    });
}
