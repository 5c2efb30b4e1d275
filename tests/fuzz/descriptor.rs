//! Whatever the kernel wrote, decoding and checking give a request inside the device, or an errno.

use arbitrary::{Result, Unstructured};
use wasmblk::block::{Claims, Geometry};
use wasmblk::ublk::abi::IoDesc;
use wasmblk::ublk::decode;

pub(crate) fn target(bytes: &[u8]) {
    let Ok(desc) = desc(&mut Unstructured::new(bytes)) else {
        return;
    };
    let claims = Claims {
        size_bytes: 1 << 40,
        ..Claims::default()
    };
    let geometry = Geometry::new(&claims).expect("a geometry");
    if let Ok(checked) = decode::request(&desc).and_then(|request| request.check(&geometry)) {
        let request = checked.request();
        assert!(request.offset + u64::from(request.length) <= geometry.size_bytes);
        assert!(request.length <= geometry.max_transfer_bytes);
    }
}

fn desc(from: &mut Unstructured<'_>) -> Result<IoDesc> {
    Ok(IoDesc {
        op_flags: from.arbitrary()?,
        nr_sectors: from.arbitrary()?,
        start_sector: from.arbitrary()?,
        addr: from.arbitrary()?,
    })
}
