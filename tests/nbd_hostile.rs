//! Clients that mean harm, or have lost their mind: they hurt nobody but themselves.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tests::PATIENCE;
use tests::disk::wait_until;
use wasmblk::nbd::wire::command::{BLOCK_STATUS, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};

use crate::nbd_server::{
    Folder, Framing, Raw, Server, extended, flagged, nbd, number, option, request,
};

const EINVAL: Option<u64> = Some(22);
const ENOSPC: Option<u64> = Some(28);
/// The connection is closed.
const CLOSED: Option<u64> = None;

/// A client that does nothing wrong, beside one that does.
struct Witness(Raw, u8);

impl Witness {
    fn new(server: &Server) -> Witness {
        Witness(Raw::ready(server, Framing::Simple), 0)
    }

    /// Writes, and reads back.
    fn looks(&mut self, why: &str) {
        self.1 = self.1.wrapping_add(1);
        let Witness(client, content) = self;
        client.send(&request(WRITE, 1, 512, 4096));
        client.send(&[*content; 4096]);
        assert_eq!(client.simple_error(), 0, "{why}");
        client.send(&request(READ, 2, 512, 4096));
        assert_eq!(client.simple_error(), 0, "{why}");
        assert!(client.receive(4096) == [*content; 4096], "{why}");
    }
}

/// Everything that a client says from the first byte to the last, with each kind of message.
fn conversation() -> Vec<u8> {
    let context = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
    [
        vec![0, 0, 0, 3],
        option(3, b""),
        option(8, b""),
        option(10, context),
        option(7, b"\0\0\0\0\0\x01\0\x03"),
        request(WRITE, 1, 8192, 512),
        vec![0xa5; 512],
        flagged(1, WRITE, 2, 8192, 16),
        vec![0xa5; 16],
        request(READ, 3, 0, 65536),
        request(FLUSH, 4, 0, 0),
        request(TRIM, 5, 8192, 4096),
        request(WRITE_ZEROES, 6, 8192, 4096),
        request(BLOCK_STATUS, 7, 0, 4096),
        request(READ, 8, 0, 8 << 20),
        request(2, 9, 0, 0),
    ]
    .concat()
}

#[test]
fn a_client_may_leave_after_every_byte() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut witness = Witness::new(&server);
    let before = server.open_files();
    let all = conversation();
    let socket = server.folder.path("socket");
    for end in 0..=all.len() {
        let mut client = Raw::try_connect(&socket).expect("there is a place");
        // The server may have had enough before the end.
        let _ = client.0.write_all(&all[..end]);
        match end % 3 {
            0 => drop(client),
            1 => {
                client.0.set_nonblocking(true).expect("a socket");
                let _ = client.0.read(&mut [0; 100]);
            }
            _ => {
                client.drain();
            }
        }
        if end % 50 == 0 {
            witness.looks("while others leave");
        }
    }
    witness.looks("when all have left");
    wait_until("nothing is left open", || server.open_files() == before);
    server.end();
}

#[test]
fn requests_that_cannot_be_are_answered_or_end_the_connection() {
    const MAX: u32 = u32::MAX;
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut witness = Witness::new(&server);
    let end = 8 << 20;
    for (flags, command, offset, length, payload, expected) in [
        (0, READ, 0, 0, 0, EINVAL),
        (0, READ, 0, MAX, 0, EINVAL),
        (0, READ, 0, MAX - 511, 0, EINVAL),
        (0, READ, u64::MAX, 1, 0, EINVAL),
        (0, READ, u64::MAX - 511, 512, 0, EINVAL),
        (0, READ, u64::MAX - 511, MAX, 0, EINVAL),
        (0, READ, end, 512, 0, EINVAL),
        (0, READ, end - 512, 1024, 0, EINVAL),
        (0, READ, 1 << 63, 512, 0, EINVAL),
        (0, WRITE, 0, 0, 0, EINVAL),
        (0, WRITE, 0, MAX, 0, CLOSED),
        (0, WRITE, 0, (32 << 20) + 512, 0, CLOSED),
        (0, WRITE, 0, 32 << 20, 32 << 20, ENOSPC),
        (0, WRITE, u64::MAX, 512, 512, EINVAL),
        (0, WRITE, u64::MAX - 511, 1024, 1024, ENOSPC),
        (0, WRITE, end - 512, 1024, 1024, ENOSPC),
        (0, WRITE, 0, 100, 100, EINVAL),
        (0xffff, WRITE, 0, 512, 512, EINVAL),
        (1 << 5, WRITE, 0, 512, 512, EINVAL),
        (0xffff, READ, 0, 512, 0, EINVAL),
        (1 << 2, READ, 0, 512, 0, EINVAL),
        (0, TRIM, 0, MAX, 0, EINVAL),
        (0, TRIM, 0, MAX - 511, 0, EINVAL),
        (0, TRIM, u64::MAX - 511, MAX - 511, 0, EINVAL),
        (0, WRITE_ZEROES, 0, 0, 0, EINVAL),
        (0, WRITE_ZEROES, end, MAX - 511, 0, ENOSPC),
        (0x8000, FLUSH, 0, 0, 0, EINVAL),
        (0, FLUSH, u64::MAX, MAX, 0, Some(0)),
        (0, BLOCK_STATUS, 0, 512, 0, EINVAL),
        (0, 5, 0, 0, 0, EINVAL),
        (0, 8, 0, 512, 0, EINVAL),
        (0, 0xffff, u64::MAX, MAX, 0, EINVAL),
    ] {
        let case = format!("{flags:#x} {command} {offset} {length}");
        let mut client = Raw::ready(&server, Framing::Simple);
        client.send(&flagged(flags, command, 7, offset, length));
        client.send(&vec![0xff; payload]);
        let Some(error) = expected else {
            assert!(client.is_closed(), "{case}");
            witness.looks(&case);
            continue;
        };
        assert_eq!(client.simple_error(), error, "{case}");
        client.send(&request(READ, 8, 0, 512));
        assert_eq!(client.simple_error(), 0, "after {case}");
        assert_eq!(client.receive(512), [0; 512], "nothing was written");
        witness.looks(&case);
    }
    server.end();
}

#[test]
fn what_is_no_message_ends_the_connection() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut witness = Witness::new(&server);
    let long = |code| [&option(code, b"")[..12], &0xffff_ffff_u32.to_be_bytes()].concat();
    let mut other_magic = option(7, &[0; 6]);
    other_magic[7] ^= 1;
    for bytes in [long(7), long(99), other_magic, vec![0xff; 200_000]] {
        let mut client = Raw::connect(&server);
        let _ = client.0.write_all(&bytes);
        assert!(client.is_closed());
        witness.looks("haggling");
    }
    for flags in [[0, 0, 0, 0], [0, 0, 0, 2], [0x80, 0, 0, 3], [0xff; 4]] {
        let mut client = Raw::try_connect(&server.folder.path("socket")).expect("it listens");
        client.send(&flags);
        assert!(client.is_closed(), "{flags:?}");
    }
    for (framing, bytes) in [
        (Framing::Simple, extended(0, READ, 1, 0, 512)),
        (Framing::Structured, extended(0, READ, 1, 0, 512)),
        (Framing::Extended, extended(0, WRITE, 1, 0, 1 << 40)),
        (Framing::Extended, extended(1 << 5, TRIM, 1, 0, u64::MAX)),
        (Framing::Simple, vec![0; 28]),
    ] {
        let mut client = Raw::ready(&server, framing);
        client.send(&bytes);
        assert!(client.is_closed(), "{framing:?}");
        witness.looks("garbage");
    }
    // Options that nobody knows are answered, and the haggling goes on.
    let mut client = Raw::connect(&server);
    for code in [0, 4, 12, 99, 0xffff_ffff] {
        assert_eq!(client.haggle(code, &[7; 1000]).0, 1 << 31 | 1, "ERR_UNSUP");
    }
    assert_eq!(client.haggle(7, &[0; 6]).0, 1);
    server.end();
}

#[test]
fn overlapping_requests_leave_whole_blocks() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut clients: Vec<Raw> = (0..4)
        .map(|_| Raw::ready(&server, Framing::Simple))
        .collect();
    for round in 0..20_u8 {
        for (client, content) in clients.iter_mut().zip(1_u8..) {
            client.send(&request(WRITE, 1, 0, 2 << 20));
            client.send(&vec![round * 4 + content; 2 << 20]);
            client.send(&request(READ, 2, 0, 2 << 20));
        }
        for client in &mut clients {
            assert_eq!(client.simple_error(), 0);
            assert_eq!(client.simple_error(), 0);
            let data = client.receive(2 << 20);
            let whole = |block: &[u8]| block.iter().all(|byte| *byte == block[0]);
            assert!(data.chunks(512).all(whole), "no block is of two writes");
            assert!(data[0] > round * 4 && data[0] <= round * 4 + 4);
        }
    }
    server.end();
}

#[test]
fn clients_that_never_read_stop_only_themselves() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut witness = Witness::new(&server);
    let before = server.open_files();
    // Together they could hold far more slots than there are; small replies hold as many as large ones.
    let mut deaf = Vec::new();
    for (count, length) in [(200_u64, 1 << 20), (20_000, 512)].repeat(10) {
        let client = Raw::ready(&server, Framing::Simple);
        let all: Vec<u8> = (0..count)
            .flat_map(|cookie| request(READ, cookie, 0, length))
            .collect();
        client.0.set_nonblocking(true).expect("a socket");
        let _ = (&client.0).write(&all);
        deaf.push(client);
    }
    let begin = Instant::now();
    for _ in 0..50 {
        witness.looks("beside clients that do not read");
    }
    server.qemu_io(&[], &["write -P 5 1M 7M", "read -P 5 1M 7M"]);
    let took = begin.elapsed();
    assert!(took < PATIENCE, "it took {took:?}");
    let memory = server.memory_kib();
    assert!(memory < 600 << 10, "{memory} KiB");
    drop(deaf);
    wait_until("all are gone", || server.open_files() == before);
    server.end();
}

/// Writes as long as the server takes something; it has stopped when it does not for a moment.
fn fill(client: &mut UnixStream, bytes: &[u8], sent: &mut usize) {
    let pause = Duration::from_millis(2);
    let mut idle = 0;
    while idle < 25 && *sent < 64 << 20 {
        let at = *sent % bytes.len();
        match client.write(&bytes[at..]) {
            Ok(bytes) => (*sent, idle) = (*sent + bytes, 0),
            Err(why) if why.kind() == ErrorKind::WouldBlock => {
                idle += 1;
                thread::sleep(pause);
            }
            Err(why) => panic!("{why}"),
        }
    }
}

#[test]
fn options_of_a_client_that_never_reads_are_not_taken() {
    let name = "x".repeat(4000);
    let server = Server::start("memory", &["--set", "size=8M", "--export", &name]);
    let mut client = Raw::connect(&server);
    let before = server.memory_kib();
    client.0.set_nonblocking(true).expect("a socket");
    // Each is answered with 250 times as much.
    let (list, mut sent) = (option(3, b"").repeat(1000), 0);
    fill(&mut client.0, &list, &mut sent);
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for {sent} bytes of options");
    // Once it reads, it is answered as before.
    client.0.set_nonblocking(false).expect("a socket");
    for _ in 0..100 {
        let head = client.receive(20);
        let length = usize::try_from(number(&head, 16, 4)).expect("a length");
        client.receive(length);
    }
    Witness::new(&server).looks("afterwards");
    server.end();
}

#[test]
fn a_backlog_that_never_empties_does_not_grow() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut client = Raw::ready(&server, Framing::Structured).0;
    client.set_nonblocking(true).expect("a socket");
    // Each is refused with words, which are longer than the request.
    let (bad, mut sent, mut read) = (request(99, 1, 0, 0).repeat(1000), 0, 0);
    fill(&mut client, &bad, &mut sent);
    let before = server.memory_kib();
    let mut buffer = vec![0; 1 << 20];
    // It reads a little, and asks for more before the server has sent all that it has.
    while read < 20 << 20 {
        for _ in 0..4 {
            read += client.read(&mut buffer).unwrap_or(0);
        }
        fill(&mut client, &bad, &mut sent);
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 10 << 10, "{grown} KiB for {read} bytes of replies");
    Witness::new(&server).looks("meanwhile");
    server.end();
}

/// Clients that keep the server waiting in every way there is.
fn idlers(server: &Server) -> Vec<Raw> {
    let silent = Raw::connect(server);
    let mut half_option = Raw::connect(server);
    half_option.send(&option(3, b"")[..9]);
    let mut half_header = Raw::ready(server, Framing::Structured);
    half_header.send(&request(READ, 1, 0, 512)[..27]);
    let mut half_payload = Raw::ready(server, Framing::Simple);
    half_payload.send(&request(WRITE, 1, 0, 1 << 20));
    half_payload.send(&vec![1; 300_000]);
    let mut half_skipped = Raw::ready(server, Framing::Simple);
    half_skipped.send(&[&request(WRITE, 1, 1, 1 << 20)[..], &[1; 1000]].concat());
    let mut deaf = Raw::ready(server, Framing::Simple);
    deaf.send(&request(READ, 1, 0, 1 << 20).repeat(100));
    let mut half_closed = Raw::ready(server, Framing::Simple);
    half_closed.send(&request(READ, 1, 0, 1 << 20).repeat(100));
    half_closed.0.shutdown(Shutdown::Write).expect("a socket");
    let mut leaving = Raw::ready(server, Framing::Simple);
    let leave = [request(READ, 1, 0, 4 << 20), request(2, 2, 0, 0)];
    leaving.send(&leave.concat());
    let idlers = [silent, half_option, half_header, half_payload];
    let others = [half_skipped, deaf, half_closed, leaving];
    idlers.into_iter().chain(others).collect()
}

#[test]
fn waiting_costs_nothing() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut witness = Witness::new(&server);
    let idlers = idlers(&server);
    witness.looks("beside idlers");
    server.must_be_idle();
    witness.looks("beside idlers");
    drop(idlers);
    server.end();
}

#[test]
fn without_a_descriptor_for_a_client_the_server_waits() {
    let folder = Folder::new();
    let mut command = Command::new("prlimit");
    let nbd = nbd("memory");
    command.arg("--nofile=20").arg(nbd.get_program());
    command
        .args(nbd.get_args())
        .args(["--set", "size=8M", "-U"]);
    command.arg(folder.path("socket"));
    let server = Server::spawn(command, folder);
    let mut witness = Witness::new(&server);
    let connect = |_| UnixStream::connect(server.folder.path("socket")).expect("it listens");
    let clients: Vec<UnixStream> = (0..30).map(connect).collect();
    witness.looks("when others cannot come in");
    server.must_be_idle();
    drop(clients);
    Witness::new(&server).looks("when there is room again");
    server.end();
}

#[test]
fn a_long_request_of_one_client_does_not_stop_the_others() {
    // This guest has no write-zeroes: the host writes, and takes every slot that it can get.
    let server = Server::start("faulty", &["--set", "size=8G"]);
    let mut long = Raw::ready(&server, Framing::Simple);
    long.send(&request(WRITE_ZEROES, 1, 0, 0xffff_fe00));
    let mut other = Raw::ready(&server, Framing::Simple);
    for cookie in 0..20 {
        other.send(&request(READ, cookie, 0, 4096));
        assert_eq!(other.simple_error(), 0);
        other.receive(4096);
    }
    long.0.set_nonblocking(true).expect("a socket");
    let waits = long.0.read(&mut [0]).map_err(|why| why.kind());
    assert_eq!(waits, Err(ErrorKind::WouldBlock), "it is still under way");
}
