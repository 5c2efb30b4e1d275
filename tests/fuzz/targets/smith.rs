//! Components that are valid, and with one wrong byte: what `component` is given too rarely.

#![no_main]

use arbitrary::{Result, Unstructured};
use wasm_smith::{Component, Config};

#[path = "../component.rs"]
mod body;

fn make(from: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>)> {
    let (at, flipped): (usize, u8) = from.arbitrary()?;
    let good = Component::new(Config::default(), from)?.to_bytes();
    let mut bad = good.clone();
    let at = at % bad.len();
    bad[at] ^= flipped;
    Ok((good, bad))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok((good, bad)) = make(&mut Unstructured::new(bytes)) {
        body::target(&good);
        body::target(&bad);
    }
});
