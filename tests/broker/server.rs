//! A client of the broker's that serves its device itself: a process of a user's, in the same test.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Child, Stdio};
use std::thread;
use std::time::Duration;

use tests::container;
use tests::user::{SOCKET, User};
use wasmblk::block::{Answer, Checked, Claims, Ended, Geometry, Next, Output, Target};
use wasmblk::broker::wire::{Command, Wanted};
use wasmblk::broker::{self, Capability};
use wasmblk::message;
use wasmblk::serve::Engine;
use wasmblk::stats::Stats;
use wasmblk::sys::{Place, Slots};
use wasmblk::ublk::abi::DevInfo;
use wasmblk::ublk::{DataPath, fetch, serve_queues};

const PART: &str = "WASMBLK_PART";
const CONTAINER: &str = "WASMBLK_CONTAINER";

const DEPTH: u16 = 8;

/// A device of 16 MiB.
pub(super) fn wanted() -> Wanted {
    Wanted {
        id: None,
        name: None,
        run_dir: None,
        queues: 1,
        depth: DEPTH,
        align_bytes: 1,
        geometry: Claims {
            size_bytes: 16 << 20,
            max_transfer_bytes: 64 << 10,
            write_through: true,
            ..Claims::default()
        },
        data_path: DataPath::Copy,
        hidden: false,
        recover: false,
        hosted: false,
    }
}

/// The process, as the test sees it.
pub(super) struct Process {
    child: Child,
    socket: OwnedFd,
}

/// The process, and what the test has of it.
pub(super) struct Server {
    /// What it is.
    pub(super) process: Process,
    /// Its device.
    pub(super) id: u32,
    /// A copy of its capability.
    pub(super) capability: Capability,
    /// A copy of its open `/dev/ublkcN`.
    pub(super) char_device: OwnedFd,
}

impl Server {
    /// Starts one: one that `answers`, or one that is `silent`.
    pub(super) fn start(user: &User, part: &str) -> Server {
        let process = Process::start(user, part);
        let (id, files) = process.hear();
        let id = String::from_utf8_lossy(&id).parse().expect("a number");
        let mut files = files.into_iter();
        let mut next = || files.next().expect("both come along");
        Server {
            process,
            id,
            capability: Capability::from_fd(next()),
            char_device: next(),
        }
    }
}

impl Process {
    /// Starts one.
    pub(super) fn start(user: &User, part: &str) -> Process {
        Process::begin(user.again(PART, part))
    }

    /// Starts one in namespaces of its own, without a device node, a network or a capability outside of them.
    pub(super) fn start_in_container(user: &User, part: &str) -> Process {
        let mut command = container::of(user, &user.again(PART, part));
        command.env(PART, part).env(CONTAINER, "");
        Process::begin(command)
    }

    fn begin(mut command: process::Command) -> Process {
        let (socket, theirs) = message::pair().expect("sockets");
        let command = command.stdin(Stdio::from(theirs)).stdout(Stdio::null());
        Process {
            child: command.spawn().expect("it starts"),
            socket,
        }
    }

    /// Tells it something.
    pub(super) fn tell(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) {
        message::send(&self.socket, bytes, files).expect("it hears");
    }

    /// What it says next, and what comes along.
    pub(super) fn hear(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        message::receive(&self.socket).expect("it works")
    }

    /// It closes its own copy of the capability.
    pub(super) fn close_capability(&self) {
        self.tell(b"close", &[]);
        self.hear();
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// The signal that ended it.
    pub(super) fn wait_for_signal(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").signal()
    }
}

/// What this process is for, where it is not the test itself.
pub(super) fn is_part() -> bool {
    let Ok(part) = env::var(PART) else {
        return false;
    };
    if env::var_os(CONTAINER).is_some() {
        let nodes = fs::read_dir("/dev").expect("a folder").count();
        assert_eq!(nodes, 0, "a container has no device nodes");
    }
    match part.as_str() {
        "cycles" => cycles(),
        "heir" => inherit(),
        "follows" => follow(),
        _ => own(part == "answers"),
    }
    true
}

/// Serves, without an answer, a device that somebody else has asked for.
fn inherit() {
    let (bytes, files) = message::receive(io::stdin()).expect("a capability");
    let info: DevInfo = serde_json::from_slice(&bytes).expect("what the kernel said");
    let mut files = files.into_iter();
    let mut next = || files.next().expect("both come along");
    let (capability, file) = (Capability::from_fd(next()), File::from(next()));
    thread::spawn(move || serve(&file, &info, false));
    capability.demand(&Command::Start).expect("it starts");
    message::send(io::stdin(), b"started", &[]).expect("the test is there");
    // Until it is ended.
    let _ = message::receive(io::stdin());
}

/// Serves a device, ends in order, and takes it up again, a few times.
fn follow() {
    let wanted = Wanted {
        recover: true,
        ..wanted()
    };
    let (capability, info, mut file) = broker::device(Path::new(SOCKET), &wanted).expect("it may");
    for _ in 0..3 {
        let server = thread::spawn(move || serve(&file, &info, true));
        capability.demand(&Command::Start).expect("it starts");
        let disk = capability.demand(&Command::Open {
            read_only: true,
            exclusive: false,
        });
        let disk = File::from(disk.expect("it opens").remove(0));
        disk.read_exact_at(&mut [0; 4096], 0).expect("it is served");
        capability.demand(&Command::Quiesce).expect("it quiesces");
        server.join().expect("it ends");
        // The disk stays open meanwhile.
        let files = capability
            .demand(&Command::Recover)
            .expect("it is taken up");
        file = File::from(files.into_iter().next().expect("it comes along"));
        drop(disk);
    }
    let server = thread::spawn(move || serve(&file, &info, true));
    capability.demand(&Command::Start).expect("it starts");
    capability
        .demand(&Command::TryStop)
        .expect("nobody uses it");
    server.join().expect("it ends");
    capability.demand(&Command::Delete).expect("it goes");
    message::send(io::stdin(), b"done", &[]).expect("the test is there");
}

/// Serves a device of its own.
fn own(answers: bool) {
    let (capability, info, file) = broker::device(Path::new(SOCKET), &wanted()).expect("it may");
    let copy = file.try_clone().expect("a copy");
    thread::spawn(move || serve(&file, &info, answers));
    capability.demand(&Command::Start).expect("it starts");
    let (stdin, id) = (io::stdin(), info.dev_id.to_string());
    let files = [capability.as_fd(), copy.as_fd()];
    message::send(&stdin, id.as_bytes(), &files).expect("the test is there");
    drop(copy);
    let mut capability = Some(capability);
    // Until the test ends it, or itself.
    while message::receive(&stdin).is_ok() {
        capability = None;
        message::send(&stdin, b"closed", &[]).expect("the test is there");
    }
    drop(capability);
}

/// Makes and deletes devices for ever, and says of each that it was there.
fn cycles() {
    loop {
        let (capability, info, file) = match broker::device(Path::new(SOCKET), &wanted()) {
            Ok(it) => it,
            // What somebody killed had may count for a moment yet.
            Err(error) if error.chain().contains("you have") => {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(error) => panic!("{}", error.chain()),
        };
        let server = thread::spawn(move || serve(&file, &info, true));
        capability.demand(&Command::Start).expect("it starts");
        let disk = capability.demand(&Command::Open {
            read_only: true,
            exclusive: false,
        });
        let disk = File::from(disk.expect("it opens").remove(0));
        disk.read_exact_at(&mut [0; 4096], 0).expect("it is served");
        drop(disk);
        // Every other in order, the rest by closing.
        if info.dev_id.is_multiple_of(2) {
            capability
                .demand(&Command::TryStop)
                .expect("nobody uses it");
            server.join().expect("it ends");
            capability.demand(&Command::Delete).expect("it goes");
        } else {
            drop(capability);
            server.join().expect("it ends");
        }
        if message::send(io::stdin(), b"one more", &[]).is_err() {
            return;
        }
    }
}

fn serve(device: &File, info: &DevInfo, answers: bool) {
    let slots = Slots::new(DEPTH.into(), info.max_io_buf_bytes).expect("memory");
    let mut ring = fetch(device, info, &[0], Place::new(slots)).expect("a ring");
    if !answers {
        thread::sleep(Duration::from_secs(3600));
    }
    let geometry = Geometry::new(&wanted().geometry).expect("it is right");
    let stats = Stats::default();
    let mut native = Native::default();
    let mut engine = Engine::new(geometry, &mut native, DEPTH.into(), &stats);
    serve_queues(&mut ring, &mut engine).expect("the ring works");
}

/// Answers everything with success.
#[derive(Default)]
struct Native(Vec<Answer>);

impl Target for Native {
    fn submit(&mut self, slot: u32, request: &Checked) {
        let result = Ok(request.request().length);
        self.0.push(Answer { slot, result });
    }

    fn ended(&mut self, _token: u32, _ended: Ended, _output: &mut Output) {}

    fn poll(&mut self, output: &mut Output) -> Next {
        output.answers.append(&mut self.0);
        Next::Submitted
    }

    fn take_copied_bytes(&mut self) -> u64 {
        0
    }
}
