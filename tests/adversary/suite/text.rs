//! Guests in WebAssembly's text form: whole ones that serve 1 MiB of zeros, of which a case replaces a part.

use tests::guests;

/// A part of a guest, by its name in the text, and what stands there instead.
pub(crate) type Part = (&'static str, String);

/// A guest of the contract `device`. Results lie at 0 (open), 64 (read) and 96 (write and flush); the data of
/// reads from 64 KiB on; what the host passes, from 1 MiB on, over and over.
const DEVICE: &str = r#"
(module
  (import "wasmblk:block/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "wasmblk:block/host@0.1.0" "lend" (func $lend (param i32 i32)))
  (import "wasmblk:block/store@0.1.0" "find" (func $find (param i32 i32 i32)))
  (import "wasmblk:block/store@0.1.0" "read" (func $load (param i32 i64 i32 i32)))
  (import "wasmblk:block/store@0.1.0" "write" (func $store (param i32 i64 i32 i32 i32)))
  (import "wasmblk:block/store@0.1.0" "flush" (func $sync (param i32 i32)))
  {module}
  (memory (export "memory") {memory})
  (global $next (mut i32) (i32.const 0x100000))
  (func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc}
    (i32.add (global.get $next) (local.get 2))
    (i32.and (i32.sub (i32.const 0) (local.get 2)))
    global.set $next
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3))))
  (func $open (export "wasmblk:block/device@0.1.0#open") (param i32 i32) (result i32) {open} (i32.const 0))
  (func $read (export "wasmblk:block/device@0.1.0#read") (param i64 i32) (result i32) {read}
    (i32.store (i32.const 68) (i32.const 0x10000))
    (i32.store (i32.const 72) (local.get 1))
    {list} (i32.const 64))
  (func (export "wasmblk:block/device@0.1.0#write") (param i64 i32 i32 i32) (result i32) {write}
    (global.set $next (i32.const 0x100000)) (i32.const 96))
  (func (export "wasmblk:block/device@0.1.0#flush") (result i32) {flush} (i32.const 96))
  (func (export "cabi_post_wasmblk:block/device@0.1.0#read") (param i32) {post})
  (data (i32.const 8) "{geometry}")
  {data})
"#;

/// 1 MiB in blocks of 512 bytes, with transfers of 64 KiB.
pub(crate) const GEOMETRY: &str =
    r"\00\00\10\00\00\00\00\00\00\02\00\00\00\02\00\00\00\00\01\00\00";

/// One of the contract `ring`, for up to 16 tags. Its arena lies from 1 MiB on: events at 0, actions at 4096, slots
/// from 8192 on, 68 KiB apart.
const RING: &str = r#"
(module
  (import "wasmblk:block/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "wasmblk:block/host@0.1.0" "lend" (func $lend (param i32 i32)))
  {module}
  (memory (export "memory") {memory})
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc} (i32.const 0x8000))
  (func (export "wasmblk:block/ring@0.1.0#open") (param i32 i32 i32 i32) (result i32) {open}
    (call $lend (i32.const 0x100000) (i32.const 1122304)) {lent}
    (i32.const 0))
  (func (export "wasmblk:block/ring@0.1.0#poll") (param $events i32) (result i32)
    (local $n i32) (local $event i32) (local $action i32)
    {poll}
    (local.set $event (i32.const 0x100000))
    (local.set $action (i32.const 0x101000))
    (block $end (loop $more
      (br_if $end (i32.eq (local.get $n) (local.get $events)))
      (i64.store (local.get $action) (i64.const 0))
      (i32.store offset=4 (local.get $action) (i32.load offset=4 (local.get $event)))
      (i64.store offset=8 (local.get $action) (i64.const 0))
      (i64.store offset=16 (local.get $action) (i64.const 0))
      (i64.store offset=24 (local.get $action) (i64.const 0))
      (local.set $event (i32.add (local.get $event) (i32.const 32)))
      (local.set $action (i32.add (local.get $action) (i32.const 32)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $more)))
    {act} (local.get $n))
  (data (i32.const 8) "\00\00\10\00\00\00\00\00\00\02\00\00\00\02\00\00\00\00\01\00\00")
  (data (i32.const 48) "\01\00\00\00\00\00\00\00\00\10\00\00\20\00\00\00\10\00\00\00\00\20\00\00\00\10\01\00\00")
  {data})
"#;

/// A guest of the contract `device`, as a component.
pub(crate) fn device(parts: &[Part]) -> Vec<u8> {
    component(DEVICE, "disk", parts)
}

/// One of the contract `ring`.
pub(crate) fn ring(parts: &[Part]) -> Vec<u8> {
    component(RING, "ring-disk", parts)
}

/// One that takes the compiler long, or much memory: so many functions of so many additions.
pub(crate) fn large_guest(functions: usize, additions: usize) -> Vec<u8> {
    let sum = "i32.const 3 i32.add ".repeat(additions);
    let function = format!("(func (param i32) (result i32) (local.get 0) {sum})");
    device(&[("module", function.repeat(functions))])
}

fn component(text: &str, world: &str, parts: &[Part]) -> Vec<u8> {
    let mut text = text.to_owned();
    let defaults = [("memory", "64"), ("geometry", GEOMETRY)];
    let rest = [
        "module", "realloc", "open", "read", "list", "write", "flush",
    ];
    let more = ["post", "data", "lent", "poll", "act"];
    let own = parts.iter().map(|(name, part)| (*name, part.as_str()));
    let empty = rest.into_iter().chain(more).map(|name| (name, ""));
    for (name, part) in own.chain(defaults).chain(empty) {
        text = text.replace(&format!("{{{name}}}"), part);
    }
    let module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    guests::component(module, world).unwrap_or_else(|error| panic!("{parts:?}: {error:#}"))
}

/// A loop without an end.
pub(crate) const LOOP: &str = "(loop $for_ever (br $for_ever))";
/// Takes the stack.
pub(crate) const DEEPER: &str = "(drop (call $deeper (i32.const 0)))";
/// Takes memory as long as there is some, and goes on.
pub(crate) const GROW: &str =
    "(loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";
/// Says a lot.
pub(crate) const FLOOD: &str =
    "(loop $flood (call $log (i32.const 0) (i32.const 0x10000) (i32.const 1000))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (br_if $flood (i32.lt_u (global.get $count) (i32.const 20000))))";
pub(crate) const COUNT: &str = "(global $count (mut i32) (i32.const 0))";
