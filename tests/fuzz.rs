//! What takes bytes from strangers, with any bytes: those that the fuzzer has found to be interesting, some like them,
//! and random ones. `cargo xtask fuzz` looks for further ones, guided by what code they reach.

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any};
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use tests::paths;

mod account;
pub(crate) mod broker;
mod command_line;
mod component;
mod descriptor;
mod geometry;
mod handshake;
mod policy;
mod record;

type Target = fn(&[u8]);

/// The corpus of a target: its files, by name.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = paths::root().join("tests/fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = paths
        .map(|path| (path.clone(), fs::read(path).expect("a file")))
        .collect();
    assert!(files.len() > 3, "{name} has no corpus");
    files
}

/// All of the corpus, then so many inputs that are like it, and so many that are not.
fn try_out(name: &str, target: Target, cases: u32) {
    let corpus = corpus(name);
    for (path, bytes) in &corpus {
        let tried = catch_unwind(|| target(bytes));
        assert!(tried.is_ok(), "{} breaks something", path.display());
    }
    let mut runner = TestRunner::new(ProptestConfig {
        cases: cases * ProptestConfig::default().cases / 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let changes = vec((any::<Index>(), any::<u8>()), 1..6);
    let like = (any::<Index>(), changes, any::<Index>());
    let outcome = runner.run(&like, |(which, changes, end)| {
        let mut bytes = which.get(&corpus).1.clone();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        target(&bytes);
        bytes.truncate(end.index(bytes.len() + 1));
        target(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|why| panic!("{name}, like its corpus: {why}"));
    let outcome = runner.run(&vec(any::<u8>(), 0..2000), |bytes| {
        target(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|why| panic!("{name}: {why}"));
}

#[test]
fn no_action_confuses_the_account() {
    try_out("account", account::target, 2000);
}

#[test]
fn no_bytes_confuse_the_broker() {
    try_out("broker", broker::target, 1000);
}

#[test]
fn no_words_confuse_the_command_line() {
    try_out("command_line", command_line::target, 100);
}

#[test]
fn no_component_confuses_the_loader() {
    try_out("component", component::target, 32);
}

#[test]
fn no_descriptor_gets_past_the_door() {
    try_out("descriptor", descriptor::target, 2000);
}

#[test]
fn accepted_geometry_fits_together() {
    try_out("geometry", geometry::target, 2000);
}

#[test]
fn no_bytes_confuse_the_handshake() {
    try_out("handshake", handshake::target, 1000);
}

#[test]
fn no_text_confuses_a_policy() {
    try_out("policy", policy::target, 500);
}

#[test]
fn no_record_confuses_the_parser() {
    try_out("record", record::target, 2000);
}
