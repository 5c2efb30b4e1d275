//! Stores: what an operator grants, and what guests do with it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, fio, run, wasmblk};
use tests::uml::Machine;
use tests::{null_blk, paths};
use wasmblk::block::{Backend, Errno};
use wasmblk::sys::AlignedBytes;

use crate::direct::Direct;

#[test]
fn a_file_is_passed_through() {
    let backing = Backing::new("passed", 1 << 20);
    let mut disk = Direct::open_with("file", &[], &[backing.grant("data", "")]).expect("it opens");
    assert_eq!(disk.geometry.size_bytes, 1 << 20);
    let data: Vec<u8> = (0..=250).cycle().take(300 << 10).collect();
    disk.write(8192, &data, false).expect("write");
    let mut back = vec![1; data.len()];
    disk.read(8192, &mut back).expect("read");
    assert!(back == data);
    assert!(backing.content()[8192..][..data.len()] == data);
    disk.write(0, &data[..512], true).expect("a durable write");
    disk.write_zeroes(16384, 8192, false).expect("write-zeroes");
    disk.write_zeroes(32768, 8192, true).expect("write-zeroes");
    disk.discard(65536, 65536).expect("discard");
    disk.flush().expect("flush");
    let content = backing.content();
    assert!(content[..512] == data[..512]);
    for (at, bytes) in [(16384, 8192), (32768, 8192), (65536, 65536)] {
        assert!(content[at..][..bytes].iter().all(|byte| *byte == 0), "{at}");
    }
    assert_eq!(content.len(), 1 << 20, "its size stays");
}

#[test]
fn a_direct_store_takes_whole_blocks() {
    let backing = Backing::new("direct", 1 << 20);
    let open = |how: &str, options: &[(&str, &str)]| {
        let disk = Direct::open_with("file", options, &[backing.grant("data", how)]);
        disk.expect("it opens").geometry.logical_block_bytes
    };
    assert_eq!(open("", &[]), 512);
    assert_eq!(open("", &[("block", "1K")]), 1024);
    assert_eq!(open(":direct", &[]), 4096);
    assert_eq!(open(":direct", &[("block", "512")]), 4096);
    let mut disk =
        Direct::open_with("file", &[], &[backing.grant("data", ":direct")]).expect("again");
    disk.write(8192, &[7; 8192], true).expect("write");
    let mut back = [1; 4096];
    disk.read(12288, &mut back).expect("read");
    assert_eq!(back, [7; 4096]);
    disk.read(16384, &mut back).expect("read");
    assert_eq!(back, [0; 4096]);
}

#[test]
fn a_guest_in_c_uses_a_store() {
    let backing = Backing::new("in-c", 1 << 20);
    let open = || Direct::open_with("file-c", &[], &[backing.grant("data", "")]);
    let mut disk = open().expect("it opens");
    let data: Vec<u8> = (0..=250).cycle().take(300 << 10).collect();
    disk.write(8192, &data, true).expect("write");
    drop(disk);
    let mut back = vec![1; data.len()];
    open().expect("again").read(8192, &mut back).expect("read");
    assert!(back == data);
    let error = Direct::open("file-c", &[]).err().expect("it needs one");
    assert!(
        error.chain().contains("--store data=PATH"),
        "{}",
        error.chain()
    );
}

#[test]
fn stores_are_refused_with_the_remedy() {
    let small = Backing::new("small", 100);
    let folder = std::env::temp_dir();
    for (grants, says) in [
        (vec![], "give --store data=PATH"),
        (vec!["data".to_owned()], "expected NAME=PATH"),
        (vec!["=x".to_owned()], "the name is not"),
        (vec!["data=".to_owned()], "there is no path"),
        (vec!["data=:ro".to_owned()], "there is no path"),
        (vec!["data=/nowhere/disk".to_owned()], "make it first"),
        (vec![small.grant("data", "")], "at least 512"),
        (
            vec![format!("data={}:ro", folder.display())],
            "neither a file nor",
        ),
        (
            vec![small.grant("data", ""), small.grant("data", "")],
            "given twice",
        ),
    ] {
        let error = Direct::open_with("file", &[], &grants).err();
        let chain = error
            .unwrap_or_else(|| panic!("{grants:?} is taken"))
            .chain();
        assert!(chain.contains(says), "{grants:?}: {chain}");
    }
}

#[test]
fn a_store_that_would_wait_for_somebody_is_refused() {
    let path = std::env::temp_dir().join(format!("wasmblk-fifo-{}", std::process::id()));
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    let grant = format!("data={}:ro", path.display());
    let error = Direct::open_with("file", &[], &[grant]).err();
    fs::remove_file(&path).expect("it was there");
    let chain = error.expect("it is no disk").chain();
    assert!(
        chain.contains("neither a file nor a block device"),
        "{chain}"
    );
}

#[test]
fn a_store_has_one_writer_or_many_readers() {
    let backing = Backing::new("shared", 1 << 20);
    let (write, read) = (backing.grant("data", ""), backing.grant("data", ":ro"));
    let open = |grant: &String| Direct::open_with("file", &[], std::slice::from_ref(grant));
    let in_use = |grant: &String| {
        let chain = open(grant).err().expect("it is in use").chain();
        assert!(chain.contains("is in use"), "{chain}");
    };
    let writer = open(&write).expect("it opens");
    in_use(&write);
    in_use(&read);
    drop(writer);
    let mut reader = open(&read).expect("it opens");
    let _other = open(&read).expect("both only read");
    in_use(&write);
    assert!(reader.geometry.read_only);
    assert_eq!(reader.write(0, &[1; 512], false), Err(Errno::EROFS));
    reader.read(0, &mut [0; 512]).expect("read");
}

#[test]
fn a_store_that_shrinks_is_an_error_of_its_requests() {
    let backing = Backing::new("shrinks", 1 << 20);
    let mut disk = Direct::open_with("file", &[], &[backing.grant("data", "")]).expect("it opens");
    disk.write(0, &[7; 4096], false).expect("write");
    backing.file().set_len(8192 + 700).expect("truncate");
    let mut data = [9; 4096];
    disk.read(0, &mut data).expect("what is there");
    assert_eq!(data, [7; 4096]);
    // It ends in the middle, and behind: never success with bytes that nobody wrote.
    assert_eq!(disk.read(8192, &mut data), Err(Errno::EIO));
    assert_eq!(disk.read(65536, &mut data), Err(Errno::EIO));
    assert!(!disk.health.has_failed(), "the guest is not at fault");
    disk.read(4096, &mut data).expect("what is there");
}

/// Writes and reads all of a disk, in many sizes, and checks what comes back.
fn exercise(disk: &Disk) {
    let jobs = [
        "--rw=randrw",
        "--bsrange=4k-256k",
        "--size=32m",
        "--iodepth=32",
    ];
    fio(&disk.path, &[&jobs[..], &["--verify=crc32c"]].concat());
    let jobs = ["--rw=write", "--bs=1m", "--size=32m", "--iodepth=8"];
    fio(
        &disk.path,
        &[&jobs[..], &["--verify=crc32c", "--fsync=4"]].concat(),
    );
    assert_eq!(disk.info("/state"), "live");
}

#[test]
fn over_ublk_a_file_is_passed_through() {
    in_bed(&Machine::default(), || {
        for how in ["", ":direct"] {
            for data_path in ["zero-copy", "copy"] {
                let backing = Backing::new("bed", 32 << 20);
                let grant = backing.grant("data", how);
                let words = ["--store", &grant, "--data-path", data_path];
                let disk = Disk::add("file", &words);
                assert_eq!(disk.info("/data_path"), data_path);
                exercise(&disk);
                assert_eq!(disk.info("/stats/copied_bytes"), "0");
                disk.del();
                assert!(backing.content().iter().any(|byte| *byte != 0));
            }
        }
    });
}

#[test]
fn parts_of_a_disk_s_blocks_become_zeros() {
    in_bed(&Machine::default(), || {
        let attributes = [
            ("size", "64"),
            ("memory_backed", "1"),
            ("discard", "1"),
            ("blocksize", "4096"),
        ];
        let node = null_blk::make("large", &attributes).expect("a disk");
        let grant = format!("data={}", node.display());
        let mut disk = Direct::open_with("file", &[], &[grant]).expect("it opens");
        assert_eq!(disk.geometry.logical_block_bytes, 512);
        disk.write(0, &[7; 16384], false).expect("write");
        disk.write_zeroes(512, 1024, false).expect("write-zeroes");
        disk.write_zeroes(4608, 4096, true).expect("write-zeroes");
        disk.discard(9216, 512)
            .expect("a discard of less than a block");
        let mut back = [1; 16384];
        disk.read(0, &mut back).expect("read");
        for (at, byte) in back.iter().enumerate() {
            let zero = (512..1536).contains(&at) || (4608..8704).contains(&at);
            assert_eq!(*byte, if zero { 0 } else { 7 }, "at {at}");
        }
        let words = ["--store", &format!("data={}", node.display())];
        drop(disk);
        for data_path in ["zero-copy", "copy"] {
            let disk = Disk::add("file", &[&words[..], &["--data-path", data_path]].concat());
            let zero = ["--offset", "512", "--length", "512", "--zeroout"];
            let node = disk.path.display().to_string();
            run("blkdiscard", &[&zero[..], &[&node]].concat());
            disk.del();
        }
    });
}

#[test]
fn a_guest_that_looks_at_data_cannot_have_zero_copy() {
    in_bed(&Machine::default(), || {
        let memory = paths::guest("memory").display().to_string();
        let reply = wasmblk(&[
            "add",
            &memory,
            "--set",
            "size=1M",
            "--data-path",
            "zero-copy",
        ]);
        assert_eq!(reply.code, 2, "{}", reply.stderr);
        assert!(
            reply.stderr.contains("looks at the data"),
            "{}",
            reply.stderr
        );
        let disk = Disk::add("memory", &["--set", "size=1M"]);
        assert_eq!(disk.info("/data_path"), "copy");
        disk.del();
    });
}

#[test]
fn over_ublk_data_is_filled_and_copied_in_zero_copy() {
    in_bed(&Machine::default(), || {
        // Reads are filled with zeros by the guest's word, and nothing that others wrote shows.
        let disk = Disk::add("rogue", &["--set", "data=host", "--set", "size=16M"]);
        assert_eq!(disk.info("/data_path"), "zero-copy");
        let jobs = ["--rw=randread", "--bs=64k", "--size=16m", "--iodepth=16"];
        fio(
            &disk.path,
            &[&jobs[..], &["--verify=pattern", "--verify_pattern=0"]].concat(),
        );
        disk.del();
        // One that is not filled, or only half, is an error, and the end of the guest.
        for lie in [
            "not-filled",
            "half-filled",
            "same-half-twice",
            "fill-another",
        ] {
            let words = format!("lie={lie}");
            let disk = Disk::add("rogue", &["--set", "data=host", "--set", &words]);
            let mut data = [1; 4096];
            let read = File::open(&disk.path)
                .expect("it opens")
                .read_at(&mut data, 0);
            assert!(read.is_err(), "{lie}");
            assert_eq!(disk.info("/state"), "failed", "{lie}");
            disk.del();
        }
    });
}

#[test]
fn a_store_that_is_full_or_gone_is_an_errno() {
    in_bed(&Machine::default(), || {
        let folder = Path::new("/tmp/small");
        fs::create_dir(folder).expect("a folder");
        let mount = ["-t", "tmpfs", "-o", "size=2m", "small", "/tmp/small"];
        let mounted = Command::new("mount").args(mount).status();
        assert!(mounted.expect("mount runs").success());
        let path = folder.join("disk");
        let file = File::create(&path).expect("a file");
        file.set_len(8 << 20).expect("a sparse file");
        for data_path in ["zero-copy", "copy"] {
            let store = format!("data={}", path.display());
            let disk = Disk::add("file", &["--store", &store, "--data-path", data_path]);
            let mut options = File::options();
            options.read(true).write(true).custom_flags(libc::O_DIRECT);
            let node = options.open(&disk.path).expect("it opens");
            let mut blocks = AlignedBytes::new(1 << 20).expect("memory");
            let data = blocks.bytes_mut();
            data.fill(7);
            node.write_all_at(data, 0).expect("there is room");
            let writes = (1..8).map(|at| node.write_all_at(data, at << 20));
            let error = writes.filter_map(Result::err).next();
            let number = error.expect("two of eight fit").raw_os_error();
            assert_eq!(number, Some(libc::ENOSPC), "{data_path}");
            assert_eq!(disk.info("/state"), "live");
            // What is cut off is an error, never what nobody wrote.
            file.set_len(4096).expect("truncate");
            data.fill(0);
            let (first, rest) = data.split_at_mut(4096);
            node.read_exact_at(first, 0).expect("what is there");
            assert!(first.iter().all(|byte| *byte == 7));
            assert!(node.read_at(&mut rest[..4096], 1 << 20).is_err());
            drop(node);
            disk.del();
            file.set_len(8 << 20).expect("sparse again");
        }
    });
}
