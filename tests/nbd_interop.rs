//! The clients that people use: libnbd's tools and QEMU's.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::PATIENCE;
use tests::command::{output, wait_at_most};
use tests::disk::{run, wait_until};

use crate::nbd_server::{Server, content};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

#[test]
fn nbdinfo_shows_what_the_guest_declares() {
    let server = Server::start("memory", &["--set", "size=5M", "--export", "a-disk"]);
    let info = json(&run("nbdinfo", &["--json", &server.uri]));
    let export = &info["exports"][0];
    assert_eq!(export["export-name"], "a-disk");
    assert_eq!(export["export-size"], 5 << 20);
    assert_eq!(export["is_read_only"], false);
    assert_eq!(export["block_size_maximum"], 32 << 20);
    for can in [
        "cache",
        "df",
        "fast_zero",
        "flush",
        "fua",
        "multi_conn",
        "trim",
        "zero",
    ] {
        assert_eq!(export[format!("can_{can}")], true, "{can}");
    }
    // The list of exports is asked for in another way than one of them.
    let list = run("nbdinfo", &["--list", "--json", &server.uri]);
    assert_eq!(json(&list)["exports"][0]["export-name"], "a-disk");
    let other = server.uri.replace("a-disk", "none");
    assert!(
        output(Command::new("nbdinfo").arg(other)).is_err(),
        "there is one export only"
    );
    let server = Server::start("null", &["--set", "size=3M"]);
    let export = &json(&run("nbdinfo", &["--json", &server.uri]))["exports"][0];
    assert_eq!(export["export-size"], 3 << 20);
}

#[test]
fn nbdcopy_with_several_connections() {
    let server = Server::start("memory", &["--set", "size=33M"]);
    // An image whose last piece is short, in both directions, out of order.
    let image = content((32 << 20) + 4096 * 3 + 512);
    let file = server.folder.file("in", &image);
    let back = server.folder.text("out");
    let many = ["--connections=4", "--requests=16", "--request-size=262144"];
    run("nbdcopy", &[&many[..], &[&file, &server.uri]].concat());
    run("nbdcopy", &[&many[..], &[&server.uri, &back]].concat());
    let copy = fs::read(&back).expect("a copy");
    assert_eq!(copy.len(), 33 << 20);
    assert!(copy[..image.len()] == image, "the same content");
    assert!(copy[image.len()..].iter().all(|byte| *byte == 0));
    run("nbdcopy", &["--synchronous", &server.uri, &back]);
    assert!(fs::read(&back).expect("a copy") == copy);
}

#[test]
fn a_qcow2_image_goes_in_and_comes_out() {
    let server = Server::start("memory", &["--set", "size=32M"]);
    let (image, back) = (server.folder.text("a.qcow2"), server.folder.text("b.qcow2"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", &image, "32M"]);
    let fill = [
        "write -P 0x11 0 1M",
        "write -P 0x22 5M 3M",
        "write -z 6M 1M",
        "write -P 0x33 32767k 1k",
    ];
    let fill = fill.iter().flat_map(|command| ["-c", command]);
    let fill: Vec<&str> = ["-f", "qcow2"]
        .into_iter()
        .chain(fill)
        .chain([&*image])
        .collect();
    run("qemu-io", &fill);
    // What was there before must not shine through the holes of the image.
    server.qemu_io(&[], &["write -P 0xee 0 32M"]);
    let uri = &*server.uri;
    let into = ["convert", "-n", "-f", "qcow2", "-O", "raw"];
    run("qemu-img", &[&into[..], &[&image, uri]].concat());
    let same = ["compare", "-f", "qcow2", "-F", "raw"];
    run("qemu-img", &[&same[..], &[&image, uri]].concat());
    let out = ["convert", "-f", "raw", "-O", "qcow2", "-m", "8", "-W"];
    run("qemu-img", &[&out[..], &[uri, &back]].concat());
    let same = ["compare", "-f", "qcow2", "-F", "qcow2", &image, &back];
    run("qemu-img", &same);
    server.qemu_io(&[], &["write -P 0x44 9M 512"]);
    let differs = ["compare", "-f", "qcow2", "-F", "raw", &image, uri];
    assert!(output(Command::new("qemu-img").args(differs)).is_err());
}

#[test]
fn qemu_img_map_and_bench() {
    let server = Server::start("memory", &["--set", "size=16M"]);
    let map = ["map", "-f", "raw", "--output=json", &server.uri];
    let map = json(&run("qemu-img", &map));
    let ranges = map.as_array().expect("a list");
    let bytes: u64 = ranges.iter().filter_map(|it| it["length"].as_u64()).sum();
    assert_eq!(bytes, 16 << 20);
    assert!(ranges.iter().all(|range| range["data"] == true), "{map}");
    let bench = ["bench", "-f", "raw", "-c", "2000", "-d", "32", "-s", "4096"];
    let write = ["-w", "--pattern=90", "--flush-interval=64"];
    run("qemu-img", &[&bench[..], &write, &[&server.uri]].concat());
    let read = "read -P 90 0 8192000";
    server.qemu_io(&[], &[read, "read -P 0 8192000 8585216"]);
    run("qemu-img", &[&bench[..], &[&server.uri]].concat());
    let large = ["bench", "-f", "raw", "-c", "60", "-d", "8", "-s", "2M"];
    run("qemu-img", &[&large[..], &[&server.uri]].concat());
}

#[test]
fn qemu_io_with_many_requests_at_once() {
    let server = Server::start("memory", &["--set", "size=16M"]);
    let writes: Vec<String> = (0..64)
        .map(|i| format!("aio_write -q -P {} {}k 64k", i + 1, i * 64))
        .collect();
    let reads = (0..64).map(|i| format!("aio_read -P {} {}k 64k", i + 1, i * 64));
    let end = || "aio_flush".to_owned();
    let all = [writes, vec![end()], reads.collect(), vec![end()]].concat();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let said = server.qemu_io(&[], &all);
    assert!(!said.contains("verification failed"), "{said}");
    assert_eq!(said.matches("read 65536/65536").count(), 64, "{said}");
}

/// Runs a script. Debian's module belongs to Debian's Python, whatever comes first in PATH.
fn nbdsh(server: &Server, options: &[&str], script: &str) -> String {
    let mut nbdsh = Command::new("nbdsh");
    nbdsh.env("PATH", "/usr/bin:/bin").args(options);
    let said = output(nbdsh.args(["-u", &server.uri, "-c", script]));
    said.unwrap_or_else(|why| panic!("{why:#}"))
}

/// Everything that libnbd has a call for; a wrong answer is an exception.
const SCRIPT: &str = r#"
words = []
size = h.get_size()
assert size == 16 << 20
assert h.get_structured_replies_negotiated()
def fails(call, number):
    try:
        call()
    except nbd.Error as error:
        assert error.errno == number, (error.errno, number)
    else:
        raise AssertionError("no " + number)

data = bytes(range(256)) * 16
h.pwrite(data, 4096)
assert h.pread(4096, 4096) == data
h.pwrite(data, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 1 << 20) == data
h.zero(1024, 4096, nbd.CMD_FLAG_FAST_ZERO)
h.zero(1024, 4096 + 1024, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(4096, 4096) == bytes(2048) + data[2048:]
h.cache(1 << 20, 0)
h.trim(4096, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 1 << 20) == bytes(4096)
h.flush()

# Longer than the guest takes at once, in one chunk and in several.
long = data * 640
h.pwrite(long, 2 << 20)
chunks = []
def chunk(part, offset, status, error):
    assert status == nbd.READ_DATA
    assert bytes(part) == long[offset - (2 << 20):][:len(part)]
    chunks.append(len(part))
h.pread_structured(len(long), 2 << 20, chunk, nbd.CMD_FLAG_DF)
assert chunks == [len(long)], chunks
chunks.clear()
h.pread_structured(len(long), 2 << 20, chunk)
assert sum(chunks) == len(long) and len(chunks) > 1, chunks

extents = []
h.block_status(size, 0, lambda context, at, found, error: extents.extend(found))
assert extents == [size, 0], extents

# What libnbd would not send by itself.
h.set_strict_mode(0)
h.set_debug_callback(lambda context, message: words.append(message))
h.set_debug(True)
fails(lambda: h.pread(512, size), "EINVAL")
fails(lambda: h.pwrite(bytes(512), size), "ENOSPC")
fails(lambda: h.pread(100, 0), "EINVAL")
fails(lambda: h.pread(512, 100), "EINVAL")
fails(lambda: h.zero(512, size), "ENOSPC")
fails(lambda: h.pread(512, 0, 0x4000), "EINVAL")
h.set_debug(False)
words = "\n".join(words)
for expected in ["512 bytes at 16777216", "a device of 16777216 bytes", "flags 0x4000"]:
    assert expected in words, words
assert h.pread(4096, 4096) == bytes(2048) + data[2048:]
h.shutdown()
print("all of it")
"#;

#[test]
fn nbdsh_calls_everything() {
    let server = Server::start("memory", &["--set", "size=16M"]);
    let said = nbdsh(&server, &["--base-allocation"], SCRIPT);
    assert_eq!(said.trim(), "all of it");
    let memory = server;
    // What the guest has not is refused, and does not end the connection.
    let server = Server::start("faulty", &["--set", "size=16M"]);
    let script = r#"
h.set_strict_mode(0)
for call in [lambda: h.trim(512, 0), lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO)]:
    try:
        call()
        raise AssertionError("it was done")
    except nbd.Error as error:
        assert error.errno == "ENOTSUP", error.errno
h.zero(512, 0)
assert h.pread(512, 0) == bytes(512)
"#;
    nbdsh(&server, &[], script);
    memory.end();
}

#[test]
fn nbdfuse_makes_a_file_of_it() {
    let server = Server::start("memory", &["--set", "size=16M"]);
    let folder = server.folder.path("mount");
    fs::create_dir(&folder).expect("a folder");
    let disk = folder.join("disk");
    let mut fuse = Command::new("nbdfuse")
        .arg(&disk)
        .arg(&server.uri)
        .stderr(Stdio::null())
        .spawn()
        .expect("nbdfuse runs");
    wait_until("the file is there", || {
        disk.exists() || !fs::exists(format!("/proc/{}/root", fuse.id())).unwrap_or(false)
    });
    if !disk.exists() {
        let ended = wait_at_most(&mut fuse, Duration::from_secs(1));
        if fs::exists("/dev/fuse").unwrap_or(false) {
            panic!("nbdfuse does not mount: {ended:?}");
        }
        return skipped("this machine has no /dev/fuse");
    }
    let file = OpenOptions::new().read(true).write(true).open(&disk);
    let file = file.expect("the export");
    assert_eq!(file.metadata().expect("a size").len(), 16 << 20);
    let image = content(3 << 20);
    file.write_all_at(&image, 1 << 20).expect("a write");
    file.sync_all().expect("a flush");
    let mut back = vec![0; image.len()];
    file.read_exact_at(&mut back, 1 << 20).expect("a read");
    assert!(back == image);
    drop(file);
    run("fusermount3", &["-u", &folder.display().to_string()]);
    let ended = wait_at_most(&mut fuse, PATIENCE).expect("it ends");
    assert!(ended.is_some_and(|status| status.success()));
    // Past FUSE and its caches: it is the guest that has it.
    let out = server.folder.text("out");
    run("nbdcopy", &[&server.uri, &out]);
    assert!(fs::read(out).expect("a copy")[1 << 20..4 << 20] == image);
    server.end();
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests is to know")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
