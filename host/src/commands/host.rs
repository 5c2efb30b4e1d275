//! `wasmblk host` and `wasmblk compile`: the processes by which the broker serves a device for a user. Nothing that he
//! sends is trusted: his guest is compiled by a process that has given up all else, and his files are used as he has
//! opened them.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::set_name;
use serde::{Deserialize, Serialize};

use super::plane::{detach, go_silent};
use crate::broker::{self, wire};
use crate::config::DeviceConfig;
use crate::confine;
use crate::error::{Context, Error, Kind, Result};
use crate::guest::{Source, compile_here, new_engine};
use crate::limits;
use crate::message;
use crate::plane;
use crate::sys::Artefact;

/// What comes of a compilation: the digest, or what is wrong with the guest.
type Compiled = std::result::Result<String, String>;

/// What the compiler is told: the guest's name.
#[derive(Serialize, Deserialize)]
struct Named(String);

/// The minder of a device that the broker serves.
pub(super) fn host() -> Result<()> {
    let (config, _, files) = broker::receive::<DeviceConfig>()?;
    let mut files = files.into_iter();
    let Some(client) = files.next() else {
        return Err(Error::failed("nobody has asked for this"));
    };
    let files: Vec<File> = files.map(File::from).collect();
    let answer = |reply: &wire::Reply| {
        // If he has gone, nobody is left to be told.
        let bytes = wire::encode(reply).unwrap_or_default();
        let _ = message::send(&client, &bytes, &[]);
    };
    let result = serve(config, files, &client);
    if let Err(error) = &result {
        let reason = match error.kind() {
            Kind::Usage => wire::Reason::Wrong,
            Kind::Failed => wire::Reason::Failed,
        };
        answer(&wire::Reply::refused(reason, error.chain()));
    }
    Ok(())
}

fn serve(mut config: DeviceConfig, files: Vec<File>, client: &OwnedFd) -> Result<()> {
    detach()?;
    let mut files = files.into_iter();
    let guest = files
        .next()
        .ok_or_else(|| Error::usage("no guest came along"))?;
    let stores: Vec<File> = files.collect();
    let (artefact, digest) = compile_apart(&config.guest, &guest)?;
    config.digest = digest;
    plane::mind(config, &artefact, &stores, |ready, run_dir| {
        let files = go_silent(ready, run_dir)?;
        let bytes = wire::encode(&wire::Reply::Served { id: ready.id });
        let bytes = bytes.doing(|| "cannot answer".into())?;
        message::send(client, &bytes, &[]).doing(|| "'wasmblk add' went away".into())?;
        Ok(Some(files))
    })
}

/// Has a guest compiled by a process of its own, and waits for it, bounded.
fn compile_apart(name: &Path, guest: &File) -> Result<(Artefact, String)> {
    let failed = || "cannot compile the guest".to_owned();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let code = File::from(memfd_create("wasmblk guest", flags).doing(failed)?);
    let (ours, theirs) = message::pair().doing(failed)?;
    let bytes = serde_json::to_vec(&Named(name.display().to_string())).doing(failed)?;
    message::send(&ours, &bytes, &[guest.as_fd(), code.as_fd()]).doing(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg("compile")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .doing(failed)?;
    let timeout = limits::COMPILE_TIMEOUT.try_into().ok();
    let ready = poll(&mut [PollFd::new(&ours, PollFlags::IN)], timeout.as_ref());
    let compiled = match ready {
        Ok(1..) => message::receive(&ours).ok(),
        _ => None,
    };
    // Nobody changes it from here on.
    let _ = child.kill();
    let _ = child.wait();
    let compiled = compiled.and_then(|(bytes, _)| serde_json::from_slice::<Compiled>(&bytes).ok());
    match compiled {
        Some(Ok(digest)) if digest.len() == 64 && digest.is_ascii() => {
            let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            fcntl_add_seals(&code, seals).doing(failed)?;
            Ok((Artefact::vouch(code), digest))
        }
        Some(Err(text)) => Err(Error::usage(text)),
        _ => Err(Error::usage(format!(
            "the guest takes more than {} s or {} MiB to compile, or breaks the compiler",
            limits::COMPILE_TIMEOUT.as_secs(),
            limits::COMPILE_BYTES_MAX >> 20
        ))),
    }
}

/// The compiler of a guest that nobody trusts.
pub(super) fn compile() -> Result<()> {
    let alone = || Error::usage("'wasmblk broker' starts this; it is not for people");
    let (bytes, files) = message::receive(io::stdin()).map_err(|_| alone())?;
    let Named(name) = serde_json::from_slice(&bytes).map_err(|_| alone())?;
    let mut files = files.into_iter().map(File::from);
    let (Some(guest), Some(mut code)) = (files.next(), files.next()) else {
        return Err(alone());
    };
    let _ = set_name(c"wasmblk-compile");
    let engine = new_engine()?;
    let most = |bytes| Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    let limited = setrlimit(Resource::As, most(limits::COMPILE_BYTES_MAX));
    limited.doing(|| "cannot limit the compiler".into())?;
    let _ = confine::for_compiler();
    let mut compile = || -> Result<String> {
        let failed = || "cannot read the guest".to_owned();
        let is_file = fstat(&guest).is_ok_and(|it| it.st_mode & libc::S_IFMT == libc::S_IFREG);
        if !is_file {
            return Err(Error::usage("the guest is no file"));
        }
        (&guest).rewind().doing(failed)?;
        let source = Source::of(Path::new(&name), &guest)?;
        let machine_code = compile_here(&engine, &source)?;
        code.write_all(&machine_code).doing(|| "no memory".into())?;
        Ok(source.digest)
    };
    let compiled: Compiled = compile().map_err(|error| error.chain());
    let bytes = serde_json::to_vec(&compiled).doing(|| "cannot answer".into())?;
    message::send(io::stdin(), &bytes, &[]).doing(|| "cannot answer".into())
}
