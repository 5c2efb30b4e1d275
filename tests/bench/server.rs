//! Servers to be measured: each a process of its own at a unix socket of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A folder for sockets, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Folder> {
        let path = std::env::temp_dir().join(format!("wasmblk-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) socket: PathBuf,
    process: Child,
}

impl Server {
    /// Starts one; `arguments` makes its command line of the socket's path.
    pub(crate) fn start(
        folder: &Folder,
        name: &'static str,
        program: &Path,
        arguments: impl FnOnce(&str) -> Vec<String>,
    ) -> Result<Server> {
        let socket = folder.0.join(name.replace(' ', "-"));
        let process = Command::new(program)
            .args(arguments(&socket.display().to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let server = Server {
            name,
            socket,
            process,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !server.socket.exists() {
            if Instant::now() > deadline {
                bail!("{name} does not listen");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
