//! Geometry arithmetic: what is accepted fits together, and requests stay inside.

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
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

/// Numbers as guests claim them: mostly such as could be right.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        (0_u32..32).prop_map(|shift| 1 << shift),
        any::<u32>(),
        0_u32..1 << 20
    ]
}

fn claims() -> impl Strategy<Value = Claims> {
    let trim =
        (number(), number(), number()).prop_map(|(granularity, discard, zeroes)| TrimClaims {
            granularity_bytes: granularity,
            max_discard_bytes: discard,
            max_write_zeroes_bytes: zeroes,
        });
    let size = prop_oneof![
        any::<u64>(),
        (0_u64..1 << 40).prop_map(|blocks| blocks << 12)
    ];
    (
        size,
        number(),
        number(),
        number(),
        any::<bool>(),
        any::<bool>(),
        trim,
    )
        .prop_map(
            |(size_bytes, logical, physical, transfer, read_only, write_through, trim)| Claims {
                size_bytes,
                logical_block_bytes: logical,
                physical_block_bytes: physical,
                max_transfer_bytes: transfer,
                read_only,
                write_through,
                trim: Some(trim),
                ..Claims::default()
            },
        )
}

proptest! {
    #[test]
    fn accepted_geometry_fits_together(claims in claims()) {
        if let Ok(geometry) = Geometry::new(&claims) {
            let block = geometry.logical_block_bytes;
            prop_assert!(block.is_power_of_two() && (512..=4096).contains(&block));
            prop_assert!(geometry.physical_block_bytes.is_power_of_two());
            prop_assert!(geometry.physical_block_bytes >= block);
            prop_assert_eq!(geometry.size_bytes % u64::from(block), 0);
            prop_assert!(geometry.size_bytes > 0 && i64::try_from(geometry.size_bytes).is_ok());
            prop_assert_eq!(geometry.max_transfer_bytes % 4096, 0);
            prop_assert!(geometry.max_transfer_bytes <= limits::TRANSFER_BYTES_MAX);
            let trim = geometry.trim.expect("it was claimed");
            prop_assert_eq!(trim.max_discard_bytes % block, 0);
            prop_assert_eq!(trim.max_write_zeroes_bytes % block, 0);
            // Checking it again as a claim changes nothing.
            let again = Claims {
                size_bytes: geometry.size_bytes,
                logical_block_bytes: block,
                physical_block_bytes: geometry.physical_block_bytes,
                max_transfer_bytes: geometry.max_transfer_bytes,
                ..claims
            };
            prop_assert_eq!(Geometry::new(&again), Ok(geometry));
        }
    }

    #[test]
    fn accepted_requests_are_inside(
        claims in claims(),
        offset in any::<u64>(),
        blocks in 0_u32..4096,
        kind in 0_usize..4,
        near_end in any::<bool>(),
    ) {
        let Ok(geometry) = Geometry::new(&claims) else { return Ok(()) };
        let block = geometry.logical_block_bytes;
        let offset = if near_end { geometry.size_bytes.wrapping_sub(offset % (1 << 22)) } else { offset };
        let offset = offset - offset % u64::from(block);
        let length = blocks.saturating_mul(block);
        let op = [Op::Read, Op::Write, Op::Discard, Op::WriteZeroes][kind];
        let request = Request { op, offset, length, fua: false, may_discard: true };
        let inside = offset.checked_add(length.into()).is_some_and(|end| end <= geometry.size_bytes);
        match request.check(&geometry) {
            Ok(_) => prop_assert!(inside && length > 0 && (op == Op::Read || !geometry.read_only)),
            Err(errno) if errno == Errno::ENOSPC => prop_assert!(!inside),
            Err(_) => {}
        }
    }
}
