//! Files that come along with messages, and whose last `close` waits for as long as whoever sent them likes.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use tests::bed::in_bed;
use tests::disk::{run, wait_until};
use tests::uml::Machine;
use tests::user::{Broker, SOCKET, User};
use wasmblk::broker::{self, wire};
use wasmblk::message;

use super::hostile::{client, size};
use super::recovery::{WARDEN, named};
use super::server::{Server, is_part};
use super::{ALICE, BOB, POLICY, nothing_left_but};
use crate::cli::expect;

const LIST: &[u8] = br#"{"version":1,"request":"list"}"#;
const ATTACH: &[u8] = br#"{"version":1,"request":"attach"}"#;

/// A socket whose last `close` waits for ten minutes, for nobody reads at the other end. That ends it.
fn slow() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    set_socket_recv_buffer_size(&listener, 2048).expect("a socket");
    let address = listener.local_addr().expect("a port");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let (other, _) = listener.accept().expect("somebody has come");
    stream.set_nonblocking(true).expect("a socket");
    while stream.write(&[0; 4096]).is_ok() {}
    set_socket_linger(&stream, Some(Duration::from_secs(600))).expect("a socket");
    (stream, other)
}

/// Does something while a process is stopped: whoever closes a file last is the one that waits, which is to be that.
fn while_stopped<T>(pid: &str, work: impl FnOnce() -> T) -> T {
    run("kill", &["-STOP", pid]);
    let done = work();
    run("kill", &["-CONT", pid]);
    done
}

/// Sends the broker something as somebody, in connections of their own, each time with a file that is slow to close.
/// Gives our ends, and what ends those files.
fn send_as(broker: &Broker, uid: u32, messages: &[&[u8]]) -> Vec<(OwnedFd, TcpStream)> {
    let send = |bytes: &[u8]| {
        let (client, (stream, other)) = (client(), slow());
        message::send(&client, bytes, &[stream.as_fd()]).expect("it is sent");
        (client, other)
    };
    let send = || {
        let user = Uid::from_raw(uid);
        // Of this thread alone.
        set_thread_res_uid(user, user, user).expect("root may");
        messages.iter().map(|bytes| send(bytes)).collect()
    };
    while_stopped(&broker.pid(), || {
        thread::scope(|scope| scope.spawn(send).join().expect("it is sent"))
    })
}

/// What the broker says to a client.
fn answer(client: &OwnedFd) -> String {
    let (bytes, _) = message::receive(client).expect("it is answered");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_file_that_is_slow_to_close_holds_up_nobody_else() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&format!("{POLICY}hosted = true\n"));
        let before = size(&broker);
        let (alice, bob) = (User::new(ALICE), User::new(BOB));
        // 'wasmblk list' would do without.
        let answers = || {
            let all = broker::list(Path::new(SOCKET)).expect("it answers");
            assert!(all.is_empty());
        };
        // Somebody whom no rule names.
        for bytes in [LIST, ATTACH, b"\0"] {
            let sent = send_as(&broker, 1002, &[bytes]);
            assert!(answer(&sent[0].0).contains("\"version\":1"));
            let (clients, others): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
            drop(clients);
            answers();
            drop(others);
        }
        // More at once than he has places.
        let many = send_as(&broker, 1002, &[LIST; 20]);
        let (clients, others): (Vec<_>, Vec<_>) = many.into_iter().unzip();
        answers();
        drop(clients);
        answers();
        drop(others);
        // Somebody who may send files: as many wait as are his.
        let his = send_as(&broker, ALICE, &[ATTACH; 7]);
        let (first, rest) = his.split_first().expect("seven");
        assert!(answer(&first.0).contains("must come along"));
        let last = rest.iter().map(|(client, _)| answer(client)).next_back();
        let last = last.expect("there are more");
        assert!(last.contains("wait to be closed"), "{last}");
        answers();
        assert_eq!(alice.must(&["list"]), "", "he has the rest");
        let null = tests::paths::guest("null").display().to_string();
        let hosted = [
            "add",
            &null,
            "--hosted",
            "--memory-mib",
            "64",
            "--depth",
            "1",
        ];
        expect(&alice.call(&hosted), 1, &["wait to be closed"]);
        let id = bob.add("null", &hosted[2..]).to_string();
        let _ = bob.must(&["del", &id]);
        drop(his);
        wait_until("everything is closed", || size(&broker).0 == before.0);
        let id = alice.add("null", &hosted[2..]).to_string();
        let _ = alice.must(&["del", &id]);
        nothing_left_but(broker);
    });
}

#[test]
fn a_holder_who_sends_files_is_left() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        let server = Server::start(&User::new(ALICE), "answers");
        let command = wire::encode(&wire::Command::Info).expect("a message");
        let warden = named(WARDEN).remove(0);
        let null = File::open("/dev/null").expect("a file");
        for _ in 0..3 {
            let copy = server.capability.demand(&wire::Command::Copy);
            let copy = copy.expect("a copy").remove(0);
            let other = while_stopped(&warden, || {
                let (stream, other) = slow();
                let files = [null.as_fd(), stream.as_fd()];
                message::send(&copy, &command, &files).expect("it is sent");
                other
            });
            let why = message::receive(&copy).expect_err("it is not answered");
            let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            assert!(closed.contains(&why.kind()), "{why}");
            let info = server.capability.demand(&wire::Command::Info);
            info.expect("others have their answers");
            drop(other);
        }
        assert_eq!(
            broker::list(Path::new(SOCKET)).expect("it answers").len(),
            1
        );
        drop(server);
        nothing_left_but(broker);
    });
}
