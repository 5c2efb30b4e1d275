//! `wasmblk mind` and `wasmblk plane`: the processes that `add` leaves behind.

use std::env;
use std::process::ExitCode;

use rustix::process::setsid;
use rustix::stdio::dup2_stderr;
use rustix::thread::set_name;

use crate::error::{Context, Result};
use crate::plane::{self, Handed, LogFiles, Ready, RunDir};
use crate::sys::nothing;

/// The minder of a device in the background.
pub(super) fn mind() -> Result<()> {
    let Handed {
        config,
        artefact,
        parent,
        ..
    } = plane::receive()?;
    let result = detach().and_then(|()| {
        plane::mind(config, &artefact, &[], |ready, run_dir| {
            let files = go_silent(ready, run_dir)?;
            parent.ready(ready).map(|()| Some(files))
        })
    });
    if let Err(error) = &result {
        parent.error(error);
    }
    // Whoever is still there has been told.
    Ok(())
}

/// The data plane.
pub(super) fn serve() -> Result<ExitCode> {
    let handed = plane::receive()?;
    // It was started as /proc/self/exe, which is what 'ps' would show.
    let _ = set_name(c"wasmblk");
    // Its minder says what went wrong.
    Ok(match plane::run(handed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Leaves the terminal and the folder of whoever called `add`.
pub(super) fn detach() -> Result<()> {
    let _ = set_name(c"wasmblk-minder");
    setsid().doing(|| "cannot leave the terminal".into())?;
    env::set_current_dir("/").doing(|| "cannot leave the current folder".into())
}

/// From here on the device speaks through its log and its control socket. Gives the log to the data plane.
pub(super) fn go_silent(ready: &Ready, run_dir: &RunDir) -> Result<LogFiles> {
    let files = LogFiles::begin(&run_dir.log(ready.id))?;
    let ours = files.try_clone().and_then(plane::log_to);
    ours.doing(|| "cannot write the log".into())?;
    let left = nothing().and_then(|nothing| Ok(dup2_stderr(nothing)?));
    left.doing(|| "cannot leave the terminal".into())?;
    Ok(files)
}
