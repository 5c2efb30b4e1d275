//! Directories that a guest is granted: what it can do inside of them, and that there is no way out.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;
use tests::bed::in_bed;
use tests::disk::{Disk, must, wasmblk};
use tests::paths;
use tests::uml::Machine;

use crate::cli::{Folder, expect};

/// What the guest was told, a line for each question.
fn told(questions: &[(&str, &str)], grants: &[&str]) -> Vec<String> {
    let guest = paths::guest("told-wasip2").display().to_string();
    let mut words = vec![
        "nbd".to_owned(),
        guest,
        "--run".into(),
        "nbdcopy \"$uri\" -".into(),
    ];
    for (what, value) in questions {
        words.extend(["--set".into(), format!("{what}={value}")]);
    }
    words.extend(grants.iter().map(|&word| word.to_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let block = must(&words);
    block.trim_end().lines().map(str::to_owned).collect()
}

/// The same of one question.
fn told_of(what: &str, value: &str, grants: &[&str]) -> String {
    told(&[(what, value)], grants).concat()
}

/// A folder with something in it, and beside it what nobody is granted.
fn folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.file("secret", b"secret");
    fs::create_dir_all(folder.path("in/deep")).expect("folders");
    folder.file("in/one", b"1");
    folder.file("in/deep/two", b"22");
    folder
}

#[test]
fn there_are_no_files_but_in_what_is_granted() {
    let folder = folder("dirs-none");
    let secret = folder.path("secret");
    let questions = [
        ("list", "/"),
        ("read", "/etc/passwd"),
        ("read", &secret),
        ("list", "."),
    ];
    for answer in told(&questions, &[]) {
        assert!(
            !answer.contains("root") && !answer.contains("secret"),
            "{answer}"
        );
        assert_eq!(answer, "NotFound");
    }
    let grant = format!("/data={}", folder.path("in"));
    for answer in told(&questions, &["--dir", &grant]) {
        assert_eq!(answer, "NotFound");
    }
}

#[test]
fn files_are_read_and_changed() {
    let folder = folder("dirs-change");
    let grants = ["--dir", &format!("/my/data={}", folder.path("in"))];
    let answers = told(
        &[
            ("list", "/my/data"),
            ("read", "/my/data/deep/two"),
            ("size", "/my/data/deep/two"),
            ("write", "/my/data/new:text"),
            ("append", "/my/data/new: and more"),
            ("read", "/my/data/new"),
            ("mkdir", "/my/data/made"),
            ("rename", "/my/data/one:/my/data/made/uno"),
            ("link", "/my/data/new:/my/data/made/again"),
            ("remove", "/my/data/deep/two"),
            ("rmdir", "/my/data/deep"),
            ("list", "/my/data"),
            ("list", "/my/data/made"),
            ("fill", "/my/data/large"),
            ("size", "/my/data/large"),
            ("rmdir", "/my/data/made"),
            ("read", "/my/data/none"),
            ("list", "/my/data/new"),
        ],
        &grants,
    );
    let expected = "deep/ one,22,2,done,done,text and more,done,done,done,done,done,made/ new,again uno,equal,1000,\
        Uncategorized,NotFound,NotADirectory";
    // The standard library has no name for a directory that is not empty.
    assert_eq!(answers.join(","), expected);
    let content = |name: &str| fs::read_to_string(folder.path(name)).expect("it is there");
    assert_eq!(content("in/new"), "text and more");
    assert_eq!(content("in/made/again"), "text and more");
    assert_eq!(content("in/made/uno"), "1");
    assert_eq!(content("secret"), "secret");
}

#[test]
fn more_entries_than_a_reading_of_them_are_listed() {
    let folder = folder("dirs-many");
    for number in 0..3000 {
        folder.file(&format!("in/deep/{number:0200}"), b"");
    }
    let grants = ["--dir", &format!("/d={}", folder.path("in"))];
    assert_eq!(told_of("list", "/d/deep", &grants), "3001 of them");
}

#[test]
fn nothing_changes_what_is_granted_for_reading() {
    let folder = folder("dirs-ro");
    let grants = ["--dir", &format!("/data={}:ro", folder.path("in"))];
    let questions = [
        ("write", "/data/one:2"),
        ("write", "/data/new:2"),
        ("append", "/data/one:2"),
        ("fill", "/data/one"),
        ("mkdir", "/data/made"),
        ("remove", "/data/one"),
        ("rmdir", "/data/deep"),
        ("rename", "/data/one:/data/two"),
        ("link", "/data/one:/data/two"),
    ];
    for (question, answer) in questions.iter().zip(told(&questions, &grants)) {
        assert_eq!(answer, "PermissionDenied", "{question:?}");
    }
    let answers = told(&[("list", "/data"), ("read", "/data/one")], &grants);
    assert_eq!(answers, ["deep/ one", "1"]);
    assert_eq!(
        fs::read_to_string(folder.path("in/one")).expect("there"),
        "1"
    );
    // One for reading gives nothing of itself to another for writing.
    let both = [
        "--dir",
        &format!("/data={}:ro", folder.path("in")),
        "--dir",
        &format!("/out={}", folder.path("in/deep")),
    ];
    for question in [
        ("rename", "/data/one:/out/one"),
        ("link", "/data/one:/out/one"),
    ] {
        assert_eq!(
            told(&[question], &both),
            ["PermissionDenied"],
            "{question:?}"
        );
    }
    assert_eq!(told_of("write", "/out/new:3", &both), "done");
    assert_eq!(
        fs::read_to_string(folder.path("in/deep/new")).expect("there"),
        "3"
    );
}

#[test]
fn no_path_leads_out() {
    let folder = folder("dirs-out");
    let (secret, outside) = (folder.path("secret"), folder.path(""));
    for (target, link) in [
        (&*secret, "in/absolute"),
        ("../secret", "in/relative"),
        ("deep/../../secret", "in/winding"),
        (&*outside, "in/folder"),
        ("/proc/self/root", "in/proc"),
        ("/", "in/root"),
        ("deep/two", "in/inside"),
        ("loop", "in/loop"),
    ] {
        symlink(target, folder.path(link)).expect("a link");
    }
    let grants = ["--dir", &format!("/data={}", folder.path("in"))];
    for path in [
        "/data/../secret",
        "/data/deep/../../secret",
        "/data/absolute",
        "/data/relative",
        "/data/winding",
        "/data/folder/secret",
        "/data/proc/etc/passwd",
        "/data/root/etc/passwd",
        "/data/loop",
        "/../../../../../../etc/passwd",
    ] {
        for what in ["read", "append", "write", "remove"] {
            // The links themselves may be removed: they lie in the folder.
            let is_link =
                what == "remove" && path.matches('/').count() == 2 && !path.contains("..");
            if is_link {
                continue;
            }
            let answer = told_of(what, path, &grants);
            assert!(
                !answer.contains("secret") && !answer.contains("root:"),
                "{what} {path}: {answer}"
            );
            assert!(answer != "done", "{what} {path}");
        }
    }
    assert_eq!(fs::read_to_string(&secret).expect("there"), "secret");
    let ways = [
        ("list", "/data/folder"),
        ("list", "/data/.."),
        ("mkdir", "/data/../made"),
        ("rename", "/data/one:/data/../one"),
        ("link", "/data/../secret:/data/mine"),
        ("link", "/data/one:/data/folder/mine"),
    ];
    for (way, answer) in ways.iter().zip(told(&ways, &grants)) {
        assert!(
            ["PermissionDenied", "NotFound"].contains(&&*answer),
            "{way:?}: {answer}"
        );
    }
    // But inside of it links are followed.
    assert_eq!(told_of("read", "/data/inside", &grants), "22");
}

#[test]
fn a_path_that_is_changed_meanwhile_does_not_lead_out_either() {
    let folder = folder("dirs-race");
    folder.file("two", b"secret");
    let (name, aside) = (folder.path("in/deep"), folder.path("in/aside"));
    let ends = AtomicBool::new(false);
    let grants = ["--dir", &format!("/data={}", folder.path("in"))];
    let answer = thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Relaxed) {
                fs::rename(&name, &aside).expect("it is moved");
                symlink("..", &name).expect("a link");
                fs::remove_file(&name).expect("it is removed");
                fs::rename(&aside, &name).expect("it is moved back");
            }
        });
        let mut answers = String::new();
        // Until both have been seen: a busy file system may hold up who changes the path.
        for _ in 0..100 {
            answers += &told_of("often", "/data/deep/two", &grants);
            if answers.contains("22") && answers.contains("PermissionDenied") {
                break;
            }
        }
        ends.store(true, Relaxed);
        answers
    });
    let both = answer.contains("22") && answer.contains("PermissionDenied");
    assert!(both, "{answer}");
    assert!(!answer.contains("secret"), "{answer}");
}

#[test]
fn what_could_let_it_wait_is_not_opened() {
    let folder = folder("dirs-wait");
    let made = |name: &str, kind, mode| {
        let path = folder.path(name);
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o666), mode).expect("it is made");
    };
    made("in/pipe", FileType::Fifo, 0);
    made("in/socket", FileType::Socket, 0);
    made("in/device", FileType::CharacterDevice, makedev(1, 5));
    let grants = ["--dir", &format!("/data={}", folder.path("in"))];
    for name in ["pipe", "socket", "device"] {
        for what in ["read", "append"] {
            let answer = told_of(what, &format!("/data/{name}"), &grants);
            assert_eq!(answer, "PermissionDenied", "{what} {name}");
        }
    }
    assert_eq!(
        told_of("list", "/data", &grants),
        "deep/ device one pipe socket"
    );
}

#[test]
fn a_policy_file_grants_the_same() {
    let folder = folder("dirs-policy");
    let policy = "dirs.\"/data\" = { path = \"in\", read_only = true }\n";
    let policy = folder.file("policy.toml", policy.as_bytes());
    let questions = [("read", "/data/one"), ("write", "/data/one:2")];
    let answers = told(&questions, &["--policy", &policy]);
    assert_eq!(answers, ["1", "PermissionDenied"]);
    let over = format!("/data={}", folder.path("in"));
    let answers = told(&questions, &["--policy", &policy, "--dir", &over]);
    assert_eq!(answers, ["1", "done"]);
    for (policy, why) in [
        (
            "dirs.data = { path = \"in\" }",
            "the name is not a path from '/' on",
        ),
        ("dirs.\"/data\" = { path = \"\" }", "there is no path"),
        ("dirs.\"/data\" = \"in\"", "expected { path = \"PATH\" }"),
    ] {
        let policy = folder.file("wrong.toml", policy.as_bytes());
        let guest = paths::guest("told-wasip2").display().to_string();
        let reply = wasmblk(&["nbd", &guest, "--policy", &policy, "--run", "true"]);
        expect(&reply, 2, &["wrong.toml:1", why]);
    }
}

#[test]
fn a_wrong_word_is_named() {
    let folder = folder("dirs-wrong");
    let guest = paths::guest("told-wasip2").display().to_string();
    let place = folder.path("in");
    let none = folder.path("none");
    let file = folder.path("secret");
    for (words, code, why) in [
        ("/data".to_owned(), 2, "there is no '='"),
        (format!("data={place}"), 2, "from '/' on"),
        (format!("/={place}"), 2, "from '/' on"),
        (format!("/a/../b={place}"), 2, "from '/' on"),
        (format!("/a b={place}"), 2, "from '/' on"),
        ("/data=".to_owned(), 2, "there is no path"),
        (format!("/data={none}"), 1, "make it first"),
        (
            format!("/data={file}"),
            1,
            "a single file is granted as a --store",
        ),
    ] {
        let reply = wasmblk(&["nbd", &guest, "--dir", &words, "--run", "true"]);
        expect(
            &reply,
            code,
            &[&format!("--dir {}", words.trim_end_matches('=')), why],
        );
    }
    let twice = format!("/data={place}");
    let reply = wasmblk(&[
        "nbd", &guest, "--dir", &twice, "--dir", &twice, "--run", "true",
    ]);
    expect(&reply, 2, &["--dir /data is given twice"]);
    let mut many = vec!["nbd".to_owned(), guest, "--run".into(), "true".into()];
    for number in 0..17 {
        many.extend(["--dir".into(), format!("/d{number}={place}")]);
    }
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    expect(&wasmblk(&many), 2, &["more than 16 directories"]);
}

#[test]
fn over_ublk_it_is_the_same_and_shown() {
    in_bed(&Machine::default(), || {
        fs::create_dir("/tmp/granted").expect("a folder");
        fs::write("/tmp/granted/one", "1").expect("a file");
        let grants = [
            "--dir",
            "/data=/tmp/granted",
            "--dir",
            "/ro=/tmp/granted:ro",
        ];
        let questions = [
            "read=/data/one",
            "write=/data/two:2",
            "write=/ro/two:3",
            "list=/ro",
            "read=/data/../../etc/passwd",
        ];
        let questions = questions.map(|question| ["--set", question]).concat();
        let words = ["--set", "later=Heard at each read"];
        let disk = Disk::add("told-wasip2", &[&grants[..], &questions, &words].concat());
        let block = fs::read(&disk.path).expect("it can be read");
        let text = String::from_utf8_lossy(&block).into_owned();
        let lines: Vec<&str> = text.trim_end().lines().collect();
        assert_eq!(
            lines,
            [
                "1",
                "done",
                "PermissionDenied",
                "one two",
                "PermissionDenied"
            ]
        );
        assert_eq!(fs::read_to_string("/tmp/granted/two").expect("there"), "2");
        let info: serde_json::Value =
            serde_json::from_str(&must(&["info", &disk.id, "--json"])).expect("JSON");
        let dir = |name: &str, read_only: bool| json!({"name": name, "path": "/tmp/granted", "read_only": read_only});
        assert_eq!(info["dirs"], json!([dir("/data", false), dir("/ro", true)]));
        // A process that is confined starts no threads for what it says late.
        let log = fs::read_to_string(info["log"].as_str().expect("a path")).expect("a log");
        assert!(log.contains("Heard at each read"), "{log}");
        assert_eq!(info["state"], "live");
        disk.del();
    });
}
