//! What commands that serve a guest are told of it.

use std::path::PathBuf;

use clap::Args;

use super::within;
use crate::guest::Part;
use crate::limits;

/// The guest of a command that serves one.
#[derive(Debug, Args)]
pub struct Guest {
    /// The guest: a WebAssembly component.
    #[arg(value_name = "GUEST")]
    pub file: PathBuf,
    /// A file with what the guest is granted and may use: TOML, with the names of these options, and '_' for
    /// '-' (the README has one). The command line is put over it: a limit, a --store or the --set of a key
    /// takes the place of what the file has of that name, others are added.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// An option for the guest; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Grant a file or block device to the guest, under a name that it knows; may be repeated. ':ro' keeps the
    /// guest from writing, ':direct' passes by the system's cache.
    #[arg(long = "store", value_name = "NAME=PATH[:ro][:direct]")]
    pub stores: Vec<String>,
    /// Grant a part of WASI to the guest, as it is on this machine; may be repeated.
    #[arg(long = "allow", value_name = "PART")]
    pub parts: Vec<Part>,
    /// Grant an environment variable to the guest; may be repeated.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Grant a directory to the guest, under a path that it knows; may be repeated. ':ro' keeps the guest from writing.
    #[arg(long = "dir", value_name = "NAME=PATH[:ro]")]
    pub directories: Vec<String>,
    /// Let the guest connect by TCP to a host, by the name given here, at a port; may be repeated.
    #[arg(long = "net", value_name = "HOST:PORT")]
    pub remotes: Vec<String>,
    /// What it may use.
    #[command(flatten)]
    pub limits: GuestLimits,
    /// Let the process that serves keep its privileges, for looking into it with a debugger.
    #[arg(long)]
    pub no_confine: bool,
}

/// What a guest may use.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct GuestLimits {
    /// Memory of the guest, in MiB: of all its instances, with their stacks and what passes in calls; of a `ring`
    /// guest, with the data of all requests in flight too [default: 1024].
    #[arg(long, value_name = "MIB", value_parser = within(&limits::MEMORY_MIB))]
    pub memory_mib: Option<u64>,
    /// Longest call into the guest, and longest that a `ring` guest may keep a request, in seconds [default: 30].
    #[arg(long, value_name = "SECONDS", value_parser = within(&limits::DEADLINE_SECONDS))]
    pub deadline: Option<u64>,
    /// Computing time of the guest in percent of a processor, its host's part of the work included; one that is over
    /// it waits [default: 100, which is no limit].
    #[arg(long, value_name = "PERCENT", value_parser = within(&limits::CPU_PERCENT))]
    pub cpu_percent: Option<u64>,
    /// Messages of the guest in the log each second [default: 20].
    #[arg(long, value_name = "N", value_parser = within(&limits::LOG_LINES))]
    pub log_lines: Option<u64>,
    /// Longest read or write that the guest is sent, in KiB, a multiple of 4; the guest may want less
    /// [default: 1024].
    #[arg(long, value_name = "KIB", value_parser = within(&limits::TRANSFER_KIB))]
    pub transfer_kib: Option<u64>,
    /// Computing time of the compiler, in seconds [default: 120].
    #[arg(long, value_name = "SECONDS", value_parser = within(&limits::COMPILE_SECONDS))]
    pub compile_seconds: Option<u64>,
    /// Memory of the compiler, in MiB [default: 2048].
    #[arg(long, value_name = "MIB", value_parser = within(&limits::COMPILE_MIB))]
    pub compile_mib: Option<u64>,
}
