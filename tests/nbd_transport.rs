//! How clients come in, how the server starts and ends, and that it needs no privilege.

use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::PATIENCE;
use tests::disk::{run, wait_until};
use tests::paths;

use crate::nbd_server::{Folder, Framing, Raw, Server, content, flagged, nbd, option, stop};

/// Debian's own, whatever comes first in PATH.
const PYTHON: &str = "/usr/bin/python3";

/// Becomes the server that the arguments name, with a socket as descriptor 3, as systemd does it.
const ACTIVATE: &str = r#"
import os, socket, sys
kind, path, *server = sys.argv[1:]
if kind == "tcp":
    it = socket.create_server(("127.0.0.1", 0))
else:
    it = socket.socket(socket.AF_UNIX)
    if kind == "unix":
        it.bind(path)
        it.listen()
if kind != "none":
    os.dup2(it.fileno(), 3)
    os.set_inheritable(3, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "2" if kind == "two" else "1"
os.execv(server[0], server)
"#;

fn activated(kind: &str, folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(PYTHON);
    command
        .args(["-c", ACTIVATE, kind])
        .arg(folder.path("socket"));
    let server = nbd("memory");
    command.arg(server.get_program()).args(server.get_args());
    command.args(["--set", "size=4M"]).args(arguments);
    command
}

#[test]
fn the_uri_leads_to_the_socket_whatever_its_name() {
    for name in ["a b", "a&b=c", "100%41", "a+b?c#d", "caf\u{e9}"] {
        let folder = Folder::new();
        let mut command = nbd("null");
        command.arg("-U").arg(folder.path(name));
        let server = Server::spawn(command, folder);
        assert!(server.uri.is_ascii(), "{}", server.uri);
        run("nbdinfo", &["--size", &server.uri]);
    }
    let mut command = nbd("null");
    command.args(["--address", "::1", "--port", "0"]);
    if fs::exists("/proc/net/if_inet6").unwrap_or(false) {
        let server = Server::spawn(command, Folder::new());
        assert!(server.uri.starts_with("nbd://[::1]:"), "{}", server.uri);
        run("nbdinfo", &["--size", &server.uri]);
    }
}

#[test]
fn systemd_hands_over_a_socket() {
    for kind in ["unix", "tcp"] {
        let folder = Folder::new();
        let mut server = Server::spawn(activated(kind, &folder, &["--export", "x"]), folder);
        assert_eq!(run("nbdinfo", &["--size", &server.uri]).trim(), "4194304");
        server.qemu_io(&[], &["write -P 1 0 4M", "read -P 1 0 4M"]);
        if kind == "unix" {
            let socket = server.folder.path("socket");
            assert!(server.uri.contains(&socket.display().to_string()));
            let status = stop(&mut server.process);
            assert!(status.is_some_and(|status| status.success()));
            assert!(socket.exists(), "it is systemd's");
        }
    }
}

#[test]
fn what_is_no_socket_for_clients_is_refused() {
    for (kind, arguments, code, words) in [
        ("none", &[][..], 1, "there is none"),
        ("deaf", &[], 1, "cannot be used"),
        ("two", &[], 2, "opened 2 sockets"),
        ("unix", &["--port", "0"], 2, "leave out"),
    ] {
        let folder = Folder::new();
        let mut command = activated(kind, &folder, arguments);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let end = Instant::now() + PATIENCE;
        while process.try_wait().expect("a status").is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        let status = stop(&mut process).expect("it ends");
        let mut said = String::new();
        let mut stderr = process.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut said).expect("text");
        assert_eq!(status.code(), Some(code), "{kind}: {said}");
        assert!(said.contains(words), "{kind}: {said}");
    }
}

#[test]
fn it_ends_with_its_parent() {
    let folder = Folder::new();
    let pid_file = folder.path("pid");
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\" & wait", "sh"]);
    let server = nbd("null");
    shell.arg(server.get_program()).args(server.get_args());
    shell
        .arg("--exit-with-parent")
        .arg("-U")
        .arg(folder.path("socket"))
        .arg("--pid-file")
        .arg(&pid_file)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut shell = shell.spawn().expect("a shell");
    let pid = || fs::read_to_string(&pid_file).unwrap_or_default();
    wait_until("the server is ready", || pid().ends_with('\n'));
    let server = format!("/proc/{}", pid().trim());
    assert!(fs::exists(&server).expect("a path"));
    shell.kill().expect("it runs");
    shell.wait().expect("a status");
    wait_until("the server has ended", || {
        // Where nobody reaps it, it stays as a zombie.
        let stat = fs::read_to_string(format!("{server}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    assert!(!folder.path("socket").exists(), "it tidies up");
    assert!(!pid_file.exists());
}

#[test]
fn the_pid_file_comes_when_clients_can() {
    for _ in 0..5 {
        let folder = Folder::new();
        let pid_file = folder.path("pid");
        let mut command = nbd("null");
        command
            .arg("-U")
            .arg(folder.path("socket"))
            .arg("--pid-file")
            .arg(&pid_file);
        let socket = folder.path("socket");
        let waiter = thread::spawn(move || {
            // As soon as it is there: no pause that would hide that it came too early.
            let end = Instant::now() + PATIENCE;
            while !pid_file.exists() {
                assert!(Instant::now() < end, "no file");
                thread::yield_now();
            }
            let connected = Raw::try_connect(&socket);
            (connected.is_ok(), fs::read_to_string(&pid_file))
        });
        let server = Server::spawn(command, folder);
        let (connected, text) = waiter.join().expect("a thread");
        assert!(connected, "a client that has seen the file can connect");
        let pid = text.expect("a file");
        assert_eq!(pid.trim(), server.process.id().to_string());
    }
}

#[test]
fn read_only_refuses_everything_that_changes() {
    let arguments = ["--set", "size=4M", "--read-only"];
    let server = Server::start("memory", &arguments);
    let mut client = Raw::ready(&server, Framing::Simple);
    for command in [1, 4, 6] {
        for flags in [0, 1] {
            client.send(&flagged(flags, command, 1, 0, 4096));
            if command == 1 {
                client.send(&[0xff; 4096]);
            }
            assert_eq!(client.simple_error(), 1, "EPERM for command {command}");
        }
    }
    client.send(&flagged(0, 3, 1, 0, 0));
    assert_eq!(client.simple_error(), 0, "a flush changes nothing");
    server.qemu_io(&["-r"], &["read -P 0 0 4M"]);
    let writes = ["-f", "raw", "-c", "write 0 4k", &server.uri];
    let said = Command::new("qemu-io").args(writes).output();
    let said = said.expect("qemu-io runs");
    assert!(!said.status.success(), "{said:?}");
    server.end();
}

#[test]
fn one_client_too_many_is_sent_away() {
    let server = Server::start("memory", &["--set", "size=4M"]);
    let mut clients: Vec<Raw> = (0..64)
        .map(|_| Raw::ready(&server, Framing::Simple))
        .collect();
    let socket = server.folder.path("socket");
    for _ in 0..3 {
        assert!(Raw::try_connect(&socket).is_err(), "there is no place");
    }
    for client in &mut clients {
        client.send(&flagged(0, 0, 1, 0, 512));
        assert_eq!(client.simple_error(), 0);
        assert_eq!(client.receive(512), [0; 512]);
    }
    // One that is in the middle of haggling has a place as well, and loses it by leaving.
    clients.pop();
    let end = Instant::now() + PATIENCE;
    let mut half = loop {
        match Raw::try_connect(&socket) {
            Ok(client) => break client,
            Err(why) => assert!(Instant::now() < end, "there is a place again: {why}"),
        }
    };
    half.send(&[&[0, 0, 0, 3], &option(3, b"")[..10]].concat());
    assert!(Raw::try_connect(&socket).is_err());
    drop((clients, half));
    server.qemu_io(&[], &["write -P 1 0 4M", "read -P 1 0 4M"]);
    server.end();
}

/// Becomes the program that the arguments name, with io_uring_setup denied: seccomp's filter as a program
/// for BPF, which loads the call's number, compares it, and answers EPERM or lets it pass. Ends with 9
/// where the filter does not work: the call itself is the proof.
const WITHOUT_IO_URING: &str = r#"
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | errno.EPERM),
        (0x06, 0, 0, 0x7fff0000)]
code = b"".join(struct.pack("HBBI", *step) for step in code)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
program = Program(4, code)
if libc.prctl(22, 2, ctypes.byref(program), 0, 0) != 0:
    print("no seccomp:", os.strerror(ctypes.get_errno()), file=sys.stderr)
    sys.exit(9)
ctypes.set_errno(0)
if libc.syscall(425, 8, ctypes.create_string_buffer(120)) != -1 or ctypes.get_errno() != errno.EPERM:
    print("io_uring_setup works:", os.strerror(ctypes.get_errno()), file=sys.stderr)
    sys.exit(9)
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// A command as nobody, who can do nothing and cannot become anybody else.
fn as_nobody() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]);
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command
}

#[test]
fn nobody_without_io_uring_can_serve() {
    let folder = Folder::new();
    // The build may lie where nobody cannot go.
    let (program, guest) = (folder.path("wasmblk"), folder.path("memory.wasm"));
    fs::copy(paths::wasmblk(), &program).expect("a program");
    fs::copy(paths::guest("memory"), &guest).expect("a guest");
    let own = folder.path("own");
    fs::create_dir(&own).expect("a folder");
    chown(&own, Some(65534), Some(65534)).expect("root's right");
    let mut command = as_nobody();
    command
        .args([PYTHON, "-c", WITHOUT_IO_URING])
        .arg(&program)
        .arg("nbd")
        .arg(&guest)
        .args(["--set", "size=24M", "-U"])
        .arg(own.join("socket"))
        .env("WASMBLK_CACHE_DIR", own.join("cache"));
    let server = Server::spawn(command, folder);
    let shown = ["Uid", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp"];
    let [uid, caps @ .., no_new, seccomp] = shown.map(|field| server.status(field));
    assert_eq!(uid, ["65534"; 4].join("\t"));
    assert_eq!(caps, ["0000000000000000"; 3]);
    assert_eq!((&*no_new, &*seccomp), ("1", "2"), "a filter is on");
    assert!(own.join("cache").exists(), "it could write its cache");
    let image = content(24 << 20);
    let file = server.folder.file("in", &image);
    let back = server.folder.text("out");
    run("nbdcopy", &[&file, &server.uri]);
    run("nbdcopy", &[&server.uri, &back]);
    assert!(fs::read(&back).expect("a copy") == image);
    server.end();
}
