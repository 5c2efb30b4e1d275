//! Guests that call the host thousands of times in a row, with nothing between two calls where wasm code would look at
//! the time: no loop, and no function of theirs on the way.

use super::case::{Case, End};
use super::component::{cases, disk_with};
use super::handles::{self, beginning};
use super::open_files;

/// How often: for a second and more, where a call takes more than 10 us.
const CALLS: usize = 100_000;

const STORE: &str = r#"
  (import "wasmblk:block/store@0.1.0" (instance $store
    (type $e0 (enum "io" "no-space" "invalid" "not-supported" "read-only" "timed-out" "medium" "corrupt"))
    (export "errno" (type $e (eq $e0)))
    (export "write" (func (param "number" u32) (param "offset" u64) (param "data" (list u8))
      (result (result (error $e)))))))
  (core func $write (canon lower (func $store "write") (memory $memory)))
"#;

/// A guest that writes to its store's first MiB before it opens, again and again, and in the end to the second.
pub(crate) fn writes_in_a_row() -> Vec<u8> {
    let write = |offset: u32| {
        format!(
            "(call $write (i32.const 0) (i64.const {offset}) (i32.const 0x100000) (i32.const 0x100000) (i32.const 64))"
        )
    };
    let mark = "(i32.store8 (i32.const 0x100000) (i32.const 7))".to_owned();
    let deed = mark + &write(0).repeat(CALLS) + &write(0x10_0000);
    let beginning = beginning(&[("write", "(param i32 i64 i32 i32 i32)")], &deed);
    disk_with(&format!("{} {STORE} {beginning}", handles::MEMORY))
}

/// Those that need no store. In the end they would remove a file.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    // A path of as many steps as there can be.
    let path = "(loop $fill
        (i32.store16 (i32.add (i32.const 0x200000) (i32.shl (global.get $count) (i32.const 1))) (i32.const 0x2f2e))
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (br_if $fill (i32.lt_u (global.get $count) (i32.const 2000))))
      (i32.store8 (i32.const 0x200fa0) (i32.const 97))";
    let unlink = |place: u32, bytes: u32| {
        format!(
            "(call $unlink (local.get $it) (i32.const {place}) (i32.const {bytes}) (i32.const 16))"
        )
    };
    let deed = path.to_owned() + &unlink(0x20_0000, 4001).repeat(CALLS) + &unlink(256, 4);
    let end = End::Refused("deadline");
    cases([("files that are removed", open_files::doing(&deed), end)]).into_iter()
}
