//! Guests that have used all of their memory, and then have the host hold as much as it may for them.

use super::component::disk_with;
use super::text::{COUNT, Part, device, ring};
use super::{handles, open_files};

/// Takes all memory that there is, and touches all of it.
const ALL: &str = "
    (loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (loop $last (br_if $last (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (global.set $count (i32.shl (memory.size) (i32.const 16)))
    (loop $touch
      (global.set $count (i32.sub (global.get $count) (i32.const 4096)))
      (i32.store8 (global.get $count) (i32.load8_u (global.get $count)))
      (br_if $touch (global.get $count)))";

/// So that what is held for a moment is held often.
const TIMES: u32 = 200;

/// Does it often.
fn often(deed: &str) -> String {
    format!(
        "(global.set $count (i32.const 0))
         (loop $again {deed}
           (global.set $count (i32.add (global.get $count) (i32.const 1)))
           (br_if $again (i32.lt_u (global.get $count) (i32.const {TIMES}))))"
    )
}

/// One of them.
pub(crate) struct Greedy {
    pub(crate) name: &'static str,
    /// A guest like it that does nothing.
    pub(crate) idle: Vec<u8>,
    pub(crate) greedy: Vec<u8>,
}

/// All memory as a message.
const LOG: &str = "(call $log (i32.const 0) (i32.const 0) (i32.shl (memory.size) (i32.const 16)))";
/// 1 MiB of a store, and back.
const LOAD: &str = "(call $load (i32.const 0) (i64.const 0) (i32.const 0x100000) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then unreachable))";
const STORE: &str =
    "(call $store (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0x100000) (i32.const 64))";
const STORES: &str = r#"
  (import "wasmblk:block/store@0.1.0" "read" (func $load (param i32 i64 i32 i32)))
  (import "wasmblk:block/store@0.1.0" "write" (func $store (param i32 i64 i32 i32 i32)))"#;

fn of_contracts() -> Vec<Greedy> {
    let begin = (
        "realloc",
        "(global.set $next (i32.const 0x100000))".to_owned(),
    );
    let of_device = |name, deed: &str| Greedy {
        name,
        idle: device(&[("module", COUNT.into())]),
        greedy: device(&[
            ("module", COUNT.into()),
            ("open", ALL.to_owned() + &often(deed)),
            begin.clone(),
        ]),
    };
    let of_ring = |name, module: &str, deed: &str| {
        let module: Part = ("module", module.to_owned() + COUNT);
        // Data stays with the host: there is no room for the slots of an NBD server.
        let data: Part = ("data", r#"(data (i32.const 76) "\01")"#.to_owned());
        let open: Part = ("open", ALL.to_owned() + &often(deed));
        Greedy {
            name,
            idle: ring(&[module.clone(), data.clone()]),
            greedy: ring(&[module, data, open]),
        }
    };
    let down = "(func $down (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (i32.add (local.get 0) (call $down (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 0))))";
    let deep = Greedy {
        name: "a deep stack",
        idle: device(&[("module", COUNT.into())]),
        greedy: device(&[
            ("module", COUNT.to_owned() + down),
            (
                "open",
                ALL.to_owned() + "(drop (call $down (i32.const 10000)))",
            ),
        ]),
    };
    vec![
        deep,
        of_device("messages of a device", LOG),
        of_device("reads of a store", LOAD),
        of_device("writes to a store", STORE),
        of_ring("messages of a ring", "", LOG),
        of_ring("reads of a store in open", STORES, LOAD),
        of_ring("writes to a store in open", STORES, STORE),
    ]
}

fn of_wasi() -> Vec<Greedy> {
    let of_wasi = |name, deed: &str| Greedy {
        name,
        idle: disk_with(&handles::doing("")),
        greedy: disk_with(&handles::doing(&(ALL.to_owned() + &often(deed)))),
    };
    let of_files = |name, deed: &str| Greedy {
        name,
        idle: disk_with(&open_files::doing("")),
        greedy: disk_with(&open_files::doing(deed)),
    };
    let lines = handles::STREAM.to_owned() + &handles::write(1 << 16) + handles::DROP_STREAM;
    // The path a/a/a and so on, in UTF-16.
    let path = "(i64.store (i32.const 0x200000) (i64.const 0x002f0061_002f0061))".to_owned();
    let longer = |n: u32| {
        let to = 0x20_0000 + (8 << n);
        let bytes = 8 << n;
        format!("(memory.copy (i32.const {to}) (i32.const 0x200000) (i32.const {bytes}))")
    };
    let path: String = path + &(0..11).map(longer).collect::<String>();
    let link_of =
        "(call $link-of (local.get $it) (i32.const 0x200000) (i32.const 0x2000) (i32.const 16))";
    let file = open_files::open(256, 4) + &format!("(local.set $it {})", open_files::GOT);
    // Listings as long as there is room, each read to its end.
    let listing = format!(
        "{} (if (i32.eqz (i32.load8_u (i32.const 16))) (then
           (i32.store (i32.const 0x300000) {})
           (loop $entries (call $entry (i32.load (i32.const 0x300000)) (i32.const 16))
             (br_if $entries (i32.load8_u (i32.const 20))))))",
        open_files::LIST,
        open_files::GOT
    );
    vec![
        of_wasi("lines", &lines),
        of_wasi("random bytes", &handles::random(1 << 16)),
        of_files("paths", &(ALL.to_owned() + &path + &often(link_of))),
        of_files(
            "reads of a file",
            &(file + ALL + &often(&open_files::read(-1, 0))),
        ),
        of_files("listings", &(often(&listing) + ALL)),
    ]
}

/// One with a function whose name is so long.
pub(crate) fn guest_with_a_name(bytes: usize) -> Vec<u8> {
    let function = format!("(func ${} unreachable)", "n".repeat(bytes));
    device(&[("module", function)])
}

/// All of them.
pub(crate) fn greedy_guests() -> Vec<Greedy> {
    let mut all = of_contracts();
    all.extend(of_wasi());
    all
}
