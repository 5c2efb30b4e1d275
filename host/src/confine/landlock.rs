//! Landlock: which paths, addresses and processes there are for us. By a ruleset of the kernel that stays even
//! where a path leads to a file again.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, RestrictSelfAttr, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

/// The newest version of its rules that is known here; older kernels apply what they know of it.
const KNOWN: ABI = ABI::V6;

/// Nothing: for who has everything open.
pub(super) fn nothing() -> io::Result<()> {
    let ruleset = begin().and_then(|ruleset| ruleset.scope(Scope::Signal)?.create());
    enforce(ruleset.map_err(io::Error::other)?)
}

/// Nothing, but to remove what lies in some folders, and, on demand, to end processes.
pub(super) fn only_remove(folders: &[&Path], signals: bool) -> io::Result<()> {
    let rights = make_bitflags!(AccessFs::{RemoveFile | RemoveDir});
    let ruleset = begin().and_then(|ruleset| {
        let scope = (!signals).then_some(Scope::Signal);
        let mut ruleset = match scope {
            Some(scope) => ruleset.scope(scope)?,
            None => ruleset,
        }
        .create()?;
        for folder in folders {
            // One that is not there has nothing in it to be removed.
            if let Ok(folder) = PathFd::new(folder) {
                ruleset = ruleset.add_rule(PathBeneath::new(folder, rights))?;
            }
        }
        Ok(ruleset)
    });
    enforce(ruleset.map_err(io::Error::other)?)
}

fn begin() -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::AbstractUnixSocket)
}

fn enforce(ruleset: RulesetCreated) -> io::Result<()> {
    let status = ruleset
        .all_threads(true)
        .and_then(RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(io::Error::other(
            "this kernel has no Landlock, or has it switched off",
        ));
    }
    Ok(())
}
