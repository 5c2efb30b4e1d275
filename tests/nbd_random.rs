//! What random clients send, and whether a disk is a disk: many cases, one server for all.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tests::disk::wait_until;
use wasmblk::nbd::wire::command::{
    CACHE, FLAG_DF, FLAG_FUA, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES,
};

use crate::nbd_server::{Framing, Raw, Server, extended, flagged, number, option};

const SIZE: u64 = 4 << 20;

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    })
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Simple),
        Just(Framing::Structured),
        Just(Framing::Extended),
    ]
}

/// A request in the framing of a connection.
fn header(framing: Framing, request: &Request) -> Vec<u8> {
    let Request {
        flags,
        command,
        offset,
        length,
    } = *request;
    match framing {
        Framing::Extended => extended(flags, command, 1, offset, length),
        // Longer ones are cut, as a client with a mistake would.
        _ => flagged(flags, command, 1, offset, (length & 0xffff_ffff) as u32),
    }
}

#[derive(Clone, Copy, Debug)]
struct Request {
    flags: u16,
    command: u16,
    offset: u64,
    length: u64,
}

const FIRST_READ: Request = Request {
    flags: 0,
    command: READ,
    offset: 0,
    length: 4096,
};

/// Requests that are often valid and often nearly so.
fn wild_request() -> impl Strategy<Value = Request> {
    let flags = prop_oneof![6 => Just(0), 2 => 0..64_u16, 1 => any::<u16>()];
    let command = prop_oneof![9 => 0..9_u16, 1 => any::<u16>()];
    let offset = prop_oneof![
        6 => (0..SIZE / 512).prop_map(|block| block * 512),
        1 => SIZE - 2048..SIZE + 2048,
        1 => any::<u64>(),
        1 => Just(u64::MAX - 511),
    ];
    let length = prop_oneof![
        6 => (0..64_u64).prop_map(|blocks| blocks * 512),
        2 => (0..5_u64).prop_map(|mib| mib << 20),
        1 => any::<u32>().prop_map(u64::from),
        1 => any::<u64>(),
        1 => Just(u64::from(u32::MAX)),
    ];
    (flags, command, offset, length).prop_map(|(flags, command, offset, length)| Request {
        flags,
        command,
        offset,
        length,
    })
}

#[derive(Clone, Debug)]
enum Message {
    /// With so many bytes of payload where `None` is as many as there should be.
    Request(Request, Option<usize>),
    Garbage(Vec<u8>),
}

fn message() -> impl Strategy<Value = Message> {
    let payload = prop_oneof![9 => Just(None), 1 => (0..100_000_usize).prop_map(Some)];
    prop_oneof![
        12 => (wild_request(), payload).prop_map(|(request, it)| Message::Request(request, it)),
        1 => vec(any::<u8>(), 0..300).prop_map(Message::Garbage),
    ]
}

fn bytes(framing: Framing, messages: &[Message], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut all = Vec::new();
    for message in messages {
        match message {
            Message::Request(request, payload) => {
                all.extend(header(framing, request));
                let has_one = request.command == WRITE
                    || framing == Framing::Extended && request.flags & 1 << 5 != 0;
                let should = if has_one {
                    request.length.min(4 << 20)
                } else {
                    0
                };
                let should = usize::try_from(should).expect("short");
                all.resize(all.len() + payload.unwrap_or(should), 0xa5);
            }
            Message::Garbage(bytes) => all.extend(bytes),
        }
    }
    for (at, change) in changes {
        let at = at % all.len().max(1);
        if let Some(byte) = all.get_mut(at) {
            *byte ^= change;
        }
    }
    all
}

/// Reads replies to the end. Where they say how long they are, each must begin where the last ended.
fn read_all(mut client: UnixStream, framing: Framing) -> Result<(), String> {
    let (magic, bytes) = match framing {
        Framing::Simple => return end(io::copy(&mut client, &mut io::sink())).map(drop),
        Framing::Structured => (0x668e_33ef, 20),
        Framing::Extended => (0x6e8a_278c, 32),
    };
    let mut head = [0; 32];
    let head = &mut head[..bytes];
    let mut rest = 0;
    loop {
        let skipped = end(io::copy(&mut (&mut client).take(rest), &mut io::sink()))?;
        match client.read_exact(head) {
            Ok(()) if skipped == rest && number(head, 0, 4) == magic => {}
            Ok(()) => return Err(format!("{head:?} is no chunk")),
            // It may end in the middle of one.
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(why) => return end(Err(why)).map(drop),
        }
        rest = if bytes == 32 {
            number(head, 24, 8)
        } else {
            number(head, 16, 4)
        };
    }
}

/// The server may end the connection however it likes, but it has to.
fn end(result: io::Result<u64>) -> Result<u64, String> {
    match result {
        Err(why) if why.kind() == io::ErrorKind::ConnectionReset => Ok(0),
        result => result.map_err(|why| format!("it does not end: {why}")),
    }
}

fn talk(client: Raw, framing: Framing, all: &[u8]) -> Result<(), String> {
    let Raw(mut stream) = client;
    let reader = stream.try_clone().expect("a second handle");
    thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(reader, framing));
        // It may have had enough before the end.
        let _ = stream.write_all(all);
        let _ = stream.shutdown(Shutdown::Write);
        reader.join().expect("a thread")
    })
}

#[test]
fn random_requests_hurt_nobody() {
    let server = Server::start("memory", &["--set", "size=4M"]);
    let witness = RefCell::new(Raw::ready(&server, Framing::Simple));
    let before = server.open_files();
    let changes = vec((any::<usize>(), any::<u8>()), 0..3);
    let case = (framing(), vec(message(), 0..12), changes);
    let result = runner(300).run(&case, |(framing, messages, changes)| {
        let all = bytes(framing, &messages, &changes);
        let talked = talk(Raw::ready(&server, framing), framing, &all);
        carry_out(&mut witness.borrow_mut(), Framing::Simple, &FIRST_READ, 0);
        talked.map_err(TestCaseError::fail)
    });
    result.unwrap_or_else(|why| panic!("{why}\n{}", server.log()));
    wait_until("nothing is left open", || server.open_files() == before);
    server.qemu_io(&[], &["write -P 1 0 4M", "read -P 1 0 4M"]);
    server.end();
}

#[test]
fn random_haggling_hurts_nobody() {
    let server = Server::start("memory", &["--set", "size=4M"]);
    let witness = RefCell::new(Raw::ready(&server, Framing::Simple));
    let before = server.open_files();
    let whole = prop_oneof![
        Just(option(3, b"")),
        Just(option(6, &[0; 6])),
        Just(option(7, &[0; 6])),
        Just(option(8, b"")),
        Just(option(9, &[0; 8])),
        Just(option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation")),
        Just(option(11, b"")),
        (0..14_u32, vec(any::<u8>(), 0..200)).prop_map(|(code, data)| option(code, &data)),
    ];
    let changes = vec((any::<usize>(), any::<u8>()), 0..3);
    let case = (vec(whole, 0..10), changes);
    let result = runner(300).run(&case, |(options, changes)| {
        let all = options
            .into_iter()
            .map(Message::Garbage)
            .collect::<Vec<_>>();
        let all = bytes(Framing::Simple, &all, &changes);
        let talked = talk(Raw::connect(&server), Framing::Simple, &all);
        carry_out(&mut witness.borrow_mut(), Framing::Simple, &FIRST_READ, 0);
        talked.map_err(TestCaseError::fail)
    });
    result.unwrap_or_else(|why| panic!("{why}\n{}", server.log()));
    wait_until("nothing is left open", || server.open_files() == before);
    server.end();
}

/// A request that must succeed, with a byte to write.
fn good_request() -> impl Strategy<Value = (Framing, Request, u8)> {
    let command = prop_oneof![
        4 => Just(READ),
        4 => Just(WRITE),
        1 => Just(FLUSH),
        1 => Just(TRIM),
        1 => Just(CACHE),
        2 => Just(WRITE_ZEROES),
    ];
    // Many that meet, some that are longer than the guest takes at a time.
    let blocks = prop_oneof![4 => 1..40_u64, 1 => 1..6000_u64];
    let offset = prop_oneof![2 => 0..100_u64, 1 => 0..SIZE / 512 - 1];
    (framing(), command, 0..64_u16, offset, blocks, any::<u8>()).prop_map(
        |(framing, command, flags, offset, blocks, content)| {
            let known = match command {
                READ if framing != Framing::Simple => FLAG_FUA | FLAG_DF,
                WRITE_ZEROES => FLAG_FUA | 1 << 1 | 1 << 4,
                _ => FLAG_FUA,
            };
            let request = Request {
                flags: flags & known,
                command,
                offset: offset * 512,
                length: blocks.min(SIZE / 512 - offset) * 512,
            };
            (framing, request, content)
        },
    )
}

/// Sends a request that must succeed, and gives a read's data.
fn carry_out(client: &mut Raw, framing: Framing, request: &Request, content: u8) -> Vec<u8> {
    let length = usize::try_from(request.length).expect("short");
    client.send(&header(framing, request));
    if request.command == WRITE {
        client.send(&vec![content; length]);
    }
    let mut data = Vec::new();
    if framing == Framing::Simple {
        assert_eq!(client.simple_error(), 0, "{request:?}");
        if request.command == READ {
            data = client.receive(length);
        }
        return data;
    }
    loop {
        let chunk = match framing {
            Framing::Extended => client.chunk(),
            _ => client.short_chunk(),
        };
        assert_eq!(chunk.cookie, 1);
        if chunk.kind == 1 {
            assert_eq!(
                number(&chunk.data, 0, 8),
                request.offset + data.len() as u64
            );
            data.extend(&chunk.data[8..]);
        } else {
            assert_eq!(
                chunk.kind,
                0,
                "{request:?}: {:?}",
                String::from_utf8_lossy(&chunk.data)
            );
        }
        if chunk.flags & 1 != 0 {
            return data;
        }
        assert_eq!(request.flags & FLAG_DF, 0, "one chunk was asked for");
    }
}

#[test]
fn a_disk_holds_what_was_written() {
    let server = Server::start("memory", &["--set", "size=4M"]);
    let case = vec(good_request(), 1..30);
    let result = runner(60).run(&case, |requests| {
        let mut model = vec![0; usize::try_from(SIZE).expect("short")];
        let all = [Framing::Simple, Framing::Structured, Framing::Extended];
        let mut clients = all.map(|framing| Raw::ready(&server, framing));
        let empty = Request {
            command: WRITE_ZEROES,
            length: SIZE,
            ..FIRST_READ
        };
        carry_out(&mut clients[0], Framing::Simple, &empty, 0);
        for (framing, request, content) in requests {
            let client = &mut clients[framing as usize];
            let data = carry_out(client, framing, &request, content);
            let begin = usize::try_from(request.offset).expect("short");
            let range = begin..begin + usize::try_from(request.length).expect("short");
            match request.command {
                READ => assert!(data == model[range], "{framing:?} {request:?}"),
                WRITE => model[range].fill(content),
                // The guest makes zeros of what is trimmed.
                TRIM | WRITE_ZEROES => model[range].fill(0),
                _ => {}
            }
        }
        let whole = Request {
            length: SIZE,
            ..FIRST_READ
        };
        let disk = carry_out(&mut clients[0], Framing::Simple, &whole, 0);
        assert!(disk == model, "what was not written is as it was");
        Ok(())
    });
    result.unwrap_or_else(|why| panic!("{why}\n{}", server.log()));
    server.end();
}
