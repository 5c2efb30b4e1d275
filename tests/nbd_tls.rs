//! TLS: certificates as nbdkit has them, made here by openssl.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::command::output;
use tests::disk::{run, wasmblk};
use tests::paths;

use crate::nbd_server::{Folder, Raw, Server, content, copy_there_and_back, nbd, number, option};

/// Makes an authority, and a server's and a client's certificate, into one folder.
pub(crate) fn certificates(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let openssl = |words: &str| {
        let mut openssl = Command::new("openssl");
        openssl.args(words.split(' ')).current_dir(folder);
        output(&mut openssl).unwrap_or_else(|why| panic!("{why:#}"));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca-key.pem -out ca-cert.pem -days 2 -subj /CN=authority"
    ));
    for (name, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
        let extensions = format!(
            "basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n\
             subjectAltName=DNS:localhost,IP:127.0.0.1\n"
        );
        fs::write(folder.join("extensions"), extensions).expect("a file");
        openssl(&format!(
            "req {key} -keyout {name}-key.pem -out {name}.csr -subj /CN=localhost"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 \
             -extfile extensions -out {name}-cert.pem"
        ));
    }
}

/// A server with certificates, at a port or at a unix socket.
struct Encrypted {
    server: Server,
    folder: String,
}

impl Encrypted {
    fn start(tcp: bool, arguments: &[&str]) -> Encrypted {
        let folder = Folder::new();
        let path = folder.path("pki");
        certificates(&path);
        let mut command = nbd("memory");
        if tcp {
            command.args(["--port", "0"]);
        } else {
            command.arg("-U").arg(folder.path("socket"));
        }
        command.arg("--tls-certificates").arg(&path);
        let server = Server::spawn(command_with(command, arguments), folder);
        let folder = path.display().to_string();
        Encrypted { server, folder }
    }

    /// The address, for a client that has the files of a folder.
    fn uri(&self, folder: &str) -> String {
        let uri = &self.server.uri;
        let next = if uri.contains('?') { '&' } else { '?' };
        format!("{uri}{next}tls-certificates={folder}")
    }

    /// A folder of a client that knows the authority, and has no certificate of its own.
    fn stranger(&self) -> String {
        let path = self.server.folder.path("stranger");
        fs::create_dir_all(&path).expect("a folder");
        let authority = Path::new(&self.folder).join("ca-cert.pem");
        fs::copy(authority, path.join("ca-cert.pem")).expect("a copy");
        path.display().to_string()
    }

    fn plain(&self) -> String {
        self.server.uri.replacen("nbds", "nbd", 1)
    }
}

fn command_with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(["--set", "size=24M"]).args(arguments);
    command
}

fn size(uri: &str) -> Result<String, String> {
    let size = output(Command::new("nbdinfo").args(["--size", uri]));
    size.map_err(|why| format!("{why:#}"))
}

#[test]
fn an_image_goes_in_and_comes_out_encrypted() {
    for tcp in [true, false] {
        let it = Encrypted::start(tcp, &[]);
        let uri = it.uri(&it.folder);
        assert!(uri.starts_with("nbds"), "{uri}");
        let info = run("nbdinfo", &["--json", &uri]);
        assert!(info.contains("\"TLS\": true"), "{info}");
        copy_there_and_back(&it.server.folder, &uri);
        it.server.end();
    }
}

#[test]
fn required_means_that_nobody_comes_in_without() {
    for arguments in [&[][..], &["--tls", "require"]] {
        let it = Encrypted::start(false, arguments);
        assert_eq!(size(&it.uri(&it.folder)).as_deref(), Ok("25165824\n"));
        let refused = size(&it.plain()).expect_err("it is refused");
        assert!(refused.contains("TLS"), "{refused}");
        // Nothing is told in the open, by whatever option.
        let mut client = Raw::connect(&it.server);
        for code in [3, 6, 7, 8, 9, 10, 11, 77] {
            let (kind, text) = client.haggle(code, &[0; 6]);
            assert_eq!(kind, 1 << 31 | 5, "ERR_TLS_REQD for option {code}");
            assert!(!text.is_empty());
        }
        client.send(&option(1, b""));
        assert!(client.is_closed());
        it.server.end();
    }
}

#[test]
fn allowed_means_both() {
    let it = Encrypted::start(true, &["--tls", "on"]);
    for uri in [it.plain(), it.uri(&it.folder)] {
        assert_eq!(size(&uri).as_deref(), Ok("25165824\n"), "{uri}");
    }
    run(
        "nbdcopy",
        &[&it.server.folder.file("in", &content(1 << 20)), &it.plain()],
    );
    let back = it.server.folder.text("out");
    run("nbdcopy", &[&it.uri(&it.folder), &back]);
    assert!(fs::read(&back).expect("a copy")[..1 << 20] == content(1 << 20));
    // Certificates that are not to be used.
    let it = Encrypted::start(true, &["--tls", "off"]);
    assert_eq!(size(&it.plain()).as_deref(), Ok("25165824\n"));
    let uri = it.uri(&it.folder).replacen("nbd:", "nbds:", 1);
    assert!(size(&uri).is_err());
}

#[test]
fn clients_are_verified() {
    let it = Encrypted::start(true, &["--tls-verify-peer"]);
    assert_eq!(size(&it.uri(&it.folder)).as_deref(), Ok("25165824\n"));
    assert!(
        size(&it.uri(&it.stranger())).is_err(),
        "it has no certificate"
    );
    // One of another authority.
    let other = it.server.folder.path("other");
    certificates(&other);
    let authority = Path::new(&it.folder).join("ca-cert.pem");
    fs::copy(authority, other.join("ca-cert.pem")).expect("a copy");
    assert!(
        size(&it.uri(&other.display().to_string())).is_err(),
        "anybody could make it"
    );
    assert_eq!(size(&it.uri(&it.folder)).as_deref(), Ok("25165824\n"));
    it.server.end();
    let it = Encrypted::start(true, &[]);
    let uri = it.uri(&it.stranger());
    assert_eq!(
        size(&uri).as_deref(),
        Ok("25165824\n"),
        "nobody asks for one"
    );
}

#[test]
fn certificates_that_cannot_be_used() {
    let folder = Folder::new();
    let memory = paths::guest("memory").display().to_string();
    let fails = |pki: &Path, more: &[&str], word: &str| {
        let pki = pki.display().to_string();
        let nbd = ["nbd", &memory, "--set", "size=1M", "--run", "true"];
        let reply = wasmblk(&[&nbd[..], &["--tls-certificates", &pki], more].concat());
        assert_eq!(reply.code, 2, "{word}: {}", reply.stderr);
        assert!(reply.stderr.contains(word), "{word}: {}", reply.stderr);
    };
    fails(&folder.path("nowhere"), &[], "server-key.pem");
    let pki = folder.path("pki");
    let verify = ["--tls-verify-peer"];
    for name in ["server-cert.pem", "server-key.pem", "ca-cert.pem"] {
        certificates(&pki);
        let more = if name == "ca-cert.pem" {
            &verify[..]
        } else {
            &[]
        };
        fs::write(pki.join(name), "no certificate\n").expect("a file");
        fails(&pki, more, name);
        fs::write(pki.join(name), [0xff; 100]).expect("a file");
        fails(&pki, more, name);
        fs::remove_file(pki.join(name)).expect("it is there");
        fails(&pki, more, name);
    }
    // A key that is not that of the certificate.
    certificates(&pki);
    fs::copy(pki.join("client-key.pem"), pki.join("server-key.pem")).expect("a copy");
    fails(&pki, &[], "cannot be used");
    // It would let in whoever does not encrypt.
    fails(&pki, &["--tls-verify-peer", "--tls", "on"], "require");
    let nbd = ["nbd", &memory, "--set", "size=1M", "--run", "true"];
    for more in [&["--tls", "on"][..], &["--tls", "require"], &verify] {
        let reply = wasmblk(&[&nbd[..], more].concat());
        assert_eq!(reply.code, 2, "{}", reply.stderr);
        assert!(
            reply.stderr.contains("--tls-certificates"),
            "{}",
            reply.stderr
        );
    }
}

#[test]
fn what_comes_in_the_open_is_not_taken_for_encrypted() {
    let it = Encrypted::start(false, &["--tls", "on"]);
    let mut client = Raw::connect(&it.server);
    client.send(&[option(5, b""), option(3, b"")].concat());
    let ack = client.receive(20);
    assert_eq!([number(&ack, 8, 4), number(&ack, 12, 4)], [5, 1]);
    assert!(client.is_closed(), "LIST is not answered");
    // What is no TLS ends it as well, and no other connection.
    let mut client = Raw::connect(&it.server);
    assert_eq!(client.haggle(5, b"").0, 1);
    client.send(&option(3, b"").repeat(10));
    client.drain();
    assert_eq!(size(&it.uri(&it.folder)).as_deref(), Ok("25165824\n"));
    it.server.end();
}

/// Leaves so much unread that the answer to STARTTLS has to wait, says something in the open meanwhile,
/// and sees whether it is answered inside the encryption.
const INJECT: &str = r#"
import socket, ssl, sys, time
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(sys.argv[1])
s.sendall(bytes([0, 0, 0, 3]))
def option(code):
    return b"IHAVEOPT" + code.to_bytes(4, "big") + bytes(4)
s.sendall(option(3) * 400)
time.sleep(0.3)
s.sendall(option(5))
time.sleep(0.3)
s.sendall(option(3))
def read(count):
    data = b""
    while len(data) < count:
        part = s.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
read(18)
answered = 0
while True:
    head = read(20)
    read(int.from_bytes(head[16:], "big"))
    if head[8:12] == b"\0\0\0\5":
        break
    answered += head[15] == 1
assert answered == 400, answered
context = ssl._create_unverified_context()
try:
    with context.wrap_socket(s) as inside:
        print("answered" if inside.recv(20) else "closed")
except (OSError, EOFError):
    print("no TLS")
"#;

#[test]
fn nor_what_comes_before_the_answer_is_sent() {
    let name = "x".repeat(4000);
    let it = Encrypted::start(false, &["--tls", "on", "--export", &name]);
    let socket = it.server.folder.text("socket");
    let said = run("/usr/bin/python3", &["-c", INJECT, &socket]);
    assert_eq!(said.trim(), "no TLS");
    it.server.end();
}

/// Encrypts, and then does what a client may: leaves with a word, or never reads.
const CLIENT: &str = r#"
import socket, ssl, struct, subprocess, sys, time
def option(code, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", code, len(data)) + data
def request(command, offset, length):
    return struct.pack(">IHHQQI", 0x25609513, 0, command, 1, offset, length)
context = ssl._create_unverified_context()
context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(sys.argv[1])
    read(s, 18)
    s.sendall(bytes([0, 0, 0, 3]) + option(5))
    read(s, 20)
    s = context.wrap_socket(s, suppress_ragged_eofs=False)
    s.sendall(option(1))
    read(s, 10)
    return s
def read(s, count):
    data = b""
    while len(data) < count:
        part = s.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
s = connect()
s.sendall(request(0, 0, 512) + request(2, 0, 0))
assert read(s, 16 + 512)[4:8] == bytes(4)
# An end without a word would be an exception: somebody in between could have made it.
assert s.recv(1) == b""
deaf = []
for _ in range(20):
    s = connect()
    s.sendall(request(0, 0, 1 << 20) * 40)
    deaf.append(s)
time.sleep(0.2)
copy = ["nbdcopy", "--connections=4", sys.argv[2], sys.argv[3]]
subprocess.run(copy, check=True, timeout=20)
# Those that have read nothing so far are served once they do.
for s in deaf[:2]:
    for _ in range(40):
        assert len(read(s, 16 + (1 << 20))) == 16 + (1 << 20)
print("all of it")
"#;

#[test]
fn encrypted_clients_leave_with_a_word_or_never_read() {
    let it = Encrypted::start(false, &[]);
    let socket = it.server.folder.text("socket");
    let out = it.server.folder.text("out");
    let arguments = ["-c", CLIENT, &socket, &it.uri(&it.folder), &out];
    let said = run("/usr/bin/python3", &arguments);
    assert_eq!(said.trim(), "all of it");
    let memory = it.server.memory_kib();
    assert!(memory < 600 << 10, "{memory} KiB");
    it.server.end();
}
