//! What a process that serves a guest gives up, so that whoever breaks out of the sandbox has nothing: layer by
//! layer, each of which holds without the others. One that the kernel lacks is left out, with a warning.

mod landlock;
mod mounts;
mod system_calls;
mod threads;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::thread;

use rustix::process::Pid;
use rustix::thread::set_no_new_privs;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::error::Error;
use crate::sys::{
    deny_write_execute, drop_capabilities, keep_brokers_capabilities, keep_hosts_capabilities,
    keep_minders_capabilities,
};

pub use mounts::open_folder;
pub use threads::{for_thread, spawn_unprivileged};

/// One of the things that are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// No path leads anywhere: the root is an empty folder, in a mount namespace of its own.
    Mounts,
    /// No capabilities, and none to be had by starting a program.
    Capabilities,
    /// No program gives more privilege than there is.
    NoNewPrivs,
    /// No file can be opened, no address connected to, nobody outside signalled.
    Landlock,
    /// No memory that can be written becomes code.
    WriteExecute,
    /// No system calls but those of serving.
    Seccomp,
    /// Rings carry requests and transfers only, on the files that they were made for.
    IoUring,
}

impl Layer {
    /// Its name, as `info` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layer::Mounts => "mounts",
            Layer::Capabilities => "capabilities",
            Layer::NoNewPrivs => "no-new-privs",
            Layer::Landlock => "landlock",
            Layer::WriteExecute => "write-execute",
            Layer::Seccomp => "seccomp",
            Layer::IoUring => "io-uring",
        }
    }
}

/// A folder whose files are still needed.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// The folder, open.
    pub file: BorrowedFd<'a>,
    /// Nothing in it is changed.
    pub read_only: bool,
}

/// What of the outside is still needed.
#[derive(Clone, Debug, Default)]
pub struct Needed<'a> {
    /// Files in folders.
    pub folders: Vec<Folder<'a>>,
    /// Ports of TCP that are connected to.
    pub ports: Vec<u16>,
}

/// What came of a layer.
pub type Outcome = (Layer, io::Result<()>);

/// Gives up everything that a data plane does not need: all its files are open but what is `needed`, and there is one
/// thread yet. Its guest is loaded after this: who could make the compiler write what he wants finds nothing here
/// either. Says which layers are on.
#[must_use]
pub fn for_device(needed: &Needed<'_>) -> Vec<Layer> {
    let mut layers = held(all_but_code(needed));
    // Rings are made later, and none without it.
    layers.push(Layer::IoUring);
    layers
}

/// The same, once its guest is loaded: nothing else becomes code.
#[must_use]
pub fn load_no_more_code() -> Vec<Layer> {
    held(vec![(Layer::WriteExecute, refuse_code(false))])
}

/// The same for a server of NBD, of which threads have begun before.
#[must_use]
pub fn load_no_more_code_in_any_thread() -> Vec<Layer> {
    held(vec![(Layer::WriteExecute, refuse_code(true))])
}

/// The same, once a data plane has all its rings and threads.
pub fn make_no_more_rings() {
    if let Err(error) = system_calls::refuse_rings() {
        warn!(%error, "further rings can be made");
    }
}

/// Gives up everything that the compiler does not need: it has its files, and makes no memory executable.
#[must_use]
pub fn for_compiler() -> Vec<Layer> {
    held(vec![
        (Layer::Capabilities, drop_capabilities()),
        (Layer::NoNewPrivs, no_new_privs()),
        (
            Layer::Landlock,
            landlock::only_needed(&[], &Needed::default(), false),
        ),
        (Layer::WriteExecute, deny_write_execute()),
        (Layer::Seccomp, system_calls::allow_compiling()),
    ])
}

/// Gives up what a minder does not need, once its data plane runs; one that `recovers` starts others.
pub fn for_minder(recovers: bool) {
    let _ = held(vec![
        (Layer::Capabilities, keep_minders_capabilities(recovers)),
        (Layer::NoNewPrivs, no_new_privs()),
    ]);
}

/// Gives up what a minder does not need for whom a broker does what takes privilege: all.
pub fn for_brokered_minder() {
    let _ = held(vec![
        (Layer::Capabilities, drop_capabilities()),
        (Layer::NoNewPrivs, no_new_privs()),
    ]);
}

/// Gives up what a broker does not need, once it listens; its wardens, and the data planes of users that it `hosts`,
/// have no more than it has.
///
/// # Errors
///
/// The system's: a broker that has more than it should does not serve.
pub fn for_broker(hosts: bool) -> io::Result<()> {
    keep_brokers_capabilities(hosts)?;
    no_new_privs()
}

/// Gives up what the minder of a device that the broker serves for a user does not need: it gives him the control
/// socket, and where it `recovers`, starts further data planes.
pub fn for_host(recovers: bool) {
    let _ = held(vec![
        (Layer::Capabilities, keep_hosts_capabilities(recovers)),
        (Layer::NoNewPrivs, no_new_privs()),
    ]);
}

/// Gives up what a server of NBD does not need once it listens: it may remove what lies in some folders, use what is
/// `needed`, and end the process `command`. Its guest is loaded after this. Says which layers are on. Threads that
/// began earlier have given up their part before, as they began.
#[must_use]
pub fn for_clients(
    removed_from: &[&Path],
    needed: &Needed<'_>,
    command: Option<Pid>,
) -> Vec<Layer> {
    held(vec![
        (Layer::Capabilities, drop_capabilities()),
        (Layer::NoNewPrivs, no_new_privs()),
        (
            Layer::Landlock,
            landlock::only_needed(removed_from, needed, command.is_some()),
        ),
        (
            Layer::Seccomp,
            system_calls::allow_serving_clients(needed, command),
        ),
    ])
}

/// Tries all layers in a thread that ends, for `doctor`. It is the last that a process does: memory is of all
/// threads.
#[must_use]
pub fn probe() -> Vec<Outcome> {
    let everything = || {
        let mut outcomes = all_but_code(&Needed::default());
        outcomes.push((Layer::WriteExecute, refuse_code(false)));
        outcomes
    };
    thread::spawn(everything).join().unwrap_or_default()
}

fn all_but_code(needed: &Needed<'_>) -> Vec<Outcome> {
    vec![
        (Layer::Mounts, mounts::leave_all()),
        (Layer::Capabilities, drop_capabilities()),
        (Layer::NoNewPrivs, no_new_privs()),
        (Layer::Landlock, landlock::only_needed(&[], needed, false)),
        (Layer::Seccomp, system_calls::allow_serving_device(needed)),
    ]
}

/// Two ways, each of which has gaps that the other has not: the first knows nothing of files that were written before,
/// the second nothing of what a mapping was.
fn refuse_code(all_threads: bool) -> io::Result<()> {
    let denied = deny_write_execute();
    system_calls::refuse_code(all_threads)?;
    denied
}

fn no_new_privs() -> io::Result<()> {
    set_no_new_privs(true)?;
    Ok(())
}

/// Those that are on; about the others somebody should know.
fn held(outcomes: Vec<Outcome>) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (layer, outcome) in outcomes {
        match outcome {
            Ok(()) => layers.push(layer),
            Err(why) => {
                let error = Error::failed(format!("'{}' is not on", layer.name())).because(why);
                warn!("less confined than could be: {}", error.chain());
            }
        }
    }
    let names: Vec<&str> = layers.iter().map(|layer| layer.name()).collect();
    debug!("confined by: {}", names.join(" "));
    layers
}
