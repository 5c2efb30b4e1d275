//! Guests that serve, in components that have more in them: crowds, and what this host does not speak.

use super::case::{Case, End};
use super::text::{GEOMETRY, GROW};

/// A guest of the contract `device` as a component by hand, which serves 1 MiB of zeros.
const DISK: &str = r#"
(component
  (type $errno0 (enum "io" "no-space" "invalid" "not-supported" "read-only" "timed-out" "medium" "corrupt"))
  (export $errno "errno" (type $errno0))
  (type $features0 (flags "read-only" "write-through" "fua" "rotational" "replicated" "restartable"))
  (export $features "features" (type $features0))
  (type $geometry0 (record (field "size-bytes" u64) (field "logical-block-bytes" u32)
    (field "physical-block-bytes" u32) (field "max-transfer-bytes" u32) (field "features" $features)))
  (export $geometry "geometry" (type $geometry0))
  (type $open-error0 (variant (case "bad-option" string) (case "other" string)))
  (export $open-error "open-error" (type $open-error0))
  (core module $disk
    (memory (export "memory") 4)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x10000))
    (func (export "open") (param i32 i32) (result i32) (i32.const 0))
    (func (export "read") (param i64 i32) (result i32)
      (i32.store (i32.const 68) (i32.const 0x20000)) (i32.store (i32.const 72) (local.get 1)) (i32.const 64))
    (func (export "write") (param i64 i32 i32 i32) (result i32) (i32.const 96))
    (func (export "flush") (result i32) (i32.const 96))
    (data (i32.const 8) "{geometry}"))
  (core instance $disk (instantiate $disk))
  (alias core export $disk "memory" (core memory $disk-memory))
  (alias core export $disk "realloc" (core func $disk-realloc))
  (func $open (param "options" (list (tuple string string))) (result (result $geometry (error $open-error)))
    (canon lift (core func $disk "open") (memory $disk-memory) (realloc $disk-realloc)))
  (func $read (param "offset" u64) (param "length" u32) (result (result (list u8) (error $errno)))
    (canon lift (core func $disk "read") (memory $disk-memory)))
  (func $write (param "offset" u64) (param "data" (list u8)) (param "fua" bool) (result (result (error $errno)))
    (canon lift (core func $disk "write") (memory $disk-memory) (realloc $disk-realloc)))
  (func $flush (result (result (error $errno)))
    (canon lift (core func $disk "flush") (memory $disk-memory)))
  (instance $device (export "open" (func $open)) (export "read" (func $read)) (export "write" (func $write))
    (export "flush" (func $flush)))
  (export "wasmblk:block/device@0.1.0" (instance $device))
  {more})
"#;

/// The guest, with more in its component.
pub(crate) fn disk_with(more: &str) -> Vec<u8> {
    let text = DISK.replace("{geometry}", GEOMETRY).replace("{more}", more);
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Guests that are refused or serve, by what more is in them.
pub(crate) fn cases<const N: usize>(rows: [(&str, String, End); N]) -> Vec<Case> {
    let case = |(name, more, end): (&str, String, End)| Case::new(name, disk_with(&more), end);
    rows.map(case).into()
}

/// Components of components, each of which holds the one before twice.
fn doubled(levels: usize) -> String {
    let level = |n: usize| {
        format!(
            "(component $c{} (alias outer 1 $c{n} (component $c))
              (instance (instantiate $c)) (instance (instantiate $c)))",
            n + 1
        )
    };
    let all: String = (0..levels).map(level).collect();
    format!("(component $c0) {all} (instance (instantiate $c{levels}))")
}

/// A guest of so many instances that nothing can compile it.
pub(crate) fn instances_without_end() -> Vec<u8> {
    disk_with(&doubled(40))
}

/// Guests whose instances take much beside their memories, and how much they have of those.
pub(crate) fn large_instances() -> Vec<(&'static str, u64, Vec<u8>)> {
    let each = |module: &str| {
        let instances = "(core instance (instantiate $m))".repeat(28);
        format!("(core module $m {module}) {instances}")
    };
    let (mut numbers, mut given, mut imports) = (String::new(), String::new(), String::new());
    for n in 0..3000 {
        numbers += &format!("{n} ");
        given += &format!(r#"(export "{n}" (func $f))"#);
        imports += &format!(r#"(import "all" "{n}" (func))"#);
    }
    let instance = r#"(core instance (instantiate $m (with "all" (instance $all))))"#.repeat(20);
    let importing = format!(
        r#"(core module $one (func (export "f"))) (core instance $one (instantiate $one))
        (alias core export $one "f" (core func $f)) (core instance $all {given})
        (core module $m {imports}) {instance}"#
    );
    let globals = "(global i64 (i64.const 1))".repeat(10_000);
    // What others can call is made when somebody asks for it.
    let functions = format!("{} (elem func {numbers})", "(func)".repeat(3000));
    let elements = format!("(func $f) (elem func {})", "$f ".repeat(8_000));
    let rows = [
        ("globals", each(&globals)),
        ("functions", each(&functions)),
        ("elements", each(&elements)),
        ("imports", importing),
        ("components", doubled(12)),
    ];
    rows.map(|(name, more)| (name, 4 << 16, disk_with(&more)))
        .into()
}

/// Many of what a guest may have few.
#[expect(clippy::too_many_lines, reason = "a table")]
fn crowds() -> Vec<Case> {
    use End::{Refused, Serves};
    let each = |module: &str, count: usize| {
        let one = "(core instance (instantiate $m))";
        format!("(core module $m {module}) {}", one.repeat(count))
    };
    let one =
        |module: String| format!("(core module $m {module}) (core instance (instantiate $m))");
    let inner = "(component $c (core module $m) (core instance (instantiate $m)))";
    let grow_all = format!("(memory 0) (func $begin {GROW}) (start $begin)");
    let fill_table = "(table $t 1 funcref) (func $begin
        (loop $grow (br_if $grow (i32.ne (table.grow $t (ref.null func) (i32.const 4096)) (i32.const -1)))))
        (start $begin)";
    let globals = |count: usize| "(global i64 (i64.const 1))".repeat(count);
    let elements = format!("(func $f) (elem func {})", "$f ".repeat(170_000));
    cases([
        ("8 memories by instances", each("(memory 1)", 7), Serves),
        (
            "9 memories by instances",
            each("(memory 1)", 8),
            Refused("memory count"),
        ),
        (
            "9 memories in a module",
            one("(memory 1)".repeat(8)),
            Refused("memory count"),
        ),
        ("62 MiB in 8 memories", each("(memory 141)", 7), Serves),
        (
            "65 MiB in 8 memories",
            each("(memory 148)", 7),
            Refused("memory limits"),
        ),
        ("7 memories that take all", each(&grow_all, 7), Serves),
        ("7 tables that take all", each(fill_table, 7), Serves),
        (
            "33 tables",
            one("(table 1 funcref)".repeat(33)),
            Refused("table count"),
        ),
        (
            "a table in each of 30 instances",
            each("(table 1 funcref)", 30),
            Serves,
        ),
        ("33 instances", each("", 33), Refused("instance count")),
        (
            "33 instances in components",
            format!("{inner} {}", "(instance (instantiate $c))".repeat(33)),
            Refused("instance count"),
        ),
        (
            "tail calls without end",
            one("(func $again (return_call $again)) (start $again)".into()),
            Refused("deadline"),
        ),
        ("a component 2 to the 10 times", doubled(10), Serves),
        (
            "28 times 1 MiB of globals",
            each(&globals(70_000), 28),
            Serves,
        ),
        (
            "28 times 2.5 MiB of globals",
            each(&globals(160_000), 28),
            Refused("--memory-mib"),
        ),
        (
            "28 times 2.5 MiB of elements",
            each(&elements, 28),
            Refused("--memory-mib"),
        ),
    ])
}

/// Parts of WebAssembly that are off, each a way to wait, to hide memory, or to compute differently elsewhere.
fn foreign() -> Vec<Case> {
    refused([
        (
            "shared memory",
            "(core module (memory 1 1 shared))",
            "threads must",
        ),
        (
            "a wait for memory",
            "(core module (memory 1) (func
              (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))",
            "threads support is not enabled",
        ),
        (
            "structs",
            "(core module (type (struct (field i64))))",
            "gc types are disabled",
        ),
        (
            "arrays",
            "(core module (type (array (mut i64))))",
            "gc types are disabled",
        ),
        (
            "exceptions",
            "(core module (tag))",
            "exceptions proposal not enabled",
        ),
        (
            "a memory of 64 bits",
            "(core module (memory i64 1))",
            "memory64 must",
        ),
        (
            "a table of 64 bits",
            "(core module (table i64 1 funcref))",
            "memory64 must",
        ),
        (
            "pages of a byte",
            "(core module (memory 1 (pagesize 1)))",
            "custom page sizes",
        ),
        (
            "relaxed numbers",
            "(core module (func (param v128) (result v128)
              (i32x4.relaxed_trunc_f32x4_s (local.get 0))))",
            "relaxed SIMD support is not enabled",
        ),
        (
            "stacks",
            "(core module (type $f (func)) (type (cont $f)))",
            "stack switching is disabled",
        ),
    ])
}

/// Parts of the component model that are off: ways to wait in the host.
fn asynchronous() -> Vec<Case> {
    const ASYNC: &str = "requires the component model async feature";
    refused([
        (
            "a set to wait for",
            "(core func (canon waitable-set.new))",
            ASYNC,
        ),
        (
            "a turn for others",
            "(core func (canon thread.yield))",
            ASYNC,
        ),
        (
            "back pressure",
            "(core func (canon backpressure.inc))",
            ASYNC,
        ),
        ("a stream", "(type (stream u8))", ASYNC),
        ("a future", "(type (future u8))", ASYNC),
        (
            "a context of errors",
            "(core func (canon error-context.drop))",
            "error-context feature",
        ),
    ])
}

/// What is not valid, and the words that say so.
fn refused<const N: usize>(rows: [(&str, &str, &'static str); N]) -> Vec<Case> {
    cases(rows.map(|(name, more, says)| (name, more.to_owned(), End::Refused(says))))
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    [crowds(), foreign(), asynchronous()].into_iter().flatten()
}
