//! Every example runs, so none of them rots.

use std::fs;

use tests::bed::in_bed;
use tests::command::output;
use tests::container;
use tests::disk::nothing_left;
use tests::paths;
use tests::uml::Machine;

fn example(name: &str, guest: &str) {
    let script = paths::root().join("examples").join(name).join("run.sh");
    // One of them makes a container, which a chroot such as the bed cannot.
    let mut command = container::outside();
    command.arg("/bin/sh").arg(script);
    command.arg(paths::wasmblk()).arg(paths::guest(guest));
    output(&mut command).unwrap_or_else(|why| panic!("{why:#}"));
    nothing_left();
}

#[test]
fn ramdisk() {
    in_bed(&Machine::default(), || example("ramdisk", "memory"));
}

#[test]
fn overlay() {
    in_bed(&Machine::default(), || example("overlay", "cow"));
}

#[test]
fn container() {
    in_bed(&Machine::default(), || example("container", "memory"));
}

#[test]
fn every_example_has_a_test() {
    let here = include_str!("examples.rs");
    let others = include_str!("broker/service.rs");
    for entry in fs::read_dir(paths::root().join("examples"))
        .expect("examples")
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_run = here.contains(&format!("example(\"{name}\""));
        // What is no script is read by a test.
        let is_read =
            !entry.path().join("run.sh").exists() && others.contains(&format!("examples/{name}/"));
        assert!(is_run || is_read, "examples/{name} is not run");
    }
}
