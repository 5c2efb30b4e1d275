//! What an NBD server owes its operator: no work where there is none, errors instead of its end, and no client that is
//! gone.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tests::PATIENCE;
use tests::backing::Backing;
use tests::disk::{wait_until, wasmblk};
use tests::paths;
use wasmblk::block::{Carrier, Memory, Transfer, Work};
use wasmblk::sys::Blocking;

use crate::direct::{Prepared, limits};
use crate::nbd_server::{Folder, Server, nbd, stop};

#[test]
fn the_end_of_a_transfer_is_told_of_once() {
    let backing = Backing::new("told", 1 << 20);
    let stores = [backing.grant("data", ":direct")];
    let prepared = Prepared::limited("file", &[], &stores, limits()).expect("it loads");
    let (opened, _) = prepared.open().expect("it opens");
    let mut blocking = Blocking::new(&opened.place).expect("threads");
    let rings = |blocking: &Blocking, time: Duration| {
        let time = Timespec::try_from(time).expect("short");
        poll(&mut [PollFd::new(blocking, PollFlags::IN)], Some(&time)).expect("poll") > 0
    };
    for _ in 0..2000 {
        for token in 0..4 {
            let transfer = Transfer {
                work: Work::Read,
                store: 0,
                offset: u64::from(token) * 4096,
                length: 4096,
                memory: Memory::Request(token, 0),
                answers: true,
            };
            blocking.begin(token, &transfer).expect("it begins");
        }
        let mut ended = 0;
        while ended < 4 {
            let mut count = |_, result| {
                assert_eq!(result, Ok(4096));
                ended += 1;
            };
            blocking.wait(PATIENCE, &mut count).expect("it waits");
        }
        // A server that waits for this as well would find nothing to do, again and again.
        assert!(!rings(&blocking, Duration::ZERO));
    }
    assert!(!rings(&blocking, Duration::from_millis(100)));
}

#[test]
fn a_file_that_may_not_grow_is_full() {
    let backing = Backing::new("limited", 64 << 20);
    let folder = Folder::new();
    let server = nbd("file");
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -f 2048; exec \"$0\" \"$@\""])
        .arg(server.get_program())
        .args(server.get_args())
        .args(["--store", &backing.grant("data", "")])
        .arg("-U")
        .arg(folder.path("socket"));
    let server = Server::spawn(command, folder);
    let mut io = Command::new("qemu-io");
    io.args(["-f", "raw", "-c", "write 32M 4k", &server.uri]);
    let output = io.output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("No space left on device"), "{said}");
    server.qemu_io(&[], &["write -P 7 0 4k", "read -P 7 0 4k"]);
    server.end();
}

#[test]
fn zeros_are_fast_where_only_memory_is() {
    let backing = Backing::new("zeros", 1 << 20);
    let grant = backing.grant("data", "");
    for (guest, words, fast) in [
        ("memory", ["--set", "size=1M"], true),
        ("file", ["--store", &grant], false),
        ("faulty", ["--set", "size=1M"], false),
    ] {
        let server = Server::start(guest, &words);
        let mut info = Command::new("nbdinfo");
        let status = info.args(["--can", "fast-zero", &server.uri]).status();
        assert_eq!(status.expect("it runs").success(), fast, "{guest}");
        server.end();
    }
}

#[test]
fn the_system_asks_clients_over_tcp_whether_they_are_there() {
    let folder = Folder::new();
    let mut command = nbd("null");
    command.args(["--port", "0"]);
    let server = Server::spawn(command, folder);
    let (_, port) = server
        .uri
        .trim_end_matches('/')
        .rsplit_once(':')
        .expect("a port");
    let port: u16 = port.parse().expect("a number");
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("it connects");
    // proc_net_tcp.txt: local address, remote address, state (1 is established), queues, timer (2 is keepalive).
    let is_asked = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields
            .get(1)
            .is_some_and(|it| it.ends_with(&format!(":{port:04X}")));
        ours && fields[3] == "01" && fields[5].starts_with("02:")
    };
    wait_until("a timer", || {
        fs::read_to_string("/proc/net/tcp").is_ok_and(|text| text.lines().any(is_asked))
    });
    server.end();
}

#[test]
fn a_socket_that_cannot_be_removed_is_named() {
    let folder = Folder::new();
    chown(&folder.0, Some(65534), Some(65534)).expect("as root");
    let mut command = nbd("null");
    command.arg("-U").arg(folder.path("socket"));
    let mut server = Server::spawn(command, folder);
    stop(&mut server.process).expect("it ends");
    assert!(
        server.folder.path("socket").exists(),
        "its folder is somebody else's"
    );
    let log = server.log();
    assert!(log.contains("socket stays: remove it"), "{log}");
}

#[test]
fn where_to_listen_is_said_once() {
    let null = paths::guest("null").display().to_string();
    let folder = Folder::new();
    let nowhere = folder.text("no folder/socket");
    for (words, why) in [
        (&["-U", "/tmp/x", "-i", "::1"][..], "cannot be used with"),
        (&["-U", &nowhere], "make its folder first"),
        (
            &["-i", "192.0.2.1", "-p", "0"],
            "an address of this machine",
        ),
    ] {
        let reply = wasmblk(&[&["nbd", &null], words].concat());
        assert_ne!(reply.code, 0);
        assert!(reply.stderr.contains(why), "{}", reply.stderr);
    }
}
