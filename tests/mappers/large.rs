//! The same guests with larger stores, in the way that disks are used.

use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, fio};
use tests::uml::Machine;
use wasmblk::block::Backend;

use super::open;

/// All guests with larger stores, as words for a command line.
const LARGE: [(&str, &[&str], &[&str]); 5] = [
    ("linear", &["map=a,1M,15M", "map=b"], &["a", "b"]),
    ("stripe", &["stores=a,b"], &["a", "b"]),
    (
        "mirror",
        &["legs=a,b", "region=64K", "calm-ms=20"],
        &["a", "b"],
    ),
    ("cow", &["chunk=16K"], &["base", "overlay"]),
    ("thin", &["volume=1", "size=16M", "chunk=16K"], &["pool"]),
];

const LARGE_BYTES: u64 = 20 << 20;

#[test]
fn stores_with_direct_get_whole_blocks() {
    let blocks = [&[][..], &[("block", "512")], &[("block", "4K")]];
    let of_block = |block| LARGE.into_iter().map(move |case| (case, block));
    for ((name, options, stores), block) in blocks.into_iter().flat_map(of_block) {
        let files: Vec<Backing> = stores
            .iter()
            .map(|it| Backing::new(it, LARGE_BYTES))
            .collect();
        let grants = files.iter().zip(stores);
        let grants: Vec<String> = grants.map(|(file, it)| file.grant(it, ":direct")).collect();
        let options = options.iter().filter_map(|words| words.split_once('='));
        let options: Vec<(&str, &str)> = options.chain(block.iter().copied()).collect();
        let mut disk = open(name, &options, &grants);
        assert_eq!(disk.geometry.logical_block_bytes, 4096, "{name}");
        let mut data: Vec<u8> = (0..=250).cycle().take(200 << 10).collect();
        disk.write(36 << 10, &data, true).expect(name);
        disk.write_zeroes(60 << 10, 36 << 10, true).expect(name);
        disk.flush().expect(name);
        drop(disk);
        data[24 << 10..60 << 10].fill(0);
        let mut back = vec![1; data.len()];
        open(name, &options, &grants)
            .read(36 << 10, &mut back)
            .expect(name);
        assert!(back == data, "{name}");
    }
}

#[test]
fn over_ublk_mappers_keep_what_is_written() {
    in_bed(&Machine::default(), || {
        for (name, options, stores) in LARGE {
            let files: Vec<Backing> = stores
                .iter()
                .map(|it| Backing::new(it, LARGE_BYTES))
                .collect();
            let grants = files.iter().zip(stores);
            let grants: Vec<String> = grants.map(|(file, it)| file.grant(it, "")).collect();
            let mut words: Vec<&str> = options.iter().flat_map(|it| ["--set", it]).collect();
            words.extend(grants.iter().flat_map(|it| ["--store", it]));
            let disk = Disk::add(name, &words);
            let jobs = ["--rw=randrw", "--bs=4k", "--size=14m", "--iodepth=32"];
            fio(&disk.path, &[&jobs[..], &["--verify=crc32c"]].concat());
            let jobs = [
                "--rw=randwrite",
                "--bsrange=4k-256k",
                "--size=14m",
                "--iodepth=8",
            ];
            fio(
                &disk.path,
                &[&jobs[..], &["--verify=crc32c", "--fsync=20"]].concat(),
            );
            assert_eq!(disk.info("/state"), "live");
            disk.del();
        }
    });
}
