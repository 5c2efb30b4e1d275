//! `import` and `export`: what comes out is what went in, zeros are not sent, and what does not fit is refused before
//! anything is written.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use tests::backing::Backing;
use tests::bed::in_bed;
use tests::command::output;
use tests::disk::{Disk, must, run, wasmblk};
use tests::uml::Machine;
use tests::{null_blk, paths};

use crate::cli::{Folder, expect};

/// What an image is made of, by turns data and zeros: lengths beside all that the copy has units of.
const RUNS: [usize; 14] = [
    1, 511, 512, 4096, 65_535, 65_536, 65_537, 200_000, 1_048_575, 1_048_577, 131_072, 131_072, 3,
    7,
];

/// Bytes of an image: data and zeros, in the order of `RUNS` from one of them on.
pub(crate) fn content(from: usize, bytes: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(bytes);
    let runs = RUNS.iter().cycle().skip(from);
    for (turn, length) in runs.enumerate() {
        let end = bytes.min(content.len() + length);
        if turn % 2 == 0 {
            content.extend((content.len()..end).map(|at| (at % 251).to_le_bytes()[0] | 1));
        } else {
            content.resize(end, 0);
        }
        if end == bytes {
            break;
        }
    }
    content
}

/// A command line of a shell with wasmblk in it, which must end well.
pub(crate) fn shell(line: &str) {
    let line = format!(
        "set -eu; wasmblk() {{ {} \"$@\"; }}; {line}",
        paths::wasmblk().display()
    );
    output(Command::new("bash").args(["-o", "pipefail", "-c", &line]))
        .unwrap_or_else(|why| panic!("{why:#}"));
}

pub(crate) fn same(one: &str, other: &str) {
    let read = |path: &str| fs::read(path).expect("a file");
    assert!(
        read(one) == read(other),
        "{one} and {other} are not the same"
    );
}

#[test]
fn what_comes_out_is_what_went_in() {
    let folder = Folder::new("image");
    for from in 0..RUNS.len() {
        let bytes = 3_000_000 + from * 77_777;
        let image = content(from, bytes);
        let path = folder.file("image", &image);
        let device = folder.file("device", &[0xff; 4 << 20]);
        assert_eq!(must(&["import", &path, &device]), "");
        let now = fs::read(&device).expect("a file");
        assert!(now[..bytes] == image, "image {from}");
        assert!(
            now[bytes..].iter().all(|byte| *byte == 0xff),
            "behind image {from}"
        );
        let back = folder.path("back");
        assert_eq!(must(&["export", "--force", &device, &back]), "");
        same(&device, &back);
    }
    let left = fs::read_dir(folder.path(".")).expect("a folder").count();
    assert_eq!(left, 3, "image, device and back");
}

#[test]
fn holes_are_neither_read_nor_written() {
    let folder = Folder::new("holes");
    let image = folder.path("image");
    let file = File::create(&image).expect("a file");
    file.set_len(8 << 30).expect("a file can be long");
    file.write_all_at(b"in the middle", 5 << 30)
        .expect("written");
    let (device, back) = (folder.path("device"), folder.path("back"));
    File::create(&device)
        .and_then(|it| it.set_len(8 << 30))
        .expect("a file");
    must(&["import", &image, &device]);
    let reply = wasmblk(&["export", "--progress", &device, &back]);
    assert_eq!(reply.code, 0, "{}", reply.stderr);
    assert!(
        reply.stderr.ends_with("100%  8G of 8G\n"),
        "{}",
        reply.stderr
    );
    for path in [&device, &back] {
        let about = fs::metadata(path).expect("a file");
        assert!(
            about.len() == 8 << 30 && about.blocks() * 512 < 1 << 20,
            "{path}: {about:?}"
        );
        let mut found = [0; 15];
        let file = File::open(path).expect("a file");
        file.read_exact_at(&mut found, (5 << 30) - 1).expect("read");
        assert_eq!(&found, b"\0in the middle\0");
    }
}

#[test]
fn streams_and_inherited_files() {
    let folder = Folder::new("streams");
    let bytes = content(0, 2_500_000);
    let (image, device) = (
        folder.file("image", &bytes),
        folder.file("device", &[7; 3_000_000]),
    );
    shell(&format!("cat {image} | wasmblk import - {device}"));
    assert!(fs::read(&device).expect("a file")[..bytes.len()] == bytes);
    let other = folder.file("other", &[9; 3_000_000]);
    shell(&format!(
        "wasmblk export {device} - | wasmblk import - fd:5 5<>{other}"
    ));
    same(&device, &other);
    shell(&format!("wasmblk import - fd:5 <{image} 5<>{other}"));
    same(&device, &other);
    shell(&format!("wasmblk export fd:4 {device}.back 4<{device}"));
    same(&device, &format!("{device}.back"));
    // A stream shows only at its end that it is too long.
    let line = format!("yes | {} import - {device}", paths::wasmblk().display());
    let reply = Command::new("sh")
        .args(["-c", &line])
        .output()
        .expect("sh runs");
    let stderr = String::from_utf8_lossy(&reply.stderr);
    assert!(
        !reply.status.success() && stderr.contains("more than the 3000000 bytes"),
        "{stderr}"
    );
}

#[test]
fn what_does_not_fit_is_refused_at_the_door() {
    let folder = Folder::new("door");
    let (image, device) = (
        folder.file("image", &[1; 5000]),
        folder.file("device", &[2; 4096]),
    );
    let (missing, place) = (folder.path("missing"), folder.path("."));
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (
            &["import", &image, &device],
            1,
            &["5000 bytes", "only 4096", "nothing was written"],
        ),
        (
            &["import", &image, &missing],
            1,
            &["missing", "No such file"],
        ),
        (
            &["import", &missing, &device],
            1,
            &["missing", "No such file"],
        ),
        (
            &["import", &place, &device],
            1,
            &["neither a file nor a block device"],
        ),
        (
            &["import", &image, "/dev/null"],
            1,
            &["neither a file nor a block device"],
        ),
        (&["import", &image, "-"], 2, &["the device cannot be '-'"]),
        (&["import", &image, "fd:x"], 2, &["fd:N"]),
        (
            &["import", &image, "fd:77"],
            1,
            &["fd:77", "nobody left it open"],
        ),
        (&["import", &device, &device], 2, &["are the same"]),
        (&["export", "-", &image], 2, &["the device cannot be '-'"]),
        (
            &["export", &device, &image],
            1,
            &["exists already", "--force"],
        ),
        (
            &["export", &device, "/missing/image"],
            1,
            &["cannot make /missing/image"],
        ),
    ];
    for (arguments, code, words) in cases {
        expect(&wasmblk(arguments), code, words);
    }
    assert_eq!(fs::read(&device).expect("a file"), [2; 4096]);
    assert_eq!(fs::read(&image).expect("a file"), [1; 5000]);
    let line = format!(
        "{} import {device} fd:5 5<{image}",
        paths::wasmblk().display()
    );
    let reply = Command::new("sh")
        .args(["-c", &line])
        .output()
        .expect("sh runs");
    let stderr = String::from_utf8_lossy(&reply.stderr);
    assert!(stderr.contains("fd:5 is not open for writing"), "{stderr}");
}

pub(crate) fn number(disk: &Disk, counter: &str) -> u64 {
    let text = disk.info(&format!("/stats/{counter}"));
    text.parse().expect("a number")
}

#[test]
fn a_device_is_filled_and_read_back() {
    in_bed(&Machine::default(), || {
        let bytes = content(3, 64 << 20);
        fs::write("/tmp/image", &bytes).expect("a file");
        let disk = Disk::add("memory", &["--set", "size=64M"]);
        fs::write("/tmp/before", vec![0xff; 64 << 20]).expect("a file");
        must(&["import", "/tmp/before", disk.node()]);
        let before = number(&disk, "written_bytes");
        let reply = wasmblk(&["import", "--progress", "/tmp/image", disk.node()]);
        assert!(
            reply.code == 0 && reply.stderr.contains("100%  64M of 64M"),
            "{}",
            reply.stderr
        );
        let sent = number(&disk, "written_bytes") - before;
        assert!(sent < 50 << 20, "{sent} bytes were sent");
        assert!(number(&disk, "write_zeroes") > 0);
        must(&["export", disk.node(), "/tmp/back"]);
        same("/tmp/image", "/tmp/back");
        shell(&format!(
            "wasmblk export fd:9 - 9<{} | cmp - /tmp/image",
            disk.node()
        ));
        assert_eq!(number(&disk, "errors"), 0);
        let flags = "grep flags /proc/$$/fdinfo/5";
        let line = "[ \"$before\" = \"$after\" ]";
        shell(&format!(
            "exec 5<>{}; before=$({flags}); wasmblk import /tmp/image fd:5; after=$({flags}); {line}",
            disk.node()
        ));

        // Nodes and privilege are of no use to it.
        let inside = "set -eu; grep -q 'CapEff:.0*$' /proc/self/status; [ -z \"$(ls /dev)\" ]
            wasmblk import /tmp/image fd:5; wasmblk export fd:5 -";
        fs::write("/tmp/inside", inside).expect("a file");
        let without = "mount -t tmpfs none /dev; exec setpriv --bounding-set=-all bash /tmp/inside";
        shell(&format!(
            "export -f wasmblk; exec 5<>{}; unshare -m bash -euc '{without}' | cmp - /tmp/image",
            disk.node()
        ));

        let writes = number(&disk, "writes");
        run("truncate", &["-s", "+512", "/tmp/image"]);
        let larger = wasmblk(&["import", "/tmp/image", disk.node()]);
        expect(
            &larger,
            1,
            &["67109376 bytes", "only 67108864", "nothing was written"],
        );
        run("mkfs.ext4", &["-q", "-F", disk.node()]);
        let made = number(&disk, "writes");
        run("mount", &[disk.node(), "/mnt"]);
        run("truncate", &["-s", "1M", "/tmp/image"]);
        expect(
            &wasmblk(&["import", "/tmp/image", disk.node()]),
            1,
            &["it is mounted"],
        );
        run("umount", &["/mnt"]);
        assert!(made > writes);
        run("e2fsck", &["-f", "-n", disk.node()]);
        disk.del();

        let disk = Disk::add("memory", &["--set", "size=8M", "--set", "block=4096"]);
        fs::write("/tmp/odd", [1; 5 * 512]).expect("a file");
        let words = [
            "2560 bytes",
            "blocks of 4096",
            "nothing was written",
            "truncate -s %4096",
        ];
        expect(&wasmblk(&["import", "/tmp/odd", disk.node()]), 1, &words);
        assert_eq!(number(&disk, "writes"), 0);
        disk.del();
    });
}

/// Another driver's disk, which has no way to make zeros: they are sent.
#[test]
fn a_disk_without_zeroing_gets_zeros() {
    in_bed(&Machine::default(), || {
        let disk = null_blk::make("plain", &[("memory_backed", "1"), ("size", "8")]);
        let disk = disk.expect("the kernel has null_blk");
        let node = disk.to_str().expect("ASCII");
        let name = disk.file_name().expect("a name").to_string_lossy();
        let limit = fs::read_to_string(format!("/sys/block/{name}/queue/write_zeroes_max_bytes"));
        assert_eq!(limit.expect("a limit").trim(), "0");
        fs::write("/tmp/before", vec![0xff; 8 << 20]).expect("a file");
        fs::write("/tmp/image", content(1, 8 << 20)).expect("a file");
        must(&["import", "/tmp/before", node]);
        must(&["import", "/tmp/image", node]);
        must(&["export", node, "/tmp/back"]);
        same("/tmp/image", "/tmp/back");
    });
}

#[test]
fn what_is_imported_is_flushed() {
    in_bed(&Machine::default(), || {
        let store = Backing::new("image", 8 << 20);
        let disk = Disk::add("file", &["--store", &store.grant("data", "")]);
        fs::write("/tmp/image", content(2, 8 << 20)).expect("a file");
        must(&["import", "/tmp/image", disk.node()]);
        assert!(number(&disk, "flushes") > 0);
        assert!(store.content() == content(2, 8 << 20));
        disk.del();
    });
}

/// A device that fails in the middle: the image that was there stays, and nothing half lies about.
#[test]
fn an_image_is_whole_or_not_there() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add(
            "faulty",
            &["--set", "size=8M", "--set", "error-range=5M-6M"],
        );
        fs::create_dir("/tmp/folder").expect("a folder");
        let words = [disk.node(), "cannot read at byte 5242880"];
        let export = |more: &[&str]| {
            wasmblk(&[&["export", disk.node(), "/tmp/folder/image"], more].concat())
        };
        expect(&export(&[]), 1, &words);
        assert_eq!(fs::read_dir("/tmp/folder").expect("a folder").count(), 0);
        fs::write("/tmp/folder/image", "from before").expect("a file");
        expect(&export(&["--force"]), 1, &words);
        assert_eq!(fs::read_dir("/tmp/folder").expect("a folder").count(), 1);
        assert_eq!(
            fs::read("/tmp/folder/image").expect("a file"),
            b"from before"
        );
        fs::write("/tmp/image", content(0, 8 << 20)).expect("a file");
        let import = wasmblk(&["import", "/tmp/image", disk.node()]);
        expect(&import, 1, &[disk.node(), "cannot write at byte 5242880"]);
        disk.del();
    });
}
