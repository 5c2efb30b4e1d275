//! The style, as a test: what a reviewer would otherwise have to count.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::command::output;
use tests::{guests, paths};

/// Longest file with code: what is longer has two nouns.
const LINES_MAX: usize = 400;
const COLUMNS_MAX: usize = 120;

/// The host's system calls, and the one file of the guests' side that has addresses.
const UNSAFE_PLACES: [&str; 2] = ["host/src/sys", "guests/sdk/src/arena.rs"];

/// All files that git knows or would take, with their text.
fn files() -> Vec<(PathBuf, String)> {
    let list = output(
        Command::new("git")
            .args([
                "ls-files",
                "-co",
                "--exclude-standard",
                ":!tests/fuzz/corpus",
            ])
            .current_dir(paths::root()),
    );
    list.expect("this is a git repository")
        .lines()
        .map(PathBuf::from)
        .filter_map(|path| {
            Some((
                path.clone(),
                fs::read_to_string(paths::root().join(path)).ok()?,
            ))
        })
        .collect()
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension()
        .is_some_and(|it| endings.iter().any(|ending| it == *ending))
}

/// What is wrong with one file, in words.
fn complaints(path: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let shown = path.display();
    let source = has_ending(path, &["rs"]);
    if source && text.lines().count() > LINES_MAX {
        found.push(format!("{shown}: more than {LINES_MAX} lines"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let at = format!("{shown}:{number}");
        if !line.is_ascii() {
            found.push(format!("{at}: not ASCII"));
        }
        if line.len() > COLUMNS_MAX && !has_ending(path, &["lock"]) && !path.ends_with("LICENSE") {
            found.push(format!("{at}: more than {COLUMNS_MAX} columns"));
        }
        if line.ends_with([' ', '\t']) {
            found.push(format!("{at}: ends with a blank"));
        }
        let markers = [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("XX", "X"),
        ];
        if markers.iter().any(|marker| line.contains(marker)) {
            found.push(format!("{at}: a marker that belongs into an issue"));
        }
        let may = UNSAFE_PLACES.iter().any(|place| path.starts_with(place));
        if source && line.contains(concat!("unsa", "fe ")) && !may {
            found.push(format!("{at}: only {UNSAFE_PLACES:?} may do that"));
        }
        if source && line.contains(concat!("#[", "ignore")) {
            found.push(format!("{at}: a test that does not run"));
        }
    }
    found
}

/// Which modules of the host a module may not name. Values move down: frontends and guests do not know
/// each other, and `block` knows nobody.
const FENCES: [(&str, &[&str]); 11] = [
    (
        "host/src/image",
        &[
            "ublk", "guest", "nbd", "plane", "commands", "serve", "store", "config", "cli", "stats",
        ],
    ),
    (
        "host/src/udev",
        &[
            "ublk", "guest", "nbd", "plane", "commands", "serve", "store", "config", "cli", "stats",
        ],
    ),
    (
        "host/src/block",
        &[
            "ublk", "guest", "plane", "commands", "serve", "sys", "config", "cli", "stats",
        ],
    ),
    (
        "host/src/guest",
        &[
            "ublk", "plane", "commands", "serve", "config", "cli", "stats",
        ],
    ),
    (
        "host/src/ublk",
        &["guest", "plane", "commands", "config", "cli"],
    ),
    (
        "host/src/nbd",
        &["ublk", "guest", "plane", "commands", "config", "cli"],
    ),
    (
        "host/src/sys",
        &[
            "guest", "plane", "commands", "config", "cli", "serve", "stats",
        ],
    ),
    (
        "host/src/confine",
        &[
            "ublk", "guest", "nbd", "plane", "commands", "serve", "store", "config", "cli", "stats",
        ],
    ),
    (
        "host/src/store",
        &[
            "ublk", "guest", "nbd", "plane", "commands", "serve", "config", "cli", "stats",
        ],
    ),
    (
        "host/src/serve.rs",
        &["ublk", "guest", "plane", "commands", "sys"],
    ),
    ("host/src/plane", &["commands", "cli"]),
];

fn broken_fences(path: &Path, text: &str) -> Vec<String> {
    let fences = FENCES.iter().filter(|(folder, _)| path.starts_with(folder));
    let names = fences.flat_map(|(_, names)| names.iter());
    names
        .filter(|name| {
            text.contains(&format!("crate::{name}::"))
                || text.contains(&format!("crate::{{{name}::"))
        })
        .map(|name| format!("{}: names crate::{name}", path.display()))
        .collect()
}

#[test]
fn every_file_is_tidy() {
    let found: Vec<String> = files()
        .iter()
        .flat_map(|(path, text)| complaints(path, text))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn imports_go_one_way() {
    let found: Vec<String> = files()
        .iter()
        .flat_map(|(path, text)| broken_fences(path, text))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn tidy_finds_what_it_looks_for() {
    let bad = |path: &str, text: &str| !complaints(Path::new(path), text).is_empty();
    assert!(bad("host/src/serve.rs", concat!("unsa", "fe { x() }")));
    assert!(!bad("host/src/sys/ring.rs", concat!("unsa", "fe { x() }")));
    assert!(bad("README.md", concat!("TO", "DO: write")));
    assert!(bad("a.rs", "caf\u{e9}"));
    assert!(bad("a.rs", "blank \n"));
    assert!(bad("a.rs", &"x\n".repeat(LINES_MAX + 1)));
    assert!(bad("a.rs", &"x".repeat(COLUMNS_MAX + 1)));
    assert!(!bad("a.rs", "fine\n"));
    assert!(!broken_fences(Path::new("host/src/block/a.rs"), "use crate::ublk::x;").is_empty());
    assert!(broken_fences(Path::new("host/src/ublk/a.rs"), "use crate::block::x;").is_empty());
}

#[test]
fn the_top_level_is_what_it_should_be() {
    let mut visible: Vec<String> = files()
        .iter()
        .filter_map(|(path, _)| Some(path.iter().next()?.to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    visible.sort();
    visible.dedup();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "examples",
        "guests",
        "host",
        "tests",
        "wit",
    ];
    assert_eq!(visible, expected);
}

#[test]
fn every_guest_has_a_test() {
    let suite: String = files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("tests") && has_ending(path, &["rs"]))
        .map(|(_, text)| text)
        .collect();
    for name in guests::names().expect("guests") {
        assert!(
            suite.contains(&format!("\"{name}\"")),
            "guests/{name} is in no test"
        );
    }
}

#[test]
fn every_test_file_is_in_the_program() {
    let main = include_str!("main.rs");
    for (path, _) in files() {
        if path.parent() == Some(Path::new("tests"))
            && has_ending(&path, &["rs"])
            && !path.ends_with("main.rs")
        {
            let module = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            assert!(
                main.contains(&format!("mod {module};")),
                "{} is not in main.rs",
                path.display()
            );
        }
    }
}

#[test]
fn every_wit_function_and_type_is_documented() {
    for (path, text) in files()
        .iter()
        .filter(|(path, _)| has_ending(path, &["wit"]))
    {
        let mut before = "";
        for line in text.lines() {
            let word = line.trim();
            let declares = [
                "interface ",
                "world ",
                "package ",
                "record ",
                "enum ",
                "flags ",
                "variant ",
            ]
            .iter()
            .any(|start| word.starts_with(start));
            if declares || word.contains(": func(") {
                assert!(
                    before.trim().starts_with("///"),
                    "{}: {word} has no words",
                    path.display()
                );
            }
            before = line;
        }
    }
}
