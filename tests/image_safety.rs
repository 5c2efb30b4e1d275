//! `import` and `export` beside others: what a device has is left alone, and what was left open for them is taken as it
//! is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, must, wasmblk};
use tests::paths;
use tests::uml::Machine;
use wasmblk::store::{Grant, Stores};

use crate::cli::{Folder, expect};
use crate::image::{content, number, same, shell};

/// What a shell says that must fail; `wasmblk` is a variable there.
fn refused(line: &str) -> String {
    let line = format!("wasmblk={}; {line}", paths::wasmblk().display());
    let reply = Command::new("sh").args(["-c", &line]).output();
    let reply = reply.expect("sh runs");
    let stderr = String::from_utf8_lossy(&reply.stderr);
    assert!(!reply.status.success(), "{line}: {stderr}");
    stderr.into_owned()
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// A file as the store of a device.
fn hold(path: &str, how: &str) -> Stores {
    let grant = Grant::parse(&format!("data={path}{how}")).expect("a grant");
    Stores::open(&[grant]).expect("nobody has it")
}

#[test]
fn files_that_were_left_open_become_images() {
    let folder = Folder::new("left-open");
    // Its end are zeros, which are not sent.
    let bytes = [content(0, 2_500_000), vec![0; 300_000]].concat();
    let device = folder.file("device", &bytes);
    let image = folder.path("image");
    for how in ["- >", "fd:3 3>", "fd:3 3<>", "- >>"] {
        fs::remove_file(&image).ok();
        shell(&format!("wasmblk export {device} {how} {image}"));
        same(&device, &image);
    }
    shell(&format!("wasmblk export {device} - >> {image}"));
    assert_eq!(fs::metadata(&image).expect("a file").len(), 2 * 2_800_000);
    // In place of a device, none grows, and every byte has its place.
    let small = folder.file("small", &[1; 4096]);
    let stderr = refused(&format!("$wasmblk import {device} fd:3 3<>{small}"));
    assert!(stderr.contains("fd:3 only 4096"), "{stderr}");
    let stderr = refused(&format!("$wasmblk import {small} fd:3 3>>{image}"));
    assert!(
        stderr.contains("fd:3 is open for appending") && stderr.contains("'<>'"),
        "{stderr}"
    );
    assert_eq!(fs::read(&small).expect("a file"), [1; 4096]);
    assert_eq!(fs::metadata(&image).expect("a file").len(), 2 * 2_800_000);
}

#[test]
fn what_a_device_has_is_in_use() {
    let folder = Folder::new("in-use");
    let image = folder.file("image", &[1; 4096]);
    let store = folder.file("store", &[2; 4096]);
    let other = folder.path("other");
    let words = ["store is in use", "stop the device"];
    let writer = hold(&store, "");
    expect(&wasmblk(&["import", &image, &store]), 1, &words);
    expect(&wasmblk(&["import", &store, &image]), 1, &words);
    expect(&wasmblk(&["export", &store, &other]), 1, &words);
    for line in [
        format!("import {image} fd:3 3<>{store}"),
        format!("import - {image} <{store}"),
        format!("export {image} - 1<>{store}"),
    ] {
        let stderr = refused(&format!("$wasmblk {line}"));
        assert!(stderr.contains("is in use"), "{line}: {stderr}");
    }
    drop(writer);
    assert_eq!(fs::read(&store).expect("a file"), [2; 4096]);
    assert_eq!(fs::read(&image).expect("a file"), [1; 4096]);
    assert_eq!(names(&folder.path(".")).len(), 2, "image and store");

    // Who only reads is no hindrance to others who do.
    let reader = hold(&store, ":ro");
    expect(&wasmblk(&["import", &image, &store]), 1, &words);
    must(&["import", &store, &image]);
    drop(reader);
    // What was left open is not locked any longer than the copy lasts.
    shell(&format!(
        "exec 5<>{store}; wasmblk import {image} fd:5; wasmblk import {image} {store}"
    ));
}

#[test]
fn streams_are_written_as_far_as_they_fit_and_flushed() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=8M", "--set", "block=4096"]);
        let (node, bytes) = (disk.node(), content(0, 300 * 4096));
        fs::write("/tmp/odd", [&bytes[..], &[9; 512]].concat()).expect("a file");
        let stderr = refused(&format!("cat /tmp/odd | $wasmblk import - {node}"));
        let words =
            "1229312 bytes, and /dev/ublkb0 has blocks of 4096; the last block was not written";
        assert!(stderr.contains(words), "{stderr}");
        let mut back = vec![0; 301 * 4096];
        let file = File::open(node).expect("a disk");
        file.read_exact_at(&mut back, 0).expect("read");
        assert!(back[..bytes.len()] == bytes && back[bytes.len()..] == [0; 4096]);
        drop(file);
        disk.del();

        let store = Backing::new("flushed", 2 << 20);
        let disk = Disk::add("file", &["--store", &store.grant("data", "")]);
        fs::write("/tmp/image", &bytes).expect("a file");
        let before = number(&disk, "flushes");
        shell(&format!("wasmblk export /tmp/image - 1<>{}", disk.node()));
        assert!(number(&disk, "flushes") > before);
        disk.del();
    });
}

#[test]
fn a_stream_fills_a_file() {
    let folder = Folder::new("fits");
    let device = folder.file("device", &[7; 1_234_567]);
    refused(&format!("yes | $wasmblk import - {device}"));
    let text = "y\n".repeat(617_284);
    assert!(fs::read(&device).expect("a file") == text.as_bytes()[..1_234_567]);
}
