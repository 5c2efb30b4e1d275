//! Who may have devices, and how many: a file of the administrator's, read at first, and when he says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::quota::Quota;
use crate::error::{self, Error};
use crate::limits;

/// Somebody who asks, as the kernel knows him.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// His process.
    pub pid: i32,
    /// His user.
    pub uid: u32,
    /// His group.
    pub gid: u32,
    /// His further groups.
    pub groups: Vec<u32>,
}

/// What the file says.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    /// How long a device may leave all of its requests unanswered.
    pub answer_timeout: Duration,
}

/// What somebody may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// How much.
    pub quota: Quota,
    /// Whether the kernel's pages may come into his hands, as zero copy has it.
    pub trusted: bool,
    /// Whether the broker may serve devices for him by processes of its own.
    pub hosted: bool,
}

#[derive(Debug)]
struct Rule {
    users: Vec<u32>,
    groups: Vec<u32>,
    allowed: Allowed,
}

/// The remedy where the file is no TOML, or has a wrong key or type.
const EXAMPLE: &str = "it is such as: answer_seconds = 30, and then for each rule [[allow]], \
     users = [\"alice\", 1001], groups = [\"disk\"], devices = 4, memory_mib = 256";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "answer_seconds_default")]
    answer_seconds: u64,
    #[serde(default)]
    allow: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    #[serde(default)]
    users: Vec<Who>,
    #[serde(default)]
    groups: Vec<Who>,
    devices: u64,
    memory_mib: u64,
    #[serde(default)]
    trusted: bool,
    #[serde(default)]
    hosted: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a name or a number")]
enum Who {
    Number(u32),
    Name(String),
}

fn answer_seconds_default() -> u64 {
    limits::BROKER_ANSWER_TIMEOUT.as_secs()
}

/// Numbers by name, of `/etc/passwd` or `/etc/group`.
type Names = BTreeMap<String, u32>;

impl Policy {
    /// Nobody but root.
    #[must_use]
    pub fn nobody() -> Policy {
        Policy {
            rules: Vec::new(),
            answer_timeout: limits::BROKER_ANSWER_TIMEOUT,
        }
    }

    /// Reads the file that only root, or whoever runs this, can have written.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong in it, and says what would be right.
    pub fn read(path: &Path) -> error::Result<Policy> {
        let shown = path.display();
        let cannot = |why: io::Error| {
            Error::usage(format!("cannot read the broker's policy {shown}")).because(why)
        };
        let file = File::open(path).map_err(cannot)?;
        let about = file.metadata().map_err(cannot)?;
        let ours = [0, rustix::process::geteuid().as_raw()].contains(&about.uid());
        if !ours || about.mode() & 0o022 != 0 {
            return Err(Error::usage(format!(
                "the broker's policy {shown} can be written by others than root, who could give themselves \
                 devices; try 'chown root' and 'chmod go-w'"
            )));
        }
        let mut text = String::new();
        let mut file = file.take(limits::POLICY_BYTES_MAX + 1);
        let bytes = file.read_to_string(&mut text).map_err(cannot)?;
        if bytes as u64 > limits::POLICY_BYTES_MAX {
            let most = limits::POLICY_BYTES_MAX >> 10;
            return Err(Error::usage(format!(
                "the broker's policy {shown} is longer than {most} KiB: not a policy file"
            )));
        }
        let names = |path| parse_names(&fs::read_to_string(path).unwrap_or_default());
        Policy::parse(&text, &names("/etc/passwd"), &names("/etc/group"))
            .map_err(|why| Error::usage(format!("{shown}: {why}")))
    }

    /// The same of a text, with the numbers of users and groups. Pure.
    ///
    /// # Errors
    ///
    /// Says what is wrong.
    pub fn parse(text: &str, users: &Names, groups: &Names) -> Result<Policy, String> {
        let written: Written =
            toml::from_str(text).map_err(|why| format!("{}; {EXAMPLE}", why.to_string().trim()))?;
        let range = limits::BROKER_ANSWER_SECONDS;
        if !range.contains(&written.answer_seconds) {
            let (least, most) = range.into_inner();
            return Err(format!(
                "answer_seconds = {}: expected {least} to {most}",
                written.answer_seconds
            ));
        }
        let rule = |rule: WrittenRule| {
            if rule.users.is_empty() && rule.groups.is_empty() {
                return Err("a rule [[allow]] names neither users nor groups".to_owned());
            }
            Ok(Rule {
                users: numbers("user", rule.users, users)?,
                groups: numbers("group", rule.groups, groups)?,
                allowed: Allowed {
                    quota: Quota {
                        devices: rule.devices,
                        memory_bytes: rule.memory_mib.saturating_mul(1 << 20),
                    },
                    trusted: rule.trusted,
                    hosted: rule.hosted,
                },
            })
        };
        Ok(Policy {
            rules: (written.allow.into_iter().map(rule)).collect::<Result<_, _>>()?,
            answer_timeout: Duration::from_secs(written.answer_seconds),
        })
    }

    /// What somebody may have: by the first rule that names him. Nothing where none does.
    #[must_use]
    pub fn allowed(&self, peer: &Peer) -> Option<Allowed> {
        if peer.uid == 0 {
            return Some(Allowed {
                quota: Quota::UNLIMITED,
                trusted: true,
                hosted: true,
            });
        }
        let names = |rule: &&Rule| {
            rule.users.contains(&peer.uid)
                || rule.groups.contains(&peer.gid)
                || rule.groups.iter().any(|group| peer.groups.contains(group))
        };
        self.rules.iter().find(names).map(|rule| rule.allowed)
    }
}

impl Policy {
    /// Whether the broker may serve devices for anybody.
    #[must_use]
    pub fn hosts(&self) -> bool {
        self.rules.iter().any(|rule| rule.allowed.hosted)
    }
}

/// The numbers of names; numbers stay.
fn numbers(what: &str, written: Vec<Who>, names: &Names) -> Result<Vec<u32>, String> {
    let number = |who: Who| {
        match who {
        Who::Number(number) => Ok(number),
        Who::Name(name) => names.get(&name).copied().ok_or_else(|| {
            format!("there is no {what} '{name}' in this machine's files; a number can stand in its place")
        }),
    }
    };
    written.into_iter().map(number).collect()
}

/// Names and numbers of a file such as `/etc/passwd`: `name:x:number:...`.
#[must_use]
pub fn parse_names(text: &str) -> Names {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((name, fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}
