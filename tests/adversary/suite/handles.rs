//! Guests that serve, in components that abuse what they are handed: resources, WASI, and the other components beside
//! them. They do it while they are instantiated, inside the deadline of `open`.

use super::case::{Case, End};
use super::component::cases;
use super::text::COUNT;

/// A function that a module is given: its name and type.
pub(crate) type Given = (&'static str, &'static str);

/// A module that is given functions and a memory, and does this when it starts.
pub(crate) fn beginning(given: &[Given], deed: &str) -> String {
    let (mut imports, mut exports) = (String::new(), String::new());
    for (name, of_type) in given {
        imports += &format!("(import \"\" \"{name}\" (func ${name} {of_type}))");
        exports += &format!("(export \"{name}\" (func ${name}))");
    }
    format!(
        "(core module $main {imports} (import \"\" \"memory\" (memory 64)) {COUNT}
           (func $begin (local $it i32) {deed}) (start $begin))
         (core instance (instantiate $main (with \"\" (instance {exports} (export \"memory\" (memory $memory))))))"
    )
}

/// Memory for what is passed, and a place in it.
pub(super) const MEMORY: &str = r#"
  (core module $libc (memory (export "memory") 64)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
"#;

pub(crate) fn for_ever(deed: &str) -> String {
    format!("(loop $again {deed} (br $again))")
}

fn often(deed: &str) -> String {
    format!(
        "(loop $again {deed} (global.set $count (i32.add (global.get $count) (i32.const 1)))
           (br_if $again (i32.lt_u (global.get $count) (i32.const 10000))))"
    )
}

/// Handles of a resource of its own: leaked, dropped twice, made up.
fn handles() -> Vec<Case> {
    use End::{Refused, Serves};
    const GIVEN: [Given; 3] = [
        ("new", "(param i32) (result i32)"),
        ("rep", "(param i32) (result i32)"),
        ("drop", "(param i32)"),
    ];
    const THINGS: &str = "(type $thing (resource (rep i32))) (core func $new (canon resource.new $thing))
        (core func $rep (canon resource.rep $thing)) (core func $drop (canon resource.drop $thing))";
    let new = "(local.set $it (call $new (i32.const 7)))";
    let rows = [
        ("handles without end", for_ever(new), Refused("handle")),
        (
            "handles made and dropped",
            often(&format!("{new} (call $drop (local.get $it))")),
            Serves,
        ),
        (
            "a handle dropped twice",
            format!("{new} (call $drop (local.get $it)) (call $drop (local.get $it))"),
            Refused("handle"),
        ),
        (
            "a handle that is used when it is dropped",
            format!("{new} (call $drop (local.get $it)) (drop (call $rep (local.get $it)))"),
            Refused("handle"),
        ),
        (
            "the handle 0",
            "(call $drop (i32.const 0))".into(),
            Refused("handle"),
        ),
        (
            "a handle that nobody gave",
            "(call $drop (i32.const 77))".into(),
            Refused("handle"),
        ),
        (
            "the last handle",
            "(drop (call $rep (i32.const -1)))".into(),
            Refused("handle"),
        ),
    ];
    cases(rows.map(|(name, deed, end)| {
        (
            name,
            format!("{MEMORY} {THINGS} {}", beginning(&GIVEN, &deed)),
            end,
        )
    }))
}

/// What WASI hands out, and what may be done to it.
const WASI: &str = r#"
  (import "wasi:io/error@0.2.6" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/poll@0.2.6" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.6" (instance $streams
    (export "output-stream" (type $o (sub resource)))
    (alias outer 1 $error-type (type $e0)) (export "error" (type $e (eq $e0)))
    (type $s0 (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $s (eq $s0)))
    (export "[method]output-stream.write"
      (func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $s)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stderr@0.2.6" (instance $stderr
    (alias outer 1 $stream (type $o0)) (export "output-stream" (type $o (eq $o0)))
    (export "get-stderr" (func (result (own $o))))))
  (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
    (alias outer 1 $pollable (type $p0)) (export "pollable" (type $p (eq $p0)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:random/random@0.2.6" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (import "wasi:cli/exit@0.2.6" (instance $cli (export "exit" (func (param "status" (result))))))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $write (canon lower (func $streams "[method]output-stream.write") (memory $memory)))
  (core func $stderr (canon lower (func $stderr "get-stderr")))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core func $random (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))
  (core func $exit (canon lower (func $cli "exit")))
  (core func $drop-pollable (canon resource.drop $pollable))
  (core func $drop-stream (canon resource.drop $stream))
"#;

/// What a guest is given of it.
const WASI_GIVEN: [Given; 8] = [
    ("block", "(param i32)"),
    ("write", "(param i32 i32 i32 i32)"),
    ("stderr", "(result i32)"),
    ("subscribe", "(param i64) (result i32)"),
    ("random", "(param i64 i32)"),
    ("exit", "(param i32)"),
    ("drop-pollable", "(param i32)"),
    ("drop-stream", "(param i32)"),
];
const POLLABLE: &str = "(local.set $it (call $subscribe (i64.const -1)))";
pub(super) const STREAM: &str = "(local.set $it (call $stderr))";
const DROP_POLLABLE: &str = "(call $drop-pollable (local.get $it))";
pub(super) const DROP_STREAM: &str = "(call $drop-stream (local.get $it))";

/// Writes so many bytes.
pub(super) fn write(bytes: u32) -> String {
    format!("(call $write (local.get $it) (i32.const 1024) (i32.const {bytes}) (i32.const 8))")
}

/// A component's text with this deed.
pub(super) fn doing(deed: &str) -> String {
    format!("{MEMORY} {WASI} {}", beginning(&WASI_GIVEN, deed))
}

fn with_wasi<const N: usize>(rows: [(&str, String, End); N]) -> Vec<Case> {
    cases(rows.map(|(name, deed, end)| (name, doing(&deed), end)))
}

/// Handles that WASI gives, abused.
fn handles_of_wasi() -> Vec<Case> {
    use End::{Refused, Serves};
    let twice = |drop: &str| format!("{drop} {drop}");
    with_wasi([
        (
            "pollables without end",
            for_ever(POLLABLE),
            Refused("no free keys"),
        ),
        (
            "streams without end",
            for_ever(STREAM),
            Refused("no free keys"),
        ),
        (
            "pollables made and dropped",
            often(&[POLLABLE, DROP_POLLABLE].concat()),
            Serves,
        ),
        (
            "a pollable dropped twice",
            POLLABLE.to_owned() + &twice(DROP_POLLABLE),
            Refused("handle"),
        ),
        (
            "a stream dropped twice",
            STREAM.to_owned() + &twice(DROP_STREAM),
            Refused("handle"),
        ),
        (
            "a pollable that is a stream",
            STREAM.to_owned() + DROP_POLLABLE,
            Refused("handle"),
        ),
        (
            "a stream that is a pollable",
            POLLABLE.to_owned() + &write(1),
            Refused("handle"),
        ),
        ("a stream that is none", write(1), Refused("handle")),
        (
            "a wait",
            POLLABLE.to_owned() + "(call $block (local.get $it))",
            Refused("waits by WASI"),
        ),
    ])
}

/// Asks for so many bytes.
pub(super) fn random(bytes: i64) -> String {
    format!("(call $random (i64.const {bytes}) (i32.const 8))")
}

/// Words that go to WASI, and bytes that come from it.
fn words_of_wasi() -> Vec<Case> {
    use End::{Refused, Serves};
    let write = |bytes| STREAM.to_owned() + &write(bytes);
    with_wasi([
        (
            "a flood of lines",
            STREAM.to_owned() + &often(&self::write(64)),
            Serves,
        ),
        ("a line of 64 KiB", write(1 << 16), Serves),
        ("a line of 3 MiB", write(3 << 20), Refused("at once")),
        (
            "a line beyond memory",
            write(u32::MAX),
            Refused("out of bounds"),
        ),
        ("random bytes", random(64 << 10), Serves),
        (
            "more random bytes",
            random((64 << 10) + 1),
            Refused("exceeds limit"),
        ),
        (
            "random bytes without end",
            random(-1),
            Refused("exceeds limit"),
        ),
        (
            "an exit",
            "(call $exit (i32.const 0))".into(),
            Refused("exit"),
        ),
        (
            "an exit that is none",
            "(call $exit (i32.const 2))".into(),
            Refused("discriminant"),
        ),
    ])
}

/// Two components beside each other: one gives words, letters and numbers, the other has a place for them.
fn pair(place: &str, deed: &str) -> String {
    const GIVEN: [Given; 3] = [
        ("words", "(param i32 i32)"),
        ("letter", "(param i32)"),
        ("number", "(param f32)"),
    ];
    format!(
        r#"(component $taker
             (core module $m (memory (export "memory") 64)
               (func (export "realloc") (param i32 i32 i32 i32) (result i32) {place})
               (func (export "words") (param i32 i32)) (func (export "letter") (param i32))
               (func (export "number") (param f32)))
             (core instance $i (instantiate $m))
             (func (export "words") (param "it" string)
               (canon lift (core func $i "words") (memory $i "memory") (realloc (func $i "realloc"))))
             (func (export "letter") (param "it" char) (canon lift (core func $i "letter")))
             (func (export "number") (param "it" f32) (canon lift (core func $i "number"))))
           (instance $taker (instantiate $taker))
           (component $giver
             (import "taker" (instance $taker (export "words" (func (param "it" string)))
               (export "letter" (func (param "it" char))) (export "number" (func (param "it" f32)))))
             {MEMORY}
             (core func $words (canon lower (func $taker "words") (memory $memory) string-encoding=utf16))
             (core func $letter (canon lower (func $taker "letter")))
             (core func $number (canon lower (func $taker "number")))
             {})
           (instance (instantiate $giver (with "taker" (instance $taker))))"#,
        beginning(&GIVEN, deed)
    )
}

fn pairs() -> Vec<Case> {
    use End::{Refused, Serves};
    let fine = "(i32.const 64)";
    let slow = "(loop $l (br $l)) (i32.const 64)";
    let words = "(call $words (i32.const 0) (i32.const 1000))";
    let many = "(call $words (i32.const 0) (i32.const 0x200000))";
    let too_many = "(call $words (i32.const 0) (i32.const 0x7fffffff))";
    let letter = |code: i64| pair(fine, &format!("(call $letter (i32.const {code}))"));
    let number = "(call $number (f32.const nan:0x200001))";
    cases([
        ("words", pair(fine, words), Serves),
        ("10,000 times words", pair(fine, &often(words)), Serves),
        (
            "words for ever",
            pair(fine, &for_ever(words)),
            Refused("deadline"),
        ),
        ("words of all memory", pair(fine, many), Serves),
        (
            "words beyond memory",
            pair(fine, too_many),
            Refused("out-of-bounds"),
        ),
        (
            "words to a place beyond memory",
            pair("(i32.const -8)", words),
            Refused("out-of-bounds"),
        ),
        (
            "words to no place",
            pair("unreachable", words),
            Refused("gave up"),
        ),
        (
            "words to a place without an end",
            pair(slow, words),
            Refused("deadline"),
        ),
        ("half a letter", letter(0xd800), Refused("bit pattern")),
        ("a letter that is none", letter(-1), Refused("bit pattern")),
        ("a number of a NaN", pair(fine, number), Serves),
    ])
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    [handles(), handles_of_wasi(), words_of_wasi(), pairs()]
        .into_iter()
        .flatten()
}
