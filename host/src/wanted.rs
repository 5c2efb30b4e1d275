//! What an operator wants of a guest: the command line, put over a policy file.

use std::time::Duration;

use crate::cli::{self, GuestLimits};
use crate::error::{Error, Result};
use crate::guest::{Allowed, Directory, Limits, Remote};
use crate::policy::Policy;
use crate::store::Grant;

/// What the operator wants of a guest: the command line, put over the policy file.
#[derive(Debug)]
pub struct Wanted {
    /// What the file says.
    pub policy: Policy,
    /// Options for the guest, in the order given.
    pub options: Vec<(String, String)>,
    /// The stores that the guest is granted.
    pub stores: Vec<Grant>,
    /// What of WASI it is granted.
    pub allowed: Allowed,
    /// What the guest may use.
    pub limits: Limits,
}

impl Wanted {
    /// Reads the policy file, once, and checks both.
    ///
    /// # Errors
    ///
    /// Names the option, or the file and its line, and says what would be right.
    pub fn new(guest: &cli::Guest) -> Result<Wanted> {
        let policy = guest.policy.as_deref().map(Policy::read).transpose()?;
        let mut policy = policy.unwrap_or_default();
        let options = std::mem::take(&mut policy.options);
        let options = pairs_over(options, parse_pairs("--set", "size=10G", &guest.options)?);
        let env = std::mem::take(&mut policy.allowed.env);
        let remotes = std::mem::take(&mut policy.allowed.remotes);
        let directories = std::mem::take(&mut policy.allowed.directories);
        let mut allowed = Allowed {
            parts: std::mem::take(&mut policy.allowed.parts),
            env: pairs_over(env, parse_pairs("--env", "LANG=C", &guest.env)?),
            remotes: Remote::join(remotes, Remote::parse_all(&guest.remotes)?)?,
            directories: Directory::put_over(
                directories,
                Directory::parse_all(&guest.directories)?,
            )?,
        };
        allowed.parts.extend(&guest.parts);
        let stores = std::mem::take(&mut policy.stores);
        Ok(Wanted {
            options,
            stores: Grant::put_over(stores, Grant::parse_all(&guest.stores)?)?,
            allowed,
            limits: guest_limits(&put_over(&policy.limits, &guest.limits))?,
            policy,
        })
    }
}

/// Limits over others: what is not given above is that below.
fn put_over(below: &GuestLimits, above: &GuestLimits) -> GuestLimits {
    GuestLimits {
        memory_mib: above.memory_mib.or(below.memory_mib),
        deadline: above.deadline.or(below.deadline),
        cpu_percent: above.cpu_percent.or(below.cpu_percent),
        log_lines: above.log_lines.or(below.log_lines),
        transfer_kib: above.transfer_kib.or(below.transfer_kib),
        compile_seconds: above.compile_seconds.or(below.compile_seconds),
        compile_mib: above.compile_mib.or(below.compile_mib),
    }
}

/// What a guest may use. The numbers are in their ranges.
fn guest_limits(wanted: &GuestLimits) -> Result<Limits> {
    let mut limits = Limits::default();
    if let Some(mib) = wanted.memory_mib {
        limits.memory_bytes = mib << 20;
    }
    if let Some(seconds) = wanted.deadline {
        limits.deadline = Duration::from_secs(seconds);
    }
    if let Some(seconds) = wanted.compile_seconds {
        limits.compile_time = Duration::from_secs(seconds);
    }
    if let Some(mib) = wanted.compile_mib {
        limits.compile_bytes = mib << 20;
    }
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    if let Some(percent) = wanted.cpu_percent {
        limits.cpu_percent = small(percent);
    }
    if let Some(lines) = wanted.log_lines {
        limits.log_lines = small(lines);
    }
    if let Some(kib) = wanted.transfer_kib {
        if !kib.is_multiple_of(4) {
            return Err(Error::usage(format!(
                "--transfer-kib {kib}: expected a multiple of 4"
            )));
        }
        limits.transfer_bytes = small(kib << 10);
    }
    Ok(limits)
}

/// Pairs of an option, in the order given.
fn parse_pairs(option: &str, example: &str, given: &[String]) -> Result<Vec<(String, String)>> {
    let wrong = |pair: &String| {
        Error::usage(format!(
            "{option} {pair}: expected KEY=VALUE, such as {example}"
        ))
    };
    let parse = |pair: &String| parse_pair(pair).ok_or_else(|| wrong(pair));
    given.iter().map(parse).collect()
}

/// `KEY=VALUE`.
pub(crate) fn parse_pair(pair: &str) -> Option<(String, String)> {
    let (key, value) = pair.split_once('=').filter(|(key, _)| !key.is_empty())?;
    Some((key.to_owned(), value.to_owned()))
}

/// Pairs over others. A key may come twice: all that is below of it go.
fn pairs_over(
    mut below: Vec<(String, String)>,
    above: Vec<(String, String)>,
) -> Vec<(String, String)> {
    below.retain(|(key, _)| above.iter().all(|(other, _)| other != key));
    below.extend(above);
    below
}
