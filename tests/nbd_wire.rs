//! NBD's bytes, as the specification has them: handshakes and requests, whole and cut short.

use wasmblk::block::{Claims, Errno, Geometry, TrimClaims};
use wasmblk::nbd::decode::{Decoded, Header, header};
use wasmblk::nbd::encode::{self, Framing, To};
use wasmblk::nbd::handshake::{Handshake, Offer, Session, Step, TlsMode, export_flags};

fn offer() -> Offer {
    let claims = Claims {
        size_bytes: 1 << 20,
        ..Claims::default()
    };
    Offer {
        name: "disk".into(),
        geometry: Geometry::new(&claims).expect("a geometry"),
        tls: TlsMode::Off,
        fast_zero: true,
    }
}

/// A handshake past the client's flags (fixed newstyle, no zeroes).
fn begun() -> Handshake {
    let mut greeting = Vec::new();
    let mut handshake = Handshake::begin(&mut greeting);
    assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
    let step = handshake.step(&[0, 0, 0, 3], &offer(), &mut greeting);
    assert_eq!(step, Step::Used(4));
    handshake
}

/// An option with its data.
fn option(code: u8, data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).expect("short");
    [b"IHAVEOPT", &[0, 0, 0, code, 0, 0, 0, length][..], data].concat()
}

/// The kinds of the replies to one option.
fn reply_kinds(mut output: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while output.len() >= 20 {
        let number =
            |at: usize| u32::from_be_bytes(output[at..at + 4].try_into().expect("4 bytes"));
        kinds.push(number(12));
        output = &output[20 + number(16) as usize..];
    }
    kinds
}

#[test]
fn go_tells_size_flags_and_block_sizes() {
    #[rustfmt::skip]
    let data = [
        0, 0, 0, 4, b'd', b'i', b's', b'k', // the export's name
        0, 1, 0, 3,                         // one wish: block sizes
    ];
    let mut output = Vec::new();
    let message = option(7, &data);
    let step = begun().step(&message, &offer(), &mut output);
    assert_eq!(step, Step::Transmit(message.len(), Session::default()));
    assert_eq!(reply_kinds(&output), [3, 3, 1]);
    #[rustfmt::skip]
    let export = [
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9,  // the magic of replies
        0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12,    // GO, INFO, 12 bytes
        0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0,        // EXPORT, 1 MiB
        13, 0x4d,                               // flags, flush, FUA, zeroes, multi-conn, cache, fast zero
    ];
    assert_eq!(output[..32], export);
}

#[test]
fn options_are_answered_one_by_one() {
    for (code, data, kinds) in [
        (3, &b""[..], &[2, 1][..]),                    // LIST
        (3, b"x", &[(1 << 31) | 3]),                   // LIST with data
        (6, b"\0\0\0\0\0\0", &[3, 3, 1]),              // INFO of the default export
        (7, b"\0\0\0\x05other\0\0", &[(1 << 31) | 6]), // GO of one that is not there
        (7, b"\0\0\0\xff", &[(1 << 31) | 3]),          // GO with half a name
        (5, b"", &[(1 << 31) | 2]),                    // STARTTLS, which this server has not
        (11, b"", &[1]),                               // EXTENDED_HEADERS
        (12, b"", &[(1 << 31) | 1]),                   // no option
        (8, b"", &[1]),                                // STRUCTURED_REPLY
        (10, b"\0\0\0\0\0\0\0\0", &[(1 << 31) | 3]),   // contexts without structure
    ] {
        let mut output = Vec::new();
        begun().step(&option(code, data), &offer(), &mut output);
        assert_eq!(reply_kinds(&output), kinds, "option {code}");
    }
}

#[test]
fn base_allocation_is_the_one_context() {
    let mut handshake = begun();
    let mut output = Vec::new();
    handshake.step(&option(8, b""), &offer(), &mut output);
    output.clear();
    let query = [
        &b"\0\0\0\0\0\0\0\x02\0\0\0\x0fbase:allocation"[..],
        b"\0\0\0\x04qemu",
    ]
    .concat();
    handshake.step(&option(10, &query), &offer(), &mut output);
    assert_eq!(reply_kinds(&output), [4, 1]);
    let go = option(7, b"\0\0\0\0\0\0");
    let step = handshake.step(&go, &offer(), &mut output);
    let session = Session {
        framing: Framing::Structured,
        block_status: true,
    };
    assert_eq!(step, Step::Transmit(go.len(), session));
}

#[test]
fn export_name_is_the_old_way_in() {
    let mut output = Vec::new();
    let message = option(1, b"disk");
    let step = begun().step(&message, &offer(), &mut output);
    assert_eq!(step, Step::Transmit(message.len(), Session::default()));
    assert_eq!(output.len(), 10, "size and flags, and no zeroes");
    assert_eq!(
        begun().step(&option(1, b"other"), &offer(), &mut output),
        Step::Close
    );
}

#[test]
fn a_message_cut_short_is_waited_for() {
    let message = option(7, b"\0\0\0\0\0\0");
    for end in 0..message.len() {
        let mut output = Vec::new();
        assert_eq!(
            begun().step(&message[..end], &offer(), &mut output),
            Step::Incomplete
        );
        assert!(output.is_empty());
    }
}

#[test]
fn what_is_no_option_ends_the_connection() {
    let mut output = Vec::new();
    assert_eq!(begun().step(&[0; 16], &offer(), &mut output), Step::Close);
    let too_long = [b"IHAVEOPT", &[0, 0, 0, 3, 1, 0, 0, 0][..]].concat();
    assert_eq!(begun().step(&too_long, &offer(), &mut output), Step::Close);
    let mut unfixed = Handshake::begin(&mut output);
    assert_eq!(unfixed.step(&[0; 4], &offer(), &mut output), Step::Close);
}

#[test]
fn requests_as_clients_write_them() {
    #[rustfmt::skip]
    let write = [
        0x25, 0x60, 0x95, 0x13,         // the magic of requests
        0, 1, 0, 1,                     // FUA, WRITE
        1, 2, 3, 4, 5, 6, 7, 8,         // the cookie
        0, 0, 0, 0, 0, 0x10, 0, 0,      // at 1 MiB
        0, 0, 2, 0,                     // 512 bytes
    ];
    let expected = Header {
        flags: 1,
        command: 1,
        cookie: 0x0102_0304_0506_0708,
        offset: 1 << 20,
        length: 512,
    };
    assert_eq!(header(&write, false), Decoded::Request(expected, 28));
    assert_eq!(expected.payload_bytes(false), 512);
    for end in 0..write.len() {
        assert_eq!(header(&write[..end], false), Decoded::Incomplete);
    }
    assert_eq!(header(&[0; 28], false), Decoded::Garbage);
}

#[test]
fn replies_as_clients_expect_them() {
    let mut simple = Vec::new();
    let number = encode::error_number(Errno::ENOSPC);
    encode::simple_reply(&mut simple, 0x0102_0304_0506_0708, number);
    #[rustfmt::skip]
    assert_eq!(simple, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(encode::error_number(Errno::EROFS), 1, "EPERM");
    assert_eq!(
        encode::error_number(Errno::ETIMEDOUT),
        5,
        "EIO: the protocol has no such number"
    );
    let mut chunk = Vec::new();
    let to = To {
        framing: Framing::Structured,
        cookie: 9,
        offset: 512,
    };
    encode::error(&mut chunk, to, Errno::EIO, format_args!("EIO"));
    #[rustfmt::skip]
    assert_eq!(chunk, [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1,  // magic, done, an error
        0, 0, 0, 0, 0, 0, 0, 9,                 // the cookie
        0, 0, 0, 9, 0, 0, 0, 5, 0, 3, b'E', b'I', b'O',
    ]);
}

#[test]
fn flags_follow_the_geometry() {
    let flags_of = |claims, fast_zero| {
        let geometry = Geometry::new(&claims).expect("a geometry");
        let offer = Offer {
            geometry,
            fast_zero,
            ..offer()
        };
        export_flags(&offer, Session::default())
    };
    let flags = |claims| flags_of(claims, true);
    let plain = Claims {
        size_bytes: 512,
        ..Claims::default()
    };
    assert_eq!(
        flags(plain),
        0b1101_0100_1101,
        "no trim, no DF, not read-only"
    );
    assert_eq!(
        flags(Claims {
            read_only: true,
            ..plain
        }) & 0b110_1010,
        2,
        "no FUA, no zeroes"
    );
    let trim = Some(TrimClaims {
        max_discard_bytes: 4096,
        ..TrimClaims::default()
    });
    assert_ne!(flags(Claims { trim, ..plain }) & 32, 0, "trim");
    assert_eq!(
        flags_of(plain, false),
        flags(plain) & !(1 << 11),
        "no zeros that must be fast"
    );
}
