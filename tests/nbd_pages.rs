//! Large reads of a file that is in the system's cache: its pages go to the client, and nobody copies them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use tests::backing::Backing;
use tests::disk::wait_until;

use crate::nbd_server::{Framing, Raw, Server, content, extended, number, request};

const READ: u16 = 0;
const WRITE: u16 = 1;

const BYTES: usize = 8 << 20;

/// A server of a file, with the file's content.
fn serve(name: &str) -> (Server, Backing, Vec<u8>) {
    let backing = Backing::new(name, BYTES as u64);
    let data = content(BYTES);
    let file = File::options()
        .write(true)
        .open(backing.path())
        .expect("it is there");
    file.write_all_at(&data, 0).expect("write");
    let server = Server::start("file", &["--store", &backing.grant("data", "")]);
    (server, backing, data)
}

/// How many pipes a server has open: they are there from the first such read on.
fn pipes(server: &Server) -> usize {
    let folder = format!("/proc/{}/fd", server.process.id());
    let links = fs::read_dir(folder).expect("it runs").flatten();
    let names: BTreeSet<_> = links
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|link| link.to_string_lossy().starts_with("pipe:"))
        .collect();
    names.len()
}

/// Receives reads until all are whole, and holds them against what is there.
fn check(client: &mut Raw, reads: &[(u64, u64)], data: &[u8]) {
    let mut left = reads.len();
    while left > 0 {
        let chunk = client.chunk();
        assert_eq!(chunk.kind, 1, "data: {:?}", chunk.data);
        let at = usize::try_from(number(&chunk.data, 0, 8)).expect("an offset");
        let bytes = &chunk.data[8..];
        let (begin, length) = reads[usize::try_from(chunk.cookie).expect("a cookie")];
        assert!(at as u64 >= begin && (at + bytes.len()) as u64 <= begin + length);
        assert!(
            bytes == &data[at..at + bytes.len()],
            "{} bytes at {at}",
            bytes.len()
        );
        left -= usize::from(chunk.flags & 1 == 1);
    }
}

/// Reads of many lengths, from anywhere.
fn reads() -> Vec<(u64, u64)> {
    let lengths = [
        512_u64,
        4096,
        32 << 10,
        (32 << 10) + 512,
        128 << 10,
        200 << 10,
        1 << 20,
    ];
    let places = (0..40_u64).map(|number| number * 198_144 % (7 << 20));
    places.zip(lengths.into_iter().cycle()).collect()
}

fn ask(reads: &[(u64, u64)]) -> Vec<u8> {
    let reads = (0..).zip(reads);
    reads
        .flat_map(|(cookie, &(offset, length))| extended(0, READ, cookie, offset, length))
        .collect()
}

#[test]
fn they_are_what_is_there() {
    let (server, _backing, mut data) = serve("pages");
    let before = pipes(&server);
    let mut clients: Vec<Raw> = (0..3)
        .map(|_| Raw::ready(&server, Framing::Extended))
        .collect();
    let reads = reads();
    for _ in 0..5 {
        for client in &mut clients {
            client.send(&ask(&reads));
        }
        for client in &mut clients {
            check(client, &reads, &data);
        }
    }
    assert!(pipes(&server) > before, "they were copied");
    // What was written is there for whoever reads next.
    let mut writer = Raw::ready(&server, Framing::Simple);
    for round in 1..=20_u8 {
        let new = vec![round; 256 << 10];
        writer.send(&request(WRITE, 1, 1 << 20, 256 << 10));
        writer.send(&new);
        assert_eq!(writer.simple_error(), 0);
        data[1 << 20..][..256 << 10].copy_from_slice(&new);
        let read = [(1 << 20, 256 << 10)];
        clients[0].send(&ask(&read));
        check(&mut clients[0], &read, &data);
    }
    server.end();
}

#[test]
fn who_does_not_read_gets_them_later_and_leaves_room_for_others() {
    let (server, _backing, data) = serve("pages-later");
    // Once somebody is served, all is open that stays so.
    let mut client = Raw::ready(&server, Framing::Extended);
    let before = server.open_files() - pipes(&server) * 2;
    // Together they hold more than there is, and each of them is in the middle of a range.
    let reads: Vec<(u64, u64)> = (0..60)
        .map(|number| (number * 1536 % (1 << 20), 128 << 10))
        .collect();
    let mut deaf: Vec<Raw> = (0..6)
        .map(|_| Raw::ready(&server, Framing::Extended))
        .collect();
    for client in &mut deaf {
        client.send(&ask(&reads));
    }
    server.qemu_io(&[], &["read 0 4M", "read 1M 1M"]);
    for client in &mut deaf {
        check(client, &reads, &data);
    }
    // Clients that go in the middle of it leave nothing behind.
    for client in &mut deaf {
        client.send(&ask(&reads));
    }
    server.qemu_io(&[], &["read 0 4M"]);
    drop(deaf);
    wait_until("their sockets are closed", || {
        server.open_files() - pipes(&server) * 2 <= before
    });
    client.send(&ask(&reads));
    check(&mut client, &reads, &data);
    server.end();
}

#[test]
fn a_file_that_was_cut_short_is_read_as_by_small_reads() {
    let (server, backing, data) = serve("pages-short");
    let file = File::options()
        .write(true)
        .open(backing.path())
        .expect("it is there");
    file.set_len(1 << 20).expect("it is cut");
    drop(file);
    let mut client = Raw::ready(&server, Framing::Simple);
    let mut read = |offset: u64, length: u32| {
        client.send(&request(READ, 1, offset, length));
        let error = client.simple_error();
        let bytes = if error == 0 { length as usize } else { 0 };
        (error, client.receive(bytes))
    };
    let (small, large) = (read(2 << 20, 4096), read(2 << 20, 128 << 10));
    assert_eq!(small.0, large.0);
    assert!(small.1.iter().chain(&large.1).all(|byte| *byte == 0));
    // Across the end, and before it.
    let (error, bytes) = read((1 << 20) - (64 << 10), 128 << 10);
    assert_eq!(error, large.0);
    if error == 0 {
        assert!(bytes[..64 << 10] == data[(1 << 20) - (64 << 10)..1 << 20]);
        assert!(bytes[64 << 10..].iter().all(|byte| *byte == 0));
    }
    assert!(read(0, 128 << 10).1 == data[..128 << 10]);
    server.end();
}

#[test]
fn what_is_not_in_the_cache_is_read_all_the_same() {
    let (server, backing, data) = serve("pages-cold");
    let file = File::options()
        .read(true)
        .write(true)
        .open(backing.path())
        .expect("it is there");
    file.sync_all().expect("flush");
    let mut client = Raw::ready(&server, Framing::Extended);
    let reads = reads();
    for _ in 0..3 {
        // A wish: not every file system grants it.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a wish");
        client.send(&ask(&reads));
        check(&mut client, &reads, &data);
    }
    let _ = (&file).flush();
    server.end();
}
