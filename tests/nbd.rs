//! Guests over NBD, on this machine, with the clients that people use.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tests::disk::{run, wasmblk};
use tests::paths;

use crate::nbd_server::{Framing, Raw, Server, content, request};

#[test]
fn an_image_goes_in_and_comes_out() {
    let server = Server::start("memory", &["--set", "size=48M"]);
    let image = server.folder.file("in", &content(48 << 20));
    let back = server.folder.text("out");
    run("nbdcopy", &[&image, &server.uri]);
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &image, &server.uri],
    );
    run("nbdcopy", &["--connections=4", &server.uri, &back]);
    assert!(fs::read(&back).expect("a copy") == content(48 << 20));
    run(
        "qemu-img",
        &[
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "raw",
            &image,
            &server.uri,
        ],
    );
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &image, &server.uri],
    );
}

#[test]
fn every_kind_of_request_does_what_it_says() {
    let server = Server::start("memory", &["--set", "size=16M"]);
    server.qemu_io(
        &["-d", "unmap"],
        &[
            "write -P 0xa5 0 8M",
            "write -f -P 0x5a 4M 64k",
            "flush",
            "write -z 1M 1M",
            "write -z -u 2M 512k",
            "discard 3M 1M",
            "read -P 0xa5 0 1M",
            "read -P 0 1M 1536k",
            "read -P 0 3M 1M",
            "read -P 0x5a 4M 64k",
            "read -P 0xa5 7M 1M",
            "read -P 0 8M 8M",
        ],
    );
    let info = run("nbdinfo", &["--json", &server.uri]);
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 16 << 20);
    assert_eq!(export["can_trim"], true);
    assert_eq!(export["can_multi_conn"], true);
    assert_eq!(export["block_size_minimum"], 512);
    let map = run("nbdinfo", &["--map", "--totals", &server.uri]);
    assert!(map.contains("100.0%") && map.contains("data"), "{map}");
}

#[test]
fn what_the_guest_lacks_is_made_by_the_host() {
    // Four functions: zeros arrive as writes, FUA as a flush; nothing is kept, so zeros are what is read.
    let server = Server::start("faulty", &["--set", "size=16M"]);
    server.qemu_io(
        &[],
        &[
            "write -z 0 4M",
            "write -f 1M 64k",
            "flush",
            "read -P 0 0 16M",
        ],
    );
    let info = run("nbdinfo", &[&server.uri]);
    assert!(info.contains("can_trim: false"), "{info}");
}

#[test]
fn errors_and_read_only_reach_the_client() {
    let server = Server::start(
        "faulty",
        &["--set", "error-range=1M-2M", "--set", "errno=no-space"],
    );
    let io = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write 1M 4k", &server.uri])
        .output()
        .expect("qemu-io runs");
    assert!(
        String::from_utf8_lossy(&io.stdout).contains("No space left"),
        "{io:?}"
    );
    server.qemu_io(&[], &["write 0 4k", "read 0 4k"]);
    let server = Server::start(
        "memory",
        &["--set", "size=1M", "--read-only", "--export", "x"],
    );
    let info = run("nbdinfo", &[&server.uri]);
    assert!(info.contains("is_read_only: true"), "{info}");
}

#[test]
fn a_guest_that_traps_fails_and_the_server_stays() {
    let server = Server::start("faulty", &["--set", "trap-at=1M"]);
    for _ in 0..2 {
        let io = Command::new("qemu-io")
            .args(["-f", "raw", "-c", "read 1M 4k", &server.uri])
            .output()
            .expect("qemu-io runs");
        assert!(
            String::from_utf8_lossy(&io.stdout).contains("Input/output error"),
            "{io:?}"
        );
    }
    assert!(run("nbdinfo", &["--size", &server.uri]).starts_with("67108864"));
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let server = Server::start("memory", &["--set", "size=16M"]);
    let Raw(mut client) = Raw::ready(&server, Framing::Simple);
    // More replies than the server holds back, and more requests than it takes in one turn; the client
    // reads none of them before it has sent all.
    for (count, length) in [(64_u64, 1 << 20), (5000, 512)] {
        let all: Vec<u8> = (0..count)
            .flat_map(|cookie| request(0, cookie, 0, length))
            .collect();
        let mut writer = client.try_clone().expect("a second handle");
        let sender = thread::spawn(move || writer.write_all(&all));
        let mut reply = vec![0; 16 + length as usize];
        for cookie in 0..count {
            client.read_exact(&mut reply).expect("a reply to each");
            assert_eq!(reply[8..16], cookie.to_be_bytes(), "in order");
        }
        sender.join().expect("a thread").expect("all was sent");
    }
}

#[test]
fn a_request_is_refused_as_a_whole() {
    let server = Server::start("memory", &["--set", "size=4M"]);
    let Raw(mut client) = Raw::ready(&server, Framing::Simple);
    let mut reply = [0; 16];
    // 2 MiB that begin 1 MiB before the end, in pieces of 1 MiB: no piece may be written.
    let write = [request(1, 1, 3 << 20, 2 << 20), vec![0xff; 2 << 20]].concat();
    client.write_all(&write).expect("a write");
    client.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[4..8], 28_u32.to_be_bytes(), "ENOSPC");
    server.qemu_io(&[], &["read -P 0 0 4M"]);
    for (command, length) in [(0, 0), (0, 100), (9, 512), (7, 512)] {
        client
            .write_all(&request(command, 2, 0, length))
            .expect("a request");
        client.read_exact(&mut reply).expect("a reply");
        assert_eq!(
            reply[4..8],
            22_u32.to_be_bytes(),
            "command {command} of {length}: EINVAL"
        );
    }
}

#[test]
fn a_write_may_fail_while_its_data_is_coming() {
    let options = ["--set", "size=8M", "--set", "error-range=1M-1537K"];
    let server = Server::start("faulty", &options);
    let Raw(mut client) = Raw::ready(&server, Framing::Simple);
    // The guest has refused an early piece when a later one is half there.
    for cut in [1 << 20, (1 << 20) + 700_000, (2 << 20) + 1, (3 << 20) - 1] {
        let data = vec![0xa5; 3 << 20];
        let head = request(1, 1, 1 << 20, 3 << 20);
        client.write_all(&head).expect("a request");
        client.write_all(&data[..cut]).expect("some of its data");
        thread::sleep(Duration::from_millis(50));
        client.write_all(&data[cut..]).expect("the rest of it");
        client.write_all(&request(0, 2, 0, 512)).expect("a read");
        let mut reply = [0; 16 + 16 + 512];
        client.read_exact(&mut reply).expect("two replies");
        assert_eq!(reply[4..16], [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1], "EIO");
        assert_eq!(reply[20..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    }
    server.end();
}

#[test]
fn zeros_that_the_host_writes_are_checked_as_a_whole() {
    let server = Server::start("faulty", &["--set", "size=4M"]);
    let Raw(mut client) = Raw::ready(&server, Framing::Simple);
    let mut reply = [0; 16];
    for (offset, length, error) in [
        (0, 0, 22_u32),
        (0, 100, 22),
        (3 << 20, 2 << 20, 28),
        (0, 512, 0),
    ] {
        client
            .write_all(&request(6, 1, offset, length))
            .expect("a request");
        client.read_exact(&mut reply).expect("a reply");
        assert_eq!(
            reply[4..8],
            error.to_be_bytes(),
            "{length} bytes at {offset}"
        );
    }
}

#[test]
fn garbage_ends_a_connection_and_no_other() {
    let server = Server::start("memory", &["--set", "size=1M"]);
    let socket = server.folder.path("socket");
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0; 4096], &[255; 64]] {
        let mut client = UnixStream::connect(&socket).expect("it listens");
        client.write_all(garbage).expect("it reads");
    }
    server.qemu_io(&[], &["write -P 1 0 1M", "read -P 1 0 1M"]);
}

#[test]
fn run_passes_the_uri_and_the_exit_code() {
    let memory = paths::guest("memory").display().to_string();
    let nbd = |command: &str| wasmblk(&["nbd", &memory, "--set", "size=1M", "--run", command]);
    let reply = nbd("nbdinfo --size \"$uri\"; exit 7");
    assert_eq!((reply.code, reply.stdout.trim()), (7, "1048576"));
    let reply = nbd("test -S \"$unixsocket\" && echo \"$unixsocket\"");
    assert_eq!(reply.code, 0);
    assert!(
        !fs::exists(reply.stdout.trim()).expect("a path"),
        "the socket went with the server"
    );
    assert_eq!(nbd("kill -9 $$").code, 137);
}

#[test]
fn tcp_and_pid_file() {
    let memory = paths::guest("memory").display().to_string();
    let pid = std::env::temp_dir().join(format!("wasmblk-pid-{}", std::process::id()));
    let pid = pid.display().to_string();
    let command = format!("test -s {pid} && nbdinfo --size \"$uri\"");
    let common = ["nbd", &memory, "--set", "size=1M", "--pid-file", &pid];
    let reply = wasmblk(&[&common[..], &["--port", "0", "--run", &command]].concat());
    assert_eq!(
        (reply.code, reply.stdout.trim()),
        (0, "1048576"),
        "{}",
        reply.stderr
    );
    assert!(!fs::exists(&pid).expect("a path"));
    let reply = wasmblk(&[&common[..], &["-U", "/proc/no/socket"]].concat());
    assert_eq!(reply.code, 1);
    assert!(
        reply.stderr.contains("cannot listen at /proc/no/socket"),
        "{}",
        reply.stderr
    );
    let reply = wasmblk(&[&common[..], &["-U", "-", "--export", "a/b"]].concat());
    assert_eq!(reply.code, 2);
}
