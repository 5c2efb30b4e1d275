//! From the command line to a device's configuration: every word is checked here, once.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cli::Add;
use crate::error::{Error, Result};
use crate::guest::{Allowed, Limits, Source};
use crate::limits;
use crate::store::Grant;
use crate::ublk::DataPath;
use crate::udev::Trust;
use crate::wanted::Wanted;

/// Everything that a data plane needs to know of its device, beside the compiled guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// The guest's file, absolute.
    pub guest: PathBuf,
    /// SHA-256 of its content.
    pub digest: String,
    /// Options for the guest, in the order given.
    pub options: Vec<(String, String)>,
    /// The stores that the guest is granted.
    pub stores: Vec<Grant>,
    /// What of WASI it is granted.
    pub allowed: Allowed,
    /// The wanted number.
    pub id: Option<u32>,
    /// How the data of requests is to come and go.
    pub data_path: DataPath,
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight on each.
    pub depth: u16,
    /// The operator's name for the device.
    pub name: Option<String>,
    /// The operator's serial number.
    pub serial: Option<String>,
    /// Whether the system may look at what is on the device by itself.
    pub trusted: bool,
    /// Whether the device is one of a user without privilege, as the kernel has them.
    pub unprivileged: bool,
    /// Whether the device stays when its data plane ends before its time, and a further one takes it up.
    #[serde(default)]
    pub recover: bool,
    /// What the guest may use.
    pub limits: Limits,
    /// Folder of the control socket and the log.
    pub run_dir: PathBuf,
    /// What to log.
    pub log: String,
    /// Whether the data plane gives up what it does not need.
    pub confine: bool,
    /// The socket of the broker that is asked for the device.
    pub broker: Option<PathBuf>,
    /// Whose the control socket is, where it is not this process's user's: user and group.
    pub owner: Option<(u32, u32)>,
}

impl DeviceConfig {
    /// Checks what `add` was given.
    ///
    /// # Errors
    ///
    /// Names the option and says what would be right.
    pub fn new(
        add: &Add,
        wanted: Wanted,
        source: &Source,
        run_dir: PathBuf,
        log: &str,
    ) -> Result<DeviceConfig> {
        let policy = &wanted.policy;
        let queues = add.queues.or(policy.queues).unwrap_or(1);
        let depth = (add.depth.or(policy.depth)).unwrap_or(limits::DEPTH_DEFAULT);
        let tags = u32::from(queues) * u32::from(depth);
        if tags > limits::TAGS_MAX {
            let max = limits::TAGS_MAX;
            return Err(Error::usage(format!(
                "--queues {queues} times --depth {depth} is {tags}; at most {max} requests may be in flight"
            )));
        }
        if add.trusted && !rustix::process::geteuid().is_root() {
            return Err(Error::usage("--trusted: only root can say that"));
        }
        let mut limits = wanted.limits;
        if add.unprivileged {
            limits.deadline = unprivileged_deadline(add, limits.deadline)?;
        }
        Ok(DeviceConfig {
            guest: std::path::absolute(&source.path).unwrap_or_else(|_| source.path.clone()),
            digest: source.digest.clone(),
            options: wanted.options,
            stores: wanted.stores,
            allowed: wanted.allowed,
            id: add.id,
            data_path: add.data_path,
            queues,
            depth,
            name: add.name.as_deref().map(check_name).transpose()?,
            serial: add.serial.as_deref().map(check_serial).transpose()?,
            trusted: add.trusted,
            unprivileged: add.unprivileged,
            recover: add.recover,
            limits,
            run_dir,
            log: log.to_owned(),
            confine: !add.guest.no_confine,
            broker: None,
            owner: None,
        })
    }

    /// Checks what a user without privilege has sent, as if nobody had before.
    ///
    /// # Errors
    ///
    /// Names what is wrong.
    pub fn check(&self) -> Result<()> {
        let texts = (self.options.iter().chain(&self.allowed.env))
            .flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        let paths = self.stores.iter().map(|store| &store.path);
        let paths = paths
            .chain([&self.guest])
            .map(|path| path.to_str().unwrap_or("\0"));
        if texts
            .chain(paths)
            .any(|text| text.contains(char::is_control))
        {
            return Err(Error::usage(
                "options, paths and the environment must be printable",
            ));
        }
        self.name.as_deref().map(check_name).transpose()?;
        self.serial.as_deref().map(check_serial).transpose()?;
        check_tags(self.queues, self.depth).map_err(Error::usage)?;
        for (at, store) in self.stores.iter().enumerate() {
            let again = Grant::new(&store.name, &store.path, store.read_only, store.direct);
            let twice = self.stores[..at]
                .iter()
                .any(|other| other.name == store.name);
            if again.is_err() || twice || at >= limits::STORES_MAX {
                return Err(Error::usage("a store has no name of its own"));
            }
        }
        if !self.allowed.directories.is_empty() || !self.allowed.remotes.is_empty() {
            return Err(Error::usage(
                "--dir and --net are not for the broker's processes, which have not the rights of who asks",
            ));
        }
        let Limits {
            memory_bytes,
            deadline,
            cpu_percent,
            log_lines,
            transfer_bytes,
            compile_time,
            compile_bytes,
        } = self.limits;
        if self.trusted || self.unprivileged {
            return Err(Error::usage(
                "--trusted is for root to say, and --unprivileged for devices without a broker",
            ));
        }
        let fit = limits::MEMORY_MIB.contains(&(memory_bytes >> 20))
            && limits::DEADLINE_SECONDS.contains(&deadline.as_secs())
            && limits::CPU_PERCENT.contains(&cpu_percent.into())
            && limits::LOG_LINES.contains(&log_lines.into())
            && limits::TRANSFER_KIB.contains(&u64::from(transfer_bytes >> 10))
            && transfer_bytes.is_multiple_of(4096)
            && limits::COMPILE_SECONDS.contains(&compile_time.as_secs())
            && limits::COMPILE_MIB.contains(&(compile_bytes >> 20));
        if !fit {
            return Err(Error::usage("a limit is out of its range"));
        }
        Ok(())
    }

    /// What udev is told of the device, if anything.
    #[must_use]
    pub fn trust(&self) -> Option<Trust> {
        let name = self.name.clone();
        self.trusted.then_some(Trust { name })
    }

    /// The operator's serial number, or one that stays the same when the same device is made again.
    #[must_use]
    pub fn serial(&self, id: u32) -> String {
        if let Some(serial) = &self.serial {
            return serial.clone();
        }
        let made_from = format!("{} {:?} {id}", self.digest, self.options);
        let digest = Sha256::digest(made_from);
        digest
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The kernel's patience with unprivileged devices is shorter than ours.
fn unprivileged_deadline(add: &Add, wanted: Duration) -> Result<Duration> {
    let most = limits::UNPRIVILEGED_DEADLINE;
    if wanted <= most {
        return Ok(wanted);
    }
    match add.guest.limits.deadline {
        Some(seconds) => Err(Error::usage(format!(
            "--deadline {seconds}: at most {} for --unprivileged, as the kernel ends a server that keeps a request \
             for 30 s",
            most.as_secs()
        ))),
        None => Ok(most),
    }
}

/// A name must not look like a number, and must be fit to be printed.
fn check_name(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if name.len() > limits::NAME_BYTES_MAX || !starts_well || !name.chars().all(plain) {
        return Err(Error::usage(format!(
            "--name {name}: expected a letter, then letters, digits, '-', '_' or '.', at most {} in all",
            limits::NAME_BYTES_MAX
        )));
    }
    Ok(name.to_owned())
}

fn check_serial(serial: &str) -> Result<String> {
    let printable = serial.chars().all(|c| c.is_ascii_graphic());
    if serial.is_empty() || serial.len() > limits::NAME_BYTES_MAX || !printable {
        return Err(Error::usage(format!(
            "--serial {serial}: expected 1 to {} printable characters without spaces",
            limits::NAME_BYTES_MAX
        )));
    }
    Ok(serial.to_owned())
}

/// The folder of control sockets: as given, or this user's.
///
/// # Errors
///
/// Where there is no folder for this user.
pub fn run_dir(given: Option<&Path>) -> Result<PathBuf> {
    user_folder(given, "/run", "XDG_RUNTIME_DIR", None)
        .ok_or_else(|| Error::usage("XDG_RUNTIME_DIR is not set; say --run-dir"))
}

/// Checks how many requests may be in flight.
///
/// # Errors
///
/// Names the number that is wrong.
pub fn check_tags(queues: u16, depth: u16) -> std::result::Result<(), String> {
    let outside = |what: &str, most: u64| Err(format!("{what} must be 1 to {most}"));
    if queues == 0 || queues > limits::QUEUES_MAX {
        return outside("queues", limits::QUEUES_MAX.into());
    }
    if depth == 0 || depth > limits::DEPTH_MAX {
        return outside("depth", limits::DEPTH_MAX.into());
    }
    if u32::from(queues) * u32::from(depth) > limits::TAGS_MAX {
        return outside("queues times depth", limits::TAGS_MAX.into());
    }
    Ok(())
}

/// Makes the folder of control sockets, where the broker's is as well. Others pass through root's, whatever root's
/// umask is; one that is there stays as it is.
///
/// # Errors
///
/// The system's.
pub fn make_run_dir(folder: &Path) -> io::Result<()> {
    let is_new = !folder.exists();
    (DirBuilder::new().recursive(true).mode(0o755)).create(folder)?;
    if is_new && rustix::process::geteuid().is_root() {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The folder of compiled guests: as given, or this user's; `None` where this user has none.
#[must_use]
pub fn cache_dir(given: Option<&Path>) -> Option<PathBuf> {
    user_folder(given, "/var/cache", "XDG_CACHE_HOME", Some(".cache"))
}

fn user_folder(
    given: Option<&Path>,
    of_root: &str,
    variable: &str,
    in_home: Option<&str>,
) -> Option<PathBuf> {
    if let Some(folder) = given {
        return Some(std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()));
    }
    if rustix::process::geteuid().is_root() {
        return Some(Path::new(of_root).join("wasmblk"));
    }
    let of_user = env::var_os(variable).map(PathBuf::from);
    let of_home = || Some(PathBuf::from(env::var_os("HOME")?).join(in_home?));
    Some(of_user.or_else(of_home)?.join("wasmblk"))
}
