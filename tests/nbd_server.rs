//! NBD servers in tests, and a client by hand for what real clients never send.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tests::PATIENCE;
use tests::command::{output, wait_at_most};
use tests::disk::run;
use tests::paths;

/// A folder that goes at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "wasmblk-nbd-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes a file; gives its path.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).expect("a file");
        self.text(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server and its folder; both go at the end.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) uri: String,
    pub(crate) folder: Folder,
}

impl Server {
    /// Serves a guest at a unix socket.
    pub(crate) fn start(guest: &str, arguments: &[&str]) -> Server {
        let folder = Folder::new();
        let mut command = nbd(guest);
        command.arg("-U").arg(folder.path("socket")).args(arguments);
        Server::spawn(command, folder)
    }

    /// Runs a command that is, or becomes, a server, and waits until it prints its URI.
    pub(crate) fn spawn(mut command: Command, folder: Folder) -> Server {
        let log = File::create(folder.path("log")).expect("a log");
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the server runs");
        let mut uri = String::new();
        let pipe = process.stdout.take().expect("a pipe");
        let read = BufReader::new(pipe).read_line(&mut uri);
        let server = Server {
            process,
            uri: uri.trim().to_owned(),
            folder,
        };
        assert!(read.is_ok_and(|bytes| bytes > 0), "{}", server.log());
        server
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path("log")).unwrap_or_default()
    }

    /// Runs commands of qemu-io on the export; gives what it says.
    pub(crate) fn qemu_io(&self, options: &[&str], commands: &[&str]) -> String {
        let mut io = Command::new("qemu-io");
        io.args(["-f", "raw"]).args(options);
        for command in commands {
            io.args(["-c", command]);
        }
        output(io.arg(&self.uri)).unwrap_or_else(|why| panic!("{why:#}"))
    }

    /// What the kernel says of its process, such as `VmRSS`.
    pub(crate) fn status(&self, field: &str) -> String {
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(&path).expect("it runs");
        let line = text.lines().find(|line| line.starts_with(field));
        let (_, value) = line.and_then(|line| line.split_once(':')).expect("a field");
        value.trim().to_owned()
    }

    /// Memory that it has, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let text = self.status("VmRSS");
        let number = text.split_whitespace().next().expect("a number");
        number.parse().expect("a number")
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.process.id());
        fs::read_dir(path).expect("it runs").count()
    }

    /// It must use hardly any computing time for half a second; not each time, as what others began may have an end.
    pub(crate) fn must_be_idle(&self) {
        let path = format!("/proc/{}/stat", self.process.id());
        let hundredths_used = || -> u64 {
            let text = fs::read_to_string(&path).expect("it runs");
            let (_, fields) = text.rsplit_once(')').expect("a name");
            let fields = fields.split_whitespace().skip(11).take(2);
            fields.filter_map(|field| field.parse::<u64>().ok()).sum()
        };
        let is_idle = |_| {
            let before = hundredths_used();
            thread::sleep(Duration::from_millis(500));
            hundredths_used() - before < 10
        };
        assert!((0..5).any(is_idle), "it computes all the time");
    }

    /// Ends it. It must say that all went well: one that has crashed does not.
    pub(crate) fn end(mut self) {
        let status = stop(&mut self.process).expect("it ends");
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = stop(&mut self.process);
    }
}

/// The command that serves a guest, but for where and how.
pub(crate) fn nbd(guest: &str) -> Command {
    let mut command = Command::new(paths::wasmblk());
    command.arg("nbd").arg(paths::guest(guest));
    command
}

/// Tells a process to end, and waits for that.
pub(crate) fn stop(process: &mut Child) -> Option<ExitStatus> {
    if let Ok(Some(status)) = process.try_wait() {
        return Some(status);
    }
    let _ = Command::new("kill").arg(process.id().to_string()).status();
    let ended = wait_at_most(process, PATIENCE).ok().flatten();
    if ended.is_none() {
        let _ = process.kill();
        let _ = process.wait();
    }
    ended
}

/// Copies an image of 24 MiB to an export and back, by several connections and in requests of 32 MiB.
pub(crate) fn copy_there_and_back(folder: &Folder, uri: &str) {
    let image = content(24 << 20);
    let file = folder.file("in", &image);
    let back = folder.text("out");
    let many = ["--connections=4", "--requests=16"];
    run("nbdcopy", &[&many[..], &[&file, uri]].concat());
    run("nbdcopy", &[&many[..], &[uri, &back]].concat());
    assert!(fs::read(&back).expect("a copy") == image);
    run("nbdcopy", &["--request-size=33554432", uri, &back]);
    assert!(fs::read(&back).expect("a copy") == image);
}

/// Content without a pattern that a mistake could hide in.
pub(crate) fn content(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|i| (i * 31 % 251 + i / 4096 % 7).to_le_bytes()[0])
        .collect()
}

/// How replies look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Simple,
    Structured,
    Extended,
}

/// A client by hand.
pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    /// Connects, and reads the greeting. The server may send us away instead.
    pub(crate) fn try_connect(socket: &Path) -> io::Result<Raw> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut [0; 18])?;
        Ok(Raw(stream))
    }

    /// Connects as a client of today's: fixed newstyle, no zeroes.
    pub(crate) fn connect(server: &Server) -> Raw {
        let mut raw = Raw::try_connect(&server.folder.path("socket")).expect("it listens");
        raw.send(&[0, 0, 0, 3]);
        raw
    }

    /// A client past the handshake.
    pub(crate) fn ready(server: &Server, framing: Framing) -> Raw {
        let mut raw = Raw::connect(server);
        match framing {
            Framing::Simple => {
                raw.send(&option(1, b""));
                raw.receive(10);
                return raw;
            }
            Framing::Structured => assert_eq!(raw.haggle(8, b"").0, 1),
            Framing::Extended => assert_eq!(raw.haggle(11, b"").0, 1),
        }
        let context = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
        assert_eq!(raw.haggle(10, context).0, 1);
        assert_eq!(raw.haggle(7, &[0; 6]).0, 1);
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it reads");
    }

    pub(crate) fn receive(&mut self, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        self.0.read_exact(&mut buffer).expect("it answers");
        buffer
    }

    /// One option: the kind of the last reply to it, and the data of all of them.
    pub(crate) fn haggle(&mut self, code: u32, data: &[u8]) -> (u32, Vec<u8>) {
        self.send(&option(code, data));
        let mut all = Vec::new();
        loop {
            let head = self.receive(20);
            assert_eq!(number(&head, 0, 8), 0x0003_e889_0455_65a9);
            assert_eq!(number(&head, 8, 4), u64::from(code));
            let kind = u32::try_from(number(&head, 12, 4)).expect("4 bytes");
            let length = usize::try_from(number(&head, 16, 4)).expect("4 bytes");
            all.extend(self.receive(length));
            if kind == 1 || kind >> 31 == 1 {
                return (kind, all);
            }
        }
    }

    /// The error number of a simple reply.
    pub(crate) fn simple_error(&mut self) -> u64 {
        let reply = self.receive(16);
        assert_eq!(number(&reply, 0, 4), 0x6744_6698, "a simple reply");
        number(&reply, 4, 4)
    }

    /// The next chunk of an extended reply.
    pub(crate) fn chunk(&mut self) -> Chunk {
        let head = self.receive(32);
        assert_eq!(number(&head, 0, 4), 0x6e8a_278c, "an extended reply");
        let length = usize::try_from(number(&head, 24, 8)).expect("a length");
        Chunk {
            flags: number(&head, 4, 2),
            kind: number(&head, 6, 2),
            cookie: number(&head, 8, 8),
            offset: number(&head, 16, 8),
            data: self.receive(length),
        }
    }

    /// The next chunk of a structured reply.
    pub(crate) fn short_chunk(&mut self) -> Chunk {
        let head = self.receive(20);
        assert_eq!(number(&head, 0, 4), 0x668e_33ef, "a structured reply");
        let length = usize::try_from(number(&head, 16, 4)).expect("a length");
        Chunk {
            flags: number(&head, 4, 2),
            kind: number(&head, 6, 2),
            cookie: number(&head, 8, 8),
            offset: 0,
            data: self.receive(length),
        }
    }

    /// Whether the server has closed the connection; nothing else comes before that.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(
            self.0.read(&mut [0]).map_err(|why| why.kind()),
            Ok(0) | Err(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        )
    }

    /// Sends nothing more, and reads until the server closes; gives how much came.
    pub(crate) fn drain(&mut self) -> u64 {
        let _ = self.0.shutdown(Shutdown::Write);
        match io::copy(&mut self.0, &mut io::sink()) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(why) => panic!("the server does not close: {why}"),
        }
    }
}

/// A chunk of an extended reply.
pub(crate) struct Chunk {
    pub(crate) flags: u64,
    pub(crate) kind: u64,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

/// A big-endian number.
pub(crate) fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let fold = |sum, byte: &u8| sum << 8 | u64::from(*byte);
    bytes[at..at + length].iter().fold(0, fold)
}

/// An option with its data.
pub(crate) fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("short");
    let head = [&b"IHAVEOPT"[..], &code.to_be_bytes(), &length.to_be_bytes()].concat();
    [&head[..], data].concat()
}

/// A request without a payload.
pub(crate) fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    flagged(0, command, cookie, offset, length)
}

/// A request with flags.
pub(crate) fn flagged(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let head = [0x25, 0x60, 0x95, 0x13];
    let numbers = [flags.to_be_bytes(), command.to_be_bytes()].concat();
    let places = [cookie.to_be_bytes(), offset.to_be_bytes()].concat();
    [&head[..], &numbers, &places, &length.to_be_bytes()].concat()
}

/// A request with an extended header.
pub(crate) fn extended(flags: u16, command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let head = [0x21, 0xe4, 0x1c, 0x71];
    let numbers = [flags.to_be_bytes(), command.to_be_bytes()].concat();
    let places = [
        cookie.to_be_bytes(),
        offset.to_be_bytes(),
        length.to_be_bytes(),
    ]
    .concat();
    [&head[..], &numbers, &places].concat()
}
