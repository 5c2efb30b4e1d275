//! `bench stores`: the file guest beside what else passes files and disks through.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tests::command::output;
use tests::{install, null_blk, paths};

use crate::load::Load;
use crate::server::{Folder, Server};
use crate::ublk::{self, Device, Set, What, device, fill, rublk};
use crate::{nbd, report};

/// Bytes of each backing file, all of which is used.
const SPAN: u64 = 128 << 20;

/// Which of ours is held against what, in the bed: on files, and on a disk that does nothing.
const PEERS: [(&str, &str); 9] = [
    ("file", "rublk loop -z"),
    ("file", "loop"),
    ("file", "file, copy"),
    ("file, copy", "rublk loop"),
    ("file, copy", "loop"),
    ("disk", "rublk disk -z"),
    ("disk", "loop on disk"),
    ("disk", "disk, copy"),
    ("disk, copy", "rublk disk"),
];

pub(crate) fn run(only: Option<&str>, options: &nbd::Options) -> Result<()> {
    let mut rows = Vec::new();
    if only != Some("nbd") {
        let options = ublk::Options {
            json: options.json,
            rounds: options.rounds,
            time_ms: options.time_ms,
            case: options.case.clone(),
        };
        rows.append(&mut ublk::run_bed(&options, What::Stores)?);
    }
    if only != Some("ublk") {
        rows.append(&mut over_nbd(options)?);
    }
    report::show(&rows, options.json)
}

/// The part over NBD, where all servers have the system's cache.
fn over_nbd(options: &nbd::Options) -> Result<Vec<report::Row>> {
    install(&[
        ("nbdkit", "nbdkit"),
        ("qemu-storage-daemon", "qemu-system-common"),
        ("fio", "fio"),
    ])?;
    let folder = Folder::new()?;
    let backing = |name: &str| -> Result<String> {
        let path = folder.0.join(name);
        File::create(&path)?.set_len(256 << 20)?;
        Ok(path.display().to_string())
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let (ours, nbdkit, qemu) = (backing("a")?, backing("b")?, backing("c")?);
    let wasmblk = paths::target().join("release/wasmblk");
    let guest = paths::guest("file").display().to_string();
    let servers = [
        Server::start(&folder, "file", &wasmblk, |socket| {
            words(&format!("nbd {guest} --store data={ours} -U {socket}"))
        })?,
        Server::start(&folder, "nbdkit file", Path::new("nbdkit"), |socket| {
            words(&format!("-f -U {socket} file {nbdkit}"))
        })?,
        Server::start(
            &folder,
            "qemu file",
            Path::new("qemu-storage-daemon"),
            |socket| {
                vec![
                    "--blockdev".into(),
                    format!("file,node-name=disk,filename={qemu}"),
                    "--nbd-server".into(),
                    format!("addr.type=unix,addr.path={socket},max-connections=8"),
                    "--export".into(),
                    "nbd,id=disk,node-name=disk,name=,writable=on".into(),
                ]
            },
        )?,
    ];
    let pairs = [("file", "nbdkit file"), ("file", "qemu file")];
    nbd::measure(options, "stores, nbd", &servers, &pairs)
}

/// What is measured in the bed.
pub(crate) fn set() -> Result<Set> {
    let devices = devices()?;
    for device in &devices {
        fill(&device.node, SPAN).context(device.name)?;
    }
    Ok(Set {
        bench: "stores",
        devices,
        peers: &PEERS,
        cases: cases(),
    })
}

fn devices() -> Result<Vec<Device>> {
    let release = paths::target().join("release/wasmblk");
    let guest = paths::guest("file").display().to_string();
    let ours = |name, store: &Path, id: u32, data_path: &str| -> Result<Device> {
        let store = format!("data={}:direct", store.display());
        let id = id.to_string();
        let words = [
            "add",
            &guest,
            "--store",
            &store,
            "--id",
            &id,
            "--data-path",
            data_path,
        ];
        output(Command::new(&release).args(words))?;
        device(name, &format!("/dev/ublkb{id}"), None)
    };
    let rublk = rublk()?;
    let theirs = |name, file: &Path, id: u32, how: &[&str]| -> Result<Device> {
        output(
            Command::new(&rublk)
                .args([
                    "add",
                    "loop",
                    "-d",
                    "128",
                    "--quiet",
                    "-n",
                    &id.to_string(),
                    "-f",
                ])
                .arg(file)
                .args(how),
        )?;
        device(name, &format!("/dev/ublkb{id}"), None)
    };
    let kernels = |name, file: &Path| -> Result<Device> {
        let words = ["--find", "--show", "--direct-io=on"];
        let node = output(Command::new("losetup").args(words).arg(file))?;
        device(name, node.trim(), None)
    };
    let nothing = |name: &str| null_blk::make(name, &[("size", "256")]);
    let file = |number: u32| -> Result<PathBuf> {
        let path = PathBuf::from(format!("/tmp/backing-{number}"));
        File::create(&path)?.set_len(SPAN)?;
        Ok(path)
    };
    Ok(vec![
        ours("file", &file(1)?, 1, "zero-copy")?,
        ours("file, copy", &file(2)?, 2, "copy")?,
        theirs("rublk loop -z", &file(3)?, 3, &["-z"])?,
        theirs("rublk loop", &file(4)?, 4, &[])?,
        kernels("loop", &file(5)?)?,
        ours("disk", &nothing("a")?, 11, "zero-copy")?,
        ours("disk, copy", &nothing("b")?, 12, "copy")?,
        theirs("rublk disk -z", &nothing("c")?, 13, &["-z"])?,
        theirs("rublk disk", &nothing("d")?, 14, &[])?,
        kernels("loop on disk", &nothing("e")?)?,
    ])
}

fn cases() -> Vec<(String, &'static str, Load)> {
    let mut cases = Vec::new();
    for ours in ["file", "file, copy", "disk", "disk, copy"] {
        for (bytes, random, depth, batch) in [
            (4 << 10, true, 1, 1),
            (4 << 10, true, 32, 1),
            (4 << 10, true, 32, 16),
            (128 << 10, false, 32, 1),
            (1 << 20, false, 8, 1),
        ] {
            for write in [false, true] {
                let load = Load {
                    write,
                    random,
                    bytes,
                    depth,
                    connections: 1,
                    batch,
                    span: SPAN,
                };
                let how = if batch > 1 { ", client batching" } else { "" };
                let name = format!(
                    "{ours}: {} {}k depth {depth}{how}",
                    load.what(),
                    bytes >> 10
                );
                cases.push((name, ours, load));
            }
        }
    }
    cases
}
