//! Which of the hostile guests are measured.

use std::fs;

use tests::paths;

use crate::suite::case::{Case, End};
use crate::suite::{component, device, files, handles, open_files, ring, spenders, start};

/// How names of those begin that are granted a directory.
pub(super) const WITH_DIRECTORY: &str = "file: ";

/// Mutants of each kind among all.
const MUTANTS: u16 = 100;

type Cases = Box<dyn Iterator<Item = Case>>;

/// The groups of the suite, each with a word for it, and of how many of its guests one is chosen. What a function may
/// do is there three times, once for each of three functions.
fn groups() -> [(&'static str, usize, Cases); 11] {
    let mutants_of_code = files::mutants_of_code().take(usize::from(MUTANTS));
    [
        ("", 1, Box::new(spenders::all())),
        ("", 4, Box::new(device::all())),
        ("record: ", 30, Box::new(ring::all())),
        ("start: ", 3, Box::new(start::all())),
        ("component: ", 5, Box::new(component::all())),
        ("handle: ", 6, Box::new(handles::all())),
        (WITH_DIRECTORY, 6, Box::new(open_files::all())),
        ("", 10, Box::new(files::all().into_iter())),
        ("", 100, Box::new(files::mutants(u64::from(MUTANTS)))),
        ("", 50, Box::new(files::rearranged().chain(mutants_of_code))),
        ("honest: ", 1, Box::new(honest())),
    ]
}

/// Guests that mean no harm: what they leave is what a guest with a client may take.
fn honest() -> impl Iterator<Item = Case> {
    let guest = |name| {
        let bytes = fs::read(paths::guest(name)).expect("cargo xtask built it");
        Case::new(name, bytes, End::Serves)
    };
    ["null", "null-device"].into_iter().map(guest)
}

/// All of them.
pub(super) fn all() -> Cases {
    Box::new(
        groups()
            .into_iter()
            .flat_map(|(group, _, cases)| named(group, cases)),
    )
}

/// At least one of each kind of means.
pub(super) fn chosen() -> Cases {
    let groups = groups().into_iter();
    Box::new(groups.flat_map(|(group, of, cases)| named(group, cases).step_by(of)))
}

fn named(group: &'static str, cases: Cases) -> impl Iterator<Item = Case> {
    cases.map(move |case| Case {
        name: format!("{group}{}", case.name),
        ..case
    })
}
