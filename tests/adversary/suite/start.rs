//! Guests that are too much before any of their functions is called, or while their module starts.

use super::case::{Case, End};
use super::text::{COUNT, DEEPER, FLOOD, GROW, LOOP, device};

/// All of them.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn all() -> impl Iterator<Item = Case> {
    use End::{Refused, Serves};
    let start = |deed: &str| format!("{COUNT} (func $begin {deed}) (start $begin)");
    let jump = |count| {
        format!(
            "(func (block (br_table {} (i32.const 0))))",
            "0 ".repeat(count)
        )
    };
    let locals = |count| format!("(func {})", "(local i64)".repeat(count));
    let sum = |count| {
        format!(
            "(func (result i32) (i32.const 1) {})",
            "i32.const 3 i32.add ".repeat(count)
        )
    };
    let functions = "(func (param i32) (result i32) (local.get 0))".repeat(20_000);
    let blocks = format!("(func {} {})", "block ".repeat(5_000), "end ".repeat(5_000));
    let elements = "(table 1 funcref) (elem (i32.const 9) $deeper)";
    let rows = [
        ("a start that loops", start(LOOP), Refused("deadline")),
        (
            "a start that panics",
            start("unreachable"),
            Refused("gave up"),
        ),
        ("a start that recurses", start(DEEPER), Refused("stack")),
        ("a start that takes all memory", start(GROW), Serves),
        (
            "a start that says a lot",
            start(FLOOD),
            Refused("uninitialized"),
        ),
        (
            "a table that is too large",
            "(table 9999999 funcref)".into(),
            Refused(""),
        ),
        ("99 tables", "(table 1000 funcref)".repeat(99), Refused("")),
        ("a second memory", "(memory 1000)".into(), Refused("")),
        (
            "data beyond memory",
            "(data (i32.const -1) \"x\")".into(),
            Refused("out of bounds"),
        ),
        (
            "elements beyond the table",
            elements.into(),
            Refused("out of bounds"),
        ),
        ("20,000 functions", functions, Serves),
        (
            "20,000 globals",
            "(global i64 (i64.const 1))".repeat(20_000),
            Serves,
        ),
        ("50,000 locals", locals(50_000), Serves),
        ("a jump to 60,000 places", jump(60_000), Serves),
        (
            "a jump to 100,000 places",
            jump(100_000),
            Refused("br_table"),
        ),
        ("blocks 5,000 deep", blocks, Serves),
        ("200,000 additions", sum(200_000), Serves),
    ];
    let case = |(name, module, end)| Case::new(name, device(&[("module", module)]), end);
    let mut cases: Vec<Case> = rows.map(case).into();
    for (name, pages) in [
        ("a memory of 4 GiB", "65536"),
        ("a page more than it may have", "1025"),
    ] {
        cases.push(Case::new(
            name,
            device(&[("memory", pages.into())]),
            Refused("memory"),
        ));
    }
    cases.into_iter()
}
