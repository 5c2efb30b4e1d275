//! The guest `remote`: exports of servers elsewhere, by connections that break.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, fio, must, nothing_left, run, wasmblk};
use tests::paths;
use tests::uml::Machine;

use crate::cli::expect;
use crate::nbd_server::{Folder, Server, nbd};

/// A server that listens at a port that is free.
fn elsewhere(guest: &str, arguments: &[&str]) -> Server {
    let mut command = nbd(guest);
    command.args(["--port", "0"]).args(arguments);
    Server::spawn(command, Folder::new())
}

/// Where a server listens.
fn place(server: &Server) -> String {
    let (_, rest) = server.uri.split_once("://").expect("a URI");
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// Serves again what is served at this place.
fn remote(place: &str, arguments: &[&str]) -> Server {
    let at = format!("at={place}");
    let words = ["--net", place, "--set", &at];
    Server::start("remote", &[&words[..], arguments].concat())
}

#[test]
fn it_is_what_the_other_server_has() {
    let other = elsewhere("memory", &["--set", "size=8M", "--export", "a-b"]);
    let here = remote(&place(&other), &["--set", "export=a-b"]);
    assert_eq!(run("nbdinfo", &["--size", &here.uri]).trim(), "8388608");
    here.qemu_io(
        &[],
        &[
            "write -P 1 0 4M",
            "write -P 2 -f 512 1536",
            "discard 1M 1M",
            "write -z 2M 1M",
            "flush",
        ],
    );
    for server in [&here, &other] {
        server.qemu_io(
            &[],
            &[
                "read -P 1 0 512",
                "read -P 2 512 1536",
                "read -P 1 2K 1046528",
                "read -P 0 1M 2M",
                "read -P 1 3M 1M",
            ],
        );
    }
    here.end();
    other.end();
}

#[test]
fn a_server_that_cannot_be_written_makes_a_disk_that_cannot() {
    let other = elsewhere("memory", &["--set", "size=8M", "--read-only"]);
    let here = remote(&place(&other), &[]);
    assert!(run("nbdinfo", &[&here.uri]).contains("is_read_only: true"));
    here.end();
    other.end();
}

#[test]
fn qemus_server_is_one_too() {
    let backing = Backing::new("qemu", 4 << 20);
    let file = backing.path().display().to_string();
    let mut started = (0..20).filter_map(|_| {
        // Free when it was asked for; somebody else may be faster.
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
        let port = port.port().to_string();
        let words = ["--fork", "-f", "raw", "-b", "127.0.0.1", "-p", &port];
        let status = Command::new("qemu-nbd").args(words).arg(&file).status();
        status.is_ok_and(|it| it.success()).then_some(port)
    });
    let port = started.next().expect("qemu-nbd listens");
    let here = remote(&format!("127.0.0.1:{port}"), &[]);
    here.qemu_io(&[], &["write -P 5 1M 2M", "flush", "read -P 5 1M 2M"]);
    // It ends with its last client.
    here.end();
    assert_eq!(backing.content()[1 << 20..3 << 20], [5; 2 << 20]);
}

/// Passes on what comes to where it is to go, and can break all that is connected.
struct Wire {
    place: String,
    streams: &'static Mutex<Vec<TcpStream>>,
}

impl Wire {
    fn to(target: String) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let place = listener.local_addr().expect("it has one").to_string();
        let streams: &Mutex<Vec<TcpStream>> = Box::leak(Box::default());
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = TcpStream::connect(&target) else {
                    continue;
                };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (copy_of(from), copy_of(to));
                    streams.lock().expect("no panic").push(copy_of(&from));
                    thread::spawn(move || {
                        let mut bytes = [0; 65536];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Wire { place, streams }
    }

    fn tear(&self) {
        for stream in self.streams.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn copy_of(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a descriptor")
}

#[test]
fn a_connection_that_breaks_is_made_anew_unless_writes_may_be_lost() {
    let other = elsewhere("memory", &["--set", "size=8M"]);
    let wire = Wire::to(place(&other));
    let here = remote(&wire.place, &[]);
    here.qemu_io(&[], &["write -P 1 0 1M", "flush"]);
    wire.tear();
    here.qemu_io(&[], &["read -P 1 0 1M", "write -P 2 0 64K", "flush"]);
    for _ in 0..3 {
        wire.tear();
        here.qemu_io(&[], &["read -P 2 0 64K"]);
    }
    // qemu-io flushes at its end what it wrote; nbdsh does not.
    let nbdsh = |command| {
        let mut nbdsh = Command::new("nbdsh");
        nbdsh.env("PATH", "/usr/bin:/bin");
        nbdsh.args(["--uri", &here.uri, "--command", command]);
        let reply = nbdsh.output().expect("nbdsh runs");
        String::from_utf8_lossy(&reply.stderr).into_owned()
    };
    assert_eq!(nbdsh("h.pwrite(b'3' * 4096, 0)"), "");
    wire.tear();
    for command in ["h.flush()", "h.pread(512, 0)", "h.pwrite(b'4' * 512, 0)"] {
        let said = nbdsh(command);
        assert!(said.contains("Input/output error"), "{command}: {said}");
    }
    other.end();
}

#[test]
fn what_is_wrong_is_said() {
    let guest = paths::guest("remote").display().to_string();
    let odd = TcpListener::bind("127.0.0.1:0").expect("an address");
    let odd_place = odd.local_addr().expect("it has one").to_string();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = odd.accept() {
            let _ = stream.write_all(b"220 mail.example.org ESMTP\r\n");
        }
    });
    let other = elsewhere("memory", &["--set", "size=8M", "--export", "a"]);
    let place = place(&other);
    let (at, at_odd) = (format!("at={place}"), format!("at={odd_place}"));
    for (words, code, why) in [
        (&["--set", "host=x"][..], 2, "remote knows: at, export"),
        (&[], 2, "at=HOST:PORT says where the server is"),
        (&["--set", &at_odd, "--net", &odd_place], 1, "no NBD server"),
        (
            &["--set", &at, "--net", &place, "--set", "export=b"],
            1,
            "export 'b'",
        ),
        (&["--set", &at], 1, "give --net HOST:PORT"),
        (
            &["--set", &at, "--net", &odd_place],
            1,
            &format!("give --net {place}"),
        ),
    ] {
        let reply = wasmblk(&[&["nbd", &guest, "--run", "true"], words].concat());
        expect(&reply, code, &[why]);
    }
    other.end();
}

#[test]
fn over_ublk_it_is_a_disk_like_others() {
    in_bed(&Machine::default(), || {
        let other = elsewhere("memory", &["--set", "size=16M"]);
        let place = place(&other);
        let at = format!("at={place}");
        let disk = Disk::add("remote", &["--net", &place, "--set", &at]);
        let jobs = ["--rw=randrw", "--bs=16k", "--size=16m", "--iodepth=8"];
        fio(&disk.path, &[&jobs[..], &["--verify=crc32c"]].concat());
        must(&["del", &disk.id]);
        other.end();
        nothing_left();
    });
}
