//! Geometry that is accepted fits together, and so do the requests that are accepted then.

use arbitrary::{Result, Unstructured};
use wasmblk::block::{Claims, Errno, Geometry, Op, Request, TrimClaims};
use wasmblk::limits;

pub(crate) fn target(bytes: &[u8]) {
    let mut from = Unstructured::new(bytes);
    let Ok(claims) = claims(&mut from) else {
        return;
    };
    let Ok(geometry) = Geometry::new(&claims) else {
        return;
    };
    fits_together(&claims, geometry);
    while let Ok(request) = request(&mut from, &geometry) {
        let Request {
            op, offset, length, ..
        } = request;
        let end = offset.checked_add(length.into());
        let inside = end.is_some_and(|end| end <= geometry.size_bytes);
        match request.check(&geometry) {
            Ok(_) => assert!(inside && length > 0 && (op == Op::Read || !geometry.read_only)),
            Err(errno) => assert!(errno != Errno::ENOSPC || !inside),
        }
        if from.is_empty() {
            return;
        }
    }
}

/// Numbers as guests claim them: mostly such as could be right.
fn number(from: &mut Unstructured<'_>) -> Result<u32> {
    match from.int_in_range(0..=2)? {
        0 => Ok(1 << from.int_in_range(0..=31)?),
        1 => from.arbitrary(),
        _ => from.int_in_range(0..=1 << 20),
    }
}

fn claims(from: &mut Unstructured<'_>) -> Result<Claims> {
    let size_bytes = if from.arbitrary()? {
        from.arbitrary()?
    } else {
        from.int_in_range(0_u64..=1 << 40)? << 12
    };
    Ok(Claims {
        size_bytes,
        logical_block_bytes: number(from)?,
        physical_block_bytes: number(from)?,
        max_transfer_bytes: number(from)?,
        read_only: from.arbitrary()?,
        write_through: from.arbitrary()?,
        trim: Some(TrimClaims {
            granularity_bytes: number(from)?,
            max_discard_bytes: number(from)?,
            max_write_zeroes_bytes: number(from)?,
        }),
        ..Claims::default()
    })
}

fn request(from: &mut Unstructured<'_>, geometry: &Geometry) -> Result<Request> {
    let block = geometry.logical_block_bytes;
    let offset: u64 = from.arbitrary()?;
    let offset = if from.arbitrary()? {
        geometry.size_bytes.wrapping_sub(offset % (1 << 22))
    } else {
        offset
    };
    Ok(Request {
        op: *from.choose(&[Op::Read, Op::Write, Op::Discard, Op::WriteZeroes])?,
        offset: offset - offset % u64::from(block),
        length: from.int_in_range(0..=4095_u32)?.saturating_mul(block),
        fua: false,
        may_discard: true,
    })
}

fn fits_together(claims: &Claims, geometry: Geometry) {
    let block = geometry.logical_block_bytes;
    assert!(block.is_power_of_two() && (512..=4096).contains(&block));
    assert!(geometry.physical_block_bytes.is_power_of_two());
    assert!(geometry.physical_block_bytes >= block);
    assert_eq!(geometry.size_bytes % u64::from(block), 0);
    assert!(geometry.size_bytes > 0 && i64::try_from(geometry.size_bytes).is_ok());
    assert_eq!(geometry.max_transfer_bytes % 4096, 0);
    assert!(geometry.max_transfer_bytes <= limits::TRANSFER_BYTES_MAX);
    let trim = geometry.trim.expect("it was claimed");
    assert_eq!(trim.max_discard_bytes % block, 0);
    assert_eq!(trim.max_write_zeroes_bytes % block, 0);
    // Checking it again as a claim changes nothing.
    let again = Claims {
        size_bytes: geometry.size_bytes,
        logical_block_bytes: block,
        physical_block_bytes: geometry.physical_block_bytes,
        max_transfer_bytes: geometry.max_transfer_bytes,
        ..*claims
    };
    assert_eq!(Geometry::new(&again), Ok(geometry));
    assert_eq!(Geometry::new(&Claims::from(&geometry)), Ok(geometry));
}
