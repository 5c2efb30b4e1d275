//! The other bed: the oldest distribution kernel that is supported, unchanged, in an emulated machine.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Suite};
use crate::bed::{Outcome, Work};
use crate::command::{find_program, output, wait_at_most};
use crate::{paths, steps};

const INIT: &str = include_str!("../bed/qemu-init");

/// Debian stable of 2026: the oldest Debian kernel with ublk.
const SUITE: &str = "trixie";

/// What is loaded, with what it needs.
const MODULES: [&str; 4] = ["ublk_drv", "ext4", "dm-mod", "raid1"];

/// Whatever looks at new disks by itself, with udev, which tells it to, and with systemd.
const WATCHERS: [&str; 6] = [
    "base-files",
    "systemd",
    "udev",
    "lvm2",
    "mdadm",
    "multipath-tools",
];

/// What of them is large and of no use in a test.
const UNUSED: [&str; 3] = [
    "usr/share",
    "usr/lib/udev/hwdb.d",
    "usr/lib/x86_64-linux-gnu/gconv",
];

/// Fetches QEMU and the kernel, once.
///
/// # Errors
///
/// Where they cannot be had.
pub fn setup() -> Result<()> {
    apt::install(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("cpio", "cpio"),
        ("xz", "xz-utils"),
        ("depmod", "kmod"),
    ])?;
    let (folder, watchers) = (folder()?, watchers()?);
    if folder.exists() && watchers.exists() {
        return Ok(());
    }
    let suite = Suite::open(SUITE)?;
    if !folder.exists() {
        fetch_kernel(&suite, &folder)?;
    }
    if !watchers.exists() {
        fetch_watchers(&suite, &watchers)?;
    }
    Ok(())
}

fn fetch_kernel(suite: &Suite, folder: &Path) -> Result<()> {
    let newest = suite.depends("linux-image-cloud-amd64")?.into_iter().next();
    let package = newest.context("the suite has no linux-image-cloud-amd64")?;
    steps::say(&format!("    fetching {package}"));
    let part = folder.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    suite.unpack(&package, &part)?;
    let release = release(&part)?;
    output(
        Command::new("depmod")
            .arg("-b")
            .arg(part.join("usr"))
            .arg(release),
    )?;
    fs::rename(&part, folder)?;
    Ok(())
}

fn fetch_watchers(suite: &Suite, folder: &Path) -> Result<()> {
    steps::say(&format!("    fetching {}", WATCHERS.join(" ")));
    let part = folder.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    suite.unpack_root(&WATCHERS, &part)?;
    for path in UNUSED {
        fs::remove_dir_all(part.join(path))?;
    }
    // The groups that rules name.
    fs::write(part.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
    fs::write(part.join("etc/group"), "root:x:0:\ndisk:x:6:\n")?;
    fs::rename(&part, folder)?;
    Ok(())
}

/// The root of a system with systemd, udev, LVM, mdadm and multipath, to be one of the `files` of [`run`].
///
/// # Errors
///
/// Where there is no cache.
pub fn watchers() -> Result<PathBuf> {
    Ok(paths::cache()?.join("watchers").join(SUITE))
}

fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("kernel").join(SUITE))
}

/// The release whose modules a folder has.
fn release(folder: &Path) -> Result<String> {
    let modules = folder.join("usr/lib/modules");
    let entry = fs::read_dir(&modules)?
        .flatten()
        .next()
        .context("the package has no modules")?;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// How the emulated processors run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processors {
    /// They take turns in one thread: that goes well beside other work.
    InTurns,
    /// Each has a thread: that is as if there were two, where two processors have nothing else to do.
    AtOnce,
}

/// Boots the kernel and runs a shell script as root. `programs` are found in PATH or by their path,
/// and come with their libraries; `files` are pairs of a path here, which may be a folder, and a path
/// there. Output is passed on as it comes where `show` says so.
///
/// # Errors
///
/// Where the machine does not start or does not end in time; a script that fails is an [`Outcome`].
pub fn run(
    script: &str,
    programs: &[&str],
    files: &[(&Path, &str)],
    limit: Duration,
    show: bool,
) -> Result<Outcome> {
    let work = prepare(script, programs, files)?;
    boot(&work, Processors::InTurns, limit, show)
}

/// The same with processors that run at once, for what is measured, and without passing its output on.
///
/// # Errors
///
/// As for [`run`].
pub fn measure(
    script: &str,
    programs: &[&str],
    files: &[(&Path, &str)],
    limit: Duration,
) -> Result<Outcome> {
    let work = prepare(script, programs, files)?;
    boot(&work, Processors::AtOnce, limit, false)
}

/// Makes the image.
fn prepare(script: &str, programs: &[&str], files: &[(&Path, &str)]) -> Result<Work> {
    let folder = folder()?;
    if !folder.exists() {
        bail!("the test bed has no kernel yet: run 'cargo xtask test', which fetches it");
    }
    let release = release(&folder)?;
    let work = Work::new()?;
    let image = work.begin_image(INIT)?;
    fs::write(image.join("command"), script)?;
    for program in programs {
        let path = find_program(program).with_context(|| format!("no program {program}"))?;
        add_program(&image, &path, &format!("/usr/bin/{program}"))?;
    }
    for (here, there) in files {
        add_program(&image, here, there)?;
    }
    add_modules(&image, &folder.join("usr/lib/modules").join(&release))?;
    work.pack_image()?;
    Ok(work)
}

fn boot(work: &Work, processors: Processors, limit: Duration, show: bool) -> Result<Outcome> {
    let mut child = machine(work, processors)?;
    let mut pipe = child.stdout.take().context("a pipe")?;
    let reader = thread::spawn(move || collect(&mut pipe, show));
    let ended = wait_at_most(&mut child, limit)?;
    let output = reader.join().unwrap_or_default();
    if ended.is_none() {
        let (seconds, console) = (limit.as_secs(), work.text("console"));
        bail!("the bed was ended after {seconds} s; its output and console:\n{output}\n{console}");
    }
    if !work.path("console").exists() {
        bail!("QEMU did not start: {}", work.text("qemu"));
    }
    work.outcome(output)
}

/// Starts QEMU: output of the guest comes on its standard output, the rest lies in the folder.
fn machine(work: &Work, processors: Processors) -> Result<Child> {
    let folder = folder()?;
    let kernel = format!("boot/vmlinuz-{}", release(&folder)?);
    let accelerator = match processors {
        Processors::InTurns => "tcg,thread=single",
        Processors::AtOnce => "tcg,thread=multi",
    };
    Command::new("qemu-system-x86_64")
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-machine",
            "q35",
            "-accel",
            accelerator,
            "-cpu",
            "Haswell-noTSX,-erms",
            "-m",
            "1024",
            "-smp",
            "2",
        ])
        .arg("-kernel")
        .arg(folder.join(kernel))
        .arg("-initrd")
        .arg(work.initramfs())
        .args([
            "-append",
            "console=ttyS0 reboot=t mitigations=off nokaslr audit=0 loglevel=5 panic=-1",
        ])
        .args(["-device", "virtio-serial-pci", "-serial"])
        .arg(format!("file:{}", work.path("console").display()))
        .args([
            "-chardev",
            "file,id=p1,path=/dev/fd/1",
            "-device",
            "virtserialport,chardev=p1,nr=1",
        ])
        .arg("-chardev")
        .arg(format!("file,id=p2,path={}", work.path("status").display()))
        .args(["-device", "virtserialport,chardev=p2,nr=2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(work.path("qemu"))?)
        .process_group(0)
        .spawn()
        .context("cannot run qemu-system-x86_64")
}

/// Reads all output, and passes it on where it is to be seen.
fn collect(pipe: &mut impl Read, show: bool) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut bytes) {
        let part = String::from_utf8_lossy(&bytes[..count]);
        if show {
            let _ = std::io::stdout().write_all(part.as_bytes());
            let _ = std::io::stdout().flush();
        }
        text.push_str(&part);
    }
    text
}

/// Copies a folder, or a file, and if it is a program the libraries that it names.
fn add_program(image: &Path, here: &Path, there: &str) -> Result<()> {
    if here.is_dir() {
        let place = image.join(there.trim_start_matches('/'));
        output(Command::new("cp").arg("-a").arg(here).arg(place))?;
        return Ok(());
    }
    copy(here, &image.join(there.trim_start_matches('/')))?;
    // A file that is no dynamic program has no libraries, and ldd says so by failing.
    let Ok(libraries) = output(Command::new("ldd").arg(here)) else {
        return Ok(());
    };
    for library in libraries.lines().flat_map(str::split_whitespace) {
        if library.starts_with('/') && !image.join(&library[1..]).exists() {
            copy(Path::new(library), &image.join(&library[1..]))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// Unpacks the modules and writes down the order in which they load.
fn add_modules(image: &Path, tree: &Path) -> Result<()> {
    let list = fs::read_to_string(tree.join("modules.dep"))?;
    let built_in = fs::read_to_string(tree.join("modules.builtin"))?;
    let needs = |module: &str| -> Option<Vec<String>> {
        let line = list
            .lines()
            .find(|line| line.contains(&format!("/{module}.ko")))?;
        let (path, needs) = line.split_once(':')?;
        // What a module needs is listed with the farthest need last.
        let mut order: Vec<String> = needs.split_whitespace().rev().map(str::to_owned).collect();
        order.push(path.to_owned());
        Some(order)
    };
    let folder = image.join("modules");
    fs::create_dir_all(&folder)?;
    let (mut order, mut seen) = (String::new(), BTreeSet::new());
    for module in MODULES {
        if built_in.contains(&format!("/{module}.ko")) {
            continue;
        }
        let paths = needs(module).with_context(|| format!("the kernel has no module {module}"))?;
        for path in paths.into_iter().filter(|path| seen.insert(path.clone())) {
            let name = Path::new(&path)
                .file_stem()
                .context("a name")?
                .to_string_lossy()
                .into_owned();
            let packed = File::open(tree.join(&path))?;
            let module = File::create(folder.join(&name))?;
            let status = Command::new("xz")
                .arg("-dc")
                .stdin(packed)
                .stdout(module)
                .status()?;
            if !status.success() {
                bail!("cannot unpack {path}");
            }
            order.push_str(&name);
            order.push('\n');
        }
    }
    fs::write(folder.join("order"), order)?;
    Ok(())
}
