//! Landlock: which paths, addresses and processes there are for us. By a ruleset of the kernel that stays even
//! where a path leads to a file again.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, RestrictSelfAttr,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};

use super::Needed;

/// The newest version of its rules that is known here; older kernels apply what they know of it.
const KNOWN: ABI = ABI::V6;

/// What may be done in a folder whose files are needed: nothing that leads outside of it, or to devices.
const WRITING: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | Refer
});
const READING: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// What may be done in a folder that something of ours lies in.
const REMOVING: BitFlags<AccessFs> = make_bitflags!(AccessFs::{RemoveFile | RemoveDir});

/// For all threads: nothing but what is `needed`, to remove what lies in some folders, and, on demand, to end
/// processes.
pub(super) fn only_needed(
    removed_from: &[&Path],
    needed: &Needed<'_>,
    signals: bool,
) -> io::Result<()> {
    let ruleset = begin().and_then(|ruleset| {
        let scope = (!signals).then_some(Scope::Signal);
        let mut ruleset = match scope {
            Some(scope) => ruleset.scope(scope)?,
            None => ruleset,
        }
        .create()?;
        for folder in removed_from {
            // One that is not there has nothing in it to be removed.
            if let Ok(folder) = PathFd::new(folder) {
                ruleset = ruleset.add_rule(PathBeneath::new(folder, REMOVING))?;
            }
        }
        for folder in &needed.folders {
            let rights = if folder.read_only { READING } else { WRITING };
            ruleset = ruleset.add_rule(PathBeneath::new(folder.file, rights))?;
        }
        with_ports(ruleset, needed)
    });
    enforce(ruleset.map_err(io::Error::other)?, true)
}

/// For this thread: nothing but the ports that are `needed`.
pub(super) fn this_thread(needed: &Needed<'_>) -> io::Result<()> {
    let ruleset = begin().and_then(|ruleset| with_ports(ruleset.create()?, needed));
    enforce(ruleset.map_err(io::Error::other)?, false)
}

fn with_ports(
    mut ruleset: RulesetCreated,
    needed: &Needed<'_>,
) -> Result<RulesetCreated, RulesetError> {
    for &port in &needed.ports {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    Ok(ruleset)
}

fn begin() -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::AbstractUnixSocket)
}

fn enforce(ruleset: RulesetCreated, all_threads: bool) -> io::Result<()> {
    let status = ruleset
        .all_threads(all_threads)
        .and_then(RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(io::Error::other(
            "this kernel has no Landlock, or has it switched off",
        ));
    }
    Ok(())
}
