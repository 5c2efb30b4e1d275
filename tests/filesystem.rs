//! File systems on a disk that a guest serves, used as people use them.

use std::fs;
use std::path::Path;

use tests::bed::in_bed;
use tests::disk::{Disk, run};
use tests::uml::Machine;

/// Makes a file system, fills it, checks it, mounts it again: all content must be the same.
fn survives(kind: &str, size: &str, make: &[&str], check: &[&str]) {
    let disk = Disk::add("memory", &["--set", &format!("size={size}")]);
    run(make[0], &[&make[1..], &[disk.node()]].concat());
    run("mount", &["-t", kind, disk.node(), "/mnt"]);
    fs::create_dir("/mnt/folder").expect("a folder");
    let content = |n: usize| -> Vec<u8> {
        (0..n * 10_007)
            .map(|i| (i * n).to_le_bytes()[0] ^ (i >> 8).to_le_bytes()[0])
            .collect()
    };
    for n in 1..=60 {
        fs::write(format!("/mnt/folder/{n}"), content(n)).expect("a file");
    }
    for n in (1..=60).step_by(3) {
        fs::remove_file(format!("/mnt/folder/{n}")).expect("it was there");
    }
    run("fstrim", &["/mnt"]);
    run("umount", &["/mnt"]);
    run(check[0], &[&check[1..], &[disk.node()]].concat());
    run("mount", &["-t", kind, disk.node(), "/mnt"]);
    for n in 1..=60 {
        let path = format!("/mnt/folder/{n}");
        if n % 3 == 1 {
            assert!(!Path::new(&path).exists(), "{path} was removed");
        } else {
            assert!(
                fs::read(&path).expect("a file") == content(n),
                "{path} is not the same"
            );
        }
    }
    run("umount", &["/mnt"]);
    assert_ne!(
        disk.info("/stats/discards"),
        "0",
        "fstrim reached the guest"
    );
    assert_eq!(disk.info("/stats/errors"), "0");
    disk.del();
}

#[test]
fn ext4_survives_being_used() {
    in_bed(&Machine::default(), || {
        survives(
            "ext4",
            "96M",
            &["mkfs.ext4", "-q", "-F"],
            &["e2fsck", "-f", "-n"],
        );
    });
}

#[test]
fn xfs_survives_being_used() {
    in_bed(&Machine::default(), || {
        survives(
            "xfs",
            "400M",
            &["mkfs.xfs", "-q", "-f"],
            &["xfs_repair", "-n"],
        );
    });
}
