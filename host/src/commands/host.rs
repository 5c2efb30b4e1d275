//! `wasmblk host`: the process by which the broker serves a device for a user. Nothing that he sends is trusted: his
//! guest is compiled by a process that has given up all else, and his files are used as he has opened them.

use std::fs::File;
use std::io::Seek;
use std::os::fd::OwnedFd;

use rustix::fs::fstat;

use super::plane::{detach, go_silent};
use crate::broker::{self, wire};
use crate::config::DeviceConfig;
use crate::error::{Context, Error, Kind, Result};
use crate::guest::{Limits, Source, compile, compile_apart, new_engine};
use crate::limits;
use crate::message;
use crate::plane;
use crate::sys::Artefact;

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
    let (artefact, digest) = compile_for(&config, &guest)?;
    config.digest = digest;
    plane::mind(config, &artefact, &stores, |ready, run_dir| {
        let files = go_silent(ready, run_dir)?;
        let bytes = wire::encode(&wire::Reply::Served { id: ready.id });
        let bytes = bytes.doing(|| "cannot answer".into())?;
        message::send(client, &bytes, &[]).doing(|| "'wasmblk add' went away".into())?;
        Ok(Some(files))
    })
}

/// Has a guest compiled by a process of its own, within bounds that are not the user's to widen.
fn compile_for(config: &DeviceConfig, mut guest: &File) -> Result<(Artefact, String)> {
    let is_file = fstat(guest).is_ok_and(|it| it.st_mode & libc::S_IFMT == libc::S_IFREG);
    if !is_file {
        return Err(Error::usage("the guest is no file"));
    }
    guest.rewind().doing(|| "cannot read the guest".into())?;
    let source = Source::of(&config.guest, guest)?;
    let limits = Limits {
        compile_time: config.limits.compile_time.min(limits::COMPILE_TIME_DEFAULT),
        compile_bytes: config
            .limits
            .compile_bytes
            .min(limits::COMPILE_BYTES_DEFAULT),
        ..config.limits
    };
    let artefact = compile(&new_engine()?, &source, None, |source| {
        compile_apart(source, &limits)
    })?;
    Ok((artefact, source.digest))
}
