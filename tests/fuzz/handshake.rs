//! Whatever a client sends, the handshake takes no more than there is and does not panic.

use wasmblk::block::{Claims, Geometry};
use wasmblk::nbd::handshake::{Handshake, Offer, Step, TlsMode};

/// All bytes as they are; and, after the client's flags, the rest as options: each its code, its length, its data.
pub(crate) fn target(bytes: &[u8]) {
    let claims = Claims {
        size_bytes: 1 << 20,
        ..Claims::default()
    };
    let offer = Offer {
        name: "disk".into(),
        geometry: Geometry::new(&claims).expect("a geometry"),
        tls: TlsMode::Off,
        fast_zero: true,
    };
    converse(&offer, bytes.to_vec());
    let mut options = vec![0, 0, 0, 3];
    let mut rest = bytes;
    while let [code, length, data @ ..] = rest {
        let (data, later) = data.split_at(data.len().min(usize::from(*length)));
        options.extend(b"IHAVEOPT\0\0\0");
        options.push(code % 16);
        options.extend(u32::from(*length).to_be_bytes());
        options.extend(data);
        rest = later;
    }
    converse(&offer, options);
}

fn converse(offer: &Offer, mut input: Vec<u8>) {
    let mut output = Vec::new();
    let mut handshake = Handshake::begin(&mut output);
    loop {
        match handshake.step(&input, offer, &mut output) {
            Step::Used(used) => {
                assert!(used > 0 && used <= input.len());
                input.drain(..used);
            }
            Step::Transmit(used, _) | Step::StartTls(used) => {
                assert!(used <= input.len());
                return;
            }
            Step::Incomplete | Step::Close => return,
        }
    }
}
