//! `wasmblk inspect`: what a guest's file says, whatever is in it.

use std::fs;
use std::time::Instant;

use serde_json::Value;
use tests::PATIENCE;
use tests::disk::{must, wasmblk};
use tests::paths;
use wasmblk::guest::inspect;

use crate::cli::{Folder, expect, patched};

fn report(file: &str) -> Value {
    serde_json::from_str(&must(&["inspect", "--json", file])).expect("JSON")
}

fn report_of(guest: &str) -> Value {
    report(&paths::guest(guest).display().to_string())
}

/// The interfaces that need this.
fn which_need<'a>(report: &'a Value, needs: &str) -> Vec<&'a str> {
    let imports = report["imports"].as_array().expect("a list");
    let rows = imports.iter().filter(|row| row["needs"] == needs);
    rows.filter_map(|row| row["interface"].as_str()).collect()
}

#[test]
fn the_contract_and_what_it_needs_are_told() {
    for (guest, contract) in [
        ("memory", "ring"),
        ("memory-c", "ring"),
        ("memory-device", "device with trim"),
        ("faulty", "device"),
    ] {
        let report = report_of(guest);
        assert_eq!(report["contract"], contract, "{guest}");
        assert_eq!(report["accepted"], true, "{guest}");
        assert_eq!(
            report["wit_versions"],
            serde_json::json!(["0.1.0"]),
            "{guest}"
        );
        let bytes = fs::metadata(paths::guest(guest)).expect("built").len();
        assert_eq!(report["size_bytes"], bytes);
        assert_eq!(report["digest"].as_str().map(str::len), Some(64));
        assert!(report["core_modules"].as_u64() > Some(0));
        assert!(
            report["memory_min_bytes"].as_u64() >= Some(1 << 16),
            "{guest}"
        );
        assert!(which_need(&report, "nothing").contains(&"wasmblk:block/host"));
    }
    assert_eq!(
        which_need(&report_of("file"), "stores"),
        ["wasmblk:block/store"]
    );
    let wasip2 = report_of("memory-wasip2");
    assert!(which_need(&wasip2, "inert").contains(&"wasi:io/streams"));
    assert_eq!(which_need(&wasip2, "env"), ["wasi:cli/environment"]);
    let told = report_of("told-wasip2");
    assert!(which_need(&told, "clocks").contains(&"wasi:clocks/wall-clock"));
    assert!(!which_need(&told, "random").is_empty());
    assert_eq!(wasip2["accepted"], true);
}

#[test]
fn a_guest_that_would_be_refused_is_shown_with_the_reason() {
    let folder = Folder::new("inspect");
    let net = patched("memory", "wasmblk:block/host", "wasi:net/socketsxx");
    let new = patched("null", "@0.1.0", "@0.2.0");
    let other = patched("null", "wasmblk:block/", "another:packs/");
    let pair = [b"\0asm\x0d\0\x01\0".to_vec(), memory_of_64_bits()].concat();
    for (bytes, reason, contract) in [
        (
            net,
            "wasi:net/socketsxx@0.1.0, which this wasmblk does not grant",
            true,
        ),
        (new, "speaks version 0.1: rebuild", false),
        (other, "does not export", false),
        (b"\0asm\x0d\0\x01\0".to_vec(), "exports nothing", false),
        (pair, "memories of 64 bits", false),
    ] {
        let file = folder.file("guest.wasm", &bytes);
        let report = report(&file);
        assert_eq!(report["accepted"], false, "{report}");
        assert_eq!(report["contract"].is_string(), contract, "{report}");
        assert!(report["refused"].to_string().contains(reason), "{report}");
        let text = must(&["inspect", &file]);
        assert!(
            text.contains("accepted         no") && text.contains(reason),
            "{text}"
        );
    }
}

/// A component's section with a core module in it that has nothing but such a memory, of one page.
fn memory_of_64_bits() -> Vec<u8> {
    let module = [&b"\0asm\x01\0\0\0"[..], &[5, 3, 1, 4, 1]].concat();
    [&[1, 13][..], &module].concat()
}

#[test]
fn what_is_no_component_is_an_error() {
    let folder = Folder::new("inspect-no");
    let whole = fs::read(paths::guest("null")).expect("cargo xtask built it");
    for (bytes, says) in [
        (&b"#!/bin/sh\n"[..], "is not WebAssembly"),
        (b"\0asm\x01\0\0\0", "wasm-tools component new"),
        (&whole[..whole.len() / 2], "is not a valid component"),
    ] {
        let file = folder.file("file.wasm", bytes);
        expect(&wasmblk(&["inspect", &file]), 2, &["file.wasm", says]);
    }
    expect(
        &wasmblk(&["inspect", "/nowhere.wasm"]),
        2,
        &["cannot read the guest"],
    );
}

#[test]
fn hostile_files_cost_one_pass() {
    let begin = Instant::now();
    let header = b"\0asm\x0d\0\x01\0";
    // Components inside components.
    let mut deep = header.to_vec();
    for _ in 0..1000 {
        let length = deep.len();
        let length = [length | 0x80, length >> 7 | 0x80, length >> 14];
        let length = length.map(|part| part.to_le_bytes()[0]);
        deep = [&header[..], &[4], &length, &deep].concat();
    }
    let why = inspect(&deep).expect_err("it is refused");
    assert!(why.contains("more than 32 deep"), "{why}");
    // Imports without end: a million functions, each with a name of one byte.
    let mut many = header.to_vec();
    let body: Vec<u8> = [0, 1, b'a', 1, 0].repeat(400_000);
    many.extend([10, 0x83, 0x89, 0x7a, 0x80, 0xb5, 0x18]);
    many.extend(&body);
    let why = inspect(&many).expect_err("it is refused");
    assert!(why.contains("more than 1024 imports"), "{why}");
    // Every byte of a guest made another one.
    let guest = fs::read(paths::guest("faulty")).expect("cargo xtask built it");
    for at in (0..guest.len()).step_by(29) {
        let mut bytes = guest.clone();
        bytes[at] ^= 1 << (at % 8);
        let _ = inspect(&bytes);
        let _ = inspect(&bytes[..at]);
    }
    let took = begin.elapsed();
    assert!(took < PATIENCE, "{took:?}");
}
