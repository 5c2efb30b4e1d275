//! Guests of the contract `device`: what any function may try, and wrong answers.

use super::case::{Case, End};
use super::text::{COUNT, DEEPER, FLOOD, GROW, LOOP, Part, device};

/// A deed: its name, what the module has for it, what is done, and the words that end the guest; none where it has no
/// effect.
type Deed = (&'static str, &'static str, &'static str, &'static str);

/// What any function of a guest may try.
const DEEDS: [Deed; 30] = [
    ("a loop", "", LOOP, "deadline"),
    (
        "a loop of slow steps",
        "",
        "(loop $l (memory.fill (i32.const 0x100000) (i32.const 0) (i32.const 0x100000)) (br $l))",
        "deadline",
    ),
    ("recursion", "", DEEPER, "stack"),
    (
        "recursion with large frames",
        "(func $wide (param f64) (result f64) (local f64 f64 f64 f64 f64 f64 f64 f64)
          (f64.add (call $wide (f64.add (local.get 0) (local.get 3))) (local.get 0)))",
        "(drop (call $wide (f64.const 1)))",
        "stack",
    ),
    (
        "recursion by a table",
        "(table 1 funcref) (elem (i32.const 0) $call) (type $no (func))
         (func $call (call_indirect (type $no) (i32.const 0)))",
        "(call $call)",
        "stack",
    ),
    ("a panic", "", "unreachable", "gave up"),
    ("a division by 0", "", "(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
    ("a number of a NaN", "", "(drop (i32.trunc_f64_s (f64.const nan)))", "conversion to integer"),
    (
        "a pointer of a NaN",
        "",
        "(drop (i32.load (i32.wrap_i64 (i64.reinterpret_f64 (f64.const nan:0x4000012345678)))))",
        "out of bounds",
    ),
    ("memory behind its own", "", "(drop (i32.load (i32.const 0x7ffffffc)))", "out of bounds"),
    ("memory 4 GiB on", "", "(drop (i64.load offset=0xffffffff (i32.const -1)))", "out of bounds"),
    ("a store to the guard", "", "(i64.store offset=0xfffffff0 (i32.const -8) (i64.const 1))", "out of bounds"),
    ("a fill over the end", "", "(memory.fill (i32.const 0) (i32.const 1) (i32.const -1))", "out of bounds"),
    ("a copy over the end", "", "(memory.copy (i32.const 8) (i32.const -16) (i32.const 32))", "out of bounds"),
    (
        "a function that is none",
        "(table 1 funcref) (type $no (func))",
        "(call_indirect (type $no) (i32.const 0))",
        "uninitialized",
    ),
    (
        "a function beyond the table",
        "(table 1 funcref) (type $no (func))",
        "(call_indirect (type $no) (i32.const -1))",
        "undefined",
    ),
    (
        "a function of another type",
        "(table 1 funcref) (elem (i32.const 0) $deeper) (type $no (func))",
        "(call_indirect (type $no) (i32.const 0))",
        "type mismatch",
    ),
    ("all memory", "", GROW, ""),
    (
        "all of a table",
        "(table $t 1 funcref)",
        "(loop $grow (br_if $grow (i32.ne (table.grow $t (ref.null func) (i32.const 0x8000)) (i32.const -1))))",
        "",
    ),
    ("a flood of words", COUNT, FLOOD, ""),
    ("long words", "", "(call $log (i32.const 0) (i32.const 0) (i32.const 0x200000))", ""),
    ("longer words", "", "(call $log (i32.const 0) (i32.const 0) (i32.const 0x300000))", ""),
    ("words beyond memory", "", "(call $log (i32.const 0) (i32.const -8) (i32.const 32))", "out of bounds"),
    (
        "words that are none",
        "",
        "(i32.store (i32.const 0x10000) (i32.const -1)) (call $log (i32.const 0) (i32.const 0x10000) (i32.const 4))",
        "utf-8",
    ),
    ("a level that is none", "", "(call $log (i32.const 77) (i32.const 0x10000) (i32.const 4))", "discriminant"),
    ("an arena that nobody asked for", "", "(call $lend (i32.const 0x10000) (i32.const 4096))", "only ring.open"),
    (
        "a store that nobody granted",
        "",
        "(call $find (i32.const 0x10000) (i32.const 64) (i32.const 0x20000))
         (if (i32.load8_u (i32.const 0x20000)) (then unreachable))",
        "",
    ),
    (
        "a long name",
        "",
        "(call $find (i32.const 0) (i32.const 0x3fffff) (i32.const 0x20000))
         (if (i32.load8_u (i32.const 0x20000)) (then unreachable))",
        "",
    ),
    (
        "stores by number",
        "",
        "(call $load (i32.const -1) (i64.const -1) (i32.const -1) (i32.const 0x20000))
         (if (i32.eqz (i32.load8_u (i32.const 0x20000))) (then unreachable))
         (call $store (i32.const 0x7fffffff) (i64.const 0) (i32.const 0) (i32.const 0x1000) (i32.const 0x20000))
         (if (i32.eqz (i32.load8_u (i32.const 0x20000))) (then unreachable))
         (call $sync (i32.const 0) (i32.const 0x20000))
         (if (i32.eqz (i32.load8_u (i32.const 0x20000))) (then unreachable))",
        "",
    ),
    ("an answer beyond memory", "", "(call $sync (i32.const 0) (i32.const -4))", "out of bounds"),
];

/// Each deed, in all three places where the host waits for it.
fn deeds() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, module, deed, says) in DEEDS {
        for function in ["open", "read", "write"] {
            let parts: [Part; 2] = [("module", module.into()), (function, deed.into())];
            let end = match (says, function) {
                ("", _) => End::Serves,
                (_, "open") => End::Refused(says),
                _ => End::Ended(says),
            };
            cases.push(Case::new(
                format!("{name} in {function}"),
                device(&parts),
                end,
            ));
        }
    }
    cases
}

/// What functions of the contract `device` answer, and where the host is to put what it passes.
#[expect(clippy::too_many_lines, reason = "a table")]
fn answers() -> Vec<Case> {
    use End::{Contained, Ended, Errors, Refused, Serves};
    let store = |at: u32, value: i64| format!("(i32.store (i32.const {at}) (i32.const {value}))");
    let byte = |at: u32, value: u8| format!("(i32.store8 (i32.const {at}) (i32.const {value}))");
    let give = |value: i64| format!("(return (i32.const {value}))");
    let log = "(call $log (i32.const 0) (i32.const 0) (i32.const 1))";
    let at_the_end = "(return (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 16)))";
    // Where the list's address is, and its length.
    let (list, length) = (68, 72);
    let rows = [
        (
            "a list beyond memory",
            "list",
            store(list, -8),
            Ended("out of bounds"),
        ),
        (
            "a list without an end",
            "list",
            store(length, -1),
            Ended("out of bounds"),
        ),
        (
            "a list of all memory",
            "list",
            store(list, 0) + &store(length, 0x30_0000),
            Ended("the most are 1048576"),
        ),
        (
            "a list around the end",
            "list",
            store(list, -16) + &store(length, 32),
            Ended("out of bounds"),
        ),
        (
            "a list too long",
            "list",
            store(length, 4097),
            Ended("asked for"),
        ),
        ("no list", "list", store(length, 0), Ended("asked for")),
        (
            "a case that is none",
            "list",
            byte(64, 9),
            Ended("discriminant"),
        ),
        (
            "an error that is none",
            "list",
            byte(64, 1) + &byte(list, 200),
            Ended("discriminant"),
        ),
        ("an error", "list", byte(64, 1) + &byte(list, 6), Errors),
        (
            "a result beyond memory",
            "list",
            give(-4),
            Ended("out of bounds"),
        ),
        ("a result at an odd place", "list", give(65), Ended("align")),
        (
            "a result of write that is none",
            "write",
            byte(96, 2),
            Ended("discriminant"),
        ),
        (
            "a result of flush beyond memory",
            "flush",
            give(-1),
            Ended("out of bounds"),
        ),
        (
            "a flush that loops",
            "flush",
            LOOP.into(),
            Ended("deadline"),
        ),
        (
            "a loop behind the answer",
            "post",
            LOOP.into(),
            Ended("deadline"),
        ),
        (
            "a trap behind the answer",
            "post",
            "unreachable".into(),
            Ended("gave up"),
        ),
        (
            "a call behind the answer",
            "post",
            log.into(),
            Ended("leave"),
        ),
        (
            "a place without an end",
            "realloc",
            LOOP.into(),
            Refused("deadline"),
        ),
        (
            "a place beyond memory",
            "realloc",
            give(-4096),
            Refused("realloc"),
        ),
        (
            "a place around the end",
            "realloc",
            at_the_end.into(),
            Ended("realloc"),
        ),
        (
            "no place, but a panic",
            "realloc",
            "unreachable".into(),
            Refused("gave up"),
        ),
        ("a place in the results", "realloc", give(64), Contained),
        ("a place in all memory", "realloc", GROW.into(), Serves),
        (
            "a call for a place",
            "realloc",
            log.into(),
            Refused("leave"),
        ),
        (
            "a disk for a place",
            "realloc",
            "(drop (call $open (i32.const 0) (i32.const 0)))".into(),
            Serves,
        ),
        (
            "a case of open that is none",
            "open",
            byte(0, 7),
            Refused("discriminant"),
        ),
        (
            "words of open without an end",
            "open",
            byte(0, 1) + &byte(8, 0) + &store(16, -1),
            Refused("out of bounds"),
        ),
        ("a feature that is none", "open", byte(28, 0xff), Contained),
    ];
    let case = |(name, function, deed, end)| Case::new(name, device(&[(function, deed)]), end);
    rows.map(case).into()
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    [deeds(), answers()].into_iter().flatten()
}
