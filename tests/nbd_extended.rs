//! Extended headers (NBD_OPT_EXTENDED_HEADERS), which few clients have: by hand.

use wasmblk::nbd::wire::command::{
    BLOCK_STATUS, FLAG_PAYLOAD_LEN as PAYLOAD_LEN, READ, TRIM, WRITE, WRITE_ZEROES,
};

use crate::nbd_server::{Framing, Raw, Server, content, extended, flagged, number};

const GIB: u64 = 1 << 30;

/// Reads all chunks of one reply; gives the data, which must be whole.
fn read_reply(client: &mut Raw, cookie: u64, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    let mut got = 0;
    loop {
        let chunk = client.chunk();
        assert_eq!((chunk.cookie, chunk.offset), (cookie, offset));
        assert_eq!(
            chunk.kind,
            1,
            "data: {:?}",
            String::from_utf8_lossy(&chunk.data)
        );
        let at = usize::try_from(number(&chunk.data, 0, 8) - offset).expect("inside");
        let part = &chunk.data[8..];
        data[at..at + part.len()].copy_from_slice(part);
        got += part.len();
        if chunk.flags & 1 != 0 {
            assert_eq!(got, length);
            return data;
        }
    }
}

/// A reply that is done and says nothing more.
fn done(client: &mut Raw, cookie: u64, offset: u64) {
    let chunk = client.chunk();
    assert_eq!(
        (chunk.flags, chunk.kind),
        (1, 0),
        "{:?}",
        String::from_utf8_lossy(&chunk.data)
    );
    assert_eq!((chunk.cookie, chunk.offset), (cookie, offset));
    assert!(chunk.data.is_empty());
}

fn refused(client: &mut Raw, cookie: u64, error: u64) {
    let chunk = client.chunk();
    assert_eq!((chunk.flags, chunk.kind), (1, 1 << 15 | 1), "an error");
    assert_eq!(chunk.cookie, cookie);
    assert_eq!(number(&chunk.data, 0, 4), error);
    let text = usize::try_from(number(&chunk.data, 4, 2)).expect("a length");
    assert_eq!(chunk.data.len(), 6 + text);
    assert!(text > 0, "in words, too");
}

#[test]
fn reads_and_writes_with_extended_headers() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut client = Raw::ready(&server, Framing::Extended);
    let data = content(3 << 20);
    // With and without the flag that says what is clear: this command has a payload.
    for (cookie, flags, offset) in [(1, PAYLOAD_LEN, 0_u64), (u64::MAX, 0, 4 << 20)] {
        client.send(&extended(flags, WRITE, cookie, offset, 3 << 20));
        client.send(&data);
        done(&mut client, cookie, offset);
        client.send(&extended(0, READ, cookie, offset, 3 << 20));
        assert!(read_reply(&mut client, cookie, offset, 3 << 20) == data);
    }
    client.send(&extended(0, READ, 2, 512, 512));
    assert!(read_reply(&mut client, 2, 512, 512) == data[512..1024]);
    // A length whose lower half would do.
    client.send(&extended(0, READ, 3, 0, (1 << 32) + 512));
    refused(&mut client, 3, 22);
    server.end();
}

#[test]
fn one_request_of_more_than_four_gib() {
    let server = Server::start("memory", &["--set", "size=8G"]);
    let mut client = Raw::ready(&server, Framing::Extended);
    let ends = [GIB, 6 * GIB - 4096];
    let outside = [GIB - 4096, 6 * GIB];
    for (cookie, command) in [(1, WRITE_ZEROES), (2, TRIM)] {
        for offset in ends.iter().chain(&outside) {
            client.send(&extended(PAYLOAD_LEN, WRITE, 9, *offset, 4096));
            client.send(&[0xa5; 4096]);
            done(&mut client, 9, *offset);
        }
        client.send(&extended(0, command, cookie, GIB, 5 * GIB));
        done(&mut client, cookie, GIB);
        for offset in ends {
            client.send(&extended(0, READ, 9, offset, 4096));
            assert!(read_reply(&mut client, 9, offset, 4096) == [0; 4096]);
        }
        for offset in outside {
            client.send(&extended(0, READ, 9, offset, 4096));
            assert!(read_reply(&mut client, 9, offset, 4096) == [0xa5; 4096]);
        }
    }
    client.send(&extended(0, BLOCK_STATUS, 3, GIB, 5 * GIB));
    let chunk = client.chunk();
    assert_eq!((chunk.flags, chunk.kind), (1, 6), "BLOCK_STATUS_EXT");
    assert_eq!((chunk.cookie, chunk.offset), (3, GIB));
    let fields = [(0, 4), (4, 4), (8, 8), (16, 8)];
    let fields = fields.map(|(at, length)| number(&chunk.data, at, length));
    assert_eq!(fields, [1, 1, 5 * GIB, 0], "context, count, length, flags");
    assert_eq!(chunk.data.len(), 24);
    // The end counts in 64 bits as well.
    for (offset, length) in [
        (4 * GIB, 5 * GIB),
        (u64::MAX - 511, GIB),
        (512, u64::MAX - 511),
    ] {
        client.send(&extended(0, WRITE_ZEROES, 4, offset, length));
        refused(&mut client, 4, 28);
        client.send(&extended(0, BLOCK_STATUS, 5, offset, length));
        refused(&mut client, 5, 22);
    }
    server.end();
}

#[test]
fn a_payload_that_has_no_use_is_skipped() {
    let server = Server::start("memory", &["--set", "size=8M"]);
    let mut client = Raw::ready(&server, Framing::Extended);
    client.send(&extended(0, WRITE, 1, 0, 4096));
    client.send(&[0xa5; 4096]);
    done(&mut client, 1, 0);
    // What looks like a request inside the payload is none. The last is longer than the buffer.
    let trap = extended(0, WRITE_ZEROES, 66, 0, 4096).repeat(20_000);
    for (cookie, command) in [
        (2, READ),
        (3, WRITE_ZEROES),
        (4, BLOCK_STATUS),
        (5, 99),
        (6, 3),
    ] {
        for bytes in [32, 4096, trap.len()] {
            client.send(&extended(PAYLOAD_LEN, command, cookie, 0, bytes as u64));
            client.send(&trap[..bytes]);
            refused(&mut client, cookie, 22);
        }
    }
    client.send(&extended(0, READ, 7, 0, 4096));
    assert!(read_reply(&mut client, 7, 0, 4096) == [0xa5; 4096]);
    server.end();
}

#[test]
fn structured_replies_do_not_follow_extended_headers() {
    let server = Server::start("memory", &["--set", "size=1M"]);
    let mut client = Raw::connect(&server);
    assert_eq!(client.haggle(8, b"").0, 1);
    assert_eq!(client.haggle(11, b"").0, 1, "more is always possible");
    assert_eq!(client.haggle(8, b"").0, 1 << 31 | 10, "ERR_EXT_HEADER_REQD");
    assert_eq!(client.haggle(11, b"x").0, 1 << 31 | 3, "ERR_INVALID");
    assert_eq!(client.haggle(7, &[0; 6]).0, 1);
    client.send(&extended(0, READ, 1, 0, 512));
    assert_eq!(read_reply(&mut client, 1, 0, 512), [0; 512]);
    // Nobody asked for a context.
    client.send(&extended(0, BLOCK_STATUS, 2, 0, 512));
    refused(&mut client, 2, 22);
    // From now on no other header is one.
    client.send(&crate::nbd_server::request(READ, 3, 0, 512));
    client.send(&[0; 8]);
    assert!(client.is_closed());
    server.end();
}

#[test]
fn durable_means_a_flush_behind_it() {
    // Every second call fails, and the guest counts flushes, but has no FUA of its own.
    let options = ["--set", "size=8M", "--set", "error-every=2"];
    for (flags, calls) in [(0, 1), (1, 2)] {
        let server = Server::start("faulty", &options);
        let mut client = Raw::ready(&server, Framing::Simple);
        let mut errors = Vec::new();
        for _ in 0..4 {
            client.send(&flagged(flags, WRITE, 1, 0, 4096));
            client.send(&[1; 4096]);
            errors.push(client.simple_error());
        }
        let expected = if calls == 1 { [0, 5, 0, 5] } else { [5; 4] };
        assert_eq!(errors, expected, "{calls} calls for each write");
    }
}
