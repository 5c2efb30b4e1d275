//! `import` and `export` beside others: what a device has is left alone, a file is replaced as a whole or not at all,
//! and stays what it was; what was left open for them is taken as it is.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, must, wait_until, wasmblk};
use tests::uml::Machine;
use tests::user::User;
use tests::{null_blk, paths};
use wasmblk::store::{Grant, Stores};
use wasmblk::sys::lock_file;

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

fn mode(path: &str) -> u32 {
    fs::metadata(path).expect("a file").mode() & 0o7777
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
    expect(&wasmblk(&["export", "--force", &image, &store]), 1, &words);
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

    // Who only reads is no hindrance to others who do, nor to a new file in its place.
    let reader = hold(&store, ":ro");
    expect(&wasmblk(&["import", &image, &store]), 1, &words);
    must(&["import", &store, &image]);
    fs::write(&image, [3; 4096]).expect("a file");
    must(&["export", "--force", &image, &store]);
    let mut read = [0; 4096];
    let before = reader.all()[0].read(0, &mut read);
    before.expect("it is there");
    assert_eq!(read, [2; 4096]);
    same(&image, &store);
    // What was left open is not locked any longer than the copy lasts.
    shell(&format!(
        "exec 5<>{store}; wasmblk import {image} fd:5; wasmblk import {image} {store}"
    ));
}

#[test]
fn a_disk_that_is_a_store_is_in_use() {
    in_bed(&Machine::default(), || {
        let attributes = [("size", "16"), ("memory_backed", "1")];
        let node = null_blk::make("store", &attributes).expect("a disk");
        let (node, folder) = (node.display(), Folder::new("disks"));
        let image = folder.file("image", &content(0, 4096));
        let reader = hold(&node.to_string(), ":ro");
        let why = refused(&format!("$wasmblk import {image} {node}"));
        assert!(why.contains("is in use: stop the device"), "{why}");
        drop(reader);
        let writer = hold(&node.to_string(), "");
        let why = refused(&format!("$wasmblk export {node} {image}-2"));
        assert!(why.contains("is in use: stop the device"), "{why}");
        drop(writer);
        shell(&format!("wasmblk import {image} {node}"));
    });
}

#[test]
fn what_is_replaced_gives_its_mode_and_its_place() {
    let folder = Folder::new("place");
    let device = folder.file("device", &content(0, 100_000));
    let (image, link) = (folder.file("image", b"before"), folder.path("link"));
    symlink("image", &link).expect("a link");
    fs::set_permissions(&image, Permissions::from_mode(0o640)).expect("a mode");
    must(&["export", "--force", &device, &link]);
    same(&device, &image);
    assert_eq!(mode(&image), 0o640);
    assert_eq!(fs::read_link(&link).expect("a link"), Path::new("image"));
    let new = folder.path("new");
    shell(&format!("umask 027; wasmblk export --force {device} {new}"));
    assert_eq!(mode(&new), 0o640);
    shell(&format!(
        "cd {}; wasmblk export device here",
        folder.path(".")
    ));
    same(&device, &folder.path("here"));
    // Names as long as they can be, and longer.
    must(&["export", &device, &folder.path(&"n".repeat(255))]);
    must(&["export", "--force", &device, &folder.path(&"n".repeat(255))]);
    for name in [&"n".repeat(256), "none/"] {
        let reply = wasmblk(&["export", &device, &folder.path(name)]);
        assert!(reply.code != 0 && reply.stderr.contains(name), "{name}");
    }
    let nowhere = folder.path("nowhere");
    symlink("nothing", &nowhere).expect("a link");
    let reply = wasmblk(&["export", "--force", &device, &nowhere]);
    assert!(reply.stderr.contains("leads nowhere"), "{}", reply.stderr);
    assert_eq!(names(&folder.path(".")).len(), 7);
}

/// An export of a slow disk, which has begun.
fn begun(disk: &Disk, more: &[&str]) -> Child {
    let before = number(disk, "reads");
    let mut command = Command::new(paths::wasmblk());
    command.args([&["export", disk.node()], more].concat());
    let child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    wait_until("it reads", || number(disk, "reads") > before);
    child
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_comes_while_an_export_runs() {
    in_bed(&Machine::default(), || {
        let slow = ["--set", "size=8M", "--set", "delay-ms=400"];
        let disk = Disk::add("slow", &slow);
        fs::create_dir("/tmp/folder").expect("a folder");
        let image = "/tmp/folder/image";

        let mut child = begun(&disk, &[image]);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert_eq!(names("/tmp/folder"), [""; 0]);

        let child = begun(&disk, &[image]);
        fs::write(image, "of others").expect("a file");
        assert!(said(child).contains("meanwhile; --force replaces it"));
        assert_eq!(fs::read(image).expect("a file"), b"of others");

        // What is to be replaced gets no device that writes to it.
        chown(image, Some(1000), Some(1001)).expect("an owner");
        fs::set_permissions(image, Permissions::from_mode(0o600)).expect("a mode");
        let child = begun(&disk, &["--force", image]);
        let old = OpenOptions::new().read(true).write(true).open(image);
        let old = old.expect("it is there");
        assert!(!lock_file(&old, true).expect("it has locks"));
        assert_eq!(said(child), "");
        assert!(lock_file(&old, true).expect("it has locks"));
        let about = fs::metadata(image).expect("a file");
        assert_eq!((about.len(), mode(image)), (8 << 20, 0o600));
        assert_eq!((about.uid(), about.gid()), (1000, 1001));
        assert_eq!(names("/tmp/folder"), ["image"]);
        disk.del();
    });
}

/// Without `/proc`, or on a file system that has no files without names.
#[test]
fn a_part_that_has_a_name() {
    in_bed(&Machine::default(), || {
        fs::create_dir("/tmp/folder").expect("a folder");
        fs::write("/tmp/device", content(0, 1 << 20)).expect("a file");
        let export = |line: &str| {
            fs::write("/tmp/inside", format!("set -eu; cd /tmp/folder; {line}")).expect("a file");
            shell(
                "export -f wasmblk; unshare -m bash -euc 'mount -t tmpfs none /proc; exec bash /tmp/inside'",
            );
        };
        // A name that is left of an earlier one stays.
        export(&format!(
            "touch wasmblk-$$.part; exec {} export /tmp/device image",
            paths::wasmblk().display()
        ));
        same("/tmp/device", "/tmp/folder/image");
        fs::set_permissions("/tmp/folder/image", Permissions::from_mode(0o600)).expect("a mode");
        export("wasmblk export --force /tmp/device image");
        assert_eq!(mode("/tmp/folder/image"), 0o600);

        let slow = ["--set", "size=8M", "--set", "delay-ms=400"];
        let disk = Disk::add("slow", &slow);
        export(&format!(
            "wasmblk export {} new &
            until [ $(ls wasmblk-*.part | wc -l) = 2 ] || ! kill -0 $!; do sleep 0.1; done
            echo of others >new; ! wait $!",
            disk.node()
        ));
        let new = fs::read("/tmp/folder/new").expect("a file");
        assert_eq!(new, b"of others\n");
        let mut left = names("/tmp/folder");
        left.sort();
        assert_eq!(left[..2], ["image", "new"]);
        assert_eq!(left.len(), 3, "{left:?}");
        disk.del();
    });
}

#[test]
fn a_user_without_rights() {
    in_bed(&Machine::default(), || {
        let user = User::new(1000);
        let folder = user.home().join("folder");
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o333)).expect("a mode");
        fs::write("/tmp/device", content(0, 1 << 20)).expect("a file");
        let reply = user.call(&["export", "/tmp/device", "folder/image"]);
        expect(&reply, 0, &[]);
        same("/tmp/device", &folder.join("image").display().to_string());

        // A group that he is not in: his own may do no more than everybody.
        let shared = user.home().join("shared").display().to_string();
        fs::write(&shared, "of a group").expect("a file");
        chown(&shared, Some(1000), Some(1001)).expect("an owner");
        fs::set_permissions(&shared, Permissions::from_mode(0o664)).expect("a mode");
        expect(
            &user.call(&["export", "--force", "/tmp/device", "shared"]),
            0,
            &[],
        );
        assert_eq!(mode(&shared), 0o644);
    });
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
