//! Guests that keep something in their stores: what it is later, and what they refuse.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use tests::PATIENCE;
use tests::backing::Backing;
use wasmblk::block::{Backend, Errno};

use super::{open, refusals};

#[test]
fn a_base_stays_as_it_is() {
    let (base, overlay) = (
        Backing::new("base", 64 << 10),
        Backing::new("overlay", 28 << 10),
    );
    let grants = [base.grant("base", ":ro"), overlay.grant("overlay", "")];
    base.file()
        .write_all_at(&[7; 64 << 10], 0)
        .expect("it is written");
    let mut disk = open("cow", &[("chunk", "4K")], &grants);
    disk.write(512, &[1; 512], true).expect("write");
    let mut back = [0; 4096];
    disk.read(0, &mut back).expect("read");
    assert!(back[..512] == [7; 512] && back[512..1024] == [1; 512]);
    assert!(
        back[1024..].iter().all(|byte| *byte == 7),
        "the rest of the chunk"
    );
    // The overlay has room for four chunks.
    disk.write(4096, &[2; 3 * 4096], false).expect("write");
    assert_eq!(disk.write(32 << 10, &[3; 512], false), Err(Errno::ENOSPC));
    disk.read(32 << 10, &mut back).expect("read");
    assert_eq!(back, [7; 4096], "as it was");
    disk.discard(4096, 4096).expect("discard");
    disk.write(32 << 10, &[3; 512], true)
        .expect("there is room again");
    drop(disk);
    let mut disk = open("cow", &[], &grants);
    disk.read(4096, &mut back).expect("read");
    assert_eq!(back, [0; 4096]);
    disk.read(8192, &mut back).expect("read");
    assert_eq!(back, [2; 4096]);
    assert!(base.content().iter().all(|byte| *byte == 7));
}

#[test]
fn volumes_share_a_pool() {
    let pool = Backing::new("pool", 44 << 10);
    let grants = [pool.grant("pool", "")];
    let volume = |options: &[(&str, &str)]| open("thin", options, &grants);
    let mut one = volume(&[
        ("volume", "1"),
        ("size", "16G"),
        ("chunk", "1M"),
        ("chunk", "8K"),
    ]);
    assert_eq!(one.geometry.size_bytes, 16 << 30);
    one.write(15 << 30, &[1; 8192], true).expect("write");
    drop(one);
    let mut two = volume(&[("volume", "2"), ("size", "64K")]);
    let mut back = [9; 8192];
    two.read(0, &mut back).expect("read");
    assert_eq!(back, [0; 8192]);
    // There is room for three further chunks.
    two.write(0, &[2; 3 * 8192], false).expect("write");
    assert_eq!(two.write(40 << 10, &[2; 512], false), Err(Errno::ENOSPC));
    two.discard(0, 8192).expect("discard");
    two.write(40 << 10, &[2; 512], false)
        .expect("the room is there again");
    two.flush().expect("flush");
    drop(two);
    let mut one = volume(&[("volume", "1")]);
    one.read(15 << 30, &mut back).expect("read");
    assert_eq!(back, [1; 8192]);
    assert_eq!(one.write(0, &[1; 512], false), Err(Errno::ENOSPC));
    drop(one);
    let mut one = volume(&[("volume", "1"), ("delete", "2"), ("size", "32G")]);
    assert_eq!(one.geometry.size_bytes, 32 << 30, "it grew");
    one.write(31 << 30, &[1; 3 * 8192], true)
        .expect("the room of the other");
    drop(one);
    let mut two = volume(&[("volume", "2"), ("size", "64K")]);
    two.read(8192, &mut back).expect("read");
    assert_eq!(back, [0; 8192], "another volume of the same number");
}

#[test]
fn a_volume_that_grows_shows_nothing_of_another() {
    const CHUNK: u64 = 64 << 10;
    for how in ["", ":direct"] {
        for behind in [512, 4096, 5 * 512, CHUNK - 512] {
            let pool = Backing::new("pool", 1 << 20);
            let grants = [pool.grant("pool", "")];
            let two: &[(&str, &str)] = &[("volume", "2"), ("size", "512K")];
            let mut disk = open("thin", two, &grants);
            disk.write(0, &[0xaa; 512 << 10], true).expect("write");
            disk.flush().expect("flush");
            drop(disk);
            let size = (CHUNK + behind).to_string();
            let one: &[(&str, &str)] = &[("volume", "1"), ("delete", "2"), ("size", &size)];
            let mut disk = open("thin", one, &grants);
            disk.write(CHUNK, &[0x11; 512], true).expect("write");
            disk.flush().expect("flush");
            drop(disk);
            let grown: &[(&str, &str)] = &[("volume", "1"), ("size", "128K"), ("block", "4K")];
            let mut disk = open("thin", grown, &[pool.grant("pool", how)]);
            let mut back = [0xff; 64 << 10];
            disk.read(CHUNK, &mut back).expect("read");
            assert_eq!(back[..512], [0x11; 512], "what it has itself");
            assert!(back[512..].iter().all(|byte| *byte == 0), "{how} {behind}");
        }
    }
}

#[test]
fn what_is_refused_leaves_no_trace() {
    let pool = Backing::new("pool", 1 << 20);
    let grants = [pool.grant("pool", "")];
    drop(open("thin", &[("volume", "1"), ("size", "66048")], &grants));
    drop(open("thin", &[("volume", "2"), ("size", "64K")], &grants));
    let before = pool.content();
    let wrong: &[(&[(&str, &str)], &str)] = &[
        (&[("volume", "1"), ("size", "100T")], "no memory for a map"),
        (
            &[("volume", "1"), ("delete", "2"), ("size", "100T")],
            "no memory for a map",
        ),
        (
            &[("volume", "3"), ("delete", "2"), ("size", "100T")],
            "no memory for a map",
        ),
        (
            &[("volume", "1"), ("delete", "2"), ("block", "4K")],
            "are no multiple of the block of 4096",
        ),
    ];
    refusals("thin", &grants, wrong);
    assert!(before == pool.content());
    let wrong: &[(&[(&str, &str)], &str)] = &[(
        &[("volume", "1")],
        "give a smaller one with --set block=512, and stores without ':direct'",
    )];
    refusals("thin", &[pool.grant("pool", ":direct")], wrong);
    let (base, overlay) = (
        Backing::new("base", 64 << 30),
        Backing::new("overlay", 256 << 20),
    );
    let grants = [base.grant("base", ":ro"), overlay.grant("overlay", "")];
    let wrong: &[(&[(&str, &str)], &str)] = &[(&[("chunk", "4K")], "or a larger chunk")];
    refusals("cow", &grants, wrong);
    drop(open("cow", &[("chunk", "64K")], &grants));
}

#[test]
fn cow_and_thin_refuse_with_the_remedy() {
    let (base, overlay) = (
        Backing::new("base", 64 << 10),
        Backing::new("overlay", 1 << 20),
    );
    let grants = [base.grant("base", ":ro"), overlay.grant("overlay", "")];
    drop(open("cow", &[("chunk", "8K")], &grants));
    let wrong: &[(&[(&str, &str)], &str)] = &[
        (&[("size", "1G")], "cow knows: chunk, block, format"),
        (&[("chunk", "4K")], "made with chunk=8192; leave it out"),
        (&[("chunk", "3K")], "a power of two from 4K to 16M"),
        (&[("format", "maybe")], "expected yes or no"),
    ];
    refusals("cow", &grants, wrong);
    refusals("cow", &grants[..1], &[(&[], "give --store overlay=PATH")]);
    let read_only = [grants[0].clone(), overlay.grant("overlay", ":ro")];
    refusals("cow", &read_only, &[(&[], "grant it without ':ro'")]);
    let other = Backing::new("other", 128 << 10);
    let grown = [other.grant("base", ":ro"), grants[1].clone()];
    refusals("cow", &grown, &[(&[], "is of a base of 65536 bytes")]);
    // An overlay is no pool, and stays what it is.
    let pool = [overlay.grant("pool", "")];
    let make: &[(&str, &str)] = &[("volume", "1"), ("size", "1M")];
    refusals("thin", &pool, &[(make, "neither empty nor of thin")]);
    drop(open("cow", &[], &grants));
    drop(open("thin", &[make, &[("format", "yes")]].concat(), &pool));
    drop(open("thin", &[("volume", "1"), ("format", "yes")], &pool));
    let wrong: &[(&[(&str, &str)], &str)] = &[
        (&[], "give --set volume=1"),
        (&[("volume", "0")], "a number from 1 on"),
        (&[("volume", "2")], "to make it, give --set size=10G"),
        (
            &[("volume", "1"), ("size", "512K")],
            "cannot become smaller",
        ),
        (&[("volume", "1"), ("size", "100")], "a multiple of 512"),
        (&[("volume", "1"), ("delete", "1")], "name another"),
        (&[("volume", "1"), ("chunk", "4K")], "made with chunk=65536"),
    ];
    refusals("thin", &pool, wrong);
}

const MIRROR: &[(&str, &str)] = &[("legs", "a,b"), ("calm-ms", "1"), ("rate", "1G")];

#[test]
fn a_mirror_goes_on_without_a_leg_and_makes_it_equal_later() {
    let (a, b) = (Backing::new("a", 1 << 20), Backing::new("b", 1 << 20));
    let grants = [a.grant("a", ""), b.grant("b", "")];
    let mut disk = open("mirror", MIRROR, &grants);
    assert_eq!(disk.geometry.size_bytes, (1 << 20) - (64 << 10));
    disk.write(4096, &[1; 4096], false).expect("write");
    drop(disk);
    let degraded = [MIRROR, &[("degraded", "yes")]].concat();
    let mut disk = open("mirror", &degraded, &grants[..1]);
    disk.write(8192, &[2; 4096], true).expect("write");
    drop(disk);
    let mut disk = open("mirror", &degraded, &grants);
    let mut back = [0; 4096];
    for _ in 0..2 {
        disk.read(8192, &mut back).expect("read");
        assert_eq!(back, [2; 4096], "never from the leg that lacks it");
    }
    let begin = Instant::now();
    while a.content()[64 << 10..] != b.content()[64 << 10..] {
        disk.read(0, &mut back).expect("read");
        assert!(begin.elapsed() < PATIENCE, "it stays different");
    }
}

#[test]
fn legs_that_do_not_belong_together_are_refused() {
    let size = 1 << 20;
    let (a, b, c) = (
        Backing::new("a", size),
        Backing::new("b", size),
        Backing::new("c", size),
    );
    let grants = [a.grant("a", ""), b.grant("b", "")];
    drop(open("mirror", MIRROR, &grants));
    let wrong: &[(&[(&str, &str)], &str)] = &[
        (&[], "give --set legs=A,B"),
        (&[("legs", "a")], "two to four names"),
        (&[("legs", "a,b,a")], "two to four names"),
        (&[("legs", "a,x")], "give --store x=PATH, or, to do without"),
        (&[("legs", "b,a")], "give them in the order"),
        (
            &[("legs", "a,b,x"), ("degraded", "yes")],
            "this mirror has 2 of them",
        ),
        (
            &[("legs", "a,b"), ("region", "8K")],
            "made with region=4194304",
        ),
        (&[("legs", "a,b"), ("rate", "0")], "some bytes a second"),
        (&[("leg", "a")], "mirror knows: legs, block"),
    ];
    refusals("mirror", &grants, wrong);
    let other = [c.grant("a", ""), b.grant("b", "")];
    drop(open(
        "mirror",
        &[MIRROR, &[("id", "x")]].concat(),
        &[c.grant("a", ""), Backing::new("d", size).grant("b", "")],
    ));
    refusals("mirror", &other, &[(MIRROR, "different mirrors")]);
    // Each is used without the other.
    let degraded = [MIRROR, &[("degraded", "yes")]].concat();
    drop(open("mirror", &degraded, &grants[..1]));
    drop(open("mirror", &degraded, &grants[1..]));
    refusals(
        "mirror",
        &grants,
        &[(&degraded, "were each used without the other")],
    );
    b.file().write_all_at(&[0; 8192], 0).expect("it is written");
    let mut disk = open("mirror", MIRROR, &grants);
    disk.read(0, &mut [0; 512]).expect("read");
}

/// What is there when the power goes while a store is made, or its record is replaced.
#[test]
fn a_record_that_was_not_written_to_its_end_is_no_harm() {
    let thin: &[(&str, &str)] = &[("volume", "1"), ("size", "1M")];
    for (name, options, stores) in [
        ("thin", thin, &["pool"][..]),
        ("cow", &[], &["overlay", "base"]),
        ("mirror", MIRROR, &["a", "b"]),
    ] {
        let files: Vec<Backing> = stores
            .iter()
            .map(|it| Backing::in_memory(it, 1 << 20))
            .collect();
        let grants = files.iter().zip(stores);
        let grants: Vec<String> = grants.map(|(file, it)| file.grant(it, "")).collect();
        let file = files[0].file();
        let mut before = files[0].content();
        // First a store of zeros, then records that take the place of others.
        for round in 0..4 {
            drop(open(name, options, &grants));
            let after = files[0].content();
            for torn in 0..16_usize {
                let mut image = before.clone();
                if round == 0 {
                    // Its first sector is there before anything else is.
                    image[..8].copy_from_slice(&after[..8]);
                }
                for sector in (0..16).filter(|sector| ((torn + 1) * 0x9e37) >> sector & 1 == 1) {
                    let bytes = sector * 512..(sector + 1) * 512;
                    image[bytes.clone()].copy_from_slice(&after[bytes]);
                }
                file.write_all_at(&image, 0).expect("it is written");
                drop(open(name, options, &grants));
            }
            file.write_all_at(&after, 0).expect("it is written");
            before = after;
        }
    }
}

#[test]
fn damage_is_refused_with_words() {
    let pool = Backing::new("pool", 1 << 20);
    let grants = [pool.grant("pool", "")];
    let options: &[(&str, &str)] = &[("volume", "1"), ("size", "1M")];
    let mut disk = open("thin", options, &grants);
    disk.write(0, &[1; 4096], true).expect("write");
    drop(disk);
    let good = pool.content();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] ^= byte;
        pool.file().write_all_at(&bad, 0).expect("it is written");
    };
    with(100, 1);
    refusals("thin", &grants, &[(options, "is damaged")]);
    with(8192 + 100, 1);
    refusals("thin", &grants, &[(options, "a checksum does not match")]);
    with(0, 1);
    refusals("thin", &grants, &[(options, "neither empty nor of thin")]);
    pool.file().set_len(512 << 10).expect("truncate");
    with(0, 0);
    pool.file().set_len(512 << 10).expect("truncate");
    refusals("thin", &grants, &[(options, "it is not all there")]);
}

#[test]
fn a_disk_with_half_a_block_more_takes_no_store_with_direct() {
    let odd = (1 << 20) + 512;
    for (name, options, stores) in [
        ("cow", &[][..], ["base", "overlay"]),
        ("mirror", MIRROR, ["a", "b"]),
    ] {
        let files = stores.map(|it| (it, Backing::new(it, odd)));
        let grants = |how| files.each_ref().map(|(it, file)| file.grant(it, how));
        let size = open(name, options, &grants("")).geometry.size_bytes;
        assert_eq!(size % 4096, 512, "{name}");
        let says = "are no multiple of the block of 4096";
        refusals(name, &grants(":direct"), &[(options, says)]);
        drop(open(name, options, &grants("")));
    }
}
