//! A mirror that opens while one of its legs fails.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tests::backing::Backing;
use wasmblk::block::Backend;

use super::open;
use crate::direct::{Direct, Prepared};

const MIRROR: &[(&str, &str)] = &[("legs", "a,b"), ("calm-ms", "1"), ("retry-ms", "0")];
const DEGRADED: &[(&str, &str)] = &[("legs", "a,b"), ("retry-ms", "0"), ("degraded", "yes")];

/// Opens a mirror whose leg is cut to nothing after it was granted, and then is as it was.
fn open_cut(options: &[(&str, &str)], grants: &[String], leg: &File) -> Result<Direct, String> {
    let prepared = Prepared::new("mirror", options, grants);
    let prepared = prepared.unwrap_or_else(|why| panic!("{}", why.chain()));
    let mut content = vec![0; 1 << 20];
    leg.read_exact_at(&mut content, 0).expect("it is read");
    leg.set_len(0).expect("truncate");
    let opened = prepared.direct();
    leg.write_all_at(&content, 0).expect("it is written");
    opened.map_err(|why| why.chain())
}

/// What is there, from whatever leg it is read.
fn expect(disk: &mut Direct, byte: u8) {
    for _ in 0..4 {
        let mut back = [0; 4096];
        disk.read(4096, &mut back).expect("read");
        assert_eq!(back, [byte; 4096]);
    }
}

fn write(disk: &mut Direct, byte: u8) {
    disk.write(4096, &[byte; 4096], true).expect("write");
    expect(disk, byte);
}

#[test]
fn a_mirror_opens_without_a_leg_that_cannot_be_read() {
    for cut in [0, 1] {
        let legs = [Backing::new("a", 1 << 20), Backing::new("b", 1 << 20)];
        let grants = [legs[0].grant("a", ""), legs[1].grant("b", "")];
        let leg = legs[cut].file();
        let refused = |options, leg: &File| {
            let why = open_cut(options, &grants, leg)
                .err()
                .expect("it is refused");
            assert!(why.contains("cannot be read"), "{why}");
            assert!(why.contains("give --set degraded=yes"), "{why}");
        };
        // Nobody knows what it has.
        let why = open_cut(DEGRADED, &grants, &leg)
            .err()
            .expect("there is none");
        assert!(why.contains("cannot be read"), "{why}");
        write(&mut open("mirror", MIRROR, &grants), 1);
        // The other could lack what it has.
        refused(MIRROR, &leg);
        refused(DEGRADED, &leg);
        let mut disk = open("mirror", DEGRADED, &grants[1 - cut..2 - cut]);
        expect(&mut disk, 1);
        write(&mut disk, 2);
        drop(disk);
        // The other has that it lacks nothing.
        let mut disk = open_cut(MIRROR, &grants, &leg).expect("it opens");
        expect(&mut disk, 2);
        write(&mut disk, 3);
        drop(disk);
        // This one lacks it, and does not know.
        refused(MIRROR, &legs[1 - cut].file());
        expect(&mut open("mirror", MIRROR, &grants), 3);
    }
}

/// A leg in memory, which can be made such that it is read and not written.
fn sealable(name: &str) -> (File, String) {
    let memory = memfd_create("leg", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let file = File::from(memory.expect("memory"));
    file.set_len(1 << 20).expect("a file can be long");
    let grant = format!("{name}=/proc/self/fd/{}", file.as_raw_fd());
    (file, grant)
}

#[test]
fn a_mirror_opens_without_a_leg_that_cannot_be_written() {
    for sealed in [0, 1] {
        let (legs, grants): (Vec<File>, Vec<String>) = ["a", "b"].map(sealable).into_iter().unzip();
        let seal = |leg| fcntl_add_seals(leg, SealFlags::WRITE).expect("it is sealed");
        write(&mut open("mirror", MIRROR, &grants), 1);
        seal(&legs[sealed]);
        let mut disk = open("mirror", MIRROR, &grants);
        expect(&mut disk, 1);
        write(&mut disk, 2);
        drop(disk);
        // Again, now that it lacks something.
        expect(&mut open("mirror", MIRROR, &grants), 2);
        seal(&legs[1 - sealed]);
        let none = Direct::open_with("mirror", MIRROR, &grants).err();
        let why = none.expect("there is none").chain();
        assert!(why.contains("cannot be written"), "{why}");
    }
}
