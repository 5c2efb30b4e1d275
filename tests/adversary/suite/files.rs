//! Files that are no guests, or hardly.

use std::fs;
use std::ops::Range;

use tests::paths;

use super::case::{Case, End};

/// A component that is text, with `{}` where something comes `count` times.
fn text(name: &str, before: &str, (again, count): (&str, usize), after: &str) -> Case {
    let text = format!("(component {before} {} {after})", again.repeat(count));
    let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    Case::new(name, bytes, End::Refused(""))
}

/// Components that are valid or nearly, and no disks.
#[expect(clippy::too_many_lines, reason = "a table")]
fn components() -> Vec<Case> {
    let import = |what: &str| format!("(import \"{what}\" (instance (export \"f\" (func))))");
    let module = "(core module $m)";
    let small = "(core module $m (memory 1))";
    let wrong = "(core module $m (func (export \"f\")))
        (core instance $i (instantiate $m)) (func $f (canon lift (core func $i \"f\")))";
    vec![
        text("nothing in it", "", ("", 0), ""),
        text("10,000 components", "", ("(component)", 10_000), ""),
        text("10,000 modules", "", ("(core module)", 10_000), ""),
        text(
            "5,000 instances",
            module,
            ("(core instance (instantiate $m))", 5_000),
            "",
        ),
        text(
            "500 memories",
            small,
            ("(core instance (instantiate $m))", 500),
            "",
        ),
        text("100,000 types", "", ("(type (list u8))", 100_000), ""),
        text(
            "a type of types of types",
            "(type (list u8))",
            ("", 0),
            &types(60),
        ),
        text(
            "a name of 100,000 letters",
            "(import \"",
            ("a", 100_000),
            "\" (func))",
        ),
        text("sockets", &import("wasi:sockets/tcp@0.2.6"), ("", 0), ""),
        text(
            "the web",
            &import("wasi:http/outgoing-handler@0.2.6"),
            ("", 0),
            "",
        ),
        text("an escape", &import("evil:host/escape@1.0.0"), ("", 0), ""),
        text(
            "a contract of tomorrow",
            &import("wasmblk:block/host@9.9.9"),
            ("", 0),
            "",
        ),
        text(
            "a contract of other types",
            wrong,
            ("", 0),
            "(instance $d (export \"open\" (func $f)))
            (export \"wasmblk:block/device@0.1.0\" (instance $d))",
        ),
        text(
            "a contract of other types, too",
            wrong,
            ("", 0),
            "(instance $d (export \"open\" (func $f))
            (export \"poll\" (func $f))) (export \"wasmblk:block/ring@0.1.0\" (instance $d))",
        ),
        text(
            "a module of 64 bits",
            "",
            ("", 0),
            "(core module (memory i64 1))",
        ),
        text(
            "a memory that is shared",
            "",
            ("", 0),
            "(core module (memory 1 2 shared))",
        ),
        text(
            "50,001 locals",
            "(core module (func",
            ("(local i64)", 50_001),
            "))",
        ),
        text(
            "a module that is not valid",
            "",
            ("", 0),
            "(core module (func (result i32)))",
        ),
    ]
}

/// Each of which holds the one before twice.
fn types(count: usize) -> String {
    let pair = |n: usize| format!("(type (tuple {n} {n}))");
    (0..count).map(pair).collect()
}

/// A component in a component, and so on.
fn nested(depth: usize) -> Vec<u8> {
    // From the inside, backwards: what is in a section comes behind its length.
    let mut reversed = Vec::new();
    for level in 0..=depth {
        reversed.extend(b"\0asm\x0d\0\x01\0".iter().rev());
        if level == depth {
            break;
        }
        let (mut length, mut leb) = (reversed.len(), Vec::new());
        while length >= 0x80 {
            leb.push(0x80 | length.to_le_bytes()[0]);
            length >>= 7;
        }
        leb.push(length.to_le_bytes()[0]);
        reversed.extend(leb.iter().rev());
        // The section of a component.
        reversed.push(4);
    }
    reversed.reverse();
    reversed
}

/// Bytes that are cut off, swapped or added.
fn bytes() -> Vec<Case> {
    let guest = fs::read(paths::guest("memory-c")).expect("cargo xtask built it");
    let case = |name: &str, bytes: &[u8]| Case::new(name, bytes.to_vec(), End::Refused(""));
    let mut cases = vec![
        case("no byte", b""),
        case("words", b"#!/bin/sh\nreboot\n"),
        case("a module", b"\0asm\x01\0\0\0"),
        case("a version of tomorrow", b"\0asm\xff\0\x01\0"),
        case("a header alone", b"\0asm\x0d\0\x01\0"),
        case(
            "a section without an end",
            b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\x0f",
        ),
        case(
            "a number without an end",
            b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\xff\xff\xff",
        ),
        case("a program", &fs::read("/bin/true").expect("it is there")),
        case("it, and more", &[&guest[..], b"more"].concat()),
        case("it twice", &[&guest[..], &guest].concat()),
        case("components in components", &nested(10_000)),
    ];
    for part in 1..8 {
        let name = format!("{part} of 8 parts of it");
        cases.push(case(&name, &guest[..guest.len() * part / 8]));
    }
    cases
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [components(), bytes()].into_iter().flatten().collect()
}

/// Where the sections of a component are, each with its head.
fn sections(component: &[u8]) -> Vec<Range<usize>> {
    let (mut all, mut at) = (Vec::new(), 8);
    while at < component.len() {
        let (mut end, mut length, mut shift) = (at + 1, 0, 0);
        loop {
            let byte = usize::from(component[end]);
            length |= (byte & 0x7f) << shift;
            (end, shift) = (end + 1, shift + 7);
            if byte < 0x80 {
                break;
            }
        }
        all.push(at..end + length);
        at = end + length;
    }
    all
}

/// A guest of ours without each of its sections, with each of them twice, and with each behind the next one.
pub(crate) fn rearranged() -> impl Iterator<Item = Case> {
    let guest = fs::read(paths::guest("memory-c")).expect("cargo xtask built it");
    let all = sections(&guest);
    let mut cases = Vec::new();
    let mut add = |name: String, order: &[usize]| {
        let parts = order.iter().map(|&n| &guest[all[n].clone()]);
        let bytes = [&guest[..8]]
            .into_iter()
            .chain(parts)
            .collect::<Vec<_>>()
            .concat();
        cases.push(Case::new(name, bytes, End::Contained));
    };
    let order: Vec<usize> = (0..all.len()).collect();
    for n in 0..all.len() {
        let (before, behind) = order.split_at(n);
        add(format!("no section {n}"), &[before, &behind[1..]].concat());
        add(
            format!("section {n} twice"),
            &[before, &[n], behind].concat(),
        );
        if let [one, two, rest @ ..] = behind {
            add(
                format!("section {n} behind the next"),
                &[before, &[*two, *one], rest].concat(),
            );
        }
    }
    cases.into_iter()
}

/// Marsaglia's xorshift: the same numbers each time.
fn numbers() -> impl FnMut() -> usize {
    let mut random: u64 = 88_172_645_463_325_252;
    move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 8).expect("64 bits")
    }
}

/// A guest of ours with one byte of its code that is another one. Many of these are valid, and do something else.
pub(crate) fn mutants_of_code() -> impl Iterator<Item = Case> {
    let guest = fs::read(paths::guest("memory-c")).expect("cargo xtask built it");
    // Its module is the longest section, and of that the code is the longest part.
    let module = sections(&guest)
        .into_iter()
        .max_by_key(ExactSizeIterator::len)
        .expect("it has some");
    let head = guest[module.clone()]
        .windows(4)
        .position(|bytes| bytes == b"\0asm")
        .expect("a module");
    let inside = module.start + head;
    let code = sections(&guest[inside..module.end])
        .into_iter()
        .max_by_key(ExactSizeIterator::len);
    let code = code.expect("it has code");
    let mut next = numbers();
    (0..).map(move |number| {
        let mut bytes = guest.clone();
        bytes[inside + code.start + next() % code.len()] = next().to_le_bytes()[0];
        Case::new(format!("mutant {number} of code"), bytes, End::Contained)
    })
}

/// A guest of ours with one to four bytes that are others.
pub(crate) fn mutants(count: u64) -> impl Iterator<Item = Case> {
    let guest = fs::read(paths::guest("memory-c")).expect("cargo xtask built it");
    let mut next = numbers();
    (0..count).map(move |number| {
        let mut bytes = guest.clone();
        for _ in 0..=next() % 4 {
            let at = 8 + next() % (bytes.len() - 8);
            bytes[at] = next().to_le_bytes()[0];
        }
        Case::new(format!("mutant {number}"), bytes, End::Contained)
    })
}
