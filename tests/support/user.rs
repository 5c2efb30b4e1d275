//! Other users than root, and the broker that gives them devices.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::disk::{Reply, wait_until};
use crate::paths;

/// Where a test's broker listens.
pub const SOCKET: &str = "/run/wasmblk/broker.sock";

/// A test's policy.
pub const POLICY: &str = "/tmp/broker.toml";

/// A user without any privilege, with a folder of his own.
#[derive(Clone, Debug)]
pub struct User {
    /// His number, and that of his group.
    pub uid: u32,
    home: PathBuf,
}

impl User {
    /// The user of this number.
    ///
    /// # Panics
    ///
    /// Where he cannot have a folder.
    #[must_use]
    pub fn new(uid: u32) -> User {
        let home = PathBuf::from(format!("/tmp/user-{uid}"));
        fs::create_dir_all(&home).expect("a folder");
        chown(&home, Some(uid), Some(uid)).expect("his folder");
        User { uid, home }
    }

    /// His folder.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A program that he runs.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.uid(self.uid).gid(self.uid).current_dir(&self.home);
        command.env("HOME", &self.home);
        command.env("XDG_RUNTIME_DIR", &self.home);
        command.env("WASMBLK_CACHE_DIR", self.home.join("cache"));
        command
    }

    /// wasmblk, run by him.
    #[must_use]
    pub fn wasmblk(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(paths::wasmblk());
        command.args(arguments);
        command
    }

    /// The test that runs, once more, by him: in a part that `variable` names.
    ///
    /// # Panics
    ///
    /// Never: a test has a program.
    #[must_use]
    pub fn again(&self, variable: &str, part: &str) -> Command {
        let mut command = self.command(env::current_exe().expect("a test has a program"));
        command.args(env::args_os().skip(1)).env(variable, part);
        command
    }

    /// Calls wasmblk.
    ///
    /// # Panics
    ///
    /// Where it does not start, or is ended by a signal.
    #[must_use]
    pub fn call(&self, arguments: &[&str]) -> Reply {
        let output = self.wasmblk(arguments).output().expect("wasmblk runs");
        Reply {
            code: output.status.code().expect("it ends by itself"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Calls wasmblk, which must do it.
    ///
    /// # Panics
    ///
    /// Where it does not.
    #[must_use]
    pub fn must(&self, arguments: &[&str]) -> String {
        let reply = self.call(arguments);
        assert_eq!(reply.code, 0, "wasmblk {arguments:?}: {}", reply.stderr);
        reply.stdout
    }

    /// Whether a program that he runs does it.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    #[must_use]
    pub fn can(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = self.command(program);
        command.args(arguments);
        command.output().expect("it runs").status.success()
    }

    /// Adds a device of a guest from `guests/`. Gives its number.
    ///
    /// # Panics
    ///
    /// Where that does not work.
    #[must_use]
    pub fn add(&self, guest: &str, arguments: &[&str]) -> u32 {
        let file = paths::guest(guest).display().to_string();
        let path = self.must(&[&["add", &file], arguments].concat());
        let id = path.trim().strip_prefix("/dev/ublkb").map(str::parse);
        id.and_then(Result::ok).expect("a path")
    }
}

/// A running `wasmblk broker`.
#[derive(Debug)]
pub struct Broker(Child);

/// Makes a broker's policy another one.
///
/// # Panics
///
/// Where that is not possible.
pub fn write_policy(policy: &str) {
    fs::write(POLICY, policy).expect("a policy");
    fs::set_permissions(POLICY, PermissionsExt::from_mode(0o600)).expect("root's");
}

impl Broker {
    /// Starts one with a policy, and waits until clients can connect.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    #[must_use]
    pub fn start(policy: &str) -> Broker {
        let mut command = Command::new(paths::wasmblk());
        command.args(["broker", "--policy", POLICY, "--log", "warn"]);
        Broker::begin(&mut command, policy)
    }

    /// Starts one by a command that takes its policy from [`POLICY`].
    ///
    /// # Panics
    ///
    /// Where it does not start.
    #[must_use]
    pub fn begin(command: &mut Command, policy: &str) -> Broker {
        write_policy(policy);
        let command = command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("wasmblk runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        let read = BufReader::new(stdout).read_line(&mut line);
        assert!(read.is_ok() && line.trim() == SOCKET, "not ready: {line}");
        Broker(child)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Kills it.
    ///
    /// # Panics
    ///
    /// Where that is not possible.
    pub fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }

    /// Tells it to end.
    ///
    /// # Panics
    ///
    /// Where it does not.
    pub fn end(mut self) {
        let told = Command::new("kill").arg(self.pid()).status();
        assert!(told.is_ok_and(|status| status.success()));
        let ended = self.0.wait().expect("it ends");
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Where a test fails, or has ended it already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a device of the kernel is gone.
///
/// # Panics
///
/// Where it stays.
pub fn wait_gone(id: u32) {
    let path = format!("/sys/class/ublk-char/ublkc{id}");
    wait_until("the device is gone", || !Path::new(&path).exists());
}
