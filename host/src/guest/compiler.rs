//! The compiler, as a process of its own. It reads what anybody may have written and takes as long and as much as
//! that makes it; so it has two files, no privilege, and a bound for its time and memory.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, setrlimit};
use wasmtime::Engine;

use super::compile::compile;
use super::engine::new_engine;
use super::source::Source;
use super::usage::Limits;
use crate::confine;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::sys::{Artefact, nothing};
use crate::wake::end_with_parent;

/// How the compiler says that the guest is at fault: its output is why.
const AT_FAULT: u8 = 2;

/// Makes machine code of a guest, in a process that does nothing else.
///
/// # Errors
///
/// Where the component is not valid, or takes more than the limits; they name the option that gives it more.
pub fn compile_apart(source: &Source, limits: &Limits) -> Result<Vec<u8>> {
    let shown = source.path.display();
    let failed = || format!("cannot start the compiler for {shown}");
    let input = memory_file("wasmblk guest", &source.bytes).doing(failed)?;
    let mut output = memory_file("wasmblk code", &[]).doing(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .args(["--log", "error", "compile"])
        .args(["--seconds", &limits.compile_time.as_secs().to_string()])
        .args(["--mib", &(limits.compile_bytes >> 20).to_string()])
        .env_clear()
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output.try_clone().doing(failed)?))
        // What the libc says of its end is said by its status.
        .stderr(nothing().doing(failed)?)
        .spawn()
        .doing(failed)?;
    let Some(status) = wait(&mut child, limits.compile_time).doing(failed)? else {
        return Err(too_slow(source, limits));
    };
    let mut bytes = Vec::new();
    output.rewind().doing(failed)?;
    output.read_to_end(&mut bytes).doing(failed)?;
    match (
        status.code(),
        status.signal().and_then(Signal::from_named_raw),
    ) {
        (Some(0), _) => Ok(bytes),
        (Some(code), _) if code == i32::from(AT_FAULT) => {
            let why = String::from_utf8_lossy(&bytes).into_owned();
            Err(Error::usage(format!("{shown} is not a valid component")).because(why))
        }
        (_, Some(Signal::XCPU | Signal::KILL)) => Err(too_slow(source, limits)),
        (_, Some(Signal::ABORT)) => Err(too_large(source, limits)),
        _ => Err(Error::failed(format!(
            "the compiler did not end well with {shown}: {status}"
        ))),
    }
}

/// Makes machine code in this process, for tests and benches: hostile bytes are compiled here.
///
/// # Errors
///
/// Where the component is not valid.
pub fn compile_here(engine: &Engine, source: &Source) -> Result<Artefact> {
    compile(engine, source, None, |source| {
        translate(engine, &source.bytes)
            .map_err(|why| Error::usage("not a valid component").because(why))
    })
}

/// Machine code, or why there is none.
fn translate(engine: &Engine, component: &[u8]) -> std::result::Result<Vec<u8>, String> {
    engine
        .precompile_component(component)
        .map_err(|why| format!("{why:#}"))
}

fn too_slow(source: &Source, limits: &Limits) -> Error {
    let (shown, seconds) = (source.path.display(), limits.compile_time.as_secs());
    Error::failed(format!(
        "{shown} takes longer to compile than {seconds} s; an ordinary guest takes seconds. Give it more with \
         --compile-seconds if you know why it takes so long"
    ))
}

fn too_large(source: &Source, limits: &Limits) -> Error {
    let (shown, mib) = (source.path.display(), limits.compile_bytes >> 20);
    Error::failed(format!(
        "{shown} takes more memory to compile than {mib} MiB; give it more with --compile-mib if you know why it \
         takes so much"
    ))
}

/// A file in memory with this content, to be read from its begin.
fn memory_file(name: &str, content: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// The same for machine code: whoever has it open cannot change it.
pub(super) fn sealed_file(code: &[u8]) -> io::Result<File> {
    let file = memory_file("wasmblk guest", code)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Waits for its end. One that takes too long is ended: there is no status.
fn wait(child: &mut Child, most: Duration) -> io::Result<Option<ExitStatus>> {
    let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    // A little more than its own limit, which is for computing time: it may have to wait for a processor.
    let timeout = Timespec {
        tv_sec: (most + limits::COMPILE_WAIT_TIME).as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&timeout))? > 0;
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(ended.then_some(status))
}

/// What that process does: the guest comes on its standard input, the machine code, or why there is none, goes to its
/// standard output.
///
/// # Errors
///
/// The system's.
pub fn run_compiler(seconds: u64, mib: u64) -> Result<ExitCode> {
    let failed = || "cannot compile".to_owned();
    // Nobody else wants it.
    end_with_parent(Signal::KILL)?;
    limit(Resource::Cpu, seconds).doing(failed)?;
    limit(Resource::Data, mib << 20).doing(failed)?;
    limit(Resource::Fsize, limits::COMPILED_BYTES_MAX).doing(failed)?;
    limit(Resource::Core, 0).doing(failed)?;
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned().doing(failed)?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned().doing(failed)?);
    let _ = confine::for_compiler();
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).doing(failed)?;
    let (code, result) = match translate(&new_engine()?, &bytes) {
        Ok(code) => (0, code),
        Err(why) => (AT_FAULT, why.into_bytes()),
    };
    output.write_all(&result).doing(failed)?;
    Ok(ExitCode::from(code))
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = Some(most);
    setrlimit(
        resource,
        Rlimit {
            current: most,
            maximum: most,
        },
    )?;
    Ok(())
}
