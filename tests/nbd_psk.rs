//! TLS with pre-shared keys: the file and its clients are GnuTLS's, as nbdkit has them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::command::output;
use tests::disk::run;

use crate::nbd_server::{Folder, Raw, Server, content, copy_there_and_back, nbd, number, option};
use crate::nbd_tls::certificates;

pub(crate) const ALICE: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
pub(crate) const BOB: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// Writes a file of keys that only we can read; gives its path.
pub(crate) fn keys(folder: &Folder, name: &str, lines: &str) -> String {
    let path = folder.path(name);
    let _ = fs::remove_file(&path);
    let mut options = OpenOptions::new();
    let mut file = (options.write(true).create_new(true).mode(0o600))
        .open(&path)
        .expect("a file");
    file.write_all(lines.as_bytes()).expect("room");
    path.display().to_string()
}

/// A server with keys, and its file of them.
struct Keyed {
    server: Server,
    file: String,
}

impl Keyed {
    fn start(lines: &str, arguments: &[&str]) -> Keyed {
        let folder = Folder::new();
        let file = keys(&folder, "keys.psk", lines);
        let mut command = nbd("memory");
        command.args(["--set", "size=24M", "--tls-psk", &file]);
        if !arguments.contains(&"--port") {
            command.arg("-U").arg(folder.path("socket"));
        }
        let server = Server::spawn(command_with(command, arguments), folder);
        Keyed { server, file }
    }

    fn alice(arguments: &[&str]) -> Keyed {
        Keyed::start(&format!("alice:{ALICE}\n"), arguments)
    }

    /// The address for a client that has a file of keys; its name is in there as it is printed.
    fn uri(&self, file: &str) -> String {
        let uri = &self.server.uri;
        let next = if uri.contains('?') { '&' } else { '?' };
        format!("{uri}{next}tls-psk-file={file}")
    }

    /// The same for a client of another name.
    fn uri_of(&self, user: &str, file: &str) -> String {
        let uri = self.uri(file);
        let (head, tail) = uri.split_once("://").expect("a URI");
        let place = tail.split_once('@').map_or(tail, |(_, place)| place);
        format!("{head}://{user}@{place}")
    }

    fn plain(&self) -> String {
        let uri = self.server.uri.replacen("nbds", "nbd", 1);
        uri.replacen("alice@", "", 1)
    }
}

fn command_with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

fn size(uri: &str) -> Result<String, String> {
    let size = output(Command::new("timeout").args(["20", "nbdinfo", "--size", uri]));
    size.map_err(|why| format!("{why:#}"))
}

const SIZE: Result<&str, &String> = Ok("25165824\n");

#[test]
fn an_image_goes_in_and_comes_out_by_a_key() {
    for arguments in [
        &["--port", "0"][..],
        &["--export", "disk", "--tls", "require"],
    ] {
        let it = Keyed::alice(arguments);
        assert!(it.server.uri.starts_with("nbds"), "{}", it.server.uri);
        assert!(it.server.uri.contains("://alice@"), "{}", it.server.uri);
        let uri = it.uri(&it.file);
        let info = run("nbdinfo", &["--json", &uri]);
        assert!(info.contains("\"TLS\": true"), "{info}");
        assert!(info.contains("\"structured\": true"), "{info}");
        copy_there_and_back(&it.server.folder, &uri);
        it.server.end();
    }
}

#[test]
fn many_users_and_strange_names() {
    let lines = format!("alice:{ALICE}\n\n#7a6f65:{BOB}\na b@c/d:e:{BOB}\n");
    let it = Keyed::start(&lines, &["--log", "trace"]);
    assert!(!it.server.uri.contains('@'), "{}", it.server.uri);
    let zoe = keys(&it.server.folder, "zoe", &format!("zoe:{BOB}\n"));
    assert_eq!(size(&it.uri_of("alice", &it.file)).as_deref(), SIZE);
    assert_eq!(size(&it.uri_of("zoe", &zoe)).as_deref(), SIZE);
    // A key belongs to its user.
    let other = keys(&it.server.folder, "other", &format!("zoe:{ALICE}\n"));
    assert!(size(&it.uri_of("zoe", &other)).is_err());
    let log = it.server.log().to_lowercase();
    assert!(log.contains("alice") && log.contains("zoe"), "{log}");
    for key in [ALICE, BOB] {
        assert!(!log.contains(&key.to_lowercase()), "a key is in the log");
    }
    it.server.end();
    let it = Keyed::start(&format!("a b@c/d:e:{BOB}\n"), &[]);
    let name = "://a%20b%40c%2Fd%3Ae@";
    assert!(it.server.uri.contains(name), "{}", it.server.uri);
}

/// Runs a script. Debian's module belongs to Debian's Python, whatever comes first in PATH.
fn nbdsh(it: &Keyed, script: &str) {
    let mut nbdsh = Command::new("nbdsh");
    nbdsh
        .env("PATH", "/usr/bin:/bin")
        .args(["-n", "-c", script]);
    nbdsh.env("KEYS", &it.file).env("URI", it.uri(&it.file));
    nbdsh.env("SOCKET", it.server.folder.path("socket"));
    let said = output(nbdsh.env("OUT", it.server.folder.path("out")));
    said.unwrap_or_else(|why| panic!("{why:#}"));
}

const READ_AND_WRITE: &str = "
from os import environ
h = nbd.NBD()
h.set_tls(nbd.TLS_REQUIRE)
h.set_tls_psk_file(environ['KEYS'])
h.set_tls_username('alice')
h.connect_unix(environ['SOCKET'])
assert h.get_tls_negotiated() and h.get_structured_replies_negotiated()
h.pwrite(b'keys' * 1024, 4096)
h.flush()
assert h.pread(4096, 4096) == b'keys' * 1024
h.shutdown()
";

#[test]
fn other_clients_of_gnutls() {
    let it = Keyed::alice(&[]);
    let socket = it.server.folder.text("socket");
    nbdsh(&it, READ_AND_WRITE);
    // QEMU takes a folder, in which the file has this name.
    let folder = Path::new(&it.file).parent().expect("a folder").display();
    let secret = format!("tls-creds-psk,id=key,endpoint=client,dir={folder},username=alice");
    let image = format!("driver=nbd,server.type=unix,server.path={socket},tls-creds=key");
    let start = ["--object", &secret, "--image-opts", &image];
    let write = [
        "-c",
        "write -P 9 1M 3M",
        "-c",
        "read -P 9 1M 3M",
        "-c",
        "flush",
    ];
    let said = run("qemu-io", &[&start[..], &write].concat());
    assert!(said.contains("read 3145728/3145728"), "{said}");
    assert!(!said.contains("verification failed"), "{said}");
    let said = run("qemu-img", &[&["info"], &start[..]].concat());
    assert!(said.contains("24 MiB"), "{said}");
    it.server.end();
}

#[test]
fn nobody_else_comes_in_or_is_in_the_way() {
    let it = Keyed::alice(&[]);
    let file = |name: &str, lines: &str| keys(&it.server.folder, name, lines);
    let image = content(24 << 20);
    let source = it.server.folder.file("in", &image);
    let back = it.server.folder.text("out");
    let uri = it.uri(&it.file);
    let wrong = file("wrong", &format!("alice:{BOB}\n"));
    let mallory = file("mallory", &format!("mallory:{BOB}\n"));
    let pki = it.server.folder.path("pki");
    certificates(&pki);
    let certified = it.server.uri.replacen("alice@", "", 1);
    let certified = format!("{certified}&tls-certificates={}", pki.display());
    let begin = Instant::now();
    thread::scope(|scope| {
        let copies = scope.spawn(|| {
            for _ in 0..3 {
                run("nbdcopy", &[&source, &uri]);
                run("nbdcopy", &[&uri, &back]);
                assert!(fs::read(&back).expect("a copy") == image);
            }
        });
        for _ in 0..3 {
            assert!(size(&it.uri(&wrong)).is_err(), "a wrong key");
            assert!(size(&it.uri_of("mallory", &mallory)).is_err(), "no user");
            assert!(size(&certified).is_err(), "no key at all");
            let refused = size(&it.plain()).expect_err("no TLS");
            assert!(refused.contains("TLS"), "{refused}");
            // What is no TLS at all, and what ends in the middle.
            let mut client = Raw::connect(&it.server);
            assert_eq!(client.haggle(5, b"").0, 1);
            client.send(&option(3, b"").repeat(100));
            client.drain();
            let mut client = Raw::connect(&it.server);
            assert_eq!(client.haggle(5, b"").0, 1);
            client.send(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
            client.drain();
        }
        copies.join().expect("they are not disturbed");
    });
    // The library's own idea is to sleep for up to half a minute after each of these.
    assert!(begin.elapsed() < Duration::from_secs(25), "somebody waited");
    it.server.end();
}

#[test]
fn allowed_means_both_and_off_neither() {
    let it = Keyed::alice(&["--tls", "on"]);
    for uri in [it.plain(), it.uri(&it.file)] {
        assert_eq!(size(&uri).as_deref(), SIZE, "{uri}");
    }
    it.server.end();
    let it = Keyed::alice(&["--tls", "off"]);
    assert!(
        it.server.uri.starts_with("nbd+unix:///"),
        "{}",
        it.server.uri
    );
    assert_eq!(size(&it.server.uri).as_deref(), SIZE);
    it.server.end();
}

/// What openssl's client says. It speaks TLS at once, so somebody in between says STARTTLS for it.
fn openssl(server: &Server, arguments: &[&str], inputs: &[&[u8]]) -> (String, bool) {
    let relay = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = relay.local_addr().expect("it is bound").to_string();
    let mut nbd = Raw::connect(server);
    assert_eq!(nbd.haggle(5, b"").0, 1);
    let there = nbd.0;
    let mut command = Command::new("timeout");
    let tls = [
        "20", "openssl", "s_client", "-connect", &address, "-psk", ALICE,
    ];
    let mut client = command
        .args(tls)
        .args(["-psk_identity", "alice"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let (here, _) = relay.accept().expect("it connects");
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &here, &mut &there);
            let _ = there.shutdown(Shutdown::Write);
        });
        scope.spawn(|| {
            let _ = io::copy(&mut &there, &mut &here);
            let _ = here.shutdown(Shutdown::Write);
        });
        let mut stdin = client.stdin.take().expect("a pipe");
        for input in inputs {
            thread::sleep(Duration::from_millis(200));
            let _ = stdin.write_all(input);
        }
        let done = client.wait_with_output().expect("it ends");
        drop(stdin);
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        (said, done.status.success())
    })
}

#[test]
fn another_client_has_forward_secrecy_new_keys_and_a_word_at_the_end() {
    let it = Keyed::alice(&[]);
    // 'K' is openssl's command to change keys on both sides; then come LIST and ABORT.
    let inputs = [b"K\n", &option(3, b"")[..], b"k\n", &option(2, b"")];
    let (said, well) = openssl(&it.server, &["-tls1_3"], &inputs);
    assert!(said.contains("Server Temp Key:"), "no key exchange: {said}");
    assert!(said.contains("KEYUPDATE"), "{said}");
    assert_eq!(said.matches("closed").count(), 1, "without a word: {said}");
    assert!(well && !said.contains("unexpected eof"), "{said}");
    // Older versions have no such key exchange with every key.
    let (said, well) = openssl(&it.server, &["-tls1_2"], &[]);
    assert!(!well && !said.contains("Cipher is PSK"), "{said}");
    it.server.end();
}

/// Clients that ask for much and read nothing.
const DEAF: &str = "
import subprocess
from os import environ
handles = []
for _ in range(20):
    one = nbd.NBD()
    one.set_tls(nbd.TLS_REQUIRE)
    one.set_tls_psk_file(environ['KEYS'])
    one.set_tls_username('alice')
    one.connect_unix(environ['SOCKET'])
    buffers = [nbd.Buffer(1 << 20) for _ in range(20)]
    cookies = [one.aio_pread(buffer, 0) for buffer in buffers]
    handles.append((one, buffers, cookies))
copy = ['nbdcopy', '--connections=4', environ['URI'], environ['OUT']]
subprocess.run(copy, check=True, timeout=20)
for one, _, cookies in handles[:2]:
    while one.aio_in_flight() > 0:
        one.poll(-1)
    assert all(one.aio_command_completed(cookie) for cookie in cookies)
";

#[test]
fn clients_that_do_not_read() {
    let it = Keyed::alice(&[]);
    nbdsh(&it, DEAF);
    let memory = it.server.memory_kib();
    assert!(memory < 600 << 10, "{memory} KiB");
    it.server.end();
}

#[test]
fn a_key_that_psktool_makes() {
    let folder = Folder::new();
    let file = folder.text("keys.psk");
    run("psktool", &["-u", "alice", "-p", &file]);
    let mut command = nbd("memory");
    command.arg("-U").arg(folder.path("socket"));
    command.args(["--set", "size=24M", "--tls-psk", &file]);
    let it = Keyed {
        server: Server::spawn(command, folder),
        file,
    };
    assert_eq!(size(&it.uri(&it.file)).as_deref(), SIZE);
    // Nothing is told in the open, as with certificates.
    let mut client = Raw::connect(&it.server);
    assert_eq!(client.haggle(3, b"").0, 1 << 31 | 5);
    client.send(&option(5, b""));
    assert_eq!(number(&client.receive(20), 12, 4), 1);
    it.server.end();
}
