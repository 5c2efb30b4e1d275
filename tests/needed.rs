//! What a confined process keeps of the outside, where it is needed: that, and nothing beside it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, makedev, mknodat,
    openat, utimensat,
};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SendFlags, SocketType, ipproto};
use tests::bed::in_bed;
use tests::disk::wasmblk;
use tests::uml::Machine;
use wasmblk::confine::{self, Folder, Layer, Needed};

#[test]
fn a_folder_that_is_needed_leads_nowhere_else() {
    in_bed(&Machine::default(), || {
        fs::create_dir_all("/tmp/granted/deep").expect("folders");
        fs::write("/tmp/secret", "secret").expect("a file");
        fs::write("/tmp/granted/file", "content").expect("a file");
        let folder = confine::open_folder(Path::new("/tmp/granted"), false).expect("a folder");
        let read = confine::open_folder(Path::new("/tmp/granted"), true).expect("a folder");
        let device = makedev(1, 3);
        let all = Mode::from_raw_mode(0o666);
        mknodat(
            CWD,
            "/tmp/granted/null",
            FileType::CharacterDevice,
            all,
            device,
        )
        .expect("a node");
        let confined = thread::spawn(move || {
            let file = folder.as_fd();
            let needed = Needed {
                folders: vec![Folder {
                    file,
                    read_only: false,
                }],
                ..Needed::default()
            };
            let layers = confine::for_device(&needed);
            assert!(layers.contains(&Layer::Mounts), "{layers:?}");
            let open = |path| openat(file, path, OFlags::RDONLY, Mode::empty());
            open("file").expect("it is needed");
            open("deep/../file").expect("the same");
            assert_eq!(open("null").err(), Some(Errno::ACCESS));
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            };
            let times = Timestamps {
                last_access: now,
                last_modification: now,
            };
            let touch = |folder| utimensat(folder, "file", &times, AtFlags::empty());
            touch(file).expect("it may be changed");
            assert_eq!(touch(read.as_fd()), Err(Errno::ROFS));
            for path in [
                "../secret",
                "deep/../../secret",
                "../../tmp/secret",
                "/tmp/secret",
            ] {
                assert_eq!(open(path).err(), Some(Errno::NOENT), "{path}");
            }
        });
        confined.join().expect("it does what it should");
    });
}

#[test]
fn a_thread_that_begins_before_has_no_more() {
    let confined = confine::spawn_unprivileged("before", || {
        let files = [".", "/", "/proc/self/status"].map(|path| File::open(path).is_err());
        (files, TcpStream::connect("127.0.0.1:1"))
    });
    let (files, connected) = confined.expect("a thread").join().expect("it ends");
    if wasmblk(&["doctor"]).stdout.contains("ok    landlock") {
        assert_eq!(files, [true; 3]);
        let why = connected.err().map(|why| why.kind());
        assert_eq!(why, Some(ErrorKind::PermissionDenied));
    }
    // It is the thread that has lost them.
    File::open("/proc/self/status").expect("it is there");
}

#[test]
fn of_the_network_are_left_connections_of_tcp() {
    in_bed(&Machine::default(), || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = listener.local_addr().expect("it has one");
        let confined = thread::spawn(move || {
            let needed = Needed {
                ports: vec![address.port()],
                ..Needed::default()
            };
            let layers = confine::for_device(&needed);
            assert!(layers.contains(&Layer::Seccomp), "{layers:?}");
            let of = |kind, protocol| net::socket(AddressFamily::INET, kind, protocol);
            let tcp = of(SocketType::STREAM, None).expect("a socket");
            of(SocketType::STREAM, Some(ipproto::TCP)).expect("the same");
            // What Landlock does not know the ports of, and what connects without saying so.
            for (kind, protocol) in [
                (SocketType::STREAM, Some(ipproto::MPTCP)),
                (SocketType::STREAM, Some(ipproto::SCTP)),
                (SocketType::DGRAM, None),
                (SocketType::RAW, Some(ipproto::TCP)),
            ] {
                let made = of(kind, protocol);
                assert_eq!(made.err(), Some(Errno::NOSYS), "{kind:?} {protocol:?}");
            }
            let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
            let sent = net::sendto(&tcp, b"words", fast_open, &address);
            assert_eq!(sent, Err(Errno::NOSYS));
            assert_eq!(net::listen(&tcp, 1), Err(Errno::NOSYS));
            net::connect(&tcp, &address).expect("it is granted");
            net::sendto(&tcp, b"words", SendFlags::empty(), &address).expect("it is connected");
        });
        confined.join().expect("it does what it should");
    });
}
