//! Files of pre-shared keys that cannot be used: each error names the place and the remedy, and no key.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tests::disk::wasmblk;
use tests::paths;

use crate::nbd_psk::{ALICE, BOB, keys};
use crate::nbd_server::Folder;

/// What a server says that does not start.
fn refused(arguments: &[&str]) -> String {
    let memory = paths::guest("memory").display().to_string();
    let start = ["nbd", &memory, "--set", "size=1M", "--run", "true"];
    let reply = wasmblk(&[&start[..], arguments].concat());
    assert_eq!(reply.code, 2, "{arguments:?}: {}", reply.stderr);
    reply.stderr
}

#[test]
fn files_that_cannot_be_used() {
    let folder = Folder::new();
    let says = |lines: &str, words: &[&str]| {
        let file = keys(&folder, "keys.psk", lines);
        let said = refused(&["--tls-psk", &file]);
        for word in [&["keys.psk"], words].concat() {
            assert!(said.contains(word), "{lines}: {word}: {said}");
        }
        assert!(!said.contains("c0ffee"), "a key is shown: {said}");
    };
    let good = format!("alice:{ALICE}\n");
    says("", &["no key", "psktool"]);
    says("\n\n", &["no key", "psktool"]);
    says(&format!("{good}c0ffee\n"), &["line 2", "username:hexkey"]);
    says(&format!(":{BOB}\n"), &["line 1", "username:hexkey"]);
    says("#zz:00\n", &["line 1", "hexadecimal"]);
    says("bob:c0ffee0\n", &["line 1", "bob", "odd"]);
    says("bob:c0ffeexx\n", &["line 1", "bob", "hexadecimal"]);
    says(&format!("bob:{BOB}\r\n"), &["line 1", "bob", "odd"]);
    says("bob:\n", &["line 1", "bob", "0 bytes", "16", "psktool"]);
    says(
        "bob:c0ffee\n",
        &["line 1", "bob", "3 bytes", "16", "psktool"],
    );
    says(
        &format!("{good}\nalice:{BOB}\n"),
        &["line 3", "line 1", "alice", "remove"],
    );
    says(
        &format!("#616c696365:{BOB}\n{good}"),
        &["line 2", "line 1", "alice"],
    );
    says(&format!("bob:{}\n", "0".repeat(64)), &["line 1", "bob"]);
    let many: String = (0..65).map(|user| format!("{user}:{BOB}\n")).collect();
    says(&many, &["65 keys", "64"]);
    says(&"x".repeat(100 << 10), &["65536", "no file of keys"]);
    let file = keys(&folder, "keys.psk", &good);
    for mode in [0o604, 0o644, 0o602] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("it is ours");
        let said = refused(&["--tls-psk", &file]);
        assert!(said.contains("chmod o= ") && said.contains(&file), "{said}");
    }
    let nowhere = folder.text("nowhere");
    for unreadable in [&nowhere, &folder.0.display().to_string()] {
        let _ = fs::set_permissions(&folder.0, Permissions::from_mode(0o700));
        let said = refused(&["--tls-psk", unreadable]);
        assert!(said.contains(unreadable), "{said}");
        assert!(said.contains("psktool"), "{said}");
    }
    // One or the other.
    let both = refused(&["--tls-psk", &file, "--tls-certificates", &nowhere]);
    assert!(both.contains("cannot be used with"), "{both}");
    let neither = refused(&["--tls", "require"]);
    assert!(neither.contains("--tls-psk"), "{neither}");
}
