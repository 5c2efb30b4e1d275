//! Guests that serve, and use up all the computing time that they may have.

use super::case::{Case, End};
use super::text::{COUNT, FLOOD, Part, device, ring};

/// Attackers with a budget of computing time that they use up, each by other means.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    let again = |deed: &str, count: u32| {
        format!(
            "(global.set $count (i32.const 0))
             (loop $again {deed} (global.set $count (i32.add (global.get $count) (i32.const 1)))
               (br_if $again (i32.lt_u (global.get $count) (i32.const {count}))))"
        )
    };
    let by_device = |function, deed| {
        let parts: [Part; 2] = [("module", COUNT.into()), (function, deed)];
        device(&parts)
    };
    let fill = |bytes: u32| {
        format!("(memory.fill (i32.const 0x100000) (i32.const 7) (i32.const {bytes}))")
    };
    let find = "(call $find (i32.const 0x10000) (i32.const 64) (i32.const 0x20000))";
    let more = "(return (i32.or (local.get $n) (i32.const 0x80000000)))";
    let idle = "(if (i32.eqz (local.get $n)) (then (return (i32.const 0x80000000))))";
    let rows = [
        ("long calls", by_device("read", again("", 3_000_000))),
        (
            "fills of memory",
            by_device("read", again(&fill(0x20_0000), 50)),
        ),
        (
            "words",
            by_device("read", format!("(global.set $count (i32.const 0)) {FLOOD}")),
        ),
        ("calls of the host", by_device("read", again(find, 50_000))),
        (
            "work behind the answer",
            by_device("post", again("", 3_000_000)),
        ),
        ("more for ever", ring(&[("act", more.into())])),
        (
            "more, and memory",
            ring(&[("act", format!("{} {more}", fill(0x1000)))]),
        ),
        (
            "a busy loop of polls",
            ring(&[("act", format!("{idle} {more}"))]),
        ),
    ];
    let case = |(name, bytes)| Case::new(name, bytes, End::Serves);
    rows.map(case).into_iter()
}
