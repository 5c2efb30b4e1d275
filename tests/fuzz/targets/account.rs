#![no_main]
#![expect(missing_docs, reason = "the body says what it is")]

#[path = "../account.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::target(bytes));
