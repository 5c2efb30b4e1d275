//! Guests of the contract `ring`, and wild values in every field that the host reads.

use super::case::{Case, End};
use super::text::{GROW, LOOP, device, ring};

/// Values that are on the edge of something.
const WILD: [u32; 9] = [
    0,
    1,
    3,
    0x7ff,
    0x1000,
    0x0001_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
];

/// Has as many operations as a guest may have, in the `open` of a ring.
const MANY_OPS: &str = "(call $lend (i32.const 0x100000) (i32.const 0x300000))
    (i32.store (i32.const 64) (i32.const 0x10000)) (return (i32.const 0))";

/// A guest that does.
pub(crate) fn many_ops() -> Vec<u8> {
    ring(&[("open", MANY_OPS.into())])
}

/// Wild values in every field of what describes the device, by both contracts.
fn descriptions() -> Vec<Case> {
    let mut cases = Vec::new();
    for value in WILD {
        let poke = |at: u32| format!("(i32.store (i32.const {at}) (i32.const {value}))");
        for at in [8, 12, 16, 20, 24, 28] {
            let name = format!("{value:#x} at {at} of the device");
            cases.push(Case::new(
                name,
                device(&[("open", poke(at))]),
                End::Contained,
            ));
        }
        for at in [
            8, 12, 16, 20, 24, 28, 32, 36, 48, 52, 56, 60, 64, 68, 72, 76,
        ] {
            let name = format!("{value:#x} at {at} of the disk");
            cases.push(Case::new(name, ring(&[("lent", poke(at))]), End::Contained));
        }
    }
    cases
}

/// Wild values in every field of an action, in completions and transfers; and as the number of actions.
fn actions() -> Vec<Case> {
    let mut cases = Vec::new();
    for value in WILD {
        for at in [0, 4, 8, 12, 16, 20, 24, 28] {
            for kind in [0, 1, 2, 16] {
                let poke = format!(
                    "(i32.store (i32.const 0x101000) (i32.const {kind}))
                     (i32.store (i32.const {}) (i32.const {value}))",
                    0x10_1000 + at
                );
                let name = format!("{value:#x} at {at} of an action of kind {kind}");
                cases.push(Case::new(name, ring(&[("act", poke)]), End::Contained));
            }
        }
        let count = format!("(return (i32.const {value}))");
        cases.push(Case::new(
            format!("{value:#x} actions"),
            ring(&[("act", count)]),
            End::Contained,
        ));
    }
    cases
}

/// What a guest of the contract `ring` does in `poll` or `open`.
#[expect(clippy::too_many_lines, reason = "a table")]
fn rings() -> Vec<Case> {
    use End::{Contained, Ended, Refused, Serves};
    let number = |value: i64| format!("(i32.const {value})");
    let lend = |at: i64, bytes: &str| format!("(call $lend {} {bytes})", number(at));
    let arena = |byte: u8| {
        format!("(memory.fill (i32.const 0x100000) (i32.const {byte}) (i32.const 1122304))")
    };
    let all = "(i32.mul (memory.size) (i32.const 65536))";
    let flood = "(loop $flood (call $log (i32.const 0) (i32.const 0) (i32.const 1000))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $flood (i32.lt_u (local.get $n) (i32.const 20000)))) (local.set $n (i32.const 0))";
    let more = "(return (i32.or (local.get $n) (i32.const 0x80000000)))";
    let rows = [
        ("65,536 operations", "open", MANY_OPS.into(), Serves),
        (
            "65,536 operations and no memory for them",
            "open",
            format!("(drop (memory.grow (i32.const 784))) {MANY_OPS}"),
            Refused("--memory-mib"),
        ),
        ("a loop in poll", "poll", LOOP.into(), Refused("deadline")),
        (
            "a panic in poll",
            "poll",
            "unreachable".into(),
            Refused("gave up"),
        ),
        (
            "a loop behind a request",
            "act",
            format!("(if (local.get $n) (then {LOOP}))"),
            Ended("deadline"),
        ),
        (
            "no answer",
            "act",
            "(return (i32.const 0))".into(),
            Ended("waits for nothing"),
        ),
        ("more for ever", "act", more.into(), Serves),
        ("all memory in poll", "poll", GROW.into(), Serves),
        ("a flood of words in poll", "poll", flood.into(), Serves),
        (
            "events that it writes itself",
            "poll",
            arena(255),
            Contained,
        ),
        ("an arena of zeros", "act", arena(0), Contained),
        ("an arena of ones", "act", arena(255), Ended("no action")),
        (
            "a second arena",
            "lent",
            lend(0x20_0000, &number(4096)),
            Refused("twice"),
        ),
        (
            "an arena in poll",
            "poll",
            lend(0x20_0000, &number(4096)),
            Refused("only ring.open"),
        ),
        (
            "an arena of nothing",
            "open",
            lend(0x10_0000, &number(0)),
            Refused("page"),
        ),
        (
            "an arena beyond memory",
            "open",
            lend(-4096, &number(8192)),
            Refused("out of bounds"),
        ),
        ("an arena of all memory", "open", lend(0, all), Contained),
        (
            "an arena at an odd place",
            "open",
            lend(0x10_0001, &number(4096)),
            Refused("page"),
        ),
        ("all memory beside the arena", "open", GROW.into(), Serves),
        (
            "a place of options without an end",
            "realloc",
            LOOP.into(),
            Refused("deadline"),
        ),
    ];
    let case = |(name, function, deed, end)| Case::new(name, ring(&[(function, deed)]), end);
    rows.map(case).into()
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    [descriptions(), actions(), rings()].into_iter().flatten()
}
