//! The command of `nbd --run`.

use std::fs::File;
use std::io::{ErrorKind, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use crate::confine::spawn_unprivileged;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::nbd::Address;
use crate::sys::inherited_fd;
use crate::wake::Wake;

/// `wasmblk captive`: becomes the command when the server that has started this process says so, and nothing where
/// that ends before.
pub(super) fn run(begin: i32, command: &str) -> Result<ExitCode> {
    let failed = || format!("cannot run --run '{command}'");
    let mut begin = File::from(inherited_fd(begin).doing(failed)?);
    match begin.read_exact(&mut [0]) {
        Ok(()) => {}
        // It has said why.
        Err(why) if why.kind() == ErrorKind::UnexpectedEof => return Ok(ExitCode::FAILURE),
        Err(why) => return Err(Error::failed(failed()).because(why)),
    }
    let why = Command::new("/bin/sh").args(["-c", command]).exec();
    Err(Error::failed(failed()).because(why))
}

/// The command of `--run`, which the server lives for.
pub(super) struct Captive {
    pid: Option<Pid>,
    /// Something comes here when it is to begin; when nothing can come any more, it ends instead.
    begin: Option<PipeWriter>,
    waiter: JoinHandle<std::io::Result<ExitStatus>>,
}

impl Captive {
    /// Starts the process in which it will run. Before this one is confined, as it would inherit that.
    pub(super) fn prepare(
        command: &str,
        uri: &str,
        address: &Address,
        wake: &Wake,
    ) -> Result<Captive> {
        let failed = || format!("cannot run --run '{command}'");
        let (begun, begin) = pipe().doing(failed)?;
        let mut process = Command::new("/proc/self/exe");
        // Of a program that is started, it is the one descriptor that is not standard.
        fcntl_setfd(&begun, FdFlags::empty()).doing(failed)?;
        let number = begun.as_raw_fd().to_string();
        process.args(["captive", "--begin", &number, "--", command]);
        process.env("uri", uri);
        match address {
            Address::Unix(path) => process.env("unixsocket", path),
            Address::Tcp(_, port) => process.env("port", port.to_string()),
        };
        let at_end = wake.at_end().doing(failed)?;
        let mut child: Child = process.spawn().doing(failed)?;
        drop(begun);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let wait = move || {
            let _at_end = at_end;
            child.wait()
        };
        let waiter = spawn_unprivileged("run", wait).doing(failed)?;
        let begin = Some(begin);
        Ok(Captive { pid, begin, waiter })
    }

    /// Its process.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Lets it begin.
    pub(super) fn begin(&mut self) -> Result<()> {
        match self.begin.take() {
            Some(mut begin) => begin
                .write_all(&[0])
                .doing(|| "the --run command is lost".into()),
            None => Ok(()),
        }
    }

    /// Whether it ends within a time.
    fn has_ended(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while !self.waiter.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.waiter.is_finished()
    }

    /// Its exit code, as shells count it. One that still runs, because we are to end, is told so.
    pub(super) fn end(self) -> Result<ExitCode> {
        // While its thread runs, the process id is the command's.
        let mut patience = Duration::from_millis(100);
        for signal in [Signal::TERM, Signal::KILL] {
            if self.has_ended(patience) {
                break;
            }
            if let Some(pid) = self.pid {
                let _ = kill_process(pid, signal);
            }
            patience = limits::CAPTIVE_TIMEOUT;
        }
        let lost = || Error::failed("the --run command is lost");
        let status = self
            .waiter
            .join()
            .map_err(|_| lost())?
            .map_err(|why| lost().because(why))?;
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
    }
}
