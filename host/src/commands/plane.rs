//! `wasmblk plane`: the process that `add` leaves behind.

use std::env;
use std::fs::File;
use std::io;

use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin};
use rustix::thread::set_name;

use crate::error::{Context, Result};
use crate::plane::{self, Ready, RunDir};

pub(super) fn run() -> Result<()> {
    let (config, artefact, parent) = plane::receive()?;
    let result = detach().and_then(|()| {
        plane::run(config, &artefact, |ready, run_dir| {
            go_silent(ready, run_dir).and_then(|()| parent.ready(ready))
        })
    });
    if let Err(error) = &result {
        parent.error(error);
    }
    // Whoever is still there has been told.
    Ok(())
}

/// Leaves the terminal and the folder of whoever called `add`.
fn detach() -> Result<()> {
    // 'add' started this as /proc/self/exe, which is what 'ps' would show.
    let _ = set_name(c"wasmblk");
    setsid().doing(|| "cannot leave the terminal".into())?;
    env::set_current_dir("/").doing(|| "cannot leave the current folder".into())
}

/// From here on the device speaks through its log and its control socket.
fn go_silent(ready: &Ready, run_dir: &RunDir) -> Result<()> {
    plane::log_to_file(&run_dir.log(ready.id))?;
    let leave = || -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stderr(&null)?;
        Ok(())
    };
    leave().doing(|| "cannot leave the terminal".into())
}
