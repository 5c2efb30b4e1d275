//! The kernel's bytes: descriptors as it writes them, results and parameters as it wants them.

use wasmblk::block::{Claims, Errno, Geometry, Op, Request, TrimClaims};
use wasmblk::text::printable;
use wasmblk::ublk::abi::{IoDesc, attr, param};
use wasmblk::ublk::{decode, encode};

/// A descriptor from its 24 bytes in memory (little endian, as on all machines that we run on).
fn desc(bytes: [u8; 24]) -> IoDesc {
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    IoDesc {
        op_flags: u32_at(0),
        nr_sectors: u32_at(4),
        start_sector: u64_at(8),
        addr: u64_at(16),
    }
}

#[test]
fn requests_as_the_kernel_writes_them() {
    #[rustfmt::skip]
    let read = [
        0, 0, 0, 0,                 // READ, no flags
        8, 0, 0, 0,                 // 8 sectors
        0, 1, 0, 0, 0, 0, 0, 0,     // at sector 256
        0, 0, 0, 0, 1, 0, 0, 0,     // buffer address, which is ours anyway
    ];
    let expected = Request {
        op: Op::Read,
        offset: 131_072,
        length: 4096,
        fua: false,
        may_discard: true,
    };
    assert_eq!(decode::request(&desc(read)), Ok(expected));

    #[rustfmt::skip]
    let write_fua = [
        1, 0x20, 0, 0,              // WRITE, FUA (bit 13)
        1, 0, 0, 0,                 // 1 sector
        0, 0, 0, 0, 1, 0, 0, 0,     // at sector 2^32, beyond 2 TiB
        0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let expected = Request {
        op: Op::Write,
        offset: 1 << 41,
        length: 512,
        fua: true,
        may_discard: true,
    };
    assert_eq!(decode::request(&desc(write_fua)), Ok(expected));

    #[rustfmt::skip]
    let zeroes_nounmap = [
        5, 0x80, 0, 0,              // WRITE_ZEROES, NOUNMAP (bit 15)
        0, 8, 0, 0,                 // 2048 sectors
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let expected = Request {
        op: Op::WriteZeroes,
        offset: 0,
        length: 1 << 20,
        fua: false,
        may_discard: false,
    };
    assert_eq!(decode::request(&desc(zeroes_nounmap)), Ok(expected));

    #[rustfmt::skip]
    let flush = [
        2, 0, 0, 0,                 // FLUSH: the rest means nothing
        255, 255, 255, 255,
        255, 255, 255, 255, 255, 255, 255, 255,
        0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let expected = Request {
        op: Op::Flush,
        offset: 0,
        length: 0,
        fua: false,
        may_discard: true,
    };
    assert_eq!(decode::request(&desc(flush)), Ok(expected));
}

#[test]
fn what_the_kernel_does_not_send_is_refused() {
    let unknown = IoDesc {
        op_flags: 18,
        ..IoDesc::default()
    };
    assert_eq!(decode::request(&unknown), Err(Errno::EOPNOTSUPP));
    let too_far = IoDesc {
        start_sector: 1 << 55,
        nr_sectors: 1,
        ..IoDesc::default()
    };
    assert_eq!(decode::request(&too_far), Err(Errno::EINVAL));
    let too_long = IoDesc {
        nr_sectors: 1 << 23,
        ..IoDesc::default()
    };
    assert_eq!(decode::request(&too_long), Err(Errno::EINVAL));
}

#[test]
fn results_have_the_kernels_sign() {
    assert_eq!(encode::result(Ok(4096)), 4096);
    assert_eq!(encode::result(Ok(0)), 0);
    assert_eq!(encode::result(Err(Errno::EIO)), -libc::EIO);
    assert_eq!(encode::result(Err(Errno::EINVAL)), -libc::EINVAL);
    assert_eq!(encode::result(Err(Errno::ENOSPC)), -libc::ENOSPC);
    assert_eq!(encode::result(Err(Errno::EROFS)), -libc::EROFS);
    assert_eq!(encode::result(Err(Errno::ENODATA)), -libc::ENODATA);
    assert_eq!(encode::result(Err(Errno::EILSEQ)), -libc::EILSEQ);
    assert_eq!(encode::result(Err(Errno::EOPNOTSUPP)), -libc::EOPNOTSUPP);
    assert_eq!(encode::result(Err(Errno::ETIMEDOUT)), -libc::ETIMEDOUT);
}

#[test]
fn parameters_follow_the_geometry() {
    let four_functions = Claims {
        size_bytes: 1 << 20,
        ..Claims::default()
    };
    let params = encode::params(&Geometry::new(&four_functions).expect("a geometry"), 1);
    assert_eq!((params.len, params.types), (112, param::BASIC));
    assert_eq!(params.attrs, attr::VOLATILE_CACHE | attr::FUA);
    assert_eq!((params.logical_bs_shift, params.physical_bs_shift), (9, 9));
    assert_eq!((params.dev_sectors, params.max_sectors), (2048, 1024));

    let everything = Claims {
        size_bytes: 1 << 30,
        logical_block_bytes: 4096,
        physical_block_bytes: 65536,
        max_transfer_bytes: 1 << 20,
        write_through: true,
        rotational: true,
        trim: Some(TrimClaims {
            granularity_bytes: 65536,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 0,
        }),
        ..Claims::default()
    };
    let params = encode::params(&Geometry::new(&everything).expect("a geometry"), 1);
    assert_eq!(params.types, param::BASIC | param::DISCARD);
    assert_eq!(params.attrs, attr::ROTATIONAL);
    assert_eq!(
        (params.logical_bs_shift, params.physical_bs_shift),
        (12, 16)
    );
    assert_eq!(
        (params.discard_granularity, params.max_discard_sectors),
        (65536, 1 << 21)
    );
    assert_eq!(
        (params.max_write_zeroes_sectors, params.max_discard_segments),
        (0, 1)
    );

    let read_only = Claims {
        size_bytes: 512,
        read_only: true,
        ..Claims::default()
    };
    let params = encode::params(&Geometry::new(&read_only).expect("a geometry"), 1);
    assert_eq!(params.attrs, attr::READ_ONLY);
}

#[test]
fn words_of_guests_cannot_confuse_a_terminal() {
    assert_eq!(
        printable("plain words: size=1G", 100),
        "plain words: size=1G"
    );
    assert_eq!(
        printable("a\nb\x1b[2Jc\u{202e}d\u{2028}e", 100),
        "a b [2Jc d e"
    );
    assert_eq!(printable("caf\u{e9}", 4), "caf", "cut between characters");
}
