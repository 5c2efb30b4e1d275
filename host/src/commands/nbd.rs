//! `wasmblk nbd`: serve a guest in this process, until a signal or the end of the `--run` command.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::process::Signal;
use tracing::{info, warn};
use wasmtime::Engine;

use super::captive::Captive;
use super::load::{Loaded, load};
use super::manager::Manager;
use super::print;
use crate::cli::{self, Nbd};
use crate::confine;
use crate::error::{Context, Error, Result};
use crate::guest::{Clock, Granted, Guest, Health, Limits, Opened, Opener, Tags};
use crate::limits;
use crate::nbd::handshake::{Offer, TlsMode};
use crate::nbd::{Address, Listener, Service, Tls, serve_clients};
use crate::serve;
use crate::stats::Stats;
use crate::store::Stores;
use crate::sys::{Artefact, Blocking, first_inherited_fd};
use crate::wake::{Wake, end_with_parent};
use crate::wanted::Wanted;

/// The registered port of the protocol.
const PORT: u16 = 10809;

/// Where to listen without `-i`: nobody else's machine gets in unasked.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) fn run(nbd: &Nbd, cache: Option<&Path>) -> Result<ExitCode> {
    // Before anything else is opened: where nobody gave us a socket, its number is free for others.
    let inherited = inherited_socket()?;
    let manager = Manager::connect();
    check_export(&nbd.export)?;
    let wake = Wake::new()?;
    if nbd.exit_with_parent {
        end_with_parent(Signal::TERM)?;
    }
    let (tls_mode, tls) = tls(&nbd.tls)?;
    let compiled = Compiled::new(nbd, cache)?;
    let private = Folder::for_socket(nbd)?;
    let listener = listen(nbd, private.as_ref(), inherited)?;
    let _pid_file = nbd.pid_file.as_deref().map(PidFile::write).transpose()?;
    let uri = listener.uri(&nbd.export, tls.as_ref());
    let mut command = (nbd.run.as_deref())
        .map(|command| Captive::prepare(command, &uri, listener.address(), &wake))
        .transpose()?;
    // Everything is open, and the command is there, which is not to be confined. No code of the guest's is yet.
    let confined = !nbd.guest.no_confine;
    if confined {
        let removed_from = removed_from(nbd, &listener, private.as_ref());
        let command = command.as_ref().and_then(Captive::pid);
        let _ = confine::for_clients(&removed_from, &compiled.granted.needed(), command);
    }
    let health = Arc::new(Health::default());
    let memory_only = compiled.granted.is_memory_only();
    let mut opened = compiled.open(confined, health.clone())?;
    if nbd.read_only {
        opened.geometry = opened.geometry.without_writes();
    }
    let mut carrier = Blocking::new(&opened.place)
        .doing(|| "cannot start threads for the guest's stores".into())?;
    let geometry = opened.geometry;
    manager.tell_ready();
    match &mut command {
        Some(command) => command.begin()?,
        None => print(format!("{uri}\n"))?,
    }
    info!(uri, "clients can connect");
    let stats = Stats::default();
    let slots = opened.place.slots.clone();
    let mut engine = serve::Engine::new(geometry, &mut *opened.target, slots.count(), &stats);
    let offer = Offer {
        name: nbd.export.clone(),
        geometry,
        tls: tls_mode,
        fast_zero: memory_only && geometry.has_write_zeroes(),
    };
    let service = Service {
        offer: &offer,
        tls: tls.as_ref(),
        engine: &mut engine,
        carrier: &mut carrier,
        slots,
    };
    let served = serve_clients(&listener, &wake, service);
    // Nobody is to wait for a greeting that does not come, and the flush is not to wait for anybody.
    drop(listener);
    let flushed = flush_at_last(&mut engine, &mut carrier, &health);
    let code = command.map_or(Ok(ExitCode::SUCCESS), Captive::end);
    served.and(flushed).and(code)
}

/// The folders of what this process made, and removes at its end.
fn removed_from<'a>(
    nbd: &'a Nbd,
    listener: &'a Listener,
    private: Option<&'a Folder>,
) -> Vec<&'a Path> {
    let socket = match listener.address() {
        Address::Unix(path) => path.parent(),
        Address::Tcp(..) => None,
    };
    let above = private.and_then(|folder| folder.0.parent());
    let pid_file = nbd.pid_file.as_deref().and_then(folder_of);
    [socket, above, pid_file].into_iter().flatten().collect()
}

/// The folder that a file lies in.
fn folder_of(file: &Path) -> Option<&Path> {
    let folder = file.parent()?;
    Some(if folder == Path::new("") {
        Path::new(".")
    } else {
        folder
    })
}

/// Requests of clients may be under way still: they are finished, and nobody is told. Whoever waits for this
/// process learns by its exit code that the guest has failed.
fn flush_at_last(
    engine: &mut serve::Engine<'_>,
    carrier: &mut Blocking,
    health: &Health,
) -> Result<()> {
    if let Some(reason) = health.reason() {
        return Err(Error::failed(format!("the guest had failed: {reason}")));
    }
    engine
        .flush(carrier)
        .map_err(|errno| Error::failed(format!("the guest's last flush failed: {errno}")))
}

/// Whether clients encrypt, and how.
fn tls(tls: &cli::Tls) -> Result<(TlsMode, Option<Tls>)> {
    let mode = match tls.mode {
        None if tls.certificates.is_none() && tls.psk.is_none() => TlsMode::Off,
        Some(cli::TlsMode::Off) => TlsMode::Off,
        Some(cli::TlsMode::On) => TlsMode::Allowed,
        None | Some(cli::TlsMode::Require) => TlsMode::Required,
    };
    if tls.verify_peer && mode != TlsMode::Required {
        return Err(Error::usage(
            "--tls-verify-peer lets in whoever does not encrypt, unless --tls is 'require'",
        ));
    }
    let tls = match (&tls.certificates, &tls.psk) {
        _ if mode == TlsMode::Off => return Ok((mode, None)),
        (Some(folder), _) => Tls::certificates(folder, tls.verify_peer)?,
        (None, Some(file)) => Tls::keys(file)?,
        (None, None) => {
            return Err(Error::usage(
                "--tls needs certificates or keys: name the folder of the former with --tls-certificates, or \
                 the file of the latter with --tls-psk",
            ));
        }
    };
    Ok((mode, Some(tls)))
}

fn check_export(name: &str) -> Result<()> {
    if name.len() <= 4096
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--export {name}: expected letters, digits, '-', '_' or '.', so that it fits into a URI"
    )))
}

/// A guest of which nothing has run, with all that it is granted.
struct Compiled {
    name: String,
    engine: Engine,
    artefact: Artefact,
    limits: Limits,
    options: Vec<(String, String)>,
    granted: Granted,
}

impl Compiled {
    fn new(nbd: &Nbd, cache: Option<&Path>) -> Result<Compiled> {
        let Wanted {
            policy,
            options,
            stores,
            allowed,
            limits,
        } = Wanted::new(&nbd.guest)?;
        let Loaded {
            source,
            engine,
            artefact,
        } = load(&nbd.guest.file, (&policy, &limits), cache)?;
        Ok(Compiled {
            name: source.path.display().to_string(),
            engine,
            artefact,
            limits,
            options,
            granted: Granted::new(Stores::open(&stores)?, allowed)?,
        })
    }

    /// Loads and opens it, as one instance for all clients.
    fn open(self, confined: bool, health: Arc<Health>) -> Result<Opened> {
        let Compiled {
            name,
            engine,
            artefact,
            limits,
            options,
            granted,
        } = self;
        let guest = Guest::load(&engine, &artefact, &name, limits, granted)?;
        if confined {
            let _ = confine::load_no_more_code_in_any_thread();
        }
        let opener = Opener {
            guest: Arc::new(guest),
            clock: Clock::start(&engine)?,
            health,
            options: options.into(),
            tags: Tags {
                queues: 1,
                depth: limits::NBD_DEPTH,
            },
        };
        // The clock has begun, and does not.
        opener.guest.give_way();
        opener.open()
    }
}

/// Begins to listen: at the socket that systemd opened for us, or where the command line says.
fn listen(nbd: &Nbd, private: Option<&Folder>, inherited: Option<OwnedFd>) -> Result<Listener> {
    let Some(socket) = inherited else {
        return Listener::open(&address(nbd, private));
    };
    if nbd.unix.is_some() || nbd.port.is_some() || nbd.address.is_some() || nbd.run.is_some() {
        return Err(Error::usage(
            "systemd has opened a socket for this process: leave out --unix, --port, --address and --run",
        ));
    }
    Listener::inherit(socket)
}

/// The socket of systemd's protocol for socket activation (sd_listen_fds(3)).
fn inherited_socket() -> Result<Option<OwnedFd>> {
    let number = |name| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
    };
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(1)) if pid == std::process::id() => first_inherited_fd()
            .map(Some)
            .doing(|| "LISTEN_FDS says that there is a socket, but there is none".into()),
        (Some(pid), Some(count)) if pid == std::process::id() => Err(Error::usage(format!(
            "systemd has opened {count} sockets for this process; it serves one"
        ))),
        _ => Ok(None),
    }
}

fn address(nbd: &Nbd, private: Option<&Folder>) -> Address {
    match (private, &nbd.unix) {
        (Some(folder), _) => Address::Unix(folder.0.join("socket")),
        (None, Some(path)) => {
            Address::Unix(std::path::absolute(path).unwrap_or_else(|_| path.clone()))
        }
        (None, None) => Address::Tcp(nbd.address.unwrap_or(HOST), nbd.port.unwrap_or(PORT)),
    }
}

/// The file of `--pid-file`, removed at the end.
struct PidFile<'a>(&'a Path);

impl PidFile<'_> {
    fn write(file: &Path) -> Result<PidFile<'_>> {
        fs::write(file, format!("{}\n", std::process::id()))
            .doing(|| format!("cannot write --pid-file {}", file.display()))?;
        Ok(PidFile(file))
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(self.0)
            && error.kind() != ErrorKind::NotFound
        {
            warn!(%error, "{} stays", self.0.display());
        }
    }
}

/// A folder of our own for a socket with no name of its own.
struct Folder(PathBuf);

impl Folder {
    /// Makes one where `-U -` or the default of `--run` asks for it.
    fn for_socket(nbd: &Nbd) -> Result<Option<Folder>> {
        let dash = nbd.unix.as_deref() == Some(Path::new("-"));
        let over_tcp = nbd.port.is_some() || nbd.address.is_some();
        let for_run = nbd.run.is_some() && nbd.unix.is_none() && !over_tcp;
        if !dash && !for_run {
            return Ok(None);
        }
        let since = SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| since.as_nanos());
        let name = format!("wasmblk-nbd-{}-{since}", std::process::id());
        let path = env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .doing(|| format!("cannot make a folder for the socket, {}", path.display()))?;
        Ok(Some(Folder(path)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The listener has removed the socket.
        let _ = fs::remove_dir(&self.0);
    }
}
