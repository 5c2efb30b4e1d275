//! The command line: types and their help, no behaviour.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::{
    PathBufValueParser, RangedI64ValueParser, RangedU64ValueParser, TypedValueParser,
};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;

mod guest;

pub use self::guest::{Guest, GuestLimits};
use crate::broker;
use crate::limits;
use crate::ublk::DataPath;

fn up_to(max: u16) -> RangedI64ValueParser<u16> {
    value_parser!(u16).range(1..=i64::from(max))
}

fn within(range: &RangeInclusive<u64>) -> RangedU64ValueParser<u64> {
    value_parser!(u64).range(range.clone())
}

fn id_range() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(..=i64::from(limits::ID_MAX))
}

/// WebAssembly components as Linux block devices.
///
/// Exit codes: 0 done; 1 it could not be done; 2 the command line, an option or the guest is wrong.
#[derive(Debug, Parser)]
#[command(name = "wasmblk", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What to log: error, warn, info, debug, trace, or a filter such as warn,guest=debug.
    #[arg(
        long,
        global = true,
        env = "WASMBLK_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log: String,
    /// Folder of the control sockets and logs [default: /run/wasmblk, or in $XDG_RUNTIME_DIR].
    #[arg(long, global = true, env = "WASMBLK_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Folder of compiled guests [default: /var/cache/wasmblk, or in $XDG_CACHE_HOME or ~/.cache].
    #[arg(long, global = true, env = "WASMBLK_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Socket of the broker, which gives devices to users without privilege.
    #[arg(
        long,
        global = true,
        env = "WASMBLK_BROKER_SOCKET",
        default_value = broker::DEFAULT_SOCKET,
        value_name = "PATH",
        value_parser = PathBufValueParser::new().map(absolute)
    )]
    pub broker_socket: PathBuf,
}

/// What runs in the background has another current folder.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a block device of a guest, and print its path once it can be used.
    Add(Add),
    /// Serve a guest over the network block device protocol: no privilege, no kernel driver. Prints the
    /// URI once clients can connect.
    Nbd(Nbd),
    /// Show what a guest is and would need, from its file: nothing of it is compiled or run. Also for guests
    /// that would be refused: it says why.
    Inspect(Inspect),
    /// Show the devices of this machine that wasmblk serves.
    List(Format),
    /// Show what one device is, and what it did.
    Info(Info),
    /// Stop and delete devices.
    Del(Del),
    /// Copy a raw image to the begin of a device; what lies behind stays as it is.
    Import(Import),
    /// Copy a device into a raw image.
    Export(Export),
    /// Give devices to users without privilege: answers at --broker-socket, within a policy, which it reads again at
    /// SIGHUP, until it is told to end by SIGINT or SIGTERM. Its devices stay.
    Broker(Broker),
    /// Say what this machine can do, and what to do about the rest.
    Doctor(Format),
    /// The rules that keep udev's helpers from reading what is on ublk devices.
    #[command(subcommand)]
    Udev(Udev),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// The process with privilege for one device of a user without; `broker` starts it.
    #[command(hide = true)]
    Warden,
    /// The minder of a device that the broker serves for a user; `broker` starts it.
    #[command(hide = true)]
    Host,
    /// The process with privilege beside a device's data plane; `add` starts it.
    #[command(hide = true)]
    Mind,
    /// The process that compiles a guest; whoever needs one compiled starts it.
    #[command(hide = true)]
    Compile {
        /// Computing time that it may take.
        #[arg(long)]
        seconds: u64,
        /// Memory that it may take.
        #[arg(long)]
        mib: u64,
    },
    /// The process that serves a device, its data plane; its minder starts it.
    #[command(hide = true)]
    Plane,
    /// What becomes the command of `nbd --run`; `nbd` starts it.
    #[command(hide = true)]
    Captive {
        /// The descriptor on which comes that it is to begin.
        #[arg(long)]
        begin: i32,
        /// The command.
        command: String,
    },
}

/// How to print data.
#[derive(Clone, Copy, Debug, Args)]
pub struct Format {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `wasmblk inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The guest: a WebAssembly component.
    #[arg(value_name = "GUEST")]
    pub file: PathBuf,
    /// How to print it.
    #[command(flatten)]
    pub format: Format,
}

/// `wasmblk nbd`.
#[derive(Debug, Args)]
pub struct Nbd {
    /// The guest and its options.
    #[command(flatten)]
    pub guest: Guest,
    /// Listen at this unix socket; '-' makes one of its own and removes it at the end.
    #[arg(short = 'U', long, value_name = "PATH", conflicts_with = "port")]
    pub unix: Option<PathBuf>,
    /// Listen at this TCP port; 0 lets the system choose [default: 10809].
    #[arg(short, long)]
    pub port: Option<u16>,
    /// Listen at this TCP address [default: 127.0.0.1].
    #[arg(short = 'i', long, value_name = "ADDRESS", conflicts_with = "unix")]
    pub address: Option<IpAddr>,
    /// Name of the export; clients may leave it out.
    #[arg(short, long, default_value = "", value_name = "NAME")]
    pub export: String,
    /// Refuse writes.
    #[arg(short, long)]
    pub read_only: bool,
    /// Run a shell command with $uri and $unixsocket set, serve it until it ends, and end with its
    /// exit code. Without -U, -p or -i, at a unix socket of its own.
    #[arg(long, value_name = "COMMAND")]
    pub run: Option<String>,
    /// Write the process id into this file once it listens: clients that connect wait until the guest is open.
    #[arg(short = 'P', long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// End when the process that started this one ends.
    #[arg(long)]
    pub exit_with_parent: bool,
    /// How clients encrypt.
    #[command(flatten)]
    pub tls: Tls,
}

/// How clients of `wasmblk nbd` encrypt.
#[derive(Debug, Args)]
pub struct Tls {
    /// Whether clients may, or must, use TLS [default: require with --tls-certificates or --tls-psk, else
    /// off].
    #[arg(long = "tls", value_name = "MODE")]
    pub mode: Option<TlsMode>,
    /// Folder with server-cert.pem and server-key.pem, and ca-cert.pem to verify clients.
    #[arg(long = "tls-certificates", value_name = "DIR")]
    pub certificates: Option<PathBuf>,
    /// File of pre-shared keys, as 'psktool -u USER -p FILE' makes it: lines of 'username:hexkey'. Let in only
    /// clients that have one of them.
    #[arg(long = "tls-psk", value_name = "FILE", conflicts_with = "certificates")]
    pub psk: Option<PathBuf>,
    /// Let in only clients with a certificate signed by ca-cert.pem.
    #[arg(long = "tls-verify-peer", requires = "certificates")]
    pub verify_peer: bool,
}

/// Values of `--tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// No client can.
    Off,
    /// Clients can.
    On,
    /// Clients must.
    Require,
}

/// `wasmblk add`.
#[derive(Debug, Args)]
pub struct Add {
    /// The guest and its options.
    #[command(flatten)]
    pub guest: Guest,
    /// The number N of /dev/ublkbN [default: the first that is free].
    #[arg(long, value_name = "N", value_parser = id_range())]
    pub id: Option<u32>,
    /// Hardware queues; the kernel gives no more than there are processors [default: 1].
    #[arg(long, value_name = "N", value_parser = up_to(limits::QUEUES_MAX))]
    pub queues: Option<u16>,
    /// Requests in flight on each queue [default: 128].
    #[arg(long, value_name = "N", value_parser = up_to(limits::DEPTH_MAX))]
    pub depth: Option<u16>,
    /// How the data of requests comes and goes.
    #[arg(long, value_name = "PATH", default_value = "auto")]
    pub data_path: DataPath,
    /// A name, to be used in place of the number.
    #[arg(long)]
    pub name: Option<String>,
    /// A serial number to show in 'info' [default: made from the guest, its options and the id].
    #[arg(long)]
    pub serial: Option<String>,
    /// Add a device without being root: it is this user's alone, as the kernel sees to. Root has to allow it once (see
    /// the README). Data is copied, and calls may take 5 s.
    #[arg(long, conflicts_with = "trusted")]
    pub unprivileged: bool,
    /// Keep the device when its process ends before its time: requests wait, those that it had as well, until a new
    /// process has taken it up. For guests that are 'restartable': nothing that they were given is lost with them.
    #[arg(long, conflicts_with = "unprivileged")]
    pub recover: bool,
    /// Let the system look by itself at what is on the device (file systems, LVM, RAID), and link it as
    /// /dev/disk/by-wasmblk/NAME. Without it the rules of 'wasmblk udev', where they are installed, keep the system
    /// from that.
    #[arg(long)]
    pub trusted: bool,
    /// Ask the broker for the device, and serve it without privilege; whoever is not root does where a broker answers.
    #[arg(long)]
    pub broker: bool,
    /// Let the broker serve the device, by processes that are not this user's: zero copy, if its policy allows that.
    #[arg(long, conflicts_with_all = ["foreground", "no_confine"])]
    pub hosted: bool,
    /// Serve in this process, until it is told to end by SIGINT or SIGTERM.
    #[arg(long)]
    pub foreground: bool,
    /// How to print the path.
    #[command(flatten)]
    pub format: Format,
}

/// `wasmblk import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The image: a file, a block device, or '-' for standard input.
    pub image: PathBuf,
    /// The device: its path, a file, or fd:N where whoever calls this left it open as N. A broker's device has its path
    /// also where nobody sees a node of it.
    pub device: PathBuf,
    /// Show what is done even where standard error is no terminal.
    #[arg(long)]
    pub progress: bool,
}

/// `wasmblk export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The device: its path, a file, or fd:N where whoever calls this left it open as N.
    pub device: PathBuf,
    /// The image: a file to be made, a block device, or '-' for standard output.
    pub image: PathBuf,
    /// Replace a file that is there, once the new one is whole.
    #[arg(long)]
    pub force: bool,
    /// Show what is done even where standard error is no terminal.
    #[arg(long)]
    pub progress: bool,
}

/// `wasmblk udev`.
#[derive(Debug, Subcommand)]
pub enum Udev {
    /// Print them.
    Show,
    /// Give a node to the owner of its device, for the rules.
    #[command(hide = true)]
    Own {
        /// Its name, such as ublkb0.
        node: String,
    },
    /// Write them where udev finds them, and print their path.
    Install {
        /// The folder of rules [default: /etc/udev/rules.d].
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `wasmblk broker`.
#[derive(Debug, Args)]
pub struct Broker {
    /// Who may have devices, and how many: TOML (the README has one) [default: /etc/wasmblk/broker.toml, and nobody
    /// but root where that is not there].
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// `wasmblk info`.
#[derive(Debug, Args)]
pub struct Info {
    /// Number or name of the device.
    pub device: String,
    /// How to print it.
    #[command(flatten)]
    pub format: Format,
}

/// `wasmblk del`.
#[derive(Debug, Args)]
pub struct Del {
    /// Numbers or names of the devices.
    #[arg(required_unless_present = "all")]
    pub devices: Vec<String>,
    /// All devices that wasmblk serves.
    #[arg(long, conflicts_with = "devices")]
    pub all: bool,
    /// Also devices that are mounted or open: who uses them gets input/output errors.
    #[arg(long)]
    pub force: bool,
}
