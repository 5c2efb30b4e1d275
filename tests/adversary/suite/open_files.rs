//! Guests that are granted a directory, and abuse it: its handles, its paths, and what they ask of its files. Those
//! that serve end themselves where something works that must not.

use super::case::{Case, End};
use super::component::cases;
use super::handles::{Given, beginning, for_ever};

/// Memory, with some paths in it, and room for what comes back.
const MEMORY: &str = r#"
  (core module $libc (memory (export "memory") 64) (global $at (mut i32) (i32.const 65536))
    (data (i32.const 256) "file") (data (i32.const 272) "../secret") (data (i32.const 288) "/")
    (data (i32.const 304) "file\00x") (data (i32.const 320) "\ff\fe") (data (i32.const 336) "deep")
    (data (i32.const 352) "link") (data (i32.const 368) "pipe")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $at (i32.and (i32.add (global.get $at) (i32.const 15)) (i32.const 0x1ffff0)))
      (global.get $at) (global.set $at (i32.add (global.get $at) (local.get 3)))))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
"#;

const WASI: &str = r#"
  (import "wasi:io/error@0.2.6" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.6" (instance $streams
    (export "input-stream" (type $i (sub resource)))
    (alias outer 1 $error-type (type $e0)) (export "error" (type $e (eq $e0)))
    (type $s0 (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $s (eq $s0)))
    (export "[method]input-stream.read"
      (func (param "self" (borrow $i)) (param "len" u64) (result (result (list u8) (error $s)))))))
  (alias export $streams "input-stream" (type $stream))
  (import "wasi:filesystem/types@0.2.6" (instance $types
    (alias outer 1 $stream (type $i0)) (export "input-stream" (type $i (eq $i0)))
    (export "descriptor" (type $d (sub resource)))
    (export "directory-entry-stream" (type $l (sub resource)))
    (type $p0 (flags "symlink-follow")) (export "path-flags" (type $p (eq $p0)))
    (type $o0 (flags "create" "directory" "exclusive" "truncate")) (export "open-flags" (type $o (eq $o0)))
    (type $f0 (flags "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync"
      "mutate-directory")) (export "descriptor-flags" (type $f (eq $f0)))
    (type $e0 (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist"
      "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io" "is-directory" "loop"
      "too-many-links" "message-size" "name-too-long" "no-device" "no-entry" "no-lock" "insufficient-memory"
      "insufficient-space" "not-directory" "not-empty" "not-recoverable" "unsupported" "no-tty" "no-such-device"
      "overflow" "not-permitted" "pipe" "read-only" "invalid-seek" "text-file-busy" "cross-device"))
    (export "error-code" (type $e (eq $e0)))
    (type $t0 (enum "unknown" "block-device" "character-device" "directory" "fifo" "symbolic-link" "regular-file"
      "socket")) (export "descriptor-type" (type $t (eq $t0)))
    (type $n0 (record (field "type" $t) (field "name" string))) (export "directory-entry" (type $n (eq $n0)))
    (type $m0 (record (field "seconds" u64) (field "nanoseconds" u32))) (export "datetime" (type $m (eq $m0)))
    (type $w0 (variant (case "no-change") (case "now") (case "timestamp" $m)))
    (export "new-timestamp" (type $w (eq $w0)))
    (export "[method]descriptor.get-flags" (func (param "self" (borrow $d)) (result (result $f (error $e)))))
    (export "[method]descriptor.set-times-at" (func (param "self" (borrow $d)) (param "path-flags" $p)
      (param "path" string) (param "data-access-timestamp" $w) (param "data-modification-timestamp" $w)
      (result (result (error $e)))))
    (export "[method]descriptor.open-at" (func (param "self" (borrow $d)) (param "path-flags" $p)
      (param "path" string) (param "open-flags" $o) (param "flags" $f) (result (result (own $d) (error $e)))))
    (export "[method]descriptor.read" (func (param "self" (borrow $d)) (param "length" u64) (param "offset" u64)
      (result (result (tuple (list u8) bool) (error $e)))))
    (export "[method]descriptor.read-via-stream" (func (param "self" (borrow $d)) (param "offset" u64)
      (result (result (own $i) (error $e)))))
    (export "[method]descriptor.symlink-at" (func (param "self" (borrow $d)) (param "old-path" string)
      (param "new-path" string) (result (result (error $e)))))
    (export "[method]descriptor.unlink-file-at" (func (param "self" (borrow $d)) (param "path" string)
      (result (result (error $e)))))
    (export "[method]descriptor.readlink-at" (func (param "self" (borrow $d)) (param "path" string)
      (result (result string (error $e)))))
    (export "[method]descriptor.read-directory"
      (func (param "self" (borrow $d)) (result (result (own $l) (error $e)))))
    (export "[method]directory-entry-stream.read-directory-entry"
      (func (param "self" (borrow $l)) (result (result (option $n) (error $e)))))))
  (alias export $types "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.6" (instance $preopens
    (alias outer 1 $descriptor (type $d0)) (export "descriptor" (type $d (eq $d0)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (core func $dirs (canon lower (func $preopens "get-directories") (memory $memory) (realloc $realloc)))
  (core func $open (canon lower (func $types "[method]descriptor.open-at") (memory $memory)))
  (core func $read (canon lower (func $types "[method]descriptor.read") (memory $memory) (realloc $realloc)))
  (core func $stream (canon lower (func $types "[method]descriptor.read-via-stream") (memory $memory)))
  (core func $next (canon lower (func $streams "[method]input-stream.read") (memory $memory) (realloc $realloc)))
  (core func $link (canon lower (func $types "[method]descriptor.symlink-at") (memory $memory)))
  (core func $flags (canon lower (func $types "[method]descriptor.get-flags") (memory $memory)))
  (core func $times (canon lower (func $types "[method]descriptor.set-times-at") (memory $memory)))
  (core func $list (canon lower (func $types "[method]descriptor.read-directory") (memory $memory)))
  (core func $entry (canon lower (func $types "[method]directory-entry-stream.read-directory-entry")
    (memory $memory) (realloc $realloc)))
  (core func $unlink (canon lower (func $types "[method]descriptor.unlink-file-at") (memory $memory)))
  (core func $link-of (canon lower (func $types "[method]descriptor.readlink-at") (memory $memory)
    (realloc $realloc) string-encoding=utf16))
  (core func $drop (canon resource.drop $descriptor))
"#;

const GIVEN: [Given; 13] = [
    ("dirs", "(param i32)"),
    ("open", "(param i32 i32 i32 i32 i32 i32 i32)"),
    ("read", "(param i32 i64 i64 i32)"),
    ("stream", "(param i32 i64 i32)"),
    ("next", "(param i32 i64 i32)"),
    ("link", "(param i32 i32 i32 i32 i32 i32)"),
    (
        "times",
        "(param i32 i32 i32 i32 i32 i64 i32 i32 i64 i32 i32)",
    ),
    ("flags", "(param i32 i32)"),
    ("list", "(param i32 i32)"),
    ("entry", "(param i32 i32)"),
    ("link-of", "(param i32 i32 i32 i32)"),
    ("unlink", "(param i32 i32 i32 i32)"),
    ("drop", "(param i32)"),
];

/// Makes `$it` the directory that is granted.
const DIRECTORY: &str =
    "(call $dirs (i32.const 0)) (local.set $it (i32.load (i32.load (i32.const 0))))";
/// The handle that a call has given.
pub(super) const GOT: &str = "(i32.load (i32.const 20))";
pub(super) const LIST: &str = "(call $list (local.get $it) (i32.const 16))";
const STREAM: &str = "(call $stream (local.get $it) (i64.const 0) (i32.const 16))";
const DROP: &str = "(call $drop (local.get $it))";

/// Opens a path for reading, from its place in memory.
pub(super) fn open(place: u32, bytes: u32) -> String {
    open_for(place, bytes, (0, 1))
}

fn open_for(place: u32, bytes: u32, (open, flags): (i32, i32)) -> String {
    format!(
        "(call $open (local.get $it) (i32.const 1) (i32.const {place}) (i32.const {bytes}) (i32.const {open})
           (i32.const {flags}) (i32.const 16))"
    )
}

pub(super) fn read(bytes: i64, offset: i64) -> String {
    format!("(call $read (local.get $it) (i64.const {bytes}) (i64.const {offset}) (i32.const 16))")
}

/// Sets when a path was changed.
fn times(place: u32, bytes: u32, follow: u32, (seconds, nanoseconds): (i64, u32)) -> String {
    format!(
        "(call $times (local.get $it) (i32.const {follow}) (i32.const {place}) (i32.const {bytes}) (i32.const 1)
           (i64.const 0) (i32.const 0) (i32.const 2) (i64.const {seconds}) (i32.const {nanoseconds})
           (i32.const 16))"
    )
}

/// It ends itself where the call before has worked.
fn fails(call: &str) -> String {
    format!("{call} (if (i32.eqz (i32.load8_u (i32.const 16))) (then unreachable))")
}

/// It ends itself where the call before has not worked.
fn works(call: &str) -> String {
    format!("{call} (if (i32.load8_u (i32.const 16)) (then unreachable))")
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    let file = works(&open(256, 4)) + &format!("(local.set $it {GOT})");
    let listing = works(LIST) + DROP + &format!("(local.set $it {GOT})");
    let stream = format!("{file} {} {DROP} (local.set $it {GOT})", works(STREAM));
    let of_handles = handles(&file, &listing, &stream);
    of_handles
        .chain(paths())
        .chain(changes_of_times(&file))
        .chain(requests(&file, &stream))
}

/// A component's text with this deed, before which `$it` is the directory.
pub(super) fn doing(deed: &str) -> String {
    let beginning = beginning(&GIVEN, &(DIRECTORY.to_owned() + deed));
    format!("{MEMORY} {WASI} {beginning}")
}

fn of_deeds<const N: usize>(rows: [(&'static str, String, End); N]) -> std::vec::IntoIter<Case> {
    cases(rows.map(|(name, deed, end)| (name, doing(&deed), end))).into_iter()
}

fn handles(file: &str, listing: &str, stream: &str) -> impl Iterator<Item = Case> + use<> {
    use End::{Refused, Serves};
    let full = Refused("handle limit");
    of_deeds([
        ("a file", file.to_owned(), Serves),
        ("files without end", for_ever(&open(256, 4)), full),
        ("listings without end", for_ever(LIST), full),
        (
            "directories without end",
            for_ever("(call $dirs (i32.const 0))"),
            Refused("no free keys"),
        ),
        (
            "streams of files without end",
            file.to_owned() + &for_ever(STREAM),
            full,
        ),
        (
            "a directory dropped twice",
            DROP.repeat(2),
            Refused("handle"),
        ),
        (
            "a file dropped twice",
            file.to_owned() + &DROP.repeat(2),
            Refused("handle"),
        ),
        (
            "a listing that is a directory",
            listing.to_owned() + DROP,
            Refused("handle"),
        ),
        (
            "a listing whose directory has gone",
            listing.to_owned() + &works("(call $entry (local.get $it) (i32.const 16))"),
            Serves,
        ),
        (
            "a stream whose file has gone",
            stream.to_owned() + &works("(call $next (local.get $it) (i64.const 1) (i32.const 16))"),
            Serves,
        ),
    ])
}

fn paths() -> impl Iterator<Item = Case> {
    use End::{Contained, Refused, Serves};
    let long = "(memory.fill (i32.const 0x200000) (i32.const 97) (i32.const 0x100000))";
    of_deeds([
        ("a way out", fails(&open(272, 9)), Serves),
        ("a way out for a new file", fails(&open_for(272, 9, (1, 3))), Serves),
        ("the root", fails(&open(288, 1)), Serves),
        ("no path", fails(&open(256, 0)), Serves),
        ("a path with a zero in it", fails(&open(304, 6)), Serves),
        ("a path of 16 KiB", long.to_owned() + &fails(&open(0x20_0000, 0x4000)), Serves),
        ("a path of 1 MiB", long.to_owned() + &open(0x20_0000, 0x10_0000), Refused("fuel")),
        ("a path that is no text", open(320, 2), Refused("utf-8")),
        ("a path beyond memory", open(u32::MAX, 16), Refused("out of bounds")),
        ("flags that are none", open_for(256, 4, (-1, -1)), Contained),
        (
            "a symbolic link",
            fails(
                "(call $link (local.get $it) (i32.const 272) (i32.const 9) (i32.const 352) (i32.const 4)
                   (i32.const 16))",
            ),
            Serves,
        ),
    ])
}

/// When a file was changed, says [`changes_of_times`].
pub(crate) const CHANGED_SECONDS: u64 = 1000;

fn changes_of_times(file: &str) -> impl Iterator<Item = Case> + use<> {
    use End::Serves;
    let then = (CHANGED_SECONDS.cast_signed(), 0);
    of_deeds([
        ("times of a file", works(&times(256, 4, 1, then)), Serves),
        ("times of a pipe", works(&times(368, 4, 1, then)), Serves),
        (
            "times of a directory, not followed",
            works(&times(336, 4, 0, then)),
            Serves,
        ),
        ("times of no path", fails(&times(256, 0, 1, then)), Serves),
        ("times outside", fails(&times(272, 9, 1, then)), Serves),
        ("times of the root", fails(&times(288, 1, 1, then)), Serves),
        (
            "times in a file",
            file.to_owned() + &fails(&times(256, 4, 1, then)),
            Serves,
        ),
        (
            "times beyond all",
            fails(&times(256, 4, 1, (-1, 0))),
            Serves,
        ),
        (
            "nanoseconds beyond a second",
            fails(&times(256, 4, 1, (0, 1_000_000_000))),
            Serves,
        ),
    ])
}

fn requests(file: &str, stream: &str) -> impl Iterator<Item = Case> + use<> {
    use End::Serves;
    let of_file = |deed: &str| file.to_owned() + deed;
    // Be read, and be changed.
    let may = works("(call $flags (local.get $it) (i32.const 16))")
        + "(if (i32.ne (i32.load8_u (i32.const 17)) (i32.const 33)) (then unreachable))";
    of_deeds([
        (
            "a read of all there is",
            of_file(&works(&read(-1, 0))),
            Serves,
        ),
        (
            "a read from no place",
            of_file(&fails(&read(1, -1))),
            Serves,
        ),
        ("a read of a directory", fails(&read(1, 0)), Serves),
        ("a stream of a directory", fails(STREAM), Serves),
        ("what a directory may", may.clone(), Serves),
        (
            "what a directory in a directory may",
            format!("{} (local.set $it {GOT}) {may}", works(&open(336, 4))),
            Serves,
        ),
        ("a file in a file", of_file(&fails(&open(256, 4))), Serves),
        ("the list of a file", of_file(&fails(LIST)), Serves),
        (
            "a stream of all there is",
            stream.to_owned()
                + &works("(call $next (local.get $it) (i64.const -1) (i32.const 16))"),
            Serves,
        ),
        (
            "a directory as a new file",
            fails(&open_for(336, 4, (9, 3))),
            Serves,
        ),
    ])
}
