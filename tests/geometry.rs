//! Geometry arithmetic: what is accepted fits together, and requests stay inside.

use wasmblk::block::{Claims, Errno, Geometry, GeometryError, Op, Request, TrimClaims};
use wasmblk::limits;

fn geometry(claims: &Claims) -> Geometry {
    Geometry::new(claims).expect("a geometry")
}

#[test]
fn zeros_mean_the_defaults() {
    let geometry = geometry(&Claims {
        size_bytes: 1024,
        ..Claims::default()
    });
    assert_eq!(geometry.logical_block_bytes, 512);
    assert_eq!(geometry.physical_block_bytes, 512);
    assert_eq!(geometry.max_transfer_bytes, limits::TRANSFER_BYTES_DEFAULT);
    assert!(geometry.volatile_cache && !geometry.fua_native && geometry.trim.is_none());
}

#[test]
fn each_number_is_named_when_it_is_wrong() {
    let good = Claims {
        size_bytes: 1 << 20,
        ..Claims::default()
    };
    let wrong = |claims: Claims| Geometry::new(&claims).expect_err("it is wrong");
    assert_eq!(
        wrong(Claims {
            size_bytes: 0,
            ..good
        }),
        GeometryError::Size(0, 512)
    );
    assert_eq!(
        wrong(Claims {
            size_bytes: 513,
            ..good
        }),
        GeometryError::Size(513, 512)
    );
    assert_eq!(
        wrong(Claims {
            size_bytes: 1 << 63,
            ..good
        }),
        GeometryError::Size(1 << 63, 512)
    );
    assert_eq!(
        wrong(Claims {
            logical_block_bytes: 256,
            ..good
        }),
        GeometryError::LogicalBlock(256)
    );
    assert_eq!(
        wrong(Claims {
            logical_block_bytes: 8192,
            ..good
        }),
        GeometryError::LogicalBlock(8192)
    );
    let physical = Claims {
        logical_block_bytes: 4096,
        physical_block_bytes: 512,
        ..good
    };
    assert_eq!(wrong(physical), GeometryError::PhysicalBlock(512, 4096));
    assert_eq!(
        wrong(Claims {
            max_transfer_bytes: 5000,
            ..good
        }),
        GeometryError::Transfer(5000)
    );
    let transfer = limits::TRANSFER_BYTES_MAX + 4096;
    assert_eq!(
        wrong(Claims {
            max_transfer_bytes: transfer,
            ..good
        }),
        GeometryError::Transfer(transfer)
    );
    let trim = Some(TrimClaims {
        granularity_bytes: 1000,
        ..TrimClaims::default()
    });
    assert_eq!(
        wrong(Claims { trim, ..good }),
        GeometryError::Granularity(1000, 512)
    );
}

#[test]
fn requests_are_refused_with_the_right_errno() {
    let read_write = geometry(&Claims {
        size_bytes: 1 << 20,
        ..Claims::default()
    });
    let read_only = geometry(&Claims {
        size_bytes: 1 << 20,
        read_only: true,
        ..Claims::default()
    });
    let request = |op, offset, length| Request {
        op,
        offset,
        length,
        fua: false,
        may_discard: true,
    };
    let refused = |geometry, op, offset, length| {
        request(op, offset, length)
            .check(geometry)
            .expect_err("it is refused")
    };
    assert_eq!(refused(&read_only, Op::Write, 0, 512), Errno::EROFS);
    assert_eq!(refused(&read_only, Op::Discard, 0, 512), Errno::EROFS);
    assert_eq!(refused(&read_write, Op::Discard, 0, 512), Errno::EOPNOTSUPP);
    assert_eq!(refused(&read_write, Op::Read, 0, 0), Errno::EINVAL);
    assert_eq!(refused(&read_write, Op::Read, 1, 512), Errno::EINVAL);
    assert_eq!(refused(&read_write, Op::Read, 0, 513), Errno::EINVAL);
    assert_eq!(refused(&read_write, Op::Read, 0, 1 << 20), Errno::EINVAL);
    assert_eq!(refused(&read_write, Op::Read, 1 << 20, 512), Errno::EINVAL);
    assert_eq!(refused(&read_write, Op::Write, 1 << 20, 512), Errno::ENOSPC);
    assert_eq!(
        refused(&read_write, Op::Write, u64::MAX - 511, 512),
        Errno::ENOSPC
    );
    assert!(
        request(Op::Read, (1 << 20) - 512, 512)
            .check(&read_write)
            .is_ok()
    );
    assert!(request(Op::Flush, 0, 0).check(&read_only).is_ok());
}
